"""Where the next database goes: into memory while that lasts, then to a disk, and nowhere when that is full too."""

from enum import StrEnum
from typing import Final

RESERVE: Final = 8  # one part of so many of the memory granted is kept for what tests write
LEAST: Final = 64 * 1024**2  # bytes; of memory kept at least
DISK_RESERVE: Final = 256 * 1024**2  # bytes
LAST: Final = 32 * 1024**2  # bytes of memory; with less, hardly anything can be written there
CROWDED, EASED = 0.9, 0.8  # parts of the connections in use, from which on and until which a server is crowded


class Place(StrEnum):
    MAIN = "main"  # with everything else of the server
    OVERFLOW = "overflow"
    NONE = "none"


def place_for(memory: int | None, memory_free: int | None, disk_free: int | None) -> Place:
    """Return where a server's next database goes.

    Args:
        memory: bytes of memory that the server's files may take, None when they lie on a disk.
        memory_free: bytes left of that; None when unknown.
        disk_free: free bytes of the disk; None when unknown.
    """
    if memory is not None and (memory_free is None or memory_free >= max(memory // RESERVE, LEAST)):
        return Place.MAIN
    if disk_free is not None and disk_free < DISK_RESERVE:
        return Place.NONE
    return Place.MAIN if memory is None else Place.OVERFLOW


def crowded(connections: int, most: int, *, before: bool) -> bool:
    """Tell whether a server has too few connections left to lease more on it; ``before`` is the last answer."""
    return connections >= most * (EASED if before else CROWDED)
