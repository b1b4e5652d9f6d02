"""Handing databases out and taking them back."""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Final

from leasedb_server.domain.database import Database, DatabaseState
from leasedb_server.domain.edition import Editions, parted
from leasedb_server.domain.errors import (
    BuildFailedError,
    HolderNotFoundError,
    InvalidRequestError,
    LeasedbError,
    LeaseNotFoundError,
    NotReadyError,
    ShuttingDownError,
    UnknownTemplateError,
    VersionUnavailableError,
)
from leasedb_server.domain.inventory import with_labels
from leasedb_server.domain.lease import Instant, Lease, LeaseState, ended
from leasedb_server.domain.names import new_ident
from leasedb_server.domain.template import BASE, is_base
from leasedb_server.ports import Clock, DatabaseAdmin, Processes
from leasedb_server.usecases.asking import CallerGone, LeaseRequest
from leasedb_server.usecases.ledger import Ledger
from leasedb_server.usecases.limits import within
from leasedb_server.usecases.queueing import Queue, Want
from leasedb_server.usecases.repeating import Keys
from leasedb_server.usecases.turns import Turns

log = logging.getLogger(__name__)

FENCE_LIMIT: Final = 5.0  # seconds; a server that takes longer is about to be declared lost
TAKE_OVER_LIMIT: Final = 60.0  # seconds
DROP_LIMIT: Final = 30.0  # seconds that a release with sync waits
MOST_NAMED: Final = 8  # templates in an error's message
CLOCK_SLACK: Final = 5.0  # seconds; a process's start is told by the wall clock, which may be set meanwhile


