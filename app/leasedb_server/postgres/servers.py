"""The servers that the administrator has logged in to, and how each is reached."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

from psycopg_pool import AsyncConnectionPool

from leasedb_server.domain.errors import ServerUnreachableError
from leasedb_server.domain.server import Endpoint
from leasedb_server.postgres.connecting import ANSWER_LIMIT, Connection, conninfo, direct, translated
from leasedb_server.postgres.pulse import Gauge
from leasedb_server.postgres.rights import Login, first_answer

CONNECTIONS: Final = 12  # per server: workers, fences, a beat
SEALING: Final = 2  # templates that are made at once, each over connections of its own: that may take minutes


@dataclass(slots=True, eq=False)
class Link:
    """One server: a small connection pool, and what is known of it."""

    server_id: str
    endpoint: Endpoint
    login: Login
    pool: AsyncConnectionPool[Connection] = field(repr=False)
    gauge: Gauge
    beats: int = 0
    opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    sealing: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(SEALING))
    overflowing: bool = False  # its place on the disk is known to it

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection of the pool, which leads to the administrator's own database."""
        with translated(f"Server {self.server_id}"):
            async with self.pool.connection() as connection:
                yield connection

    @contextlib.asynccontextmanager
    async def inside(self, database: str) -> AsyncIterator[Connection]:
        """Lend a connection of its own into a database. What its owner set there does not reach what we say."""
        with translated(f"Server {self.server_id}"):
            async with direct(self.endpoint, database) as connection:
                yield connection


class Servers:
    """The links, by server id."""

    def __init__(self) -> None:
        self._links: dict[str, Link] = {}
        # What the pool says while a server is away is said better, and once, by whoever asked.
        logging.getLogger("psycopg.pool").setLevel(logging.ERROR)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({sorted(self._links)})"

    def link(self, server_id: str) -> Link:
        """Return the link to a server; raises `ServerUnreachableError` when there is none."""
        try:
            return self._links[server_id]
        except KeyError:
            raise ServerUnreachableError(f"There is no connection to server {server_id}.") from None

    async def connect(self, server_id: str, endpoint: Endpoint, within: float) -> Link:
        """Log in, trying again for ``within`` seconds; see `DatabaseAdmin.open`."""
        await self.close(server_id)
        login = await first_answer(endpoint, within)
        pool = AsyncConnectionPool(
            conninfo(endpoint),
            kwargs={"autocommit": True, "prepare_threshold": None},
            min_size=1,
            max_size=CONNECTIONS,
            timeout=ANSWER_LIMIT,
            reconnect_timeout=round(ANSWER_LIMIT),
            open=False,
        )
        await pool.open()
        self._links[server_id] = link = Link(server_id, endpoint, login, pool, Gauge(endpoint))
        return link

    async def close(self, server_id: str) -> None:
        link = self._links.pop(server_id, None)
        if link is not None:
            with contextlib.suppress(TimeoutError):  # a worker of the pool may have missed its cancellation
                async with asyncio.timeout(ANSWER_LIMIT):
                    await link.pool.close(timeout=ANSWER_LIMIT)

    async def close_all(self) -> None:
        """Let go of all connections."""
        await asyncio.gather(*map(self.close, list(self._links)))
