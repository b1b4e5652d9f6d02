"""A server: one running Postgres, wherever it comes from."""

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from leasedb_server.domain.errors import IllegalTransitionError
from leasedb_server.domain.lease import Instant


class ServerState(StrEnum):
    STARTING = "starting"
    READY = "ready"
    LOST = "lost"  # died, or does not answer any more
    STOPPING = "stopping"
    GONE = "gone"


_NEXT: Final = {
    ServerState.STARTING: {ServerState.READY, ServerState.STOPPING, ServerState.GONE},
    ServerState.READY: {ServerState.LOST, ServerState.STOPPING, ServerState.GONE},
    ServerState.LOST: {ServerState.STOPPING, ServerState.GONE},
    # stopping again: the stop failed and is tried later
    ServerState.STOPPING: {ServerState.LOST, ServerState.GONE},
    ServerState.GONE: set[ServerState](),
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server listens and how the daemon itself logs in.

    Args:
        extra: what else the daemon's own connections need, such as ``{"sslmode": "require"}``.
        heartbeat: a file on the server's side that the daemon has the server write now and then; the server's watchdog
            stops it when the file no longer changes. None where the server is not ours to stop.
        guarded: whether the server's access rules are ours: a login reaches the database of its own name and no other,
            and sends its password as it is, which never leaves the machine.
        base: a database that waits there to become the base template, with `vector` created and everything compact.
        socket: the directory of a Unix socket that programs of this machine can reach.
        memory: bytes of memory that the files of databases may take; None when they lie on a disk.
        overflow: a directory on the server's side, on a disk, for databases that no longer fit into memory.
        engine: the address of the container engine that runs it.
    """

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    dbname: str = "postgres"
    heartbeat: str | None = None
    extra: dict[str, str] = field(default_factory=dict)
    guarded: bool = False
    base: str | None = None
    socket: str | None = None
    memory: int | None = None
    overflow: str | None = None
    engine: str | None = None


@dataclass(frozen=True, slots=True)
class Versions:
    """``postgres`` as in "17.6", ``vector`` as in "0.8.1"."""

    postgres: str
    vector: str

    @property
    def major(self) -> str:
        return self.postgres.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Server:
    """``name`` is what the backend calls it: a container's name, a directory's name.

    ``edition`` is what it is made of (`domain.edition`); an ``exclusive`` one is leased as a whole.
    """

    id: str
    name: str
    backend: str
    created_at: Instant
    state: ServerState = ServerState.STARTING
    endpoint: Endpoint | None = None
    versions: Versions | None = None
    ready_at: Instant | None = None
    error: str = ""
    edition: str = ""
    exclusive: bool = False

    def ready(self, endpoint: Endpoint, versions: Versions, now: Instant) -> "Server":
        return replace(self.to(ServerState.READY), endpoint=endpoint, versions=versions, ready_at=now)

    def unproven(self) -> "Server":
        """Return this server as one that an earlier daemon recorded, and that has not been looked at since."""
        return replace(self, state=ServerState.STARTING) if self.state is ServerState.READY else self

    def to(self, state: ServerState, error: str = "") -> "Server":
        if state not in _NEXT[self.state]:
            raise IllegalTransitionError(self, state)
        return replace(self, state=state, error=error or self.error)
