"""Handing databases out and taking them back."""

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from leasedb_server.domain.database import Database, DatabaseState
from leasedb_server.domain.demand import Demand
from leasedb_server.domain.errors import (
    HolderNotFoundError,
    IdempotencyInProgressError,
    IdempotencyMismatchError,
    InvalidRequestError,
    LeasedbError,
    LeaseEndedError,
    LeaseLostError,
    LeaseNotFoundError,
    PoolExhaustedError,
    ServerUnreachableError,
    ShuttingDownError,
    UnknownTemplateError,
    VersionUnavailableError,
)
from leasedb_server.domain.inventory import with_labels
from leasedb_server.domain.lease import Instant, Lease, LeaseState
from leasedb_server.domain.names import new_ident
from leasedb_server.domain.pace import Rate
from leasedb_server.domain.setbacks import Setbacks
from leasedb_server.domain.template import BASE
from leasedb_server.domain.waiting import Ticket, WaitingLine, estimate
from leasedb_server.ports import Clock, DatabaseAdmin, Processes
from leasedb_server.usecases.asking import CallerGoneError, LeaseRequest, Refill
from leasedb_server.usecases.ledger import Ledger

log = logging.getLogger(__name__)

FENCE_LIMIT: Final = 5.0  # seconds; a server that takes longer is about to be declared lost
DROP_LIMIT: Final = 30.0  # seconds that a release with sync waits
CLOCK_SLACK: Final = 5.0  # seconds; a process's start is told by the wall clock, which may be set meanwhile


