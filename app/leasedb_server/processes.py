"""The processes of this machine: `ports.Processes` on psutil."""

from pathlib import Path

import psutil

from leasedb_server.domain.lease import Instant


class LocalProcesses:
    """Sees the processes that the daemon's own process namespace shows to its user, whoever owns them."""

    def space(self) -> str:
        """Name the set of processes among which a pid is unique: boot and pid namespace; empty without a /proc.

        A client in another container, or another machine, has another one, and its pid means nothing here.
        """
        try:
            boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
            return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
        except OSError:
            return ""

    def started_at(self, pid: int) -> Instant | None:
        """Return when the process started, or None when there is no live process with this number.

        A zombie is not alive: it has ended and only waits for its parent to notice. The instant is the same at every
        call in one run of the daemon; in another run it may differ by what the wall clock was set by meanwhile,
        because Linux tells starts in ticks since boot (proc_pid_stat(5)).
        """
        try:
            process = psutil.Process(pid)
            with process.oneshot():
                return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
        except (psutil.Error, ValueError, OverflowError):
            return None
