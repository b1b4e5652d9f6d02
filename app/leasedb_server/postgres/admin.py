"""The `DatabaseAdmin` of ports.py: which of the modules beside this one says what."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from psycopg import sql

from leasedb_server.domain.cloning import Strategy
from leasedb_server.domain.database import Database
from leasedb_server.domain.server import Endpoint, Versions
from leasedb_server.ports import Progress, Pulse, Survey
from leasedb_server.postgres import (
    cloning,
    dropping,
    exclusive,
    exporting,
    fencing,
    importing,
    running,
    sealing,
    surveying,
    swapping,
)
from leasedb_server.postgres.connecting import ANSWER_LIMIT, direct, translated
from leasedb_server.postgres.pulse import connections_of
from leasedb_server.postgres.servers import Servers

FRESH_BEAT: Final = 5  # every so many beats come over a new connection


class PostgresAdmin(Servers):
    """Looks up the server; what is said to it is written beside this, by subject."""

    async def open(self, server_id: str, endpoint: Endpoint, within: float) -> None:
        await self.connect(server_id, endpoint, within)
        await self.beat(server_id)

    async def survey(self, server_id: str, daemon: str, also: frozenset[str] = frozenset()) -> Survey:
        return await surveying.survey(self.link(server_id), daemon, also)

    async def create_base(self, server_id: str, database: str) -> Versions:
        return await cloning.create_base(self.link(server_id), database)

    async def strategies(self, server_id: str) -> tuple[Strategy, ...]:
        return cloning.ways_to_clone(self.link(server_id).login.version)

    async def create_database(
        self, server_id: str, template_database: str, database: Database, strategy: Strategy, *, overflow: bool = False
    ) -> None:
        await cloning.create_database(self.link(server_id), template_database, database, strategy, overflow=overflow)

    async def fence(self, server_id: str, database: Database) -> int:
        return await fencing.fence(self.link(server_id), database)

    async def drop(self, server_id: str, name: str, login: str | None) -> None:
        await dropping.drop(self.link(server_id), name, login)

    async def drop_login(self, server_id: str, login: str) -> None:
        link = self.link(server_id)
        async with link.connection() as connection:
            await dropping.drop_login(link, connection, login)

    async def reset(self, server_id: str, database: Database, spare: Database) -> int:
        return await swapping.reset(self.link(server_id), database, spare)

    async def reopen(self, server_id: str, database: Database) -> None:
        await swapping.reopen(self.link(server_id), database)

    async def seal(self, server_id: str, database: Database, template_database: str, *, force: bool) -> int:
        return await sealing.seal(self.link(server_id), database, template_database, force=force)

    async def branch(
        self, server_id: str, database: Database, template_database: str, strategy: Strategy, *, force: bool
    ) -> int:
        return await sealing.branch(self.link(server_id), database, template_database, strategy, force=force)

    async def run_sql(
        self, server_id: str, database: Database, text: AsyncIterator[str], progress: Progress
    ) -> tuple[str, ...]:
        return await running.run_text(self.link(server_id).endpoint, database, text, progress)

    async def layout(self, server_id: str) -> str:
        return await exporting.layout(self.link(server_id))

    async def export_copy(self, server_id: str, template_database: str) -> AsyncIterator[bytes]:
        async for part in exporting.export_copy(self.link(server_id), template_database):
            yield part

    async def import_copy(self, server_id: str, template_database: str, content: AsyncIterator[bytes]) -> int:
        return await importing.import_copy(self.link(server_id), template_database, content)

    async def open_up(self, server_id: str) -> None:
        await exclusive.open_up(self.link(server_id))

    async def create_exclusive(
        self, server_id: str, template_database: str, database: Database, strategy: Strategy
    ) -> None:
        await exclusive.create_exclusive(self.link(server_id), template_database, database, strategy)

    async def reset_exclusive(
        self, server_id: str, template_database: str, database: Database, keep: frozenset[str]
    ) -> int:
        return await exclusive.reset_exclusive(self.link(server_id), template_database, database, keep)

    async def beat(self, server_id: str) -> Pulse:
        link = self.link(server_id)
        statement = (
            sql.SQL("COPY (SELECT clock_timestamp()) TO {}").format(sql.Literal(link.login.heartbeat))
            if link.login.heartbeat
            else sql.SQL("SELECT 1")
        )
        with translated(f"Server {server_id}"):
            async with asyncio.timeout(ANSWER_LIMIT):
                if link.beats % FRESH_BEAT == FRESH_BEAT - 1:
                    # A server that is shutting down goes on answering the sessions it has, and takes no new ones.
                    async with direct(link.endpoint) as connection:
                        await connection.execute(statement)
                        await link.gauge.measure(connection)
                        connections = await connections_of(connection)
                else:
                    async with link.connection() as connection:
                        await connection.execute(statement)
                        connections = await connections_of(connection)
        # Counted when it was answered: after one that was not, the next comes over a new connection as well.
        link.beats += 1
        ours = link.pool.get_stats().get("pool_size", 0)
        room = link.gauge.room
        return Pulse(max(0, connections - ours), link.login.most_connections, room.memory, room.disk)

    async def tidy(self, server_id: str) -> None:
        # Autovacuum is off there, and every clone and drop leaves dead rows in the tables that all databases share.
        async with self.link(server_id).connection() as connection:
            await connection.execute("VACUUM pg_database, pg_authid, pg_shdepend, pg_db_role_setting, pg_auth_members")
