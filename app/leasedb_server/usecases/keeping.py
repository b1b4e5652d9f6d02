"""Leases that outlive their holder's process, for somebody to look at what is in their databases."""

import asyncio
import logging

from leasedb_server.domain.edition import parted
from leasedb_server.domain.errors import InvalidRequestError, KeepQuotaError
from leasedb_server.domain.keeping import makes_room
from leasedb_server.domain.lease import Lease, LeaseState
from leasedb_server.ports import Clock
from leasedb_server.usecases.leasing import Leasing
from leasedb_server.usecases.ledger import Ledger

log = logging.getLogger(__name__)


class Keeping:
    """The leases that are kept.

    Args:
        most: leases that may be kept at once.
    """

    def __init__(self, ledger: Ledger, clock: Clock, leasing: Leasing, *, most: int) -> None:
        self._ledger = ledger
        self._clock = clock
        self._leasing = leasing
        self._most = most

    def __repr__(self) -> str:
        return f"Keeping({self._most} at most)"

    async def keep(self, lease_id: str, ttl: float) -> Lease:
        """Have the lease live ``ttl`` seconds from now, whatever becomes of its holder's process.

        When as many are kept as may be, the oldest one of another holder is released.

        Raises:
            LeasedbError: as documented for ``POST /leases/{id}/keep``.
        """
        self._leasing.check_open()
        lease = await self._leasing.living(lease_id)
        if lease.builds is not None:
            raise InvalidRequestError(
                f"The lease {lease_id} builds the template {parted(lease.builds)[0]!r}, and ends when that is done.",
                hint="Keep a lease on the template.",
            )
        leave = makes_room(self._ledger.inventory.active_leases(), lease, self._most)
        if leave is None:
            raise self._refusal(lease)
        # First, in one go with the look above: of two callers at once, each makes room for itself.
        await self._ledger.put_lease(lease := lease.keep(self._clock.now(), ttl))
        log.info("lease %s is kept for %.0f s", lease.id, lease.ttl)
        reason = f"it was kept, and made room for lease {lease.id}"
        await asyncio.gather(*(self._leasing.end(one, LeaseState.RELEASED, reason, fact=True) for one in leave))
        return lease

    def _refusal(self, lease: Lease) -> KeepQuotaError:
        if self._most <= 0:
            return KeepQuotaError(
                "No lease may be kept on this daemon: keep_max is 0, or pool_max is 1.",
                hint="Stop it ('leasedb stop') and start it with LEASEDB_KEEP_MAX of 1 or more, and LEASEDB_POOL_MAX of"
                " at least twice that.",
            )
        whose = f"holder {lease.holder.name!r} keeps" if lease.holder.name else "those without a holder's name keep"
        return KeepQuotaError(f"{self._most} leases may be kept at once, and {whose} all of them.")
