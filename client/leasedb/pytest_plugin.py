"""The pytest plugin: fixtures that are databases on lease, one per way of keeping tests apart.

Loaded at every pytest start of everybody who has leasedb installed: it imports nothing that pytest has not, and what
the fixtures do stands in `_plugin`, imported by the first test that wants one.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from leasedb._plugin import ALL, RUN, SCOPES, TOLD, add_options, is_given

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

    import psycopg
    import psycopg_pool
    import sqlalchemy

    import leasedb

_LOOKING = ("collectonly", "setupplan", "showfixtures", "show_fixtures_per_test")  # options that run no test
_MARKER = (
    "leasedb(template, postgres, image, server, database, user, ttl, mode, scope): what database the test wants, each "
    "by name and as the options --leasedb-... have it"
)


# --- hooks ---


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)
    if is_given(config):
        from leasedb._plugin.choices import choose  # noqa: PLC0415 - only where it is needed

        choose(config)  # to say what makes no sense before pytest-xdist has workers who would say it each


@pytest.hookimpl(tryfirst=True)  # before a worker of pytest-xdist says that it is ready for tests
def pytest_collection_finish(session: pytest.Session) -> None:
    """Start a daemon where none answers, and announce how many databases the collected tests want, if any."""
    config = session.config
    if not any(ALL.intersection(getattr(item, "fixturenames", ())) for item in session.items):
        return
    if any(config.getoption(name, default=False) for name in _LOOKING):
        return
    from leasedb._plugin import fixtures  # noqa: PLC0415 - only where it is needed

    # The first worker speaks for all: they collect the same tests, and the one that takes a dead one's place would
    # announce again what has run already.
    fixtures.begin(session, announce=os.environ.get("PYTEST_XDIST_WORKER", "gw0") == "gw0")


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> list[str]:
    """Say who serves; with pytest-xdist, where this process collects nothing, the summary does."""
    run = config.stash.get(RUN, None)
    if run is None or config.get_verbosity() < 0:
        return []
    from leasedb._plugin import reporting  # noqa: PLC0415 - only where it is needed

    return [*reporting.header(run), *reporting.strangers(config, items)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    run, ours = item.config.stash.get(RUN, None), False
    if run is not None and call.excinfo is not None:
        from leasedb._plugin import reporting  # noqa: PLC0415 - only where it is needed

        ours = reporting.without_our_frames(item.config, call.excinfo)
    report = yield
    if run is not None and report.failed and call.excinfo is not None:  # pytest tells that of a unittest.TestCase here
        from leasedb._plugin import reporting  # noqa: PLC0415 - as above

        reporting.note(run, item, report, call.excinfo.value, ours=ours)
    return report


@pytest.hookimpl(trylast=True)  # once the session's leases are given back
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Take back what was announced for tests that did not come to it; with pytest-xdist when all workers are done."""
    run, told = session.config.stash.get(RUN, None), session.config.stash.get(TOLD, [])
    if run is None and not told:
        return
    from leasedb._plugin import announcing, reporting  # noqa: PLC0415 - only where it is needed

    if run is None:
        announcing.take_back(session.config, told)
    elif hasattr(session.config, "workeroutput"):
        session.config.workeroutput["leasedb"] = reporting.packed(run, session)
    elif run.announced is not None:
        run.announced.take_back()


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    run, told = config.stash.get(RUN, None), config.stash.get(TOLD, [])
    if run is None and not told:
        return
    from leasedb._plugin import reporting  # noqa: PLC0415 - only where it is needed

    reporting.summary(terminalreporter, run, told)


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_configure_node(node: Any) -> None:
    from leasedb._plugin import workers  # noqa: PLC0415 - only where it is needed

    workers.listen(node)


# --- fixtures ---


@pytest.fixture(scope="session")
def leasedb_client(request: pytest.FixtureRequest) -> leasedb.Client:
    """A `leasedb.Client` of the daemon, which is known to answer: started where none did."""
    from leasedb._plugin import fixtures  # noqa: PLC0415 - here and below: nothing is imported before it is used

    return fixtures.client(request.config)


