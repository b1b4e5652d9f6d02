"""Renewing leases in the background: when is decided in `Schedule`, which does no I/O and is shared by both kinds."""

import asyncio
import contextlib
import logging
import os
import signal
import threading
import time
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from leasedb._errors import LeasedbError, LeaseEndedError, LeaseNotFoundError
from leasedb._models import LeaseRecord

_log = logging.getLogger("leasedb")
_IDLE_LIMIT = 30.0  # seconds after which a thread without leases ends
_CLOSE_LIMIT = 2.0  # seconds that `close` waits for a renewal under way


class Renewed(Protocol):
    """What a heartbeat needs of a lease, whichever client it belongs to."""

    @property
    def record(self) -> LeaseRecord: ...

    def _over(self, state: str, reason: str, record: LeaseRecord | None = None) -> None:
        """Take note that the lease has ended by itself."""


class RenewedHere(Renewed, Protocol):
    def _beat(self, within: float) -> None:
        """Renew, in so many seconds at most."""


class AsyncRenewed(Renewed, Protocol):
    async def _beat(self, within: float) -> None:
        """Renew, in so many seconds at most."""


L = TypeVar("L", bound=Renewed)


@dataclass(slots=True)
class Beat(Generic[L]):
    """The next thing to do for a lease. Times are of the monotonic clock: the daemon's wall clock may differ."""

    lease: L
    due: float
    last: bool  # renewing any further is no use: at ``due`` the lease is over
    failures: int = 0

    @property
    def within(self) -> float:
        """Seconds a renewal may take."""
        return min(15.0, max(1.0, self.lease.record.ttl / 3))


class Schedule(Generic[L]):
    """Which lease is to be renewed when: at a third of its ttl, and sooner again after a failure."""

    def __init__(self) -> None:
        self._beats: dict[int, Beat[L]] = {}

    def put(self, lease: L, now: float) -> Beat[L]:
        """Plan the beat after an answer of the daemon that came just now, and return it."""
        record = lease.record
        last = record.expires_at >= record.max_expires_at
        beat = Beat(lease, now + max(0.05, record.ttl if last else record.ttl / 3), last)
        self._beats[id(lease)] = beat
        return beat

    def drop(self, lease: L) -> None:
        self._beats.pop(id(lease), None)

    def first(self) -> Beat[L] | None:
        return min(self._beats.values(), key=lambda beat: beat.due, default=None)

    def holds(self, beat: Beat[L]) -> bool:
        """Tell whether this is still the plan: the lease may have been released or renewed meanwhile."""
        return self._beats.get(id(beat.lease)) is beat

    def settle(self, beat: Beat[L], error: LeasedbError | None, now: float) -> None:
        """Take note of how a beat went, and plan the next one or none."""
        if not self.holds(beat):
            return
        lease, record = beat.lease, beat.lease.record
        if beat.last:
            self.drop(lease)
            reason = f"it cannot be renewed past {record.max_expires_at:%Y-%m-%d %H:%M:%S %Z} (max_expires_at)"
            lease._over("expired", reason)  # noqa: SLF001 - the two halves of one mechanism
        elif error is None:
            self.put(lease, now)
        elif isinstance(error, LeaseEndedError | LeaseNotFoundError):
            self.drop(lease)
            lease._over(*how_ended(error))  # noqa: SLF001 - as above
        else:
            beat.failures += 1
            beat.due = now + min(5.0, max(0.2, record.ttl / 12))
            level = logging.WARNING if beat.failures == 1 else logging.DEBUG
            _log.log(level, "could not renew lease %s, will try again: %s", record.id, error)


def how_ended(error: LeaseEndedError | LeaseNotFoundError) -> tuple[str, str, LeaseRecord | None]:
    """Return the state a lease ended in, why, and its last record when the daemon still had it."""
    if isinstance(error, LeaseEndedError):
        if error.lease is not None and error.lease.state != "active":
            return error.lease.state, error.lease.end_reason or error.detail, error.lease
        return ("lost" if error.code == "lease-lost" else "expired"), error.detail, None
    return "expired", error.detail, None


