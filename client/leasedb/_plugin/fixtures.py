"""What the fixtures do: which lease a test means, and what happens to it before and after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pytest

import leasedb
from leasedb._plugin import FRESH, ROLLBACK, RUN, SCOPES, SESSION, connecting
from leasedb._plugin.announcing import Announcements
from leasedb._plugin.choices import Wishes, choose, wishes_of
from leasedb._plugin.connecting import FixtureError, needed
from leasedb._plugin.run import NO_DATABASE, Run, Use
from leasedb._plugin.sharing import Shared
from leasedb._plugin.unheard import Unheard
from leasedb._running import MISLEADING

if TYPE_CHECKING:
    import psycopg
    import sqlalchemy
    import sqlalchemy.ext.asyncio

NOT_TAKEN_BACK: Final = pytest.StashKey[str]()  # why a test's transaction could not be undone
_SHARED: Final = pytest.StashKey[dict[Any, Shared]]()
_COLLECTORS: Final[Mapping[str, type[pytest.Collector]]] = {
    "class": pytest.Class,
    "module": pytest.Module,
    "package": pytest.Package,
}


def run_of(config: pytest.Config) -> Run:
    """Return the run; begun when it is first asked for.

    Raises:
        pytest.UsageError: the command line or the ini file makes no sense.
    """
    run = config.stash.get(RUN, None)
    if run is None:
        run = config.stash[RUN] = Run(config, choose(config))
        config.add_cleanup(run.close)
        config.pluginmanager.register(run.asking, "leasedb-asking")
        if run.choices.database_url is None:  # for a server that the user names it may be meant
            _forget_other_servers(config)
    return run


def begin(session: pytest.Session, *, announce: bool) -> None:
    """Make ready for tests that want databases: start a daemon where none answers, announce how many will be wanted."""
    run = run_of(session.config)
    run.announced = Announcements(run, session.items, speaks=announce)
    session.config.pluginmanager.register(Unheard(run.choices), "leasedb-unheard")
    if announce:
        with suppress(leasedb.LeasedbError):  # the fixtures report it
            run.client()
            run.announced.begin()


def _forget_other_servers(config: pytest.Config) -> None:
    """Take out of the environment, for the run, what libpq heeds beside a lease's DSN: PGSSLMODE, PGSERVICE ..."""
    patch = pytest.MonkeyPatch()
    config.add_cleanup(patch.undo)
    for name in MISLEADING:
        patch.delenv(name, raising=False)


@contextmanager
def in_one_line(run: Run) -> Iterator[None]:
    """Report what the daemon says as it says it; forty lines of traceback would hide the one with the remedy."""
    __tracebackhide__ = True
    try:
        yield
    except leasedb.LeasedbError as error:
        if run.choices.optional and isinstance(error, NO_DATABASE):
            pytest.skip(f"leasedb: {error}")
        kind = NoDatabase if isinstance(error, NO_DATABASE) else pytest.fail.Exception
        raise kind(f"leasedb: {error}", pytrace=False) from None
    except FixtureError as error:
        raise _failure(str(error)) from None


@contextmanager
def needing(request: pytest.FixtureRequest, *libraries: str) -> Iterator[None]:
    """Say in one line what keeps a fixture from its work, such as a missing library, before there is a lease."""
    __tracebackhide__ = True
    with in_one_line(run_of(request.config)):
        for library in libraries:
            needed(str(request.fixturename), library)
        yield


class NoDatabase(pytest.fail.Exception):  # type: ignore[misc, name-defined] # untyped there
    """None can be had, so that the next test is likely to fail for the same reason."""

    __module__, __qualname__ = "builtins", "Failed"  # as pytest's own, for its short summary shows the class


def _failure(text: str) -> BaseException:
    return pytest.fail.Exception(f"leasedb: {text}", pytrace=False)


def client(config: pytest.Config) -> leasedb.Client:
    run = run_of(config)
    with in_one_line(run):
        return run.client()


