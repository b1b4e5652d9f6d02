"""Getting a ready database: at once when there is one, else in turn."""

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from leasedb_server.domain.database import Database, DatabaseState
from leasedb_server.domain.demand import Demand
from leasedb_server.domain.edition import parted
from leasedb_server.domain.errors import PoolExhaustedError, ShuttingDownError
from leasedb_server.domain.inventory import Inventory
from leasedb_server.domain.pace import Rate
from leasedb_server.domain.setbacks import Setbacks
from leasedb_server.domain.template import Template
from leasedb_server.domain.waiting import Ticket, WaitingLine, estimate
from leasedb_server.ports import Clock
from leasedb_server.usecases.asking import CallerGone, CallerGoneError, Refill

_PIN: Final = "#"  # between template and server in a line of its own; neither has one


@dataclass(frozen=True, slots=True)
class Want:
    """A ready database of the template with this key, for a holder; on one very server, or on any."""

    template: str
    holder: str
    wait: float
    server_id: str | None = None

    @property
    def line(self) -> str:
        return self.template if self.server_id is None else f"{self.template}{_PIN}{self.server_id}"


class Queue:
    """The line of callers for whom no database was ready.

    Args:
        setbacks: what failed lately, for those who wait in vain.
        demand: is told of every request, so that the pool can learn from it.
        refill: tells how quickly databases are made at present, and how many more there may be.
        wake: tells upkeep that there is something to plan for.
    """

    def __init__(
        self,
        inventory: Inventory,
        clock: Clock,
        *,
        setbacks: Setbacks,
        demand: Demand,
        refill: Callable[[], Refill],
        wake: Callable[[], None],
    ) -> None:
        self._inventory = inventory
        self._clock = clock
        self._setbacks = setbacks
        self._demand = demand
        self._refill = refill
        self._wake = wake
        self._line = WaitingLine()
        self._waiters: dict[Ticket, tuple[Want, asyncio.Future[Database]]] = {}
        self._handed: Counter[str] = Counter()  # databases handed over and not yet leased, by holder
        self.releases = Rate()
        self.last_use = clock.now()  # of the daemon by anybody: the last lease or release

    def __repr__(self) -> str:
        return f"Queue({self._line!r})"

    def __len__(self) -> int:
        return len(self._line)

    def waiting(self) -> Mapping[str, int]:
        """Return how many callers wait for a database of any server, by template."""
        return {line: number for line, number in self._line.sizes().items() if _PIN not in line}

    def waiting_for(self, template: str) -> int:
        """Return how many callers wait for a database of this template, of whatever server."""
        return sum(want.template == template for want, _ in self._waiters.values())

    def pinned(self) -> Mapping[tuple[str, str], int]:
        """Return how many callers wait for a database of one very server, by server and template."""
        pinned = {}
        for line, number in self._line.sizes().items():
            template, pin, server_id = line.partition(_PIN)
            if pin:
                pinned[server_id, template] = number
        return pinned

    async def database(self, want: Want, caller_gone: CallerGone) -> Database:
        """Return a ready database, which counts as leased from now on; `give_back` has to follow when it is not.

        Raises:
            PoolExhaustedError: when none came free in time.
            ShuttingDownError: when the daemon stops meanwhile.
            CallerGoneError: when the caller hung up; nothing is held for it.
        """
        now = self.last_use = self._clock.now()
        self._demand.asked(want.template, want.holder, now)
        database = None if self._line.sizes()[want.line] else self._ready(want.line)
        if database is None:
            return await self._in_turn(want, caller_gone)
        self._inventory.put_database(database := database.to(DatabaseState.LEASED))
        return database

    def _ready(self, line: str) -> Database | None:
        template, pin, server_id = line.partition(_PIN)
        return self._inventory.ready_on(server_id, template) if pin else self._inventory.take_ready(template)

    async def _in_turn(self, want: Want, caller_gone: CallerGone) -> Database:
        end = asyncio.get_running_loop().time() + want.wait
        while True:
            database = await self._once(want, end, caller_gone)
            if self.in_hand(database):
                return database
            # Its server was lost after the hand-over and before this ran: there is nothing to lease.

    async def _once(self, want: Want, end: float, caller_gone: CallerGone) -> Database:
        ticket = self._line.join(want.holder, want.line)
        self._demand.joined(want.template, self._clock.now())
        future: asyncio.Future[Database] = asyncio.get_running_loop().create_future()
        self._waiters[ticket] = (want, future)
        self._wake()
        gone = asyncio.ensure_future(caller_gone())
        accepted = False
        try:
            either: set[asyncio.Future[Any]] = {future, gone}
            rest = max(0.0, end - asyncio.get_running_loop().time())
            await asyncio.wait(either, timeout=rest, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                raise CallerGoneError
            if not future.done():
                raise self._exhausted(want, ticket)
            database = future.result()
            accepted = True
            return database
        finally:
            gone.cancel()
            self._line.leave(ticket)
            self._demand.left(want.template, self._clock.now())
            self._waiters.pop(ticket, None)
            # A hand-over must be accepted: what was put into the hands of a caller who left goes to the next.
            if future.done() and not future.cancelled() and future.exception() is None:
                self._handed.subtract([ticket.holder])
                if not self._handed[ticket.holder]:
                    del self._handed[ticket.holder]
                if not accepted:
                    self.give_back(future.result())

    def serve(self) -> None:
        """Hand ready databases to the callers in line, in turn."""
        for line in sorted(self._line.sizes(), key=lambda line: _PIN not in line):  # who has a lease goes first
            while database := self._ready(line):
                ticket = self._line.next(line, self._inventory.held + self._handed)
                if ticket is None:
                    break
                _, future = self._waiters[ticket]
                if future.done():
                    continue
                self._inventory.put_database(database := database.to(DatabaseState.LEASED))
                self._handed[ticket.holder] += 1
                future.set_result(database)

    def fail(self, failed: Callable[[Want], BaseException | None]) -> None:
        """Refuse those in line for whom an error is returned."""
        for want, future in self._waiters.values():
            if not future.done() and (error := failed(want)):
                future.set_exception(error)

    def close(self) -> None:
        """Refuse those in line."""
        self.fail(lambda _want: ShuttingDownError("The daemon is stopping and leases nothing any more."))

    def in_hand(self, database: Database) -> bool:
        """Tell whether the database is still what it was when it was handed over."""
        return self._inventory.databases.get(database.id) is database

    def give_back(self, database: Database) -> None:
        """Make a database ready again that nobody has seen."""
        if self.in_hand(database):
            self._inventory.put_database(database.to(DatabaseState.READY))
            self.serve()

    def _exhausted(self, want: Want, ticket: Ticket) -> PoolExhaustedError:
        now = self._clock.now()
        position = self._line.position(ticket, self._inventory.held + self._handed)
        ends = [lease.expires_at for lease in self._inventory.active_leases()]
        refill = self._refill()
        state = f"{len(ends)} databases are leased" if self._inventory.ready_servers() else "no server is ready yet"
        state = f"{state}, {refill.obstacle}" if refill.obstacle else state
        trouble = self._setbacks.latest(now)
        return PoolExhaustedError(
            f"No database of template {_shown(self._inventory.templates.get(want.template), want)!r} came free within"
            f" {want.wait:g} s: {state}, "
            f"and this request was number {position} in line.{' The latest trouble: ' + trouble if trouble else ''}",
            retry_after=estimate(
                position,
                rate=refill.rate,
                room=refill.room,
                releases=self.releases.per_second(now),
                soonest=max(0.0, min(ends, default=math.inf) - now),
            ),
            position=position,
            hint="See what leases do: GET /servers tells connections and places." if refill.obstacle else None,
        )


def _shown(template: Template | None, want: Want) -> str:
    return template.name if template else parted(want.template)[0]
