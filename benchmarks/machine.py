"""What the figures were measured on, and where the data may lie so that they mean something."""

import os
import platform
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import psutil

ROOM = 2 * 1024**3  # bytes that a run may need


class BenchmarkError(Exception):
    """The figures cannot be measured; the text says why and what to do."""


def description() -> str:
    """Return one line about the machine, with what else it does at the moment."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = f", load average {os.getloadavg()[0]:.1f} at the beginning" if hasattr(os, "getloadavg") else ""
    return (
        f"{cores} cores ({_processor()}), {psutil.virtual_memory().total / 1024**3:.0f} GB, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}{load}; "
        f"{datetime.now(UTC):%Y-%m-%d}"
    )


def data_place(chosen: Path | None) -> Path:
    """Return the directory to make the run's own directory in: memory where there is enough of it.

    Raises:
        BenchmarkError: when it has too little room, or lies on ext4 without a journal. There clones grow slower the
            more files were deleted before, and figures would tell of that only.
    """
    memory = Path("/dev/shm")
    if chosen is None:
        fits = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free >= ROOM
        chosen = memory if fits else Path(tempfile.gettempdir())
    chosen = chosen.resolve()
    if not chosen.is_dir() or shutil.disk_usage(chosen).free < ROOM:
        raise BenchmarkError(f"{chosen} is no directory with {ROOM // 1024**3} GB of room; name one with --data.")
    if not sound(chosen):
        raise BenchmarkError(f"{chosen} lies on {file_system(chosen)}; name a directory elsewhere with --data.")
    return chosen


def file_system(path: Path) -> str:
    """Return how the file system below ``path`` is called, such as "tmpfs" or "ext4 without a journal"."""
    kind = _mount(path)[1]
    return kind if sound(path) else f"{kind} without a journal"


def sound(path: Path) -> bool:
    device, kind = _mount(path)
    journals = Path("/proc/fs/jbd2")
    return kind != "ext4" or not journals.is_dir() or any(journals.glob(f"{Path(device).resolve().name}-*"))


def _mount(path: Path) -> tuple[str, str]:
    """Return device and kind of the file system that holds ``path``."""
    mounts = [mount for mount in psutil.disk_partitions(all=True) if path.resolve().is_relative_to(mount.mountpoint)]
    # of several on one mount point the last one hides the others
    deepest = max(enumerate(mounts), key=lambda each: (len(each[1].mountpoint), each[0]), default=None)
    return (deepest[1].device, deepest[1].fstype) if deepest else ("", "an unknown file system")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