# --- which lease ---


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a fixture was asked for; ``given`` is what `pg_template` returned."""

    request: pytest.FixtureRequest
    run: Run
    wishes: Wishes
    given: object

    @property
    def nodeid(self) -> str:
        nodeid: str = self.request.node.nodeid
        return nodeid

    def template(self) -> leasedb.Template | str:
        __tracebackhide__ = True
        template = self.run.wished_template(self.wishes, self.given)
        if self.run.announced is not None:
            self.run.announced.known(self.request.node, self.wishes, template)
        return template

    def owner(self) -> pytest.Collector | None:
        """Return the module, say, with which the database lives longer than the fixture; None when it does not."""
        own, wanted = self.run.choices.scope, self.wishes.scope or self.run.choices.scope
        if SCOPES.index(wanted) < SCOPES.index(own):
            raise _failure(
                f"The marker wants a database for each {wanted}, and this run has one for each {own} (leasedb_scope): "
                "a marker can only have it live longer."
            )
        if wanted == own:
            return None
        found: pytest.Collector | None = None
        for kind in SCOPES[SCOPES.index(wanted) :]:  # a test outside classes shares with its module
            found = found or (self.request.node.getparent(_COLLECTORS[kind]) if kind in _COLLECTORS else None)
        return found or self.request.session

    def shared(self, owner: pytest.Collector) -> Shared:
        """Return the lease that tests below the owner share; made here, and given back when the owner is done with."""
        __tracebackhide__ = True
        template, wishes = self.template(), self.wishes
        key = (template, wishes.postgres, wishes.image, wishes.server, wishes.database, wishes.user, wishes.ttl)
        there = owner.stash.setdefault(_SHARED, {})
        if key not in there:
            one = there[key] = Shared(self.run, wishes, template)
            owner.addfinalizer(lambda: there.pop(key, one).close())
        return there[key]


def _asked(request: pytest.FixtureRequest, given: object) -> _Asked:
    run = run_of(request.config)
    run.asking.led_to(request)
    try:
        return _Asked(request, run, wishes_of(request.node, run.choices), given)
    except ValueError as error:
        raise _failure(str(error)) from None


@contextmanager
def leased(request: pytest.FixtureRequest, given: object) -> Iterator[leasedb.Lease]:
    """Hold what `pg_lease` stands for here."""
    __tracebackhide__ = True
    asked = _asked(request, given)
    run, mode, owner = asked.run, asked.wishes.mode or "fresh", asked.owner()
    if mode != "fresh" or owner is not None:
        with _shared(asked, owner or request.session, mode) as lease:
            yield lease
        return
    with in_one_line(run):
        lease = run.acquire(asked.wishes, asked.template(), asked.nodeid)
    with _using(run, Use(lease, FRESH, mode)) as use:
        try:
            yield lease
        finally:
            if use.kept is None and run.wants_kept(failed=bool(use.failed)):
                use.kept = run.keeps(lease, asked.nodeid)
            if not use.kept:
                run.releases.put(lease)


@contextmanager
def shared(request: pytest.FixtureRequest, given: object, mode: str) -> Iterator[leasedb.Lease]:
    """Hold the worker's lease, put right in one of the modes: "fresh" leaves it as it is."""
    __tracebackhide__ = True
    with _shared(_asked(request, given), request.session, mode) as lease:
        yield lease


@contextmanager
def _shared(asked: _Asked, owner: pytest.Collector, mode: str) -> Iterator[leasedb.Lease]:
    __tracebackhide__ = True
    run = asked.run
    with in_one_line(run):
        one = asked.shared(owner)
        with one.minding_loss():
            match mode:
                case "reset":
                    one.reset(asked.nodeid)
                case "truncate":
                    one.truncate(asked.nodeid)
                case "rollback":
                    one.clean(asked.nodeid)
        use = Use(one.lease(), _through(str(asked.request.fixturename)), mode, one)
    with _using(run, use):
        try:
            yield use.lease
        finally:
            if mode == "rollback":
                one.spoil()  # other connections than that of pg_rollback are not rolled back
            if mode == "rollback" or not run.wants_kept(failed=bool(use.failed)):
                pass
            elif mode == "fresh":
                one.keep_for = one.keep_for or use.failed or run.called(asked.nodeid)
            else:
                one.keep_copy(use.failed or asked.nodeid)


