"""The backend for a server that exists already: a compose service, the service container of a CI job."""

from dataclasses import dataclass, field

from leasedb_server.domain.edition import Editions
from leasedb_server.domain.errors import ServerStartError
from leasedb_server.domain.server import Endpoint
from leasedb_server.ports import Progress


@dataclass(slots=True)
class ExistingBackend:
    """One server, whose life is not ours: it is neither started nor stopped, only used.

    Args:
        endpoint: where it is and how the daemon logs in, from ``LEASEDB_EXISTING_DSN``.
    """

    endpoint: Endpoint
    kind: str = field(default="existing", init=False)
    disposable: bool = field(default=False, init=False)
    confined: bool = field(default=True, init=False)
    limit: int | None = field(default=1, init=False)
    editions: Editions = field(default=Editions(None, None), init=False)

    async def lacks(self, progress: Progress) -> str:
        del progress
        return ""

    async def check(self, progress: Progress, *, fetch: bool = True) -> str:
        del progress, fetch  # there is nothing to fetch
        return f"the existing server at {self.endpoint.host}:{self.endpoint.port}"

    async def start(self, name: str, edition: str = "") -> Endpoint:
        """Return where the server is.

        Raises:
            ServerStartError: another edition than its own is asked for.
        """
        del name
        if edition:
            raise ServerStartError(f"The existing server is what it is, and cannot be {edition}.")
        return self.endpoint

    async def alive(self, name: str) -> bool:
        """Return True: only a query can tell, and the daemon asks one every second."""
        del name
        return True

    async def stop(self, name: str) -> None:
        del name

    async def sweep(self, keep: frozenset[str]) -> list[str]:
        del keep
        return []

    async def logs(self, name: str, lines: int) -> str:
        del name, lines
        return ""

    async def clean(self) -> list[str]:
        return []

    async def close(self) -> None:
        pass
