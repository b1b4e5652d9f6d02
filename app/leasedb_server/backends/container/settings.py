"""What the container backend is told, and the signs by which it knows what is its own."""

from dataclasses import dataclass
from typing import Final

# on containers
DAEMON_LABEL: Final = "leasedb.daemon"
SERVER_LABEL: Final = "leasedb.server"


@dataclass(frozen=True, slots=True)
class ContainerSettings:
    """``start_timeout`` and ``orphan_timeout`` are seconds; ``engine`` is the only address to try, None to look.

    ``memory`` is how many bytes of it a server's files may take: 0 for none (a volume then), None for a share.
    ``servers`` is how many servers share the machine.
    """

    daemon: str
    image: str = "pgvector/pgvector:pg18"
    start_timeout: float = 60.0
    orphan_timeout: float = 600.0
    engine: str | None = None
    memory: int | None = None
    servers: int = 1
