"""The pytest plugin: `pg_lease`, `pg_session_lease`, `pg_conn`, `pg_template` and `leasedb_client`.

It tells the daemon how many databases the run is going to ask for: before the first test, or, where a project has its
own `pg_template`, as soon as that is known.

Loaded at every pytest start of everybody who has leasedb installed: it imports nothing that pytest has not.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

import leasedb

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg

_LONGEST_LABEL = 255  # characters the daemon takes
# A suite at capacity shall get slower, not red: longer than the daemon's default, short enough to end a deadlock.
_WAIT = 600.0  # seconds
_MOST_EXPECTED = 10_000  # leases that the daemon lets one holder announce
_EXPECTED_FOR = 600.0  # seconds; after that the daemon goes by what it has seen of the suite
_LOOKING = ("collectonly", "setupplan", "showfixtures", "show_fixtures_per_test")  # options that run no test

_BASE = "base"

_RUN = pytest.StashKey[str]()
_WANTED = pytest.StashKey[dict[object, int]]()  # tests that want a database, by what gives them their template
# leases announced and not yet taken
_TO_COME: pytest.StashKey[dict[leasedb.Template | str, int]] = pytest.StashKey()


@pytest.hookimpl(tryfirst=True)  # before a worker of pytest-xdist says that it is ready for tests
def pytest_collection_finish(session: pytest.Session) -> None:
    """Announce how many databases the collected tests want, if any; the fixtures report what is wrong, not this."""
    config = session.config
    # The first worker speaks for all: they collect the same tests, and the one that takes a dead one's place would
    # announce again what has run already.
    if os.environ.get("PYTEST_XDIST_WORKER", "gw0") != "gw0":
        return
    wanted: dict[object, int] = {}
    for item in session.items:
        if _wants_database(item):
            source = _template_source(item)
            wanted[source] = wanted.get(source, 0) + 1
    if not any(config.getoption(name, default=False) for name in _LOOKING):
        config.stash[_WANTED] = wanted
        _announce_known(config, None, _BASE)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Take back what was announced for tests that did not come to it: after -x, Ctrl-C, skips at run time.

    Not with pytest-xdist, where no process that uses the fixtures knows when the others are done.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    for template, count in session.config.stash.get(_TO_COME, {}).items():
        if count > 0:
            _announce(session.config, template, 0)


def _wants_database(item: pytest.Item) -> bool:
    names = getattr(item, "fixturenames", ())  # items of other plugins may have none
    return "pg_lease" in names or "pg_conn" in names


def _template_source(item: pytest.Item) -> object:
    """Return the function that a project has in place of our `pg_template` for this test; None when it has none."""
    fixtures = getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", {}).get("pg_template", ())
    function = fixtures[-1].func if fixtures else None
    return None if getattr(function, "__module__", None) == __name__ else function


def _announce_known(config: pytest.Config, source: object, template: leasedb.Template | str) -> None:
    """Announce the tests whose `pg_template` has just become known, the first time."""
    if count := config.stash.get(_WANTED, {}).pop(source, 0):
        _announce(config, template, count)


def _announce(config: pytest.Config, template: leasedb.Template | str, count: int) -> None:
    with suppress(leasedb.LeasedbError), leasedb.Client() as client:
        client.expect(min(count, _MOST_EXPECTED), template, holder=_holder(config), ttl=_EXPECTED_FOR)
        config.stash.setdefault(_TO_COME, {})[template] = count


@pytest.fixture(scope="session")
def leasedb_client() -> Iterator[leasedb.Client]:
    """A `leasedb.Client` for the daemon at ``LEASEDB_URL``, known to answer."""
    with _in_one_line():
        client = leasedb.Client()
    with client:
        with _in_one_line():
            client.health()
        yield client


@pytest.fixture(scope="session")
def pg_template() -> leasedb.Template | str:
    """What the tests' databases are clones of; have a fixture of this name return ``leasedb_client.template(...)``."""
    return _BASE


@pytest.fixture(scope="session")
def pg_session_lease(
    request: pytest.FixtureRequest, leasedb_client: leasedb.Client, pg_template: leasedb.Template | str
) -> Iterator[leasedb.Lease]:
    """A database for the whole session, a clone of `pg_template`; with pytest-xdist one for each worker."""
    with _leased(request, leasedb_client, pg_template, "") as lease:
        yield lease


@pytest.fixture
def pg_lease(
    request: pytest.FixtureRequest, leasedb_client: leasedb.Client, pg_template: leasedb.Template | str
) -> Iterator[leasedb.Lease]:
    """A fresh database for this test, a clone of `pg_template`: ``pg_lease.dsn``, ``.urls["sqlalchemy"]``, ``.env``."""
    _announce_known(request.config, _template_source(request.node), pg_template)
    with _leased(request, leasedb_client, pg_template, request.node.nodeid) as lease:
        yield lease


@pytest.fixture
def pg_conn(request: pytest.FixtureRequest) -> Iterator[psycopg.Connection[Any]]:
    """A psycopg connection to the database of `pg_lease`, not in autocommit mode."""
    try:
        import psycopg  # noqa: PLC0415 - an optional one, and never at pytest's start
    except ImportError as error:
        message = f"leasedb: pg_conn needs psycopg ({error}): pip install 'psycopg[binary]'"
        raise pytest.fail.Exception(message, pytrace=False) from None
    # asked for only now: without psycopg there is no use in a database
    lease: leasedb.Lease = request.getfixturevalue("pg_lease")
    connection = psycopg.connect(lease.dsn)
    try:
        yield connection
    finally:
        connection.close()


@contextmanager
def _leased(
    request: pytest.FixtureRequest, client: leasedb.Client, template: leasedb.Template | str, nodeid: str
) -> Iterator[leasedb.Lease]:
    config = request.config
    labels = {
        "run": _run(config),
        "worker": os.environ.get("PYTEST_XDIST_WORKER", "main"),
        "pytest": _printable(nodeid)[:_LONGEST_LABEL],
    }
    with _in_one_line():
        lease = client.acquire(
            template,
            wait=_WAIT,
            holder=_holder(config),
            labels={key: value for key, value in labels.items() if value},
        )
    to_come = config.stash.setdefault(_TO_COME, {})
    to_come[template] = to_come.get(template, 0) - 1
    with lease:
        yield lease


def _holder(config: pytest.Config) -> str:
    return f"pytest {_printable(config.rootpath.name)[:100]} {_run(config)[:8]}"


def _run(config: pytest.Config) -> str:
    return os.environ.get("PYTEST_XDIST_TESTRUNUID") or config.stash.setdefault(_RUN, os.urandom(16).hex())


def _printable(text: str) -> str:
    """Return text that JSON can carry; names of files may hold bytes that are no text."""
    return text.encode("utf-8", "replace").decode()


@contextmanager
def _in_one_line() -> Iterator[None]:
    """Report what the daemon says as it says it; forty lines of traceback would hide the one with the remedy."""
    try:
        yield
    except leasedb.LeasedbError as error:
        raise pytest.fail.Exception(f"leasedb: {error}", pytrace=False) from None