class Leasing:
    """Leases from request to end.

    Args:
        setbacks: what failed lately, for those who wait in vain.
        demand: is told of every request, so that the pool can learn from it.
        refill: tells how quickly databases are made at present, and how many more there may be.
        max_ttl: seconds after its creation at which a lease ends, however often renewed.
        wake: tells upkeep that there is something to plan for.
        wake_soon: the same, when it may wait a moment for more of it.
    """

    def __init__(
        self,
        ledger: Ledger,
        admin: DatabaseAdmin,
        clock: Clock,
        processes: Processes,
        *,
        setbacks: Setbacks,
        demand: Demand,
        refill: Callable[[], Refill],
        max_ttl: float,
        wake: Callable[[], None],
        wake_soon: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._inventory = ledger.inventory
        self._admin = admin
        self._clock = clock
        self._processes = processes
        self._setbacks = setbacks
        self._demand = demand
        self._refill = refill
        self._max_ttl = max_ttl
        self._wake = wake
        self._wake_soon = wake_soon
        self._line = WaitingLine()
        self._waiters: dict[Ticket, tuple[LeaseRequest, asyncio.Future[Database]]] = {}
        self._keys_in_progress: set[str] = set()
        self._handed: Counter[str] = Counter()  # databases handed over and not yet leased, by holder
        self._fencing: dict[str, asyncio.Event] = {}  # by lease
        self.unfenced: set[str] = set()  # databases whose sessions could not be ended, to be dropped without delay
        self._closing = False
        self.last_use = clock.now()  # of the daemon by anybody: the last lease or release
        self.releases = Rate()

    def __repr__(self) -> str:
        return f"Leasing({self._inventory!r}, {self._line!r})"

    def waiting(self) -> Mapping[str, int]:
        """Return how many callers are in line, by template."""
        return self._line.sizes()

    # --- acquiring ---

    async def acquire(self, request: LeaseRequest, caller_gone: Callable[[], Awaitable[object]]) -> Lease:
        """Lease a database: at once when one is ready, else in turn, after ``request.wait`` seconds at most.

        Args:
            request: what is asked for.
            caller_gone: a coroutine function that returns when the caller has hung up; used only while waiting.

        Raises:
            LeasedbError: as documented for ``POST /leases``.
            CallerGoneError: when the caller hung up; nothing was leased.
        """
        request = self._checked(request)
        if request.key is None:
            return await self._lease(request, caller_gone)
        if earlier := self._inventory.lease_by_key(request.key):
            return self._repeated(request, earlier)
        if request.key in self._keys_in_progress:
            raise IdempotencyInProgressError("An earlier request with the same Idempotency-Key still waits.")
        self._keys_in_progress.add(request.key)
        try:
            return await self._lease(request, caller_gone)
        finally:
            self._keys_in_progress.discard(request.key)

    async def _lease(self, request: LeaseRequest, caller_gone: Callable[[], Awaitable[object]]) -> Lease:
        database = None
        now = self.last_use = self._clock.now()
        self._demand.asked(request.template, request.holder.key, now)
        if not self._line.sizes()[request.template]:
            database = self._inventory.take_ready(request.template, request.postgres)
        if database is not None:
            self._inventory.put_database(database := database.to(DatabaseState.LEASED))
        else:
            database = await self._in_turn(request, caller_gone)
        now = self._clock.now()
        lease = Lease(
            id=new_ident(),
            database_id=database.id,
            holder=request.holder,
            labels=request.labels,
            created_at=now,
            expires_at=now + request.ttl,
            max_expires_at=now + self._max_ttl,
            ttl=request.ttl,
            idempotency_key=request.key,
            request_digest=request.digest,
        )
        try:
            await self._ledger.add_lease(lease)
        except LeasedbError:
            self._give_back(database)
            raise
        self._wake_soon()
        return lease

    async def _in_turn(self, request: LeaseRequest, caller_gone: Callable[[], Awaitable[object]]) -> Database:
        ticket = self._line.join(request.holder.key, request.template)
        self._demand.joined(request.template, self._clock.now())
        future: asyncio.Future[Database] = asyncio.get_running_loop().create_future()
        self._waiters[ticket] = (request, future)
        self._wake()
        gone = asyncio.ensure_future(caller_gone())
        end = asyncio.get_running_loop().time() + request.wait
        accepted = False
        try:
            either: set[asyncio.Future[Any]] = {future, gone}
            await asyncio.wait(either, timeout=request.wait, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                raise CallerGoneError
            if not future.done():
                raise self._exhausted(request, ticket)
            database = future.result()
            accepted = True
        finally:
            gone.cancel()
            self._line.leave(ticket)
            self._demand.left(request.template, self._clock.now())
            self._waiters.pop(ticket, None)
            # A hand-over must be accepted: what was put into the hands of a caller who left goes to the next.
            if future.done() and not future.cancelled() and future.exception() is None:
                self._handed.subtract([ticket.holder])
                if not self._handed[ticket.holder]:
                    del self._handed[ticket.holder]
                if not accepted:
                    self._give_back(future.result())
        if self._in_hand(database):
            return database
        # Its server was lost after the hand-over and before this ran: there is nothing to lease.
        rest = max(0.0, end - asyncio.get_running_loop().time())
        return await self._in_turn(replace(request, wait=rest), caller_gone)

    def serve(self) -> None:
        """Hand ready databases to the callers in line, in turn."""
        for template in list(self._line.sizes()):
            while database := self._inventory.take_ready(template, None):
                ticket = self._line.next(template, self._inventory.held + self._handed)
                if ticket is None:
                    break
                request, future = self._waiters[ticket]
                if future.done():
                    continue
                if not self._inventory.serves(database.server_id, request.postgres):
                    future.set_exception(self._version_unavailable(request.postgres))
                    continue
                self._inventory.put_database(database := database.to(DatabaseState.LEASED))
                self._handed[ticket.holder] += 1
                future.set_result(database)

    def close(self) -> None:
        """Refuse new requests and those in line."""
        self._closing = True
        for _, future in self._waiters.values():
            if not future.done():
                future.set_exception(ShuttingDownError("The daemon is stopping and leases nothing any more."))

    # --- afterwards ---

    def known_template(self, name: str) -> None:
        """Do nothing when there is such a template.

        Raises:
            UnknownTemplateError: there is none.
        """
        known = {BASE} | self._inventory.sealed_names()
        if name not in known:
            raise UnknownTemplateError(f"There is no template {name!r}; there is {', '.join(sorted(known))}.")

    def get(self, lease_id: str) -> Lease:
        try:
            return self._inventory.leases[lease_id]
        except KeyError:
            raise LeaseNotFoundError(f"There is no lease {lease_id!r}.") from None

    async def renew(self, lease_id: str, ttl: float) -> Lease:
        """Let the lease live ``ttl`` seconds from now, or until ``max_expires_at`` when that is sooner."""
        lease = self.get(lease_id)
        now = self._clock.now()
        if lease.active and lease.expires_at <= now:
            await self.end(lease, LeaseState.EXPIRED, "its time ran out")
            lease = self.get(lease_id)
        if not lease.active:
            raise _ended(lease)
        lease = lease.renewed(now, ttl)
        await self._ledger.put_lease(lease)
        return lease

    async def release(self, lease_id: str, *, sync: bool) -> None:
        """End the lease; on return its login is refused, and with ``sync`` its database is gone.

        A lease that has ended already is left as it is.
        """
        lease = self.get(lease_id)
        await self.end(lease, LeaseState.RELEASED, "released by its holder")
        if sync:
            await self._until_gone(lease.database_id)

    async def release_all(self, labels: Mapping[str, str], *, sync: bool) -> int:
        """End all active leases that carry the labels; return how many."""
        leases = list(with_labels(self._inventory.active_leases(), labels))
        await asyncio.gather(*(self.release(lease.id, sync=sync) for lease in leases))
        return len(leases)

    async def end(self, lease: Lease, state: LeaseState, reason: str) -> None:
        """End an active lease and fence its database; the planner has it dropped afterwards."""
        lease = self.get(lease.id)
        if not lease.active:
            if under_way := self._fencing.get(lease.id):
                await under_way.wait()
            return
        now = self.last_use = self._clock.now()
        await self._ledger.put_lease(lease.ended(state, now, reason))
        self.releases.add(now)
        fenced = self._fencing[lease.id] = asyncio.Event()
        database = self._inventory.databases[lease.database_id]
        log.info("lease %s %s: %s", lease.id, state, reason)
        try:
            async with asyncio.timeout(FENCE_LIMIT):
                await self._admin.fence(database.server_id, database)
        except LeasedbError as error:
            # Nothing is lost by going on: the drop ends sessions too, and a dead server lets nobody in.
            self.unfenced.add(database.id)
            log.warning("database %s was not fenced: %s", database.name, error)
        except TimeoutError:
            self.unfenced.add(database.id)
            log.warning("database %s was not fenced within %g s", database.name, FENCE_LIMIT)
        finally:
            del self._fencing[lease.id]
            fenced.set()
            if self._in_hand(database):
                self._inventory.put_database(database.to(DatabaseState.CONDEMNED))
                if self._line or database.id in self.unfenced:
                    self._wake()
                else:
                    self._wake_soon()

    async def end_overdue(self) -> None:
        """End the leases whose time ran out or whose holder's process is dead."""
        now = self._clock.now()
        started: dict[int, Instant | None] = {}
        ends: list[Awaitable[None]] = []
        for lease in self._inventory.active_leases():
            pid = lease.holder.pid
            if lease.expires_at <= now:
                ends.append(self.end(lease, LeaseState.EXPIRED, "its time ran out"))
            elif pid is not None:
                if pid not in started:
                    started[pid] = self._processes.started_at(pid)
                if not _same_process(started[pid], lease.holder.pid_started):
                    ends.append(self.end(lease, LeaseState.RELEASED, f"its holder's process {pid} ended"))
        await asyncio.gather(*ends)

    # --- parts ---

    def _checked(self, request: LeaseRequest) -> LeaseRequest:
        """Return the request with the holder's process looked up; raise when it can never be served."""
        if self._closing:
            raise ShuttingDownError("The daemon is stopping and leases nothing any more.")
        if request.ttl > self._max_ttl:
            raise InvalidRequestError(
                f"'ttl' is {request.ttl:g} s, and the longest allowed is {self._max_ttl:g} s.",
                hint="Ask for less and renew, or raise LEASEDB_MAX_TTL.",
            )
        self.known_template(request.template)
        if request.postgres is not None and self._majors() and request.postgres not in self._majors():
            raise self._version_unavailable(request.postgres)
        pid = request.holder.pid
        if pid is None:
            return request
        started = self._processes.started_at(pid)
        if started is None:
            raise HolderNotFoundError(f"There is no process {pid} on the daemon's machine.")
        return replace(request, holder=replace(request.holder, pid_started=started))

    def _repeated(self, request: LeaseRequest, earlier: Lease) -> Lease:
        if earlier.request_digest != request.digest:
            raise IdempotencyMismatchError("The Idempotency-Key was used before, with another body.")
        if not earlier.active:
            raise _ended(earlier)
        return earlier

    def _in_hand(self, database: Database) -> bool:
        """Tell whether the database is still what it was when it was handed over."""
        return self._inventory.databases.get(database.id) is database

    def _give_back(self, database: Database) -> None:
        if self._in_hand(database):
            self._inventory.put_database(database.to(DatabaseState.READY))
            self.serve()

    def _majors(self) -> set[str]:
        return {server.versions.major for server in self._inventory.ready_servers() if server.versions}

    def _version_unavailable(self, major: str | None) -> VersionUnavailableError:
        served = ", ".join(sorted(self._majors())) or "none yet"
        return VersionUnavailableError(f"Postgres {major} is not served here; served is {served}.")

    def _exhausted(self, request: LeaseRequest, ticket: Ticket) -> PoolExhaustedError:
        now = self._clock.now()
        position = self._line.position(ticket, self._inventory.held + self._handed)
        ends = [lease.expires_at for lease in self._inventory.active_leases()]
        refill = self._refill()
        state = f"{len(ends)} databases are leased" if self._inventory.ready_servers() else "no server is ready yet"
        state = f"{state}, {refill.obstacle}" if refill.obstacle else state
        trouble = self._setbacks.latest(now)
        return PoolExhaustedError(
            f"No database of template {request.template!r} came free within {request.wait:g} s: {state}, "
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

    async def _until_gone(self, database_id: str) -> None:
        try:
            async with asyncio.timeout(DROP_LIMIT):
                self._wake()
                await self._ledger.until_gone(database_id)
        except TimeoutError:
            raise ServerUnreachableError(
                f"The lease has ended, but its database was not dropped within {DROP_LIMIT:g} s.",
                hint="The daemon goes on trying; its log says what stands in the way.",
            ) from None


def _same_process(started: Instant | None, recorded: Instant | None) -> bool:
    return started is not None and recorded is not None and abs(started - recorded) < CLOCK_SLACK


def _ended(lease: Lease) -> LeaseEndedError:
    kind = LeaseLostError if lease.state is LeaseState.LOST else LeaseEndedError
    return kind(f"The lease {lease.id} is {lease.state}: {lease.end_reason}.")
