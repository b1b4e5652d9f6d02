"""The shared memory segment by which a postmaster guards its data directory (System V, a few bytes).

Postgres removes its segment when it ends, but cannot when it is killed with SIGKILL; the kernel then keeps it for
ever. So each server's segment is written down beside its directory, and removed with it.
"""

import ctypes
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_IPC_RMID = 0
_KEY_BITS = 0xFFFFFFFF  # a key is a signed int that some print unsigned, and sign-extended


@dataclass(frozen=True, slots=True)
class Segment:
    """``creator`` is the process id of the postmaster that made it."""

    creator: int
    key: int
    shmid: int

    def __str__(self) -> str:
        return f"{self.creator} {self.key} {self.shmid}"

    @classmethod
    def parse(cls, text: str) -> "Segment | None":
        """Return what `str` wrote, or None when this is something else."""
        try:
            creator, key, shmid = (int(part) for part in text.split())
        except ValueError:
            return None
        return cls(creator, key & _KEY_BITS, shmid)


def remove(segment: Segment) -> None:
    """Remove the segment if it is still there and no process uses it.

    Ids are given anew after a restart of the machine. That all three numbers are the same, and that nobody is
    attached, keeps this from ever hitting the segment of another server.
    """
    if segment in _unused():
        libc = ctypes.CDLL(None, use_errno=True)
        libc.shmctl.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_void_p)
        libc.shmctl(segment.shmid, _IPC_RMID, None)


def _unused() -> Iterator[Segment]:
    for row in _rows():
        try:
            if int(row["nattch"]) == 0:
                yield Segment(int(row["cpid"]), int(row["key"], 0) & _KEY_BITS, int(row["shmid"]))
        except (KeyError, ValueError):
            continue


def _rows() -> Iterator[dict[str, str]]:
    """Yield the machine's segments with the column names of Linux's /proc/sysvipc/shm (sysvipc(7))."""
    if sys.platform == "linux":
        try:
            lines = Path("/proc/sysvipc/shm").read_text().splitlines()
        except OSError:  # a kernel without System V memory
            return
        head = lines[0].split() if lines else []
    else:
        # ipcs(1) of the BSDs and macOS: T ID KEY MODE OWNER GROUP CREATOR CGROUP NATTCH SEGSZ CPID LPID ...
        try:
            done = subprocess.run(["ipcs", "-m", "-a"], capture_output=True, text=True, check=False, timeout=10)  # noqa: S607 - PATH's
        except (OSError, subprocess.TimeoutExpired):
            return
        lines = [line for line in done.stdout.splitlines() if line.split()[:1] in (["T"], ["m"])]
        head = [{"id": "shmid"}.get(name, name) for name in lines[0].lower().split()] if lines else []
    for line in lines[1:]:
        yield dict(zip(head, line.split(), strict=False))
