"""What the use cases need from outside, as small Protocols.

Adapters are in backends/, postgres/, store.py and processes.py. They raise `LeasedbError`s for what can go wrong out
there; any other exception is a defect, and ends the daemon (background/supervisor.py).

All calls are coroutines, also where today's adapter answers at once: a later store or server may sit across a network.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from leasedb_server.domain.cloning import Strategy
from leasedb_server.domain.database import Database
from leasedb_server.domain.lease import Instant, Lease
from leasedb_server.domain.server import Endpoint, Server, Versions
from leasedb_server.domain.template import Template

Progress = Callable[[str], None]  # takes one line for the person who waits


class ServerBackend(Protocol):
    """Where servers come from. One adapter per kind; each knows servers by their name only.

    A name carries the daemon's id (`domain.names`); nothing whose name has another id may be touched.
    """

    @property
    def kind(self) -> str:
        """``container``, ``embedded`` or ``existing``."""

    @property
    def disposable(self) -> bool:
        """Whether ``stop`` takes the server and everything in it away; False for a server that is not ours."""

    @property
    def limit(self) -> int | None:
        """The most servers that this backend can run, or None."""

    async def check(self, progress: Progress, *, fetch: bool = True) -> str:
        """Make sure that servers can be started (engine reached, image there or pulled, binaries found).

        With ``fetch`` false nothing is downloaded: what would have to be counts as missing.

        Returns one line that says what will be used, such as "Docker 28.2 with the image pgvector/pgvector:pg18".

        Raises:
            BackendUnavailableError: with the reason and what to do about it.
        """

    async def start(self, name: str) -> Endpoint:
        """Start a server under this name and return where it will listen; it need not answer yet.

        Raises:
            ServerStartError: with the server's last log lines. Nothing of the server is left then.
        """

    async def alive(self, name: str) -> bool:
        """Tell whether the server's container or process runs. Cheap; called every second."""

    async def stop(self, name: str) -> None:
        """Take the server away with its data, in whatever state it is; no error when there is nothing.

        Raises:
            ServerUnreachableError: when it cannot be told, or not be done; it is tried again later.
        """

    async def sweep(self, keep: frozenset[str]) -> list[str]:
        """Take away all servers of this daemon but those named in ``keep``; return the names taken."""

    async def logs(self, name: str, lines: int) -> str:
        """Return the last lines the server logged, oldest first; empty when there are none."""

    async def clean(self) -> list[str]:
        """Take away what is kept so that servers start quickly; return a line for each thing taken.

        Whatever a server still uses stays, and the next start makes anew what it misses.

        Raises:
            LeasedbError: when something could not be taken away.
        """

    async def close(self) -> None:
        """Let go of connections and threads. Servers go on."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What a server holds of this daemon: names of databases (templates among them) and of logins."""

    databases: frozenset[str]
    logins: frozenset[str]
    notes: tuple[str, ...] = ()  # what an operator should know, such as a promise this server cannot keep


@dataclass(frozen=True, slots=True)
class Pulse:
    """How a server is: ``connections`` in use of the ``most`` that leases may have; free bytes, None when unknown."""

    connections: int
    most: int
    memory_free: int | None = None
    disk_free: int | None = None


class DatabaseAdmin(Protocol):
    """Everything that is said to a server in SQL, as its administrator.

    Every method may raise ``ServerUnreachableError`` (connection) and ``ServerRefusedError`` (the server said no).
    """

    async def open(self, server_id: str, endpoint: Endpoint, within: float) -> None:
        """Log in, trying again until the server answers a query, ``within`` seconds at most.

        On a server with a heartbeat, also write the first beat.

        Raises:
            ServerUnreachableError: when the time is over, with the last reason.
            ServerRefusedError: when the login is refused, or lacks a right that leasing needs (the message names it).
        """

    async def survey(self, server_id: str, daemon: str) -> Survey:
        """Return what of this daemon's is there."""

    async def create_base(self, server_id: str, database: str) -> Versions:
        """Make ``database`` the base template: with `vector`, which is proven (distance query, HNSW build), sealed.

        What the server brought along for that (`Endpoint.base`) is used.
        """

    async def strategies(self, server_id: str) -> tuple[Strategy, ...]:
        """Return the ways in which this server can clone, the one that is mostly quickest first."""

    async def create_database(
        self, server_id: str, template_database: str, database: Database, strategy: Strategy, *, overflow: bool = False
    ) -> None:
        """Clone the template under the database's name, with its login as owner and nobody else let in.

        With ``overflow``, its files go to the server's place on a disk.
        """

    async def fence(self, server_id: str, database: Database) -> int:
        """Refuse the login from now on and end the database's sessions; return how many were ended."""

    async def drop(self, server_id: str, name: str, login: str | None) -> None:
        """Drop the database and the login; what is not there is not missed. Templates are unsealed first."""

    async def drop_login(self, server_id: str, login: str) -> None:
        """Drop a login that owns no database; it is not missed when it is not there."""

    async def beat(self, server_id: str) -> Pulse:
        """Make sure that the server answers, tell its watchdog that the daemon lives, and return how the server is."""

    async def tidy(self, server_id: str) -> None:
        """Clear the server's own tables of what dropped databases and logins left. Only for servers that are ours."""

    async def close(self, server_id: str) -> None:
        """Let go of the connections to this server; unknown ones are not missed."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that the store holds."""

    daemon: str
    servers: list[Server] = field(default_factory=list)
    templates: list[Template] = field(default_factory=list)
    databases: list[Database] = field(default_factory=list)
    leases: list[Lease] = field(default_factory=list)


class Store(Protocol):
    """What survives ``kill -9``. Each call is one transaction, committed when it returns.

    The use cases rely on a call that does not suspend: between reading the inventory and writing it nothing else runs.
    A store across a network has to come with a queue in front of it that answers at once.
    """

    async def load(self) -> Snapshot:
        """Return everything. A new store makes itself a daemon id first."""

    async def save_server(self, server: Server) -> None:
        """Insert or update."""

    async def save_template(self, template: Template) -> None:
        """Insert or update."""

    async def add_database(self, database: Database) -> None: ...

    async def save_database(self, database: Database) -> None:
        """Update the state. ``leased`` is not kept: that a lease holds the database says it."""

    async def add_lease(self, lease: Lease) -> None:
        """Insert; a second lease on the same database is refused by the store itself."""

    async def save_lease(self, lease: Lease) -> None:
        """Update."""

    async def forget(self, ended_before: Instant) -> None:
        """Delete leases ended before the instant, and what is gone and no lease refers to."""

    async def close(self) -> None: ...


class Clock(Protocol):
    """Wall-clock time."""

    def now(self) -> Instant: ...


class Processes(Protocol):
    """The processes of this machine."""

    def started_at(self, pid: int) -> Instant | None:
        """Return when the process started, or None when there is no live process with this number."""
