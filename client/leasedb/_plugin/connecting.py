"""Connections, pools and engines for a test, closed with it.

psycopg, psycopg_pool and SQLAlchemy are the user's own affair: each is imported when the first fixture asks for it.
"""

from __future__ import annotations

import importlib
import os
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from types import ModuleType

    import psycopg
    import psycopg_pool
    import sqlalchemy
    import sqlalchemy.ext.asyncio

    import leasedb

APPLICATION: Final = "leasedb "  # what the names of the fixtures' sessions begin with
_INSTALL: Final = {
    "psycopg": "'psycopg[binary]'",
    "psycopg_pool": "'psycopg[binary,pool]'",
    "sqlalchemy": "sqlalchemy 'psycopg[binary]'",
    "sqlalchemy.ext.asyncio": "'sqlalchemy[asyncio]' 'psycopg[binary]'",
    "greenlet": "'sqlalchemy[asyncio]'",
}
OPEN_WITHIN: Final = 30.0  # seconds


class FixtureError(Exception):
    """What keeps a fixture from its work; the message is for the one who wrote the test and needs no traceback."""


class MissingLibraryError(FixtureError):
    """A fixture needs a library that is not installed."""

    def __init__(self, fixture: str, library: str, install: str) -> None:
        super().__init__(f"{fixture} needs {library}: pip install {install}")
        self.fixture = fixture
        self.library = library
        self.install = install


class ConnectionsLeftError(FixtureError):
    """A test ended and had not given back what it took from a pool; it is closed all the same."""

    def __init__(self, fixture: str, count: int) -> None:
        were = "connection was" if count == 1 else "connections were"
        super().__init__(
            f"{count} {were} taken from {fixture} and not given back."
            f" Use `with {fixture}.connection() as connection:`, or putconn() what getconn() gave."
        )
        self.count = count


def needed(fixture: str, library: str) -> ModuleType:
    """Return a library that a fixture cannot do without.

    Raises:
        MissingLibraryError: it is not installed, or cannot be loaded; the cause tells which.
    """
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise MissingLibraryError(fixture, library, _INSTALL.get(library, library)) from error


def session_name(fixture: str) -> str:
    """Return what a fixture's sessions say that they are."""
    return APPLICATION + fixture


def shortcut(lease: leasedb.Lease) -> dict[str, Any]:
    """Return what connects over the server's Unix socket when added to a DSN; nothing where there is none within reach.

    A connection opens a little sooner so.
    """
    if lease.socket is None or not os.access(f"{lease.socket}/.s.PGSQL.{lease.port}", os.W_OK):
        return {}
    return {"host": lease.socket}


def connect(dsn: str, fixture: str = "pg_conn", **options: Any) -> psycopg.Connection[Any]:
    """Return an open connection; the options are those of ``psycopg.connect``."""
    library = needed(fixture, "psycopg")
    connection: psycopg.Connection[Any] = library.connect(dsn, **_named(fixture, options))
    return connection


async def connect_async(dsn: str, fixture: str = "pg_conn_async", **options: Any) -> psycopg.AsyncConnection[Any]:
    """Return an open connection; the options are those of ``psycopg.AsyncConnection.connect``."""
    library = needed(fixture, "psycopg")
    connection: psycopg.AsyncConnection[Any] = await library.AsyncConnection.connect(dsn, **_named(fixture, options))
    return connection


@contextmanager
def pool(
    dsn: str,
    fixture: str = "pg_pool",
    *,
    min_size: int = 1,
    max_size: int = 10,
    open_within: float = OPEN_WITHIN,
    **options: Any,
) -> Iterator[psycopg_pool.ConnectionPool[Any]]:
    """Open a pool that has its first connections, and close all of them after; the options are its connections'.

    Raises:
        psycopg.OperationalError: no connection could be made.
        ConnectionsLeftError: a connection was not given back.
    """
    library = needed(fixture, "psycopg_pool")
    made: WeakSet[psycopg.Connection[Any]] = WeakSet()
    pool: psycopg_pool.ConnectionPool[Any] = library.ConnectionPool(
        dsn,
        min_size=min_size,
        max_size=max_size,
        kwargs=_named(fixture, options),
        configure=made.add,
        open=False,
        name=fixture,
    )
    try:
        try:
            pool.open(wait=True, timeout=open_within)
        except library.PoolTimeout:
            connect(dsn, fixture, **options).close()  # raises with the reason, which the pool only logs
            raise
        yield pool
    finally:
        pool.close()  # what is in the pool, not what was taken from it
        left = [connection for connection in made if not connection.closed]
        for connection in left:
            connection.close()
    if left:
        raise ConnectionsLeftError(fixture, len(left))