@pytest.fixture(scope="session")
def pg_template(request: pytest.FixtureRequest) -> Any:
    """What databases are clones of: empty, unless a fixture of yours with this name returns something else.

    That is SQL as text, a `Path` of an .sql file (a dump too) or of a folder of them, a function that is given a lease
    and brings its database up to date, several of these in a list, each upon the one before, or what
    ``leasedb_client.template(...)`` returned, which takes ``fingerprint=[...]`` for what a function reads. It is built
    once, over workers and runs, until the content changes.
    """
    from leasedb._plugin import fixtures  # noqa: PLC0415

    return fixtures.run_of(request.config).choices.written.template or "base"


def _scope(fixture_name: str, config: pytest.Config) -> Any:
    del fixture_name
    scope = config.getoption("leasedb_scope") or config.getini("leasedb_scope")
    return scope if scope in SCOPES else "function"  # and `choose` has refused it


@pytest.fixture(scope=_scope)
def pg_lease(request: pytest.FixtureRequest, pg_template: Any) -> Iterator[leasedb.Lease]:
    """A fresh database for this test: ``.dsn``, ``.urls["sqlalchemy"]``, ``.env``. Costs 3 ms of waiting.

    Nothing can leak from one test to the next. What the application connected to at its start is not this database.
    """
    from leasedb._plugin import fixtures  # noqa: PLC0415

    with fixtures.leased(request, pg_template) as lease:
        yield lease


@pytest.fixture(scope="session")
def pg_session_lease(request: pytest.FixtureRequest, pg_template: Any) -> Iterator[leasedb.Lease]:
    """One database for the whole run, with pytest-xdist one for each worker. Costs nothing per test.

    Nothing is cleaned up: a test sees what those before it did.
    """
    from leasedb._plugin import fixtures  # noqa: PLC0415

    with fixtures.shared(request, pg_template, "fresh") as lease:
        yield lease


@pytest.fixture
def pg_reset(request: pytest.FixtureRequest, pg_template: Any) -> Iterator[leasedb.Lease]:
    """The worker's database, as it was at first, whatever was done to it; the URL stays. Costs 5 ms.

    For applications that read ``DATABASE_URL`` once. Their connections from before the test are ended: a pool has to
    be one that connects anew.
    """
    from leasedb._plugin import fixtures  # noqa: PLC0415

    with fixtures.shared(request, pg_template, "reset") as lease:
        yield lease


@pytest.fixture
def pg_truncate(request: pytest.FixtureRequest, pg_template: Any) -> Iterator[leasedb.Lease]:
    """The worker's database with all tables empty and sequences at their start. Costs by the number of tables.

    Connections live on. Rows of the template are gone too, and what a test changed in the schema stays.
    """
    from leasedb._plugin import fixtures  # noqa: PLC0415

    with fixtures.needing(request, "psycopg"), fixtures.shared(request, pg_template, "truncate") as lease:
        yield lease


@pytest.fixture
def pg_rollback(request: pytest.FixtureRequest, pg_template: Any) -> Iterator[psycopg.Connection[Any]]:
    """A psycopg connection in a transaction that is rolled back in the end. Costs less than 1 ms.

    ``commit`` and ``rollback`` of the code under test become savepoints. Other connections see nothing of it, and
    sequences go on counting.
    """
    from leasedb._plugin import fixtures  # noqa: PLC0415

    with fixtures.needing(request, "psycopg"), fixtures.transaction(request, pg_template) as connection:
        yield connection


@pytest.fixture
def pg_conn(request: pytest.FixtureRequest, pg_template: Any) -> Iterator[psycopg.Connection[Any]]:
    """A psycopg connection, not in autocommit mode, to the database of `pg_lease`, or of `pg_reset` beside it."""
    del pg_template  # asked for so that it is known before the first test
    from leasedb._plugin import connecting, fixtures  # noqa: PLC0415

    if fixtures.mode_of(request) == "rollback":
        yield request.getfixturevalue("pg_rollback")
        return
    with fixtures.needing(request, "psycopg"):
        lease = fixtures.in_use(request)
        connection = connecting.connect(lease.dsn, **connecting.shortcut(lease))
    try:
        yield connection
    finally:
        connection.close()


