"""Keeping the pool as planned: look, plan, act; and the ends of leases that nobody asks for."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Final

from leasedb_server.domain.database import Database, DatabaseState
from leasedb_server.domain.errors import LeasedbError, ServerRefusedError, ServerUnreachableError, StoreFailedError
from leasedb_server.domain.names import Kind, Name, new_ident, new_password
from leasedb_server.domain.pool import (
    NEVER,
    Action,
    DropDatabase,
    MakeDatabase,
    StartServer,
    StopServer,
    Targets,
    View,
    plan,
)
from leasedb_server.domain.server import Server, ServerState
from leasedb_server.domain.setbacks import Setbacks
from leasedb_server.ports import Clock, DatabaseAdmin
from leasedb_server.usecases.leasing import Leasing
from leasedb_server.usecases.ledger import Ledger
from leasedb_server.usecases.serving import Serving

log = logging.getLogger(__name__)

HISTORY: Final = 600.0  # seconds for which ended leases can be asked about
_START: Final = "start of a server"

Spawn = Callable[[Coroutine[None, None, object]], object]


class Upkeep:
    """Carries out what the planner decides.

    Args:
        setbacks: what failed lately.
        daemon: the daemon's id.
        wake: set whenever planning again makes sense.
    """

    def __init__(
        self,
        ledger: Ledger,
        admin: DatabaseAdmin,
        clock: Clock,
        leasing: Leasing,
        serving: Serving,
        *,
        setbacks: Setbacks,
        daemon: str,
        targets: Targets,
        wake: asyncio.Event,
    ) -> None:
        self._ledger = ledger
        self._inventory = ledger.inventory
        self._admin = admin
        self._clock = clock
        self._leasing = leasing
        self._serving = serving
        self._daemon = daemon
        self._wake = wake
        self._setbacks = setbacks
        self.targets = targets

    def __repr__(self) -> str:
        return f"Upkeep({self._inventory!r}, {self.targets})"

    def view(self) -> View:
        start = self._setbacks.get(_START)
        return self._inventory.view(
            self._leasing.waiting(), self._setbacks.retry_at(), start.retry_at if start else NEVER
        )

    def trouble(self) -> str:
        """Return what keeps servers from being ready at present, or an empty text."""
        lost = [server.error for server in self._inventory.servers.values() if server.state is ServerState.LOST]
        return self._setbacks.latest(self._clock.now()) or next(iter(lost), "")

    async def bring_up(self) -> None:
        """Start the servers that are missing, all at once; return when each is ready or has failed.

        Raises:
            LeasedbError: when none is ready at the end.
        """
        limit = self._serving.backend.limit
        if limit is not None and limit < self.targets.servers:
            log.warning("the backend %s runs %d server, not %d", self._serving.kind, limit, self.targets.servers)
            self.targets = replace(self.targets, servers=limit)
        missing = self.targets.servers - len(self._inventory.servers)
        servers = [await self._serving.begin() for _ in range(missing)]
        failures = [error for error in await asyncio.gather(*map(self._attempt, servers)) if error]
        if failures and not self._inventory.ready_servers():
            raise failures[0]
        for error in failures:
            log.error("a server did not start: %s", error)

    async def shut_down(self) -> None:
        """End all leases and take all servers away; what cannot be taken away now is at the next start."""
        self._leasing.close()
        servers = [await self._serving.condemn(server) for server in list(self._inventory.servers.values())]
        await asyncio.gather(*map(self._stop, servers))

    # --- the plan, carried out ---

    async def turn(self, spawn: Spawn) -> None:
        """Plan once and start what was decided. What is started shows in the inventory before this returns."""
        self._leasing.serve()
        try:
            for action in plan(self.view(), self.targets, self._clock.now()):
                spawn(await self._begun(action))
        except StoreFailedError as error:
            log.error("%s", error)

    async def _begun(self, action: Action) -> Coroutine[None, None, object]:
        """Write the intent down and return the rest of the work."""
        match action:
            case StartServer():
                return self._bring_up(await self._serving.begin())
            case StopServer(server_id):
                return self._stop(await self._serving.condemn(self._inventory.servers[server_id]))
            case MakeDatabase(server_id, template):
                ident = new_ident()
                name, login = (str(Name(self._daemon, kind, ident)) for kind in (Kind.DATABASE, Kind.LOGIN))
                database = Database(ident, server_id, template, name, login, new_password())
                await self._ledger.add_database(database)
                return self._make(database)
            case DropDatabase(database_id):
                # Not written down: that its lease has ended, or that it never became ready, says it already.
                database = self._inventory.databases[database_id].to(DatabaseState.DROPPING)
                self._inventory.put_database(database)
                return self._drop(database)

    async def _bring_up(self, server: Server) -> None:
        if error := await self._attempt(server):
            log.error("a server did not start: %s", error)

    async def _attempt(self, server: Server) -> LeasedbError | None:
        try:
            await self._serving.bring_up(server)
        except LeasedbError as error:
            self._setbacks.add(_START, str(error), self._clock.now())
            return error
        self._setbacks.clear(_START)
        self._wake.set()
        return None

    async def _stop(self, server: Server) -> None:
        try:
            await self._serving.stop(server)
        except LeasedbError as error:
            self._fail(server.id, "server %s could not be stopped: %s", server.id, error)
        else:
            self._setbacks.clear(server.id)
        self._wake.set()

    async def _make(self, database: Database) -> None:
        template = self._inventory.sealed_on(database.server_id, database.template)
        try:
            if template is None:
                raise ServerUnreachableError(f"Template {database.template!r} is gone from its server.")
            await self._admin.create_database(database.server_id, template.database, database)
        except LeasedbError as error:
            self._fail(database.server_id, "database %s was not made: %s", database.name, error)
            await self._become(database, DatabaseState.CONDEMNED)
        else:
            self._setbacks.clear(database.server_id)
            await self._become(database, DatabaseState.READY)
        self._wake.set()

    async def _drop(self, database: Database) -> None:
        try:
            await self._admin.drop(database.server_id, database.name, database.login)
        except LeasedbError as error:
            # What the server refuses is this one's trouble: the others, and the callers in line, do not wait for it.
            whose = database.id if isinstance(error, ServerRefusedError) else database.server_id
            self._fail(whose, "database %s was not dropped: %s", database.name, error)
            await self._become(database, DatabaseState.CONDEMNED)
        else:
            self._setbacks.clear(database.id)
            await self._become(database, DatabaseState.GONE)
        self._wake.set()

    async def _become(self, database: Database, state: DatabaseState) -> None:
        """Put the new state, unless the server was lost meanwhile and the database went with it."""
        if self._inventory.databases.get(database.id) is not database:
            return
        try:
            await self._ledger.put_database(database.to(state))
        except StoreFailedError as error:
            # The store still says what was, and the next start of the daemon puts that right.
            self._fail(database.server_id, "%s", error)
            self._inventory.put_database(database.to(DatabaseState.CONDEMNED))

    def _fail(self, whose: str, message: str, *values: object) -> None:
        """Count a failure of a server or a database."""
        setback = self._setbacks.add(whose, message % values, self._clock.now())
        if setback.count == 1:
            log.warning(message, *values)

    # --- what time brings ---

    async def reap(self) -> None:
        """End overdue leases."""
        try:
            await self._leasing.end_overdue()
        except StoreFailedError as error:
            log.error("%s", error)

    async def tidy(self) -> None:
        """Forget leases that ended long ago, here and on the servers."""
        try:
            await self._ledger.forget(self._clock.now() - HISTORY)
            for server in self._inventory.ready_servers():
                await self._serving.tidy(server)
        except LeasedbError as error:
            log.warning("tidying up is left for later: %s", error)

    async def check_servers(self) -> None:
        """Give every server its beat; the ones that are dead are lost afterwards."""
        ready = self._inventory.ready_servers()
        await asyncio.gather(*map(self._check, ready))
        if any(server.id not in self._inventory.servers or self._is_lost(server.id) for server in ready):
            self._wake.set()

    async def _check(self, server: Server) -> None:
        try:
            await self._serving.check(server)
        except StoreFailedError as error:
            log.error("%s", error)

    def _is_lost(self, server_id: str) -> bool:
        return self._inventory.servers[server_id].state is ServerState.LOST
