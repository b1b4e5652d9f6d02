"""How much memory the files of a server's databases may take: tmpfs clones twice as fast as most disks.

A file in tmpfs is memory that nothing can reclaim, so what is granted is a share of what the machine has free when the
server starts. Past it, databases go to a disk (`Endpoint.overflow`).
"""

from typing import Final

import psutil

SHARE: Final = 4  # one part of so many of what is free
LEAST: Final = 256 * 1024**2  # bytes; with less a server has hardly begun when it has to go to the disk


def granted(wanted: int | None, room: int, servers: int = 1) -> int | None:
    """Return the bytes of memory that a server's files may take, or None when they belong on a disk.

    Args:
        wanted: what the operator set (bytes, 0 for none), or None for a share of what is free.
        room: free bytes of the file system in memory that the files would lie on.
        servers: how many servers share the machine.
    """
    if wanted == 0:
        return None
    free = min(room, psutil.virtual_memory().available)
    limit = free // (SHARE * servers) if wanted is None else min(wanted, free)
    return limit if limit >= LEAST else None
