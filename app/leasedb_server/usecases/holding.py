"""Leases that live as long as somebody reads: a caller of any language, on any machine, holds one by a connection."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from leasedb_server.domain.lease import Instant, Lease, LeaseState
from leasedb_server.ports import Clock
from leasedb_server.usecases.asking import CallerGone, CallerGoneError
from leasedb_server.usecases.leasing import Leasing
from leasedb_server.usecases.ledger import Ledger

PULSE: Final = 5.0  # seconds between what is told; a connection that broke without a word shows when it is written to
SHORTEST: Final = 0.05  # seconds between what is told, however short the lease's ttl is
READ_LIMIT: Final = 30.0  # seconds after which a caller who takes nothing more counts as gone
HUNG_UP: Final = "its holder hung up"
STOPPING: Final = "the daemon is stopping"

Tell = Callable[[Lease], Awaitable[None]]


class Holding:
    """The leases that are held open, each by one reader or more."""

    def __init__(self, ledger: Ledger, clock: Clock, leasing: Leasing) -> None:
        self._ledger = ledger
        self._clock = clock
        self._leasing = leasing
        self._readers = leasing.readers
        self._stopping = asyncio.Event()
        leasing.at_close.append(self._stopping.set)

    def __repr__(self) -> str:
        return f"Holding({dict(self._readers)})"

    async def hold(self, lease_id: str, tell: Tell, caller_gone: CallerGone) -> None:
        """Keep the lease alive and tell of it, now and every few seconds, until it has ended; its end is told, too.

        When the last of its readers is gone the lease is released, unless it is kept.

        Raises:
            LeaseNotFoundError: there is no such lease.
            CallerGoneError: when the caller hung up.
        """
        ttl = self._leasing.get(lease_id).ttl
        self._readers[lease_id] += 1
        gone = asyncio.ensure_future(caller_gone())
        ends = {
            gone,
            asyncio.ensure_future(self._ledger.until_ended(lease_id)),
            asyncio.ensure_future(self._stopping.wait()),
        }
        try:
            while not gone.done():
                lease = await self._renewed(lease_id, ttl)
                async with asyncio.timeout(READ_LIMIT):
                    await tell(lease)
                if not lease.active:
                    return
                pause = max(SHORTEST, min(PULSE, ttl / 3))
                await asyncio.wait(ends, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            pass
        finally:
            for one in ends:
                one.cancel()
            await self._left(lease_id)
        raise CallerGoneError

    async def _renewed(self, lease_id: str, ttl: float) -> Lease:
        """Return the lease as it goes on; when the daemon stops it ends."""
        lease = self._leasing.get(lease_id)
        if lease.active and self._stopping.is_set():
            await self._leasing.end(lease, LeaseState.RELEASED, STOPPING, fact=True)
        elif lease.active and fades(lease, self._clock.now(), ttl):
            await self._ledger.put_lease(lease.renewed(self._clock.now(), ttl), fact=True)
        return self._leasing.get(lease_id)

    async def _left(self, lease_id: str) -> None:
        self._readers[lease_id] -= 1
        if self._readers[lease_id]:
            return
        del self._readers[lease_id]
        lease = self._leasing.get(lease_id)
        if lease.active and not lease.kept:
            await self._leasing.end(lease, LeaseState.RELEASED, HUNG_UP, fact=True)


def fades(lease: Lease, now: Instant, ttl: float) -> bool:
    """Tell whether a third of ``ttl`` is over: each renewal is a commit, so it is not renewed with each look."""
    return lease.expires_at < lease.max_expires_at and lease.expires_at - now < ttl * 2 / 3
