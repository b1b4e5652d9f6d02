"""Ways of giving each test a database, without pytest: each is a context that yields a maker of contexts.

The outer one lasts for a process, as a session's fixture does. SUITE_DSN is the login of the superuser of a server
that runs already; SUITE_IMAGE an image that the engine has.
"""

import hashlib
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import leasedb
from benchmarks.suites import subject
from benchmarks.suites.subject import Connection

Maker = Callable[[], AbstractContextManager[Connection]]
_numbers = itertools.count()


def _new_name() -> str:
    # two workers share one server
    return f"suite_{os.getpid()}_{next(_numbers)}"


@contextmanager
def leased() -> Iterator[Maker]:
    """With leasedb's client; the schema is applied in each database."""
    with leasedb.Client() as client:

        @contextmanager
        def fresh() -> Iterator[Connection]:
            with client.acquire(holder="benchmark") as lease, psycopg.connect(lease.dsn) as connection:
                subject.apply(connection)
                yield connection

        yield fresh


@contextmanager
def from_template() -> Iterator[Maker]:
    """With leasedb's client, from a template."""
    with leasedb.Client() as client:
        template = client.template("suite", subject.SQL)

        @contextmanager
        def fresh() -> Iterator[Connection]:
            with client.acquire(template, holder="benchmark") as lease, psycopg.connect(lease.dsn) as connection:
                yield connection

        yield fresh


@contextmanager
def reset() -> Iterator[Maker]:
    """One lease from a template, reset after each test."""
    with leasedb.Client() as client:
        template = client.template("suite", subject.SQL)
        with client.lease(template, holder="benchmark") as lease:

            @contextmanager
            def fresh() -> Iterator[Connection]:
                with psycopg.connect(lease.dsn) as connection:
                    yield connection
                lease.reset()

            yield fresh


@contextmanager
def by_hand() -> Iterator[Maker]:
    """CREATE DATABASE and DROP DATABASE; the schema is applied in each database."""
    with hands(os.environ["SUITE_DSN"], template=False) as fresh:
        yield fresh


@contextmanager
def by_hand_template() -> Iterator[Maker]:
    """The same with the schema in a template of one's own."""
    with hands(os.environ["SUITE_DSN"], template=True) as fresh:
        yield fresh


@contextmanager
def by_hash() -> Iterator[Maker]:
    """As pgtestdb does it (github.com/peterldowns/pgtestdb): a template named by its content, made once and kept."""
    dsn = os.environ["SUITE_DSN"]
    content = hashlib.sha256(subject.SQL.encode()).hexdigest()[:16]
    template = f"suite_template_{content}"
    with psycopg.connect(dsn, autocommit=True) as hands:
        hands.execute("SELECT pg_advisory_lock(hashtext(%s))", [template])  # two workers would both make it
        if hands.execute("SELECT FROM pg_database WHERE datname = %s AND datistemplate", [template]).rowcount == 0:
            name = sql.Identifier(template)
            hands.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(name))
            hands.execute(sql.SQL("CREATE DATABASE {}").format(name))
            with psycopg.connect(make_conninfo(dsn, dbname=template)) as connection:
                subject.apply(connection)
            hands.execute(sql.SQL("ALTER DATABASE {} IS_TEMPLATE true").format(name))
        hands.execute("SELECT pg_advisory_unlock(hashtext(%s))", [template])
        yield _cloning(dsn, hands, template)


@contextmanager
def truncated() -> Iterator[Maker]:
    """One database; before each test all tables are emptied and filled again."""
    with _own(os.environ["SUITE_DSN"]) as dsn, psycopg.connect(dsn) as connection:
        subject.apply(connection)
        connection.commit()

        @contextmanager
        def fresh() -> Iterator[Connection]:
            connection.execute(subject.RENEW)
            yield connection
            connection.commit()

        yield fresh


@contextmanager
def rolled_back() -> Iterator[Maker]:
    """One database; each test runs in a transaction that is rolled back, and cannot commit."""
    with _own(os.environ["SUITE_DSN"]) as dsn, psycopg.connect(dsn) as connection:
        subject.apply(connection)
        connection.commit()

        @contextmanager
        def fresh() -> Iterator[Connection]:
            try:
                yield connection
            finally:
                connection.rollback()

        yield fresh


@contextmanager
def testcontainers() -> Iterator[Maker]:
    """A container for the process, as its documentation has it for a session; a template of one's own in it."""
    from testcontainers.postgres import PostgresContainer  # noqa: PLC0415 - only this way pays for it

    # its files in memory, like those of all others here
    wanted = PostgresContainer(os.environ["SUITE_IMAGE"], driver=None).with_tmpfs_mount("/benchmark")
    with (
        wanted.with_env("PGDATA", "/benchmark/data") as container,
        hands(container.get_connection_url(), template=True) as fresh,
    ):
        yield fresh


@contextmanager
def _own(dsn: str) -> Iterator[str]:
    """Make a database for this process."""
    name = _new_name()
    with psycopg.connect(dsn, autocommit=True) as hands:
        hands.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield make_conninfo(dsn, dbname=name)
        finally:
            hands.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))


@contextmanager
def hands(dsn: str, *, template: bool) -> Iterator[Maker]:
    with _own(dsn) as source, psycopg.connect(dsn, autocommit=True) as hands:
        if template:
            with psycopg.connect(source) as connection:
                subject.apply(connection)
        yield _cloning(dsn, hands, str(conninfo_to_dict(source)["dbname"]) if template else None)


def _cloning(dsn: str, hands: "psycopg.Connection[Any]", template: str | None) -> Maker:
    """Return a maker of databases; without a template the schema is applied in each."""

    @contextmanager
    def fresh() -> Iterator[Connection]:
        database = _new_name()
        name = sql.Identifier(database)
        clone = sql.SQL("CREATE DATABASE {}").format(name)
        hands.execute(clone + sql.SQL(" TEMPLATE {}").format(sql.Identifier(template)) if template else clone)
        try:
            with psycopg.connect(make_conninfo(dsn, dbname=database)) as connection:
                if template is None:
                    subject.apply(connection)
                yield connection
        finally:
            hands.execute(sql.SQL("DROP DATABASE {}").format(name))

    return fresh


WAYS: dict[str, Callable[[], AbstractContextManager[Maker]]] = {
    way.__name__: way
    for way in (
        leased,
        from_template,
        reset,
        by_hand,
        by_hand_template,
        by_hash,
        truncated,
        rolled_back,
        testcontainers,
    )
}