@contextmanager
def transaction(request: pytest.FixtureRequest, given: object) -> Iterator[psycopg.Connection[Any]]:
    """Hold a connection in a transaction of the worker's database."""
    __tracebackhide__ = True
    asked = _asked(request, given)
    with in_one_line(asked.run):
        one = asked.shared(request.session)
        with one.minding_loss():
            connection = one.begin(asked.nodeid)
    with _using(asked.run, Use(one.lease(), ROLLBACK, "rollback", one)):
        try:
            yield connection
        finally:
            with in_one_line(asked.run):
                why = one.end(asked.nodeid)
    if why is not None:
        raise _not_taken_back("pg_rollback", why)


@contextmanager
def transaction_async(request: pytest.FixtureRequest, given: object) -> Iterator[leasedb.Lease]:
    """Hold the worker's lease for a transaction that an event loop opens and takes back."""
    __tracebackhide__ = True
    asked = _asked(request, given)
    with in_one_line(asked.run):
        one = asked.shared(request.session)
        lease = one.clean(asked.nodeid)
    with _using(asked.run, Use(lease, ROLLBACK, "rollback", one)):
        try:
            yield lease
        finally:
            if why := request.node.stash.get(NOT_TAKEN_BACK, None):
                one.spoil()
    if why:
        raise _not_taken_back("pg_rollback_async", why)


def _through(fixture: str) -> frozenset[str]:
    """Return the fixtures whose tests use the database that this one gave."""
    return FRESH | {fixture, f"{fixture}_async"} if fixture != "pg_session_lease" else SESSION


@contextmanager
def _using(run: Run, use: Use) -> Iterator[Use]:
    run.uses.append(use)
    try:
        yield use
    finally:
        run.uses.remove(use)


def _not_taken_back(fixture: str, why: str) -> BaseException:
    return _failure(
        f"{fixture} could not take back what the test did: {why}. The database is reset before it is used again; for "
        "such a test take pg_reset or pg_lease."
    )


# --- what a test is given ---


def in_use(request: pytest.FixtureRequest) -> leasedb.Lease:
    """Return the lease that the test named, so that `pg_reset` and `pg_conn` are of one database; else a fresh one."""
    named = (name for name in ("pg_lease", "pg_reset", "pg_truncate") if name in request.fixturenames)
    lease: leasedb.Lease = request.getfixturevalue(next(named, "pg_lease"))
    return lease


def mode_of(request: pytest.FixtureRequest) -> str:
    return _asked(request, None).wishes.mode or "fresh"


@contextmanager
def engine(request: pytest.FixtureRequest) -> Iterator[sqlalchemy.Engine]:
    """Hold the engine of `pg_engine`: where tests are rolled back, one on the connection of `pg_rollback`."""
    if mode_of(request) != "rollback":
        lease = in_use(request)
        with connecting.engine(lease.urls["sqlalchemy"], connect_args=connecting.shortcut(lease)) as made:
            yield made
        return
    from leasedb._plugin.rollback import rollback_engine  # noqa: PLC0415 - only where it is needed

    made = rollback_engine(request.getfixturevalue("pg_rollback"))
    try:
        yield made
    finally:
        made.dispose()


def rollback_engine_async(request: pytest.FixtureRequest) -> sqlalchemy.ext.asyncio.AsyncEngine:
    """Return an engine on the connection of `pg_rollback_async`, which is its owner's to close."""
    with needing(request, "sqlalchemy", "psycopg", "greenlet"):
        from leasedb._plugin import rollback_async  # noqa: PLC0415 - only where it is needed

        return rollback_async.rollback_engine_async(request.getfixturevalue("pg_rollback_async"))


@contextmanager
def environment(lease: leasedb.Lease) -> Iterator[Mapping[str, str]]:
    """Set what programs read to find a database."""
    with pytest.MonkeyPatch.context() as patch:
        for name in MISLEADING:
            patch.delenv(name, raising=False)
        for name, value in {**lease.env, "LEASEDB_LEASE_ID": lease.id}.items():
            patch.setenv(name, value)
        yield dict(lease.env)