class Heartbeat:
    """One daemon thread that renews all leases of a client; it starts with the first and ends without any.

    After a fork the child has the schedule but not the thread, and the parent's leases are not the child's to renew:
    the first use in a child starts afresh.
    """

    def __init__(self) -> None:
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._pid = os.getpid()
        self._wake = threading.Condition()
        self._schedule: Schedule[RenewedHere] = Schedule()
        self._thread: threading.Thread | None = None
        self._sleeps_until = 0.0
        self._closed = False

    def put(self, lease: RenewedHere) -> None:
        """Renew this lease from now on; call it again after every renewal from elsewhere."""
        if self._pid != os.getpid():
            self._start_afresh()
        with self._wake:
            if self._closed:
                return
            beat = self._schedule.put(lease, time.monotonic())
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="leasedb-heartbeat", daemon=True)
                # Signals are for the program's own threads: one that sits in sigwait() would never see ours.
                mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
                try:
                    self._thread.start()
                finally:
                    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            elif beat.due < self._sleeps_until:
                self._wake.notify()

    def drop(self, lease: RenewedHere) -> None:
        """Renew this lease no more; the thread finds out when it wakes."""
        if self._pid == os.getpid():
            with self._wake:
                self._schedule.drop(lease)

    def close(self) -> None:
        """Renew nothing any more."""
        if self._pid != os.getpid():
            return
        with self._wake:
            self._closed = True
            self._wake.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(_CLOSE_LIMIT)

    def _run(self) -> None:
        while (beat := self._next()) is not None:
            error = None
            if not beat.last:
                try:
                    beat.lease._beat(beat.within)  # noqa: SLF001 - the two halves of one mechanism
                except LeasedbError as caught:
                    error = caught
            with self._wake:
                if not self._closed:
                    self._schedule.settle(beat, error, time.monotonic())

    def _next(self) -> Beat[RenewedHere] | None:
        """Return the next beat once it is due; None when the thread shall end."""
        with self._wake:
            idle_since = time.monotonic()
            while not self._closed:
                beat, now = self._schedule.first(), time.monotonic()
                if beat is not None:
                    if beat.due <= now:
                        return beat
                    idle_since = now
                elif now - idle_since >= _IDLE_LIMIT:
                    break
                # Only a lease that is due before then wakes it: waking costs each acquire a change of threads.
                self._sleeps_until = now + _IDLE_LIMIT if beat is None else beat.due
                self._wake.wait(self._sleeps_until - now)
            self._thread = None
            return None


class AsyncHeartbeat:
    """One task that renews all leases of a client; it starts with the first and ends without any.

    All leases of one client live on one event loop.
    """

    def __init__(self) -> None:
        self._schedule: Schedule[AsyncRenewed] = Schedule()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._pid = os.getpid()
        self._closed = False

    def put(self, lease: AsyncRenewed) -> None:
        """Renew this lease from now on; call it again after every renewal from elsewhere."""
        if self._closed or self._pid != os.getpid():
            return
        self._schedule.put(lease, time.monotonic())
        if self._task is None or self._task.done():
            self._wake = asyncio.Event()
            self._task = asyncio.get_running_loop().create_task(self._run(), name="leasedb-heartbeat")
        else:
            self._wake.set()

    def drop(self, lease: AsyncRenewed) -> None:
        """Renew this lease no more."""
        self._schedule.drop(lease)
        self._wake.set()

    async def close(self) -> None:
        """Renew nothing any more."""
        self._closed = True
        task = self._task
        if task is not None and not task.done() and task is not asyncio.current_task():
            task.cancel()
            await asyncio.wait([task], timeout=_CLOSE_LIMIT)

    async def _run(self) -> None:
        while (beat := self._schedule.first()) is not None:
            now = time.monotonic()
            if beat.due > now:
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), beat.due - now)
                continue
            error = None
            if not beat.last:
                try:
                    await beat.lease._beat(beat.within)  # noqa: SLF001 - the two halves of one mechanism
                except LeasedbError as caught:
                    error = caught
            self._schedule.settle(beat, error, time.monotonic())