class Leasing:
    """Leases from request to end.

    Args:
        queue: where databases are got.
        editions: tells what servers can be made of.
        throw_away: takes a server away that was leased as a whole.
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
        queue: Queue,
        *,
        editions: Callable[[], Editions],
        throw_away: Callable[[str], Awaitable[None]],
        max_ttl: float,
        wake: Callable[[], None],
        wake_soon: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._inventory = ledger.inventory
        self._admin = admin
        self._clock = clock
        self._processes = processes
        self._queue = queue
        self._editions = editions
        self._throw_away = throw_away
        self.max_ttl = max_ttl
        self._wake = wake
        self._wake_soon = wake_soon
        self.keys = Keys(ledger.inventory)
        self._fencing: dict[str, asyncio.Event] = {}  # by lease
        self._acts = Turns()  # by lease, while something is done to its database
        self.taken_over = asyncio.Event()  # what an earlier daemon left, and with it what can be served now
        self.at_close: list[Callable[[], None]] = []  # called when the daemon is about to stop
        self.readers: Counter[str] = Counter()  # of streams that leases are held open by; their time does not run out
        self.unfenced: set[str] = set()  # databases whose sessions could not be ended, to be dropped without delay
        self._closing = False

    def __repr__(self) -> str:
        return f"Leasing({self._inventory!r}, {self._queue!r})"

    # --- acquiring ---

    async def acquire(self, request: LeaseRequest, caller_gone: CallerGone) -> Lease:
        """Lease a database: at once when one is ready, else in turn, after ``request.wait`` seconds at most.

        Raises:
            LeasedbError: as documented for ``POST /leases``.
            CallerGoneError: when the caller hung up; nothing was leased.
        """
        if request.postgres is not None or request.image is not None:
            await self.until_taken_over(request.wait)
        return await self.once(self.checked(request), caller_gone, self.lease)

    async def once(
        self,
        request: LeaseRequest,
        caller_gone: CallerGone,
        lease: Callable[[LeaseRequest, CallerGone], Awaitable[Lease]],
    ) -> Lease:
        """Have a checked request leased; one that is repeated gets the lease of the first time."""
        with self.keys.of(request) as earlier:
            return earlier or await lease(request, caller_gone)

    async def lease(self, request: LeaseRequest, caller_gone: CallerGone) -> Lease:
        """Lease a database for a checked request, whether or not it is repeated."""
        want = Want(request.stock, request.holder.key, request.wait)
        database = await self._queue.database(want, caller_gone)
        try:
            self._check_version(database, request)
            return await self.enter(database, request)
        except LeasedbError:
            self._queue.give_back(database)
            raise

    async def enter(self, database: Database, request: LeaseRequest) -> Lease:
        """Write down that the request's holder has the database from now on."""
        now = self._clock.now()
        lease = Lease(
            id=new_ident(),
            database_id=database.id,
            holder=request.holder,
            labels=request.labels,
            created_at=now,
            expires_at=now + request.ttl,
            max_expires_at=now + self.max_ttl,
            ttl=request.ttl,
            idempotency_key=request.key,
            request_digest=request.digest,
            builds=request.builds,
        )
        await self._ledger.add_lease(lease)
        self._inventory.used(database.template, now)
        self._wake_soon()
        return lease

    def close(self) -> None:
        """Refuse new requests and those in line."""
        self._closing = True
        self.taken_over.set()  # nobody waits for it any more
        self._queue.close()
        for told in self.at_close:
            told()

    # --- afterwards ---

    def known_template(self, key: str) -> None:
        """Do nothing when there is a sealed template with this key.

        Raises:
            UnknownTemplateError: there is none.
        """
        found = self._inventory.templates.get(key)
        if is_base(key) or (found and found.sealed):
            return
        name, edition = parted(key)
        if found and found.fault:
            why = found.fault.message.rstrip(".")
            raise UnknownTemplateError(
                f"There is no template {name!r} to lease from: its build failed: {why}.",
                hint=found.fault.hint or BuildFailedError.default_hint,
            )
        state = f"it is not sealed but {found.state}" if found else "it was never built, or evicted"
        known = sorted(
            one.name
            for one in self._inventory.templates.values()
            if one.sealed and one.edition == edition and not one.until_lease  # these are of their lease alone
        )
        there = ", ".join([BASE, *known[:MOST_NAMED]]) + (" and more" if len(known) > MOST_NAMED else "")
        raise UnknownTemplateError(f"There is no template {name!r} to lease from: {state}. There is {there}.")

    def get(self, lease_id: str) -> Lease:
        try:
            return self._inventory.leases[lease_id]
        except KeyError:
            raise LeaseNotFoundError(f"There is no lease {lease_id!r}.") from None

    async def renew(self, lease_id: str, ttl: float) -> Lease:
        """Let the lease live ``ttl`` seconds from now, or until ``max_expires_at`` when that is sooner."""
        lease = (await self.living(lease_id)).renewed(self._clock.now(), ttl)
        await self._ledger.put_lease(lease)
        return lease

    async def living(self, lease_id: str) -> Lease:
        """Return the lease; one whose time ran out just now is ended.

        Raises:
            LeaseNotFoundError, LeaseEndedError: when there is none that lives.
        """
        lease = self.get(lease_id)
        if lease.active and self._overdue(lease):
            await self.end(lease, LeaseState.EXPIRED, "its time ran out")
            lease = self.get(lease_id)
        if not lease.active:
            raise ended(lease)
        return lease

    def _overdue(self, lease: Lease) -> bool:
        # While it is held open, not even a machine that slept makes it end.
        return self._clock.now() >= (lease.max_expires_at if lease.id in self.readers else lease.expires_at)

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

    async def until_taken_over(self, seconds: float) -> None:
        """Return when what an earlier daemon left has been put right, and it is known what can be served.

        Raises:
            NotReadyError: when that took longer.
        """
        if self.taken_over.is_set():
            return
        try:
            async with asyncio.timeout(seconds):
                await self.taken_over.wait()
        except TimeoutError:
            raise NotReadyError("The daemon is still looking at what there is, and what it can serve.") from None

    @contextlib.asynccontextmanager
    async def acting(self, lease_id: str) -> AsyncIterator[Lease]:
        """Keep the lease from ending while something is done to its database; yields the lease as it is then.

        Raises:
            LeaseNotFoundError, LeaseEndedError: when there is nothing to act on.
        """
        lease = self.get(lease_id)
        await self.until_taken_over(TAKE_OVER_LIMIT)  # what was begun before is ended first
        async with self._acts.of(lease_id):
            lease = self.get(lease_id)
            if lease.active and self._overdue(lease):
                await self._end(lease, LeaseState.EXPIRED, "its time ran out")
                lease = self.get(lease_id)
            if not lease.active:
                raise ended(lease)
            yield lease

    async def end(self, lease: Lease, state: LeaseState, reason: str, *, fact: bool = False) -> None:
        """End an active lease and fence its database; the planner has it dropped afterwards."""
        if lease.id not in self._acts:
            await self._end(lease, state, reason, fact=fact)
            return
        async with self._acts.of(lease.id):
            await self._end(lease, state, reason, fact=fact)

    async def conclude(self, lease: Lease, state: LeaseState, reason: str, *, fact: bool = False) -> None:
        """Write down that an active lease has ended."""
        now = self._queue.last_use = self._clock.now()
        await self._ledger.put_lease(lease.ended(state, now, reason), fact=fact)
        self._queue.releases.add(now)
        self._inventory.used(self._inventory.databases[lease.database_id].template, now)
        log.info("lease %s %s: %s", lease.id, state, reason)

    async def _end(self, lease: Lease, state: LeaseState, reason: str, *, fact: bool = False) -> None:
        lease = self.get(lease.id)
        if not lease.active:
            if under_way := self._fencing.get(lease.id):
                await under_way.wait()
            return
        await self.conclude(lease, state, reason, fact=fact)
        fenced = self._fencing[lease.id] = asyncio.Event()
        database = self._inventory.databases[lease.database_id]
        try:
            async with asyncio.timeout(FENCE_LIMIT):
                if self._inventory.server_of(database).exclusive:
                    await self._throw_away(database.server_id)
                else:
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
            await self._condemn(database)

    async def _condemn(self, database: Database) -> None:
        if spare := self._inventory.spare_for(database.id):  # of a reset that did not come about
            await self._ledger.put_database(spare.to(DatabaseState.CONDEMNED), fact=True)
        current = self._inventory.databases.get(database.id)
        if current is None or current.state is not DatabaseState.LEASED:
            return
        self._inventory.put_database(current.to(DatabaseState.CONDEMNED))
        if self._queue or database.id in self.unfenced:
            self._wake()
        else:
            self._wake_soon()

    async def end_overdue(self) -> None:
        """End the leases whose time ran out or whose holder's process is dead."""
        started: dict[int, Instant | None] = {}
        ends: list[Awaitable[None]] = []

        async def unless_changed(lease: Lease, state: LeaseState, reason: str) -> None:
            if self._inventory.leases.get(lease.id) is lease:  # else it was renewed or kept meanwhile
                await self.end(lease, state, reason)

        for lease in self._inventory.active_leases():
            pid = lease.holder.pid
            if lease.id in self._acts:
                continue  # looked at again in a moment
            if self._overdue(lease):
                ends.append(unless_changed(lease, LeaseState.EXPIRED, "its time ran out"))
            elif pid is not None:
                if pid not in started:
                    started[pid] = self._processes.started_at(pid)
                if not _same_process(started[pid], lease.holder.pid_started):
                    reason = f"its holder's process {pid} ended"
                    ends.append(unless_changed(lease, LeaseState.RELEASED, reason))
        await asyncio.gather(*ends)

    # --- parts ---

    def checked(self, request: LeaseRequest) -> LeaseRequest:
        """Return the request with its edition and its holder's process found out; raise when it can never be served."""
        self.check_open()
        if request.ttl > self.max_ttl:
            raise InvalidRequestError(
                f"'ttl' is {request.ttl:g} s, and the longest allowed is {self.max_ttl:g} s.",
                hint="Ask for less and renew, or raise LEASEDB_MAX_TTL.",
            )
        if request.postgres is not None or request.image is not None:
            request = replace(request, edition=self.edition(request.postgres, request.image))
        if parted(request.template)[1]:
            raise UnknownTemplateError(f"There is no template {request.template!r}: no name has an '@' in it.")
        self.known_template(request.stock)
        pid = request.holder.pid
        if pid is None:
            return request
        started = self._processes.started_at(pid)
        if started is None:
            raise HolderNotFoundError(f"There is no process {pid} on the daemon's machine.")
        return replace(request, holder=replace(request.holder, pid_started=started))

    def check_open(self) -> None:
        """Do nothing unless the daemon is about to stop.

        Raises:
            ShuttingDownError: it is.
        """
        if self._closing:
            raise ShuttingDownError("The daemon is stopping and leases nothing any more.")

    def edition(self, postgres: str | None, image: str | None) -> str:
        """Return what a server has to be made of.

        Raises:
            VersionUnavailableError: when no server can be.
        """
        running = {
            server.edition: server.versions.major for server in self._inventory.ready_servers() if server.versions
        }
        return self._editions().resolve(postgres, image, running=running)

    def _check_version(self, database: Database, request: LeaseRequest) -> None:
        """Raise when the server turned out to be of another version than was asked for, before one was running."""
        versions = self._inventory.server_of(database).versions
        if request.postgres is not None and versions is not None and versions.major != request.postgres:
            raise VersionUnavailableError(
                f"Postgres {request.postgres} is not served here; served is Postgres {versions.major}."
            )

    async def _until_gone(self, database_id: str) -> None:
        self._wake()
        what = "The lease has ended, but the drop of its database"
        hint = "The daemon goes on trying; its log says what stands in the way."
        await within(DROP_LIMIT, self._ledger.until_gone(database_id), what, hint=hint)


def _same_process(started: Instant | None, recorded: Instant | None) -> bool:
    return started is not None and recorded is not None and abs(started - recorded) < CLOCK_SLACK
