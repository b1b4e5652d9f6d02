"""Keeping the pool as planned: look, plan, act; and the ends of leases that nobody asks for."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Final

from leasedb_server.domain.database import DatabaseState
from leasedb_server.domain.demand import Demand, Forecast
from leasedb_server.domain.edition import parted
from leasedb_server.domain.errors import LeasedbError, StoreFailedError
from leasedb_server.domain.lease import Instant
from leasedb_server.domain.pool import (
    CALM,
    NEVER,
    Action,
    DropDatabase,
    MakeDatabase,
    ServerView,
    StartServer,
    StopServer,
    Surplus,
    Targets,
    View,
    plan,
)
from leasedb_server.domain.room import Place
from leasedb_server.domain.server import Server, ServerState
from leasedb_server.domain.setbacks import Setbacks
from leasedb_server.domain.template import BASE, CopyState
from leasedb_server.ports import Clock
from leasedb_server.usecases.asking import Refill
from leasedb_server.usecases.copies import Copies
from leasedb_server.usecases.exclusive import Exclusives
from leasedb_server.usecases.leasing import Leasing
from leasedb_server.usecases.ledger import Ledger
from leasedb_server.usecases.making import Making
from leasedb_server.usecases.queueing import Queue
from leasedb_server.usecases.serving import Serving

log = logging.getLogger(__name__)

HISTORY: Final = 600.0  # seconds for which ended leases can be asked about
EDITION_IDLE: Final = 600.0  # seconds after which the server of an edition that nobody uses stops
_START: Final = "start of a server"

Spawn = Callable[[Coroutine[None, None, object]], object]


class Upkeep:
    """Carries out what the planner decides.

    Args:
        setbacks: what failed lately.
        demand: what to keep ready.
        wake: set whenever planning again makes sense.
        idle_stop: seconds without a lease after which servers stop; None: never.
    """

    def __init__(
        self,
        ledger: Ledger,
        clock: Clock,
        *,
        queue: Queue,
        leasing: Leasing,
        serving: Serving,
        making: Making,
        copies: Copies,
        exclusives: Exclusives,
        setbacks: Setbacks,
        demand: Demand,
        targets: Targets,
        wake: asyncio.Event,
        idle_stop: float | None = None,
    ) -> None:
        self._ledger = ledger
        self._inventory = ledger.inventory
        self._clock = clock
        self._queue = queue
        self._leasing = leasing
        self._serving = serving
        self._making = making
        self._copies = copies
        self._exclusives = exclusives
        self._demand = demand
        self._wake = wake
        self._setbacks = setbacks
        self._idle_stop = idle_stop
        self._used: dict[str, Instant] = {}  # editions beside the default, and when they were used last
        self.targets = targets

    def __repr__(self) -> str:
        return f"Upkeep({self._inventory!r}, {self.targets})"

    def view(self) -> View:
        now = self._clock.now()
        start = self._setbacks.get(_START)
        view = self._inventory.view(
            self._queue.waiting(), self._setbacks.retry_at(), start.retry_at if start else NEVER
        )
        quiet = max(0.0, now - self._queue.last_use)
        known = self._inventory.known_templates()
        held = {name for server in view.servers for name in server.stock}  # of deleted templates nothing is kept ready
        return replace(
            view,
            servers=tuple(map(self._as_learned, view.servers)),
            wanted={name: self._demand.wanted(name, now) if name in known else 0 for name in known | held},
            pinned=self._queue.pinned(),
            editions=self._editions(view, now),
            urgent=self._ledger.awaited() | self._leasing.unfenced,
            quiet=quiet,
            asleep=self._idle_stop is not None and quiet >= self._idle_stop and not self.announced(),
        )

    def _editions(self, view: View, now: Instant) -> dict[str, Instant]:
        """Return the editions, beside the default, that somebody waits for or has used lately."""
        editions: dict[str, Instant] = {}
        leased = [server.edition for server in view.servers if server.leased]
        for edition in [*leased, *(parted(line)[1] for line in self._queue.waiting())]:
            if edition:
                self._used[edition] = now
        for edition, used in list(self._used.items()):
            if now - used >= (self._idle_stop or EDITION_IDLE):
                del self._used[edition]
                continue
            start = self._setbacks.get(_start_of(edition))
            editions[edition] = start.retry_at if start else NEVER
        return editions

    def announced(self) -> bool:
        """Tell whether somebody said that leases are coming."""
        now = self._clock.now()
        names = {BASE} | self._inventory.known_templates()
        return any(self._demand.forecast(name, now).hinted for name in names)

    def _as_learned(self, server: ServerView) -> ServerView:
        pace, place = self._making.pace(server.id), self._serving.pulses.place(server.id)
        return replace(
            server,
            workers=pace.workers,
            clone_seconds=pace.clone_seconds,
            full=place is Place.NONE,
            tight=place is Place.OVERFLOW,
            crowded=server.id in self._inventory.crowded,
        )

    def forecasts(self) -> dict[str, Forecast]:
        """Return what is known of the need for each template."""
        now = self._clock.now()
        return {
            template: self._demand.forecast(template, now) for template in sorted(self._inventory.known_templates())
        }

    def refill(self) -> Refill:
        """Return how quickly databases are made, and for how many more there is room."""
        ready = self._shared()
        full = bool(ready) and all(self._serving.pulses.place(server_id) is Place.NONE for server_id in ready)
        counts = self._inventory.counts_of_all()
        there = counts.total() - counts[DatabaseState.GONE]
        obstacle = "the disk is nearly full" if full else ""
        if ready and self._inventory.crowded.issuperset(ready):
            obstacle = "nearly all connections are in use"
        return Refill(self._rate(), 0 if full else max(0, self.targets.most - there), obstacle)

    def _rate(self) -> float:
        return sum(self._making.pace(server_id).rate for server_id in self._shared())

    def _clone_seconds(self) -> float:
        paces = [self._making.pace(server_id).clone_seconds for server_id in self._shared()]
        return sum(paces) / len(paces) if paces else 0.0

    def _shared(self) -> list[str]:
        return [server.id for server in self._inventory.ready_servers() if not server.exclusive]

    @property
    def asleep(self) -> bool:
        """Whether no server runs because nobody has needed one for so long."""
        return not self._inventory.servers and self.view().asleep

    def expect(self, template: str, count: int, holder: str, ttl: float) -> tuple[Instant, int]:
        """Take in that leases are coming; return until when that counts, and how many are kept ready now.

        Raises:
            UnknownTemplateError: there is no such template.
            ShuttingDownError: the daemon is about to stop.
        """
        self._leasing.check_open()
        self._leasing.known_template(template)
        now = self._clock.now()
        self._demand.hint(template, count, holder, now + ttl, now)
        self._wake.set()
        return now + ttl, self._demand.wanted(template, now)

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
        default = [one for one in self._inventory.servers.values() if not one.edition and not one.exclusive]
        missing = self.targets.servers - len(default)
        servers = [await self._serving.begin() for _ in range(missing)]
        failures = [error for error in await asyncio.gather(*map(self._attempt, servers)) if error]
        self._queue.last_use = self._clock.now()
        self._templates_known()
        if failures and not self._inventory.ready_servers():
            raise failures[0]
        for error in failures:
            log.error("a server did not start: %s", error)

    async def shut_down(self) -> None:
        """End all leases and take all servers away; what cannot be taken away now is at the next start."""
        self._leasing.close()
        self._exclusives.close()
        await self._copies.keep()
        await self._exclusives.ended()
        servers = [await self._serving.condemn(server) for server in list(self._inventory.servers.values())]
        await asyncio.gather(*map(self._stop, servers))

    # --- the plan, carried out ---

    async def turn(self, spawn: Spawn) -> float:
        """Plan once and start what was decided. What is started shows in the inventory before this returns.

        Returns:
            Seconds until it may be calm, and planning again makes sense without anything having happened; 0 when it is.
        """
        self._queue.serve()
        self._exclusives.serve()
        self._demand.refills(self._rate(), self._clone_seconds())
        try:
            for action in plan(self.view(), self.targets, self._clock.now()):
                if work := await self._begun(action):
                    spawn(work)
            for work in self._copies.due():
                spawn(work)
            async for work in self._exclusives.due():
                spawn(work)
        except StoreFailedError as error:
            log.error("%s", error)
        return max(0.0, CALM - max(0.0, self._clock.now() - self._queue.last_use))

    async def _begun(self, action: Action) -> Coroutine[None, None, object] | None:
        """Write the intent down and return the rest of the work, if there is any."""
        match action:
            case StartServer(edition):
                return self._bring_up(await self._serving.begin(edition))
            case StopServer(server_id):
                if self._copies.needed_on(server_id):
                    return None  # it is stopped once they are kept
                return self._stop(await self._serving.condemn(self._inventory.servers[server_id]))
            case MakeDatabase(server_id, template):
                return await self._making.begin_to_make(server_id, template)
            case DropDatabase(database_id):
                return self._making.begin_to_drop(database_id)
            case Surplus(server_id, template, count):
                await self._making.give_up(server_id, template, count)
                self._wake.set()
                return None

    async def _bring_up(self, server: Server) -> None:
        if error := await self._attempt(server):
            log.error("a server did not start: %s", error)

    async def _attempt(self, server: Server) -> LeasedbError | None:
        try:
            await self._serving.bring_up(server)
        except LeasedbError as error:
            self._setbacks.add(_start_of(server.edition), str(error), self._clock.now())
            return error
        self._setbacks.clear(_start_of(server.edition))
        self._templates_known()
        self._wake.set()
        return None

    async def _stop(self, server: Server) -> None:
        try:
            await self._serving.stop(server)
        except LeasedbError as error:
            self._making.fail(server.id, "server %s could not be stopped: %s", server.id, error)
        else:
            self._setbacks.clear(server.id)
        self._wake.set()

    def _templates_known(self) -> None:
        # What has no copy yet is brought, and kept ready, when somebody asks for it.
        for template in {copy.template for copy in self._inventory.copies.values() if copy.state is CopyState.SEALED}:
            self._demand.known(template, self._clock.now())

    # --- what time brings ---

    async def reap(self) -> None:
        """End overdue leases."""
        try:
            await self._leasing.end_overdue()
            await self._copies.tidy()
        except StoreFailedError as error:
            log.error("%s", error)

    async def tidy(self) -> None:
        """Forget leases that ended long ago, here and on the servers, and what was learned and no longer matters."""
        self._demand.forget({BASE} | self._inventory.known_templates(), self._clock.now())
        self._making.forget(self._inventory.servers)
        self._leasing.unfenced.intersection_update(self._inventory.databases)
        try:
            await self._copies.write_uses_down()
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
            if self._serving.pulses.exhausted(server.id):
                await self._making.clear_memory(server.id)
        except StoreFailedError as error:
            log.error("%s", error)

    def _is_lost(self, server_id: str) -> bool:
        return self._inventory.servers[server_id].state is ServerState.LOST


def _start_of(edition: str) -> str:
    return f"{_START} {edition}".rstrip()
