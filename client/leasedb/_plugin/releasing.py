"""Giving a test's lease back while the next test is made ready."""

from __future__ import annotations

import os
import signal
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import leasedb


class Releases:
    """One thread that gives leases back, for the daemon answers only once a login is refused and its sessions ended.

    One lease at most is on its way back, so that a slow daemon slows the run down instead of piling leases up.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._thread: ThreadPoolExecutor | None = None
        self._under_way: Future[None] | None = None

    def put(self, lease: leasedb.Lease) -> None:
        """Release the lease soon; a release that fails is logged."""
        if os.getpid() != self._process:  # a child, which may end without a word as soon as its test is over
            lease.__exit__(None, None, None)
            return
        self._wait()
        if self._thread is None:
            # Signals are for the program's own threads: one that sits in sigwait() would never see ours.
            self._thread = ThreadPoolExecutor(
                1, "leasedb-release", signal.pthread_sigmask, (signal.SIG_BLOCK, signal.valid_signals())
            )
        self._under_way = self._thread.submit(lease.__exit__, None, None, None)

    def close(self) -> None:
        """Return when all that was put has been released."""
        if os.getpid() != self._process:
            return
        self._wait()
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None

    def _wait(self) -> None:
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()
