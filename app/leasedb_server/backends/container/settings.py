"""What the container backend is told, and the signs by which it knows what is its own."""

from dataclasses import dataclass
from typing import Final

from leasedb_server.domain.edition import image_with_vector

# on containers
DAEMON_LABEL: Final = "leasedb.daemon"
SERVER_LABEL: Final = "leasedb.server"


@dataclass(frozen=True, slots=True)
class ContainerSettings:
    """``start_timeout`` and ``orphan_timeout`` are seconds; ``engine`` is the only address to try, None to look.

    ``leased`` are the addresses of engines that run servers with leases: they are tried first, and waited for.
    ``memory`` is how many bytes of it a server's files may take: 0 for none (a volume then), None for a share.
    ``servers`` is how many servers share the machine. ``major`` is the version of ``image``, None when that has to be
    looked at; ``versions`` and ``images`` are what callers may ask for besides.
    """

    daemon: str
    image: str = "pgvector/pgvector:pg18"
    start_timeout: float = 60.0
    orphan_timeout: float = 600.0
    engine: str | None = None
    leased: tuple[str, ...] = ()
    memory: int | None = None
    servers: int = 1
    major: str | None = None
    versions: tuple[str, ...] = ()
    images: tuple[str, ...] = ()

    def image_of(self, edition: str) -> str | None:
        """Return the image that servers of the edition are made of, None when it is not allowed."""
        if not edition:
            return self.image
        if edition in self.versions:
            return image_with_vector(edition)
        return edition if edition in self.images else None