@asynccontextmanager
async def pool_async(
    dsn: str,
    fixture: str = "pg_pool_async",
    *,
    min_size: int = 1,
    max_size: int = 10,
    open_within: float = OPEN_WITHIN,
    **options: Any,
) -> AsyncIterator[psycopg_pool.AsyncConnectionPool[Any]]:
    """As `pool`; to be opened and closed in one event loop."""
    library = needed(fixture, "psycopg_pool")
    made: WeakSet[psycopg.AsyncConnection[Any]] = WeakSet()

    async def remember(connection: psycopg.AsyncConnection[Any]) -> None:
        made.add(connection)

    pool: psycopg_pool.AsyncConnectionPool[Any] = library.AsyncConnectionPool(
        dsn,
        min_size=min_size,
        max_size=max_size,
        kwargs=_named(fixture, options),
        configure=remember,
        open=False,
        name=fixture,
    )
    try:
        try:
            await pool.open(wait=True, timeout=open_within)
        except library.PoolTimeout:
            await (await connect_async(dsn, fixture, **options)).close()
            raise
        yield pool
    finally:
        await pool.close()
        left = [connection for connection in made if not connection.closed]
        for connection in left:
            await connection.close()
    if left:
        raise ConnectionsLeftError(fixture, len(left))


@contextmanager
def engine(url: str, fixture: str = "pg_engine", **options: Any) -> Iterator[sqlalchemy.Engine]:
    """Give a SQLAlchemy engine for a ``postgresql+psycopg`` URL; the options are those of ``create_engine``.

    Afterwards its connections are closed, those too that a session of the test still has.
    """
    library = needed(fixture, "sqlalchemy")
    needed(fixture, "psycopg")
    made: WeakSet[Any] = WeakSet()
    connect_args = _named(fixture, options.pop("connect_args", {}))
    engine: sqlalchemy.Engine = library.create_engine(url, connect_args=connect_args, **options)
    _remember(library, engine, made)
    try:
        yield engine
    finally:
        engine.dispose()
        for connection in made:
            connection.close()


@asynccontextmanager
async def engine_async(
    url: str, fixture: str = "pg_engine_async", **options: Any
) -> AsyncIterator[sqlalchemy.ext.asyncio.AsyncEngine]:
    """As `engine`; to be used in one event loop."""
    library = needed(fixture, "sqlalchemy")
    needed(fixture, "psycopg")
    needed(fixture, "greenlet")  # which SQLAlchemy asks for only once a statement runs
    asynchronous = needed(fixture, "sqlalchemy.ext.asyncio")
    made: WeakSet[Any] = WeakSet()
    connect_args = _named(fixture, options.pop("connect_args", {}))
    engine: sqlalchemy.ext.asyncio.AsyncEngine = asynchronous.create_async_engine(
        url, connect_args=connect_args, **options
    )
    _remember(library, engine.sync_engine, made)
    try:
        yield engine
    finally:
        await engine.dispose()
        for connection in made:
            await connection.close()


def _named(fixture: str, options: dict[str, Any]) -> dict[str, Any]:
    """Add the fixture's name, which a name in the DSN or in PGAPPNAME overrides."""
    return {"fallback_application_name": session_name(fixture), **options}


def _remember(library: ModuleType, engine: sqlalchemy.Engine, made: WeakSet[Any]) -> None:
    """Note each connection of the engine as psycopg knows it; disposing of an engine spares those in use."""

    def note(connection: Any, _record: object) -> None:
        made.add(getattr(connection, "driver_connection", connection))

    library.event.listen(engine, "connect", note)
