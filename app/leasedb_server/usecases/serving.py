"""Servers from start to end: brought up, proven, watched, lost, taken away, and taken over from an earlier daemon."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Sequence
from typing import Final

from leasedb_server.domain.database import DatabaseState
from leasedb_server.domain.errors import (
    BackendUnavailableError,
    LeasedbError,
    NotReadyError,
    ServerNotFoundError,
    ServerRefusedError,
    ServerStartError,
    ServerUnreachableError,
)
from leasedb_server.domain.lease import LeaseState
from leasedb_server.domain.names import Kind, Name, new_ident
from leasedb_server.domain.server import Endpoint, Server, ServerState
from leasedb_server.domain.template import BASE, Template, TemplateState
from leasedb_server.ports import Clock, DatabaseAdmin, Progress, ServerBackend, Survey
from leasedb_server.usecases.ledger import Ledger
from leasedb_server.usecases.pulses import Pulses

log = logging.getLogger(__name__)

LOG_LINES: Final = 12  # of a dead server, shown with the error
ALIVE_EVERY: Final = 0.2  # seconds
ADOPT_LIMIT: Final = 5.0  # seconds in which a server of an earlier daemon has to answer
MISSED_BEATS: Final = 3  # in a row, then a server whose process still runs counts as lost


class Serving:
    """The servers of one daemon.

    Args:
        daemon: the daemon's id.
        candidates: backends in the order in which they are tried.
        others: backends that are not to be used, but may have to take away what an earlier daemon left there.
        start_timeout: seconds a server may take until it answers a query.
    """

    def __init__(
        self,
        ledger: Ledger,
        admin: DatabaseAdmin,
        clock: Clock,
        *,
        daemon: str,
        candidates: Sequence[ServerBackend],
        others: Sequence[ServerBackend] = (),
        start_timeout: float,
    ) -> None:
        self._ledger = ledger
        self._inventory = ledger.inventory
        self._admin = admin
        self._clock = clock
        self._daemon = daemon
        self._candidates = candidates
        self._backends = {backend.kind: backend for backend in (*candidates, *others)}
        self._start_timeout = start_timeout
        self._missed: dict[str, int] = {}
        self._chosen: ServerBackend | None = None
        self.reason = ""  # why this backend, for people
        self.notes: dict[str, tuple[str, ...]] = {}
        self.pulses = Pulses(ledger.inventory)

    def __repr__(self) -> str:
        return f"Serving({self.kind or 'no backend yet'}, {self._inventory!r})"

    @property
    def kind(self) -> str:
        """The chosen backend's kind; empty until it is chosen."""
        return self._chosen.kind if self._chosen else ""

    @property
    def backend(self) -> ServerBackend:
        if self._chosen is None:
            raise NotReadyError("No backend has been chosen yet.")
        return self._chosen

    # --- up ---

    async def choose(self, progress: Progress) -> None:
        """Take the first backend that can be used here.

        Raises:
            BackendUnavailableError: when none can, with every reason.
        """
        refusals: list[BackendUnavailableError] = []
        for backend in self._candidates:
            try:
                found = await backend.check(progress)
            except BackendUnavailableError as error:
                refusals.append(error)
                continue
            reasons = [
                found,
                *(f"not {other.kind}: {no.detail}" for other, no in zip(self._candidates, refusals, strict=False)),
            ]
            self._chosen, self.reason = backend, "; ".join(reasons)
            log.info("backend %s: %s", backend.kind, self.reason)
            return
        if len(refusals) == 1:
            raise refusals[0]
        raise BackendUnavailableError(
            "No backend can be used here: "
            + " ".join(f"{backend.kind}: {no.detail}" for backend, no in zip(self._candidates, refusals, strict=False)),
            hint=" Or: ".join(no.hint for no in refusals),
        )

    async def logs(self, server_id: str, lines: int) -> str:
        """Return the server's last log lines, oldest first."""
        server = self._inventory.servers.get(server_id)
        if server is None:
            raise ServerNotFoundError(f"There is no server {server_id!r}.")
        return await self._backends[server.backend].logs(server.name, lines)

    async def begin(self) -> Server:
        """Write down that a server is going to be started."""
        name = Name(self._daemon, Kind.SERVER, new_ident())
        server = Server(id=name.ident, name=str(name), backend=self.backend.kind, created_at=self._clock.now())
        await self._ledger.put_server(server)
        return server

    async def bring_up(self, server: Server) -> None:
        """Start the server, prove `vector` on it and seal the base template.

        Raises:
            LeasedbError: when it did not come up; nothing of it is left then.
        """
        try:
            endpoint = await self.backend.start(server.name)
            await self._answering(server, endpoint)
            survey = await self._admin.survey(server.id, self._daemon)
            await self._drop_strangers(server, survey, known=frozenset())
            if not self.backend.disposable:
                self.notes[server.id] = survey.notes
            base = await self._building(server)
            versions = await self._admin.create_base(server.id, base.database)
            await self._ledger.put_template(base.to(TemplateState.SEALED))
            await self._ledger.put_server(server.ready(endpoint, versions, self._clock.now()))
        except BaseException as error:
            await self._abandon(server, str(error))
            raise
        log.info(
            "server %s ready: Postgres %s, vector %s, at %s:%d, after %.2f s",
            server.id,
            versions.postgres,
            versions.vector,
            endpoint.host,
            endpoint.port,
            self._clock.now() - server.created_at,
        )

    async def _answering(self, server: Server, endpoint: Endpoint) -> None:
        """Return when the server answers; give up early when its process has ended."""
        opening = asyncio.ensure_future(self._admin.open(server.id, endpoint, self._start_timeout))
        try:
            while not (await asyncio.wait({opening}, timeout=ALIVE_EVERY))[0]:
                if not await self.backend.alive(server.name):
                    raise ServerStartError(f"The {self.backend.kind} server ended while it started.")
            await opening
        except LeasedbError as error:
            if lines := await self._last_lines(server):
                raise ServerStartError(f"{error.detail} Its last log lines:\n{lines}\n", hint=error.hint) from error
            raise
        finally:
            opening.cancel()

    async def _building(self, server: Server) -> Template:
        name = Name(self._daemon, Kind.TEMPLATE, new_ident())
        template = Template(id=name.ident, server_id=server.id, name=BASE, database=str(name))
        await self._ledger.put_template(template)
        return template

    async def _abandon(self, server: Server, error: str) -> None:
        try:
            if not self.backend.disposable:
                with contextlib.suppress(ServerUnreachableError):  # then nothing was made there either
                    await self._empty(server)
            await self._admin.close(server.id)
            await self.backend.stop(server.name)
        except LeasedbError as stop_error:
            log.warning("server %s could not be taken away: %s", server.id, stop_error)
        await self._write_off(server.to(ServerState.GONE, error))

    # --- watched ---

    async def check(self, server: Server) -> None:
        """Give the server a beat; declare it lost when it is dead or has been silent for too long."""
        if not await self._alive(server):
            await self._lose(server, "Its process has ended.")
            return
        try:
            self.pulses.take(server.id, await self._admin.beat(server.id))
        except ServerUnreachableError as error:
            missed = self._missed[server.id] = self._missed.get(server.id, 0) + 1
            current = self._inventory.servers.get(server.id)
            if current is server and missed >= MISSED_BEATS:
                await self._lose(server, error.detail)
        except LeasedbError as error:
            log.warning("server %s answers, but not to its heartbeat: %s", server.id, error)
        else:
            self._missed.pop(server.id, None)

    async def tidy(self, server: Server) -> None:
        """Keep a server that lives for days as quick as a new one."""
        if self._backends[server.backend].disposable:
            await self._admin.tidy(server.id)

    async def _alive(self, server: Server) -> bool:
        try:
            return await self._backends[server.backend].alive(server.name)
        except LeasedbError as error:
            # Only a query can tell now; what cannot be seen is not dead for that.
            log.warning("server %s: %s", server.id, error)
            return True

    async def _lose(self, server: Server, why: str) -> None:
        lines = await self._last_lines(server)
        if self._inventory.servers.get(server.id) is not server:
            return  # on its way out meanwhile
        log.error("server %s is lost: %s%s", server.id, why, f" Its last log lines:\n{lines}" if lines else "")
        await self._ledger.put_server(server.to(ServerState.LOST, why), fact=True)
        await self._end_leases(server, f"its server {server.id} died: {why.rstrip('.')}")
        await self._admin.close(server.id)

    async def _last_lines(self, server: Server) -> str:
        try:
            return (await self._backends[server.backend].logs(server.name, LOG_LINES)).strip()
        except LeasedbError:
            return ""

    # --- down ---

    async def condemn(self, server: Server) -> Server:
        """Write down that the server is going to be taken away."""
        if server.state is not ServerState.STOPPING:
            await self._ledger.put_server(server := server.to(ServerState.STOPPING), fact=True)
        return server

    async def stop(self, server: Server) -> None:
        """Take the condemned server away; one that is not ours to take away is emptied of what is ours.

        Raises:
            LeasedbError: when it could not be done now; the server is lost then, and the planner tries again.
        """
        backend = self._backends[server.backend]
        try:
            await self._end_leases(server, "its server was stopped")
            if not backend.disposable:
                await self._empty_if_it_answers(server)
            await self._admin.close(server.id)
            await backend.stop(server.name)
        except LeasedbError as error:
            await self._ledger.put_server(server.to(ServerState.LOST, str(error)), fact=True)
            raise
        await self._write_off(server.to(ServerState.GONE))
        log.info("server %s stopped", server.id)

    async def _empty_if_it_answers(self, server: Server) -> None:
        try:
            await self._empty(server)
        except ServerUnreachableError as error:
            log.warning("server %s is emptied when it is used again: %s", server.id, error)

    async def _empty(self, server: Server) -> None:
        """Drop everything of ours on a server that stays."""
        survey = await self._admin.survey(server.id, self._daemon)
        await self._drop_strangers(server, survey, known=frozenset())

    async def _end_leases(self, server: Server, reason: str) -> None:
        now = self._clock.now()
        for lease in self._inventory.active_leases():
            database = self._inventory.databases[lease.database_id]
            if database.server_id == server.id:
                await self._ledger.put_lease(lease.ended(LeaseState.LOST, now, reason), fact=True)
        for database in self._inventory.databases_of(server.id):
            await self._ledger.put_database(database.to(DatabaseState.GONE), fact=True)

    async def _write_off(self, server: Server) -> None:
        for template in self._inventory.templates_of(server.id):
            await self._ledger.put_template(template.to(TemplateState.GONE), fact=True)
        await self._ledger.put_server(server, fact=True)
        self.notes.pop(server.id, None)
        self.pulses.forget(server.id)
        self._missed.pop(server.id, None)

    # --- taken over ---

    async def recover(self) -> None:
        """Take over what an earlier daemon left: keep the servers that work, take everything else of ours away."""
        for server in list(self._inventory.servers.values()):
            if not await self._adopted(server):
                await self._discard(server)
        keep = frozenset(server.name for server in self._inventory.servers.values())
        try:
            for name in await self.backend.sweep(keep):
                log.info("took away %s, which no record speaks of", name)
        except LeasedbError as error:
            log.warning("not everything that no record speaks of could be taken away: %s", error)

    async def _adopted(self, server: Server) -> bool:
        backend, endpoint, versions = self._backends.get(server.backend), server.endpoint, server.versions
        if backend is None or backend is not self._chosen or endpoint is None or versions is None:
            return False  # not of the backend in use now, or never ready
        if server.state is not ServerState.STARTING:
            return False  # on its way out already
        try:
            if not await backend.alive(server.name):
                return False
            await self._admin.open(server.id, endpoint, self._patience(backend))
            survey = await self._admin.survey(server.id, self._daemon)
            base = self._inventory.sealed_on(server.id, BASE)
            if base is None or base.database not in survey.databases:
                return False
            await self._reconcile(server, survey)
            await self._ledger.put_server(server.ready(endpoint, versions, server.ready_at or self._clock.now()))
        except LeasedbError as error:
            log.warning("server %s of an earlier daemon cannot be used: %s", server.id, error)
            return False
        self.notes[server.id] = () if backend.disposable else survey.notes
        log.info("server %s taken over from an earlier daemon", server.id)
        return True

    def _patience(self, backend: ServerBackend) -> float:
        """Return the seconds in which a server has to answer: one that was lent may itself be on its way up."""
        return ADOPT_LIMIT if backend.disposable else self._start_timeout

    async def _reconcile(self, server: Server, survey: Survey) -> None:
        """Bring record and server together: half-made things go, and so does what has no record."""
        now = self._clock.now()
        holders = {lease.database_id: lease for lease in self._inventory.active_leases()}
        known: set[str] = {template.database for template in self._inventory.templates_of(server.id)}
        for database in self._inventory.databases_of(server.id):
            known |= {database.name, database.login}
            if database.state is DatabaseState.MAKING:
                await self._ledger.put_database(database.to(DatabaseState.CONDEMNED))
            elif database.state in {DatabaseState.READY, DatabaseState.LEASED} and (
                database.name not in survey.databases or database.login not in survey.logins
            ):
                if lease := holders.get(database.id):
                    reason = "its database is no longer on the server"
                    await self._ledger.put_lease(lease.ended(LeaseState.LOST, now, reason))
                await self._ledger.put_database(database.to(DatabaseState.CONDEMNED))
        await self._drop_strangers(server, survey, frozenset(known))

    async def _drop_strangers(self, server: Server, survey: Survey, known: frozenset[str]) -> None:
        """Drop what has our name and no record. One that the server refuses to drop is no reason against the server."""
        for name in sorted(survey.databases - known):
            log.info("dropping database %s, which no record speaks of", name)
            await self._dropped(server, name, self._admin.drop(server.id, name, None))
        for login in sorted(survey.logins - known):
            await self._dropped(server, login, self._admin.drop_login(server.id, login))

    async def _dropped(self, server: Server, name: str, dropping: Awaitable[None]) -> None:
        try:
            await dropping
        except ServerRefusedError as error:
            log.warning("%s stays on server %s: %s", name, server.id, error)

    async def _discard(self, server: Server) -> None:
        """Take away a server of an earlier daemon that cannot be used, with its leases and databases."""
        await self._end_leases(server, "its server was gone when the daemon started again")
        backend = self._backends.get(server.backend)
        try:
            # One that stays, and is no longer used. When it is still used, it is emptied when it is brought up.
            if backend is not self._chosen and server.endpoint and not (backend and backend.disposable):
                await self._admin.open(server.id, server.endpoint, self._start_timeout)
                await self._empty(server)
            await self._admin.close(server.id)
            if backend is not None:
                await backend.stop(server.name)
        except LeasedbError as error:
            log.warning("server %s of an earlier daemon was left as it is: %s", server.id, error)
        await self._write_off(server.to(ServerState.GONE))
