"""Leases whose holders never renew, and give back or not: sessions on a database tell whether its holder is there."""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from leasedb_server.domain.errors import LeasedbError
from leasedb_server.domain.inventory import Inventory
from leasedb_server.domain.lease import Instant, Lease, LeaseState
from leasedb_server.ports import Clock
from leasedb_server.usecases.asking import Refill
from leasedb_server.usecases.leasing import Leasing
from leasedb_server.usecases.queueing import Queue

log = logging.getLogger(__name__)

KEPT: Final = 32  # databases of one template that stay although nobody is connected
UNUSED: Final = 10.0  # seconds without a session after which a database beyond those is taken back
SPARED: Final = 1.0  # seconds for which none is taken back, though others wait for one
LOOK: Final = 1.0  # seconds between looks at sessions
PAUSE: Final = 0.1  # seconds at least
LEAVING: Final = 0.3  # seconds that sessions may take to go which were just closed
GLANCE: Final = 0.05  # seconds between looks at those

Occupied = Callable[[str], Awaitable[Mapping[str, float]]]
"""Returns the databases of a server, by its id, on which there are sessions: the seconds since anybody did anything."""


class Attending:
    """The leases that carry a label. They are renewed while somebody is connected to their databases.

    The label's value is the template's name.

    Args:
        label: marks the leases.
        refill: tells how many more databases there may be.
        occupied: tells which databases somebody is connected to.
        ttl: seconds that a lease lives without a session.
        pool_max: databases that there may be.
    """

    def __init__(
        self,
        inventory: Inventory,
        clock: Clock,
        *,
        label: str,
        leasing: Leasing,
        queue: Queue,
        refill: Callable[[], Refill],
        occupied: Occupied,
        ttl: float,
        pool_max: int,
    ) -> None:
        self._inventory = inventory
        self._clock = clock
        self._label = label
        self._leasing = leasing
        self._queue = queue
        self._refill = refill
        self._occupied = occupied
        self.ttl = ttl
        self._kept = min(KEPT, pool_max // 2)
        self._started = clock.now()
        self._seen: dict[str, Instant] = {}  # by lease: when there was a session last
        self._given_back: set[str] = set()  # leases to be ended once nobody is connected
        self._wake = asyncio.Event()

    def __repr__(self) -> str:
        return f"Attending({self._label}: {len(self.leases())} leases)"

    def leases(self, template: str | None = None) -> list[Lease]:
        """Return the active leases that carry the label, of this template if one is named."""
        labelled = [lease for lease in self._inventory.active_leases() if self._label in lease.labels]
        return [lease for lease in labelled if template in {None, lease.labels[self._label]}]

    async def parted(self, leases: Iterable[Lease]) -> tuple[list[Lease], list[Lease]]:
        """Return the leases without a session and those with one.

        Of those on a server that does not answer nothing is known; they are in neither.
        """
        by_server: dict[str, list[Lease]] = {}
        for lease in leases:
            by_server.setdefault(self._inventory.databases[lease.database_id].server_id, []).append(lease)
        empty: list[Lease] = []
        attended: list[Lease] = []
        for server_id, there in by_server.items():
            try:
                occupied = await self._occupied(server_id)
            except LeasedbError as error:
                log.debug("who is connected to server %s is not known: %s", server_id, error)
                continue
            for lease in there:
                present = self._inventory.databases[lease.database_id].name in occupied
                (attended if present else empty).append(lease)
        self._seen.update({lease.id: self._clock.now() for lease in attended})
        return empty, attended

    async def attended(self, leases: list[Lease]) -> int:
        """Return on how many leases' databases somebody is, who is not just leaving. What is not known counts."""
        clock = asyncio.get_running_loop().time
        end = clock() + LEAVING
        while True:
            empty, _ = await self.parted(leases)
            if len(empty) == len(leases) or clock() > end:
                return len(leases) - len(empty)
            await asyncio.sleep(GLANCE)

    async def quiet_for(self, lease: Lease) -> float | None:
        """Return the seconds for which those who are connected have done nothing; None when nobody is.

        Raises:
            LeasedbError: when the server does not answer.
        """
        database = self._inventory.databases[lease.database_id]
        quiet = (await self._occupied(database.server_id)).get(database.name)
        if quiet is not None:
            self._seen[lease.id] = self._clock.now()
        return quiet

    def age(self, lease: Lease) -> float:
        """Return the seconds since it was leased."""
        return self._clock.now() - lease.created_at

    def unattended_for(self, lease: Lease) -> float:
        """Return the seconds since there was a session, as far as is known; the last look counts."""
        return self._clock.now() - self._seen.get(lease.id, max(lease.created_at, self._started))

    async def give_back(self, lease: Lease) -> None:
        """End the lease: now, or once nobody is connected, since some programs disconnect only afterwards."""
        empty, _ = await self.parted([lease])
        if empty:
            await self._end(lease, "given back")
        else:
            self._given_back.add(lease.id)

    async def _end(self, lease: Lease, why: str) -> None:
        await self._leasing.end(lease, LeaseState.RELEASED, why)

    def leased(self, template: str) -> None:
        """Have another look when many databases of the template are out."""
        if len(self.leases(template)) > self._kept:
            self._wake.set()

    def hurry(self) -> None:
        """Have another look: somebody is about to wait for a database."""
        self._wake.set()

    # --- looking ---

    async def run(self) -> None:
        """Look again and again; never returns."""
        while True:
            self._wake.clear()
            await self.look()
            await asyncio.sleep(PAUSE)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(LOOK, self.ttl / 4)):
                    await self._wake.wait()

    async def look(self) -> None:
        """Renew the leases on whose databases somebody is; take back those to which hardly anybody comes back."""
        leases = self.leases()
        ids = {lease.id for lease in leases}
        self._seen = {ident: seen for ident, seen in self._seen.items() if ident in ids}
        self._given_back &= ids
        if not leases:
            return
        empty, attended = await self.parted(leases)
        try:
            for lease in attended:
                if lease.id not in self._given_back and lease.expires_at - self._clock.now() < self.ttl / 2:
                    await self._leasing.renew(lease.id, self.ttl)
            await asyncio.gather(*(self._end(lease, why) for lease, why in self._to_end(empty).values()))
        except LeasedbError as error:
            log.warning("leases of programs that never renew are left as they are for now: %s", error)

    def _to_end(self, empty: list[Lease]) -> dict[str, tuple[Lease, str]]:
        """Return the leases to end, of those without a session, and why; by id."""
        ends = {lease.id: (lease, "given back") for lease in empty if lease.id in self._given_back}
        tests = {one.id: one for one in empty if one.builds is None and not one.kept and one.id not in ends}
        unattended = [Unattended(one.id, one.labels[self._label], self.unattended_for(one)) for one in tests.values()]
        # what is given back serves those who wait, too
        wanted = max(0, len(self._queue) - len(ends)) if self._refill().room <= 0 else 0
        for ident, why in dispensable(unattended, wanted=wanted, kept=self._kept).items():
            ends[ident] = (tests[ident], why)
        return ends


@dataclass(frozen=True, slots=True)
class Unattended:
    """A lease on whose database nobody has been for so many seconds."""

    lease: str
    template: str
    seconds: float


def dispensable(unattended: Iterable[Unattended], *, wanted: int, kept: int) -> dict[str, str]:
    """Return the leases to end, and why; those on whose databases somebody was lately come last.

    Args:
        unattended: what there is.
        wanted: databases that callers wait for and that cannot be made.
        kept: databases that each template may keep.
    """
    longest_first = sorted(unattended, key=lambda one: one.seconds, reverse=True)
    ends = {
        one.lease: "nobody was connected, and callers waited for a database"
        for one in [one for one in longest_first if one.seconds > SPARED][:wanted]
    }
    left = Counter(one.template for one in longest_first)
    for one in longest_first:
        if left[one.template] > kept and one.seconds > UNUSED:
            left[one.template] -= 1
            ends.setdefault(one.lease, "nobody was connected, and newer ones were in use")
    return ends
