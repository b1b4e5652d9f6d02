"""Servers from start to end: brought up, proven, watched, lost, taken away, and taken over from an earlier daemon."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from typing import Final

from leasedb_server.domain.database import DatabaseState
from leasedb_server.domain.edition import Editions
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
from leasedb_server.domain.template import Copy, CopyState, base_key
from leasedb_server.ports import Clock, DatabaseAdmin, Progress, ServerBackend, Survey
from leasedb_server.usecases.ledger import Ledger
from leasedb_server.usecases.pulses import Pulses

log = logging.getLogger(__name__)

LOG_LINES: Final = 12  # of a dead server, shown with the error
ALIVE_EVERY: Final = 0.2  # seconds
MISSED_BEATS: Final = 3  # in a row, then a server whose process still runs counts as lost


class Serving:
    """The servers of one daemon.

    Args:
        daemon: the daemon's id.
        candidates: backends in the order in which they are tried, those last that would have to fetch something.
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
        # Whether something may have been made that only the records tell to be ours.
        self.touched = any(backend.disposable for backend in candidates)
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

    @property
    def editions(self) -> Editions:
        """What servers can be made of; nothing is known before a backend is chosen."""
        return self._chosen.editions if self._chosen else Editions(None, None)

    def backend_of(self, server: Server) -> ServerBackend | None:
        """Return the backend that the server came from, if the settings still allow it."""
        return self._backends.get(server.backend)

    def disposable(self, server: Server) -> bool:
        """Tell whether the server is ours to throw away."""
        backend = self._backends.get(server.backend)
        return backend is not None and backend.disposable

    # --- up ---

    async def choose(self, progress: Progress) -> None:
        """Take the first backend that can be used as things are; else the first that can once something is fetched.

        Raises:
            BackendUnavailableError: when none can, with every reason.
        """
        refusals: dict[str, BackendUnavailableError] = {}
        for backend in await self._in_turn(progress, refusals):
            try:
                found = await backend.check(progress)
            except BackendUnavailableError as error:
                refusals[backend.kind] = error
                continue
            others = (f"not {kind}: {no.detail}" for kind, no in refusals.items() if kind != backend.kind)
            self._chosen, self.reason = backend, "; ".join([found, *others])
            log.info("backend %s: %s", backend.kind, self.reason)
            return
        if len(refusals) == 1:
            raise next(iter(refusals.values()))
        raise BackendUnavailableError(
            "\n  ".join(["No backend can be used here:", *map(_refusal, refusals.keys(), refusals.values())]),
            hint="One of them is enough. 'leasedb doctor' looks again.",
        )

    async def _in_turn(
        self, progress: Progress, refusals: dict[str, BackendUnavailableError]
    ) -> Sequence[ServerBackend]:
        """Return the candidates in the order to try them; ``refusals`` takes why one is out, or comes last.

        One that leases are on comes first, whatever has become possible since: another would lose them.
        """
        if len(self._candidates) == 1:
            return self._candidates
        leased = {server.backend for server in self._inventory.leased_servers()}
        ready: list[ServerBackend] = []
        lacking: list[ServerBackend] = []
        for backend in sorted(self._candidates, key=lambda one: one.kind not in leased):
            try:
                lack = await backend.lacks(progress)
            except BackendUnavailableError as error:
                refusals[backend.kind] = error
                continue
            if lack and backend.kind not in leased:  # it may take minutes
                refusals[backend.kind] = BackendUnavailableError(lack)
                lacking.append(backend)
            else:
                ready.append(backend)
        return ready + lacking

    async def logs(self, server_id: str, lines: int) -> str:
        """Return the server's last log lines, oldest first."""
        server = self._inventory.servers.get(server_id)
        if server is None:
            raise ServerNotFoundError(f"There is no server {server_id!r}.")
        return await self._backends[server.backend].logs(server.name, lines)

    async def begin(self, edition: str = "", *, exclusive: bool = False) -> Server:
        """Write down that a server is going to be started."""
        name = Name(self._daemon, Kind.SERVER, new_ident())
        server = Server(
            id=name.ident,
            name=str(name),
            backend=self.backend.kind,
            created_at=self._clock.now(),
            edition=edition,
            exclusive=exclusive,
        )
        await self._ledger.put_server(server)
        return server

    async def bring_up(self, server: Server) -> None:
        """Start the server, prove `vector` on it and seal the base template.

        Raises:
            LeasedbError: when it did not come up; nothing of it is left then.
        """
        try:
            endpoint = await self.backend.start(server.name, server.edition)
            await self._answering(server, endpoint)
            survey = await self._admin.survey(server.id, self._daemon)
            if not self.backend.disposable:
                self.notes[server.id] = survey.notes
                await self._find_again(server, survey)
            await self.drop_strangers(server, survey, self.staying(server))
            base = await self._building(server)
            versions = await self._admin.create_base(server.id, base.database)
            if server.exclusive:
                await self._admin.open_up(server.id)
            await self._ledger.put_copy(base.to(CopyState.SEALED))
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

    async def _building(self, server: Server) -> Copy:
        name = Name(self._daemon, Kind.TEMPLATE, new_ident())
        copy = Copy(name.ident, server.id, base_key(server.edition), str(name))
        await self._ledger.put_copy(copy)
        self.touched = True
        return copy

    async def _abandon(self, server: Server, error: str) -> None:
        try:
            if not self.backend.disposable:
                with contextlib.suppress(ServerUnreachableError):  # then nothing was made there either
                    await self.empty(server)
            await self._admin.close(server.id)
            await self.backend.stop(server.name)
        except LeasedbError as stop_error:
            log.warning("server %s could not be taken away: %s", server.id, stop_error)
        await self.write_off(server.to(ServerState.GONE, error))

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
        await self.end_leases(server, f"its server {server.id} died: {why.rstrip('.')}")
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
            await self.end_leases(server, "its server was stopped")
            if not backend.disposable:
                await self._empty_if_it_answers(server)
            await self._admin.close(server.id)
            await backend.stop(server.name)
        except LeasedbError as error:
            await self._ledger.put_server(server.to(ServerState.LOST, str(error)), fact=True)
            raise
        await self.write_off(server.to(ServerState.GONE), self.staying(server))
        log.info("server %s stopped", server.id)

    async def _empty_if_it_answers(self, server: Server) -> None:
        try:
            await self.empty(server)
        except ServerUnreachableError as error:
            log.warning("server %s is emptied when it is used again: %s", server.id, error)

    async def empty(self, server: Server, *, wholly: bool = False) -> None:
        """Drop everything of ours on a server that stays; templates, which are of use again, only ``wholly``."""
        survey = await self._admin.survey(server.id, self._daemon)
        await self.drop_strangers(server, survey, frozenset() if wholly else self.staying(server))

    def staying(self, server: Server) -> frozenset[str]:
        """Return the names of the templates that outlive the daemon where they are: on a server that is only lent."""
        if self.disposable(server):
            return frozenset()
        templates = self._inventory.templates
        return frozenset(
            copy.database
            for copy in self._inventory.copies_of(server.id)
            if copy.state is CopyState.SEALED
            and copy.template in templates
            and not templates[copy.template].until_lease
        )

    async def _find_again(self, server: Server, survey: Survey) -> None:
        """Take over the templates that an earlier daemon left on a server that is only lent."""
        for copy in list(self._inventory.copies.values()):
            if copy.server_id not in self._inventory.servers and copy.state is CopyState.SEALED:
                there = copy.database in survey.databases
                found = replace(copy, server_id=server.id) if there else copy.to(CopyState.GONE)
                await self._ledger.put_copy(found)

    async def end_leases(self, server: Server, reason: str) -> None:
        """Take note that all leases and databases of a server are lost."""
        now = self._clock.now()
        for lease in self._inventory.active_leases():
            database = self._inventory.databases[lease.database_id]
            if database.server_id == server.id:
                await self._ledger.put_lease(lease.ended(LeaseState.LOST, now, reason), fact=True)
        for database in self._inventory.databases_of(server.id):
            await self._ledger.put_database(database.to(DatabaseState.GONE), fact=True)

    async def write_off(self, server: Server, staying: frozenset[str] = frozenset()) -> None:
        """Take note that a server is gone, and all copies with it but those ``staying``."""
        for copy in [copy for copy in self._inventory.copies_of(server.id) if copy.database not in staying]:
            await self._ledger.put_copy(copy.to(CopyState.GONE), fact=True)
        await self._ledger.put_server(server, fact=True)
        self.notes.pop(server.id, None)
        self.pulses.forget(server.id)
        self._missed.pop(server.id, None)

    async def drop_strangers(self, server: Server, survey: Survey, known: frozenset[str]) -> None:
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


def _refusal(kind: str, error: BackendUnavailableError) -> str:
    return f"{kind}: {' '.join(str(error).split())}"
