"""`rollback`, for psycopg's AsyncConnection."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import errors
from psycopg.rows import Row

from leasedb._plugin.connecting import needed, session_name
from leasedb._plugin.rollback import BUSY, InTransaction, begin_gen, end_gen, not_whole, reason

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import sqlalchemy.ext.asyncio
    from psycopg.pq.abc import PGconn


class AsyncRollbackConnection(InTransaction[Row], psycopg.AsyncConnection[Row]):
    """What the test gets; as `rollback.RollbackConnection`."""

    async def close(self) -> None:
        if not self.closed and not self._over and not self._num_transactions:
            await self.rollback()

    @asynccontextmanager
    async def transaction(
        self,
        savepoint_name: str | None = None,
        force_rollback: bool = False,  # noqa: FBT001, FBT002 - psycopg's
    ) -> AsyncIterator[psycopg.AsyncTransaction]:
        async with self.lock:
            commits = await self.wait(self._open_block_gen())
        async with super().transaction(savepoint_name, force_rollback) as block:
            yield block
        if commits and not self._gone():
            async with self.lock:
                await self.wait(self._settle_gen())


class AsyncRollback:
    """As `rollback.Rollback`. Tests may run in different event loops: between two of them the session has no loop."""

    def __init__(self, dsn: str, fixture: str = "pg_rollback_async") -> None:
        self._dsn = dsn
        self._fixture = fixture
        self._pgconn: PGconn | None = None
        self._given: AsyncRollbackConnection[Any] | None = None

    @property
    def pid(self) -> int | None:
        """The server's process of the session; None while there is none."""
        return self._pgconn.backend_pid if self._pgconn is not None else None

    async def begin(self) -> psycopg.AsyncConnection[Any]:
        """Return a connection for one test, with nothing of the last one's in it.

        Raises:
            psycopg.OperationalError: no connection could be made.
        """
        if self._given is not None:
            await self.end()
        if self._pgconn is None:
            return await self._begin_in(await self._connected())
        try:
            return await self._begin_in(self._pgconn)
        except errors.OperationalError:  # the server ended it meanwhile, for a reset, say
            self.drop()
            return await self._begin_in(await self._connected())

    async def end(self) -> str | None:
        """Undo what the test did; return why that was not possible, when something of it may have stayed.

        The session is closed then, and the next `begin` opens another.
        """
        given, self._given = self._given, None
        if given is None or self._pgconn is None:
            return None
        why = BUSY if given.lock.locked() else not_whole(given)  # a task that the test left behind has the lock
        given.end_test()
        if why is None:
            try:
                await given.wait(end_gen(self._pgconn))
            except psycopg.Error as error:
                why = reason(error)
        if why is not None:
            self.drop()
        return why

    async def close(self) -> None:
        """End the session; what was not ended is rolled back by the server."""
        self.drop()

    def drop(self) -> None:
        """Do as `close` where no event loop runs any more."""
        pgconn, self._pgconn, self._given = self._pgconn, None, None
        if pgconn is not None:
            pgconn.finish()

    async def _connected(self) -> PGconn:
        name = session_name(self._fixture)
        first = await AsyncRollbackConnection.connect(self._dsn, fallback_application_name=name)
        self._pgconn = first.pgconn
        return first.pgconn

    async def _begin_in(self, pgconn: PGconn) -> psycopg.AsyncConnection[Any]:
        given = AsyncRollbackConnection[Any](pgconn)
        await given.wait(begin_gen(pgconn))
        self._given = given
        return given


def rollback_engine_async(
    connection: psycopg.AsyncConnection[Any], fixture: str = "pg_engine_async"
) -> sqlalchemy.ext.asyncio.AsyncEngine:
    """Return what `rollback.rollback_engine` returns, for async code."""
    needed(fixture, "greenlet")
    library = needed(fixture, "sqlalchemy")
    asynchronous = needed(fixture, "sqlalchemy.ext.asyncio")

    async def creator() -> psycopg.AsyncConnection[Any]:
        return connection

    engine: sqlalchemy.ext.asyncio.AsyncEngine = asynchronous.create_async_engine(
        "postgresql+psycopg://", async_creator=creator, poolclass=library.StaticPool
    )
    return engine