@pytest.fixture
def pg_pool(request: pytest.FixtureRequest, pg_template: Any) -> Iterator[psycopg_pool.ConnectionPool[Any]]:
    """A psycopg_pool.ConnectionPool of up to 10 connections, like `pg_conn`; closed in the end."""
    del pg_template
    from leasedb._plugin import connecting, fixtures  # noqa: PLC0415

    with fixtures.needing(request, "psycopg_pool"):
        lease = fixtures.in_use(request)
        with connecting.pool(lease.dsn, **connecting.shortcut(lease)) as pool:
            yield pool


@pytest.fixture
def pg_engine(request: pytest.FixtureRequest, pg_template: Any) -> Iterator[sqlalchemy.Engine]:
    """A SQLAlchemy engine, like `pg_conn`; disposed of in the end."""
    del pg_template
    from leasedb._plugin import fixtures  # noqa: PLC0415

    with fixtures.needing(request, "sqlalchemy", "psycopg"), fixtures.engine(request) as engine:
        yield engine


@pytest.fixture
def pg_env(request: pytest.FixtureRequest, pg_template: Any) -> Iterator[Mapping[str, str]]:
    """Sets ``DATABASE_URL``, ``PGHOST`` ... for the test, to the database of `pg_lease`, or of `pg_reset` beside it."""
    del pg_template
    from leasedb._plugin import fixtures  # noqa: PLC0415

    with fixtures.environment(fixtures.in_use(request)) as environment:
        yield environment


# --- their async forms ---


@pytest.fixture
def pg_lease_async(request: pytest.FixtureRequest, pg_lease: leasedb.Lease) -> Any:
    """`pg_lease` as an `AsyncLease`, whose methods are awaited."""
    return _awaited(request, pg_lease)


@pytest.fixture
def pg_session_lease_async(request: pytest.FixtureRequest, pg_session_lease: leasedb.Lease) -> Any:
    """`pg_session_lease` as an `AsyncLease`."""
    return _awaited(request, pg_session_lease)


@pytest.fixture
def pg_reset_async(request: pytest.FixtureRequest, pg_reset: leasedb.Lease) -> Any:
    """`pg_reset` as an `AsyncLease`."""
    return _awaited(request, pg_reset)


@pytest.fixture
def pg_truncate_async(request: pytest.FixtureRequest, pg_truncate: leasedb.Lease) -> Any:
    """`pg_truncate` as an `AsyncLease`."""
    return _awaited(request, pg_truncate)


@pytest.fixture
def pg_rollback_async(request: pytest.FixtureRequest, pg_template: Any) -> Any:
    """`pg_rollback` as a psycopg.AsyncConnection; opened for the test, which costs some ms more."""
    del pg_template
    from leasedb._plugin import async_fixtures, fixtures  # noqa: PLC0415

    with fixtures.needing(request, "psycopg"):
        return _awaited(request, async_fixtures.rollback(request))


@pytest.fixture
def pg_conn_async(request: pytest.FixtureRequest, pg_template: Any) -> Any:
    """`pg_conn` as a psycopg.AsyncConnection."""
    del pg_template
    from leasedb._plugin import fixtures  # noqa: PLC0415

    if fixtures.mode_of(request) == "rollback":
        return request.getfixturevalue("pg_rollback_async")
    return _awaited_in_use(request, "psycopg")


@pytest.fixture
def pg_pool_async(request: pytest.FixtureRequest, pg_template: Any) -> Any:
    """`pg_pool` as a psycopg_pool.AsyncConnectionPool."""
    del pg_template
    return _awaited_in_use(request, "psycopg_pool")


@pytest.fixture
def pg_engine_async(request: pytest.FixtureRequest, pg_template: Any) -> Any:
    """`pg_engine` as an AsyncEngine."""
    del pg_template
    from leasedb._plugin import fixtures  # noqa: PLC0415

    if fixtures.mode_of(request) == "rollback":
        return fixtures.rollback_engine_async(request)
    return _awaited_in_use(request, "sqlalchemy", "psycopg")


def _awaited(request: pytest.FixtureRequest, lease: leasedb.Lease) -> Any:
    from leasedb._plugin import async_fixtures  # noqa: PLC0415

    return async_fixtures.awaited(request, lease)


def _awaited_in_use(request: pytest.FixtureRequest, *libraries: str) -> Any:
    from leasedb._plugin import fixtures  # noqa: PLC0415

    with fixtures.needing(request, *libraries):
        return _awaited(request, fixtures.in_use(request))
