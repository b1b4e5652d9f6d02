"""What the use cases need from outside, as small Protocols.

Adapters are in backends/, postgres/, store.py and processes.py. They raise `LeasedbError`s for what can go wrong out
there; any other exception is a defect, and ends the daemon (background/supervisor.py).

All calls are coroutines, also where today's adapter answers at once: a later store or server may sit across a network.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Protocol

from leasedb_server.domain.cloning import Strategy
from leasedb_server.domain.database import Database
from leasedb_server.domain.edition import Editions
from leasedb_server.domain.lease import Instant, Lease
from leasedb_server.domain.server import Endpoint, Server, Versions
from leasedb_server.domain.template import Copy, Template

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
    def confined(self) -> bool:
        """Whether who is superuser of a server, and may run programs there, reaches nothing but that server."""

    @property
    def limit(self) -> int | None:
        """The most servers that this backend can run, or None."""

    @property
    def editions(self) -> Editions:
        """What servers can be made of here. What `check` finds missing is left out."""

    async def lacks(self, progress: Progress) -> str:
        """Tell what `check` would have to download first, and how it is had without: a sentence; empty: nothing.

        Raises:
            BackendUnavailableError: there is more in the way, as `check` would say.
        """

    async def check(self, progress: Progress, *, fetch: bool = True) -> str:
        """Make sure that servers can be started (engine reached, image there or pulled, binaries found).

        With ``fetch`` false nothing is downloaded: what would have to be counts as missing.

        Returns one line that says what will be used, such as "Docker 28.2 with the image pgvector/pgvector:pg18".

        Raises:
            BackendUnavailableError: with the reason and what to do about it.
        """

    async def start(self, name: str, edition: str = "") -> Endpoint:
        """Start a server of the edition under this name and return where it will listen; it need not answer yet.

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
    closed: frozenset[str] = frozenset()  # databases that admit no connection, or whose login is refused


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

    async def survey(self, server_id: str, daemon: str, also: frozenset[str] = frozenset()) -> Survey:
        """Return what of this daemon's is there; ``also`` names databases and logins that callers named themselves."""

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

    async def reset(self, server_id: str, database: Database, spare: Database) -> int:
        """Give the database the spare one's content and the other way round; end its sessions and return how many.

        Name, login and password stay, and the login's settings are undone. The spare one is closed then. May be
        repeated after an interruption, which is told by that.
        """

    async def reopen(self, server_id: str, database: Database) -> None:
        """Let the database's login in again, which an interrupted act left outside."""

    async def seal(self, server_id: str, database: Database, template_database: str, *, force: bool) -> int:
        """Make the database a template under another name, and drop its login; return its size in bytes.

        May be repeated after an interruption.

        Raises:
            SessionsOpenError: when there are sessions, and not ``force``; all is as before then.
        """

    async def branch(
        self, server_id: str, database: Database, template_database: str, strategy: Strategy, *, force: bool
    ) -> int:
        """Make a template of what the database holds now, and return its size in bytes. The database stays in use.

        Raises:
            SessionsOpenError: when there are sessions, and not ``force``; all is as before then.
        """

    async def run_sql(
        self, server_id: str, database: Database, text: AsyncIterator[str], progress: Progress
    ) -> tuple[str, ...]:
        """Run a text of statements as the database's login; return what people should know of it.

        Raises:
            SqlFailedError: on the first statement that fails.
        """

    async def layout(self, server_id: str) -> str:
        """Return what servers have in common that can exchange files of databases; empty when this one cannot."""

    def export_copy(self, server_id: str, template_database: str) -> AsyncIterator[bytes]:
        """Yield the template's files, for servers of the same layout."""

    async def import_copy(self, server_id: str, template_database: str, content: AsyncIterator[bytes]) -> int:
        """Make a sealed template of what was exported; return its size in bytes."""

    async def open_up(self, server_id: str) -> None:
        """Have the server admit every login to every database: it is going to be leased as a whole."""

    async def create_exclusive(
        self, server_id: str, template_database: str, database: Database, strategy: Strategy
    ) -> None:
        """Clone the template under the database's name, with its login as a superuser."""

    async def reset_exclusive(
        self, server_id: str, template_database: str, database: Database, keep: frozenset[str]
    ) -> int:
        """Undo all that was done to a server leased as a whole; end the sessions and return how many.

        Databases named in ``keep`` are ours. May be repeated after an interruption.
        """

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
    copies: list[Copy] = field(default_factory=list)
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

    async def save_copy(self, copy: Copy) -> None:
        """Insert or update."""

    async def add_database(self, database: Database) -> None: ...

    async def save_database(self, database: Database) -> None:
        """Update state and partner. ``leased`` is not kept: that a lease holds the database says it."""

    async def add_lease(self, lease: Lease) -> None:
        """Insert; a second lease on the same database is refused by the store itself."""

    async def save_lease(self, lease: Lease) -> None:
        """Update."""

    async def forget(self, ended_before: Instant) -> None:
        """Delete leases ended before the instant, and what is gone and no lease refers to."""

    async def close(self) -> None: ...


class TemplateFiles(Protocol):
    """Where the files of templates are kept for servers to come. All may raise ``StoreFailedError``."""

    async def write(self, template_id: str, content: AsyncIterator[bytes]) -> int:
        """Keep the content, all of it or nothing, and return its size in bytes."""

    def read(self, template_id: str) -> AsyncIterator[bytes]:
        """Yield the content."""

    async def delete(self, template_id: str) -> None:
        """Delete the content; it is not missed when there is none."""

    async def sweep(self, keep: frozenset[str]) -> None:
        """Delete everything but the content of these."""


class Clock(Protocol):
    """Wall-clock time."""

    def now(self) -> Instant: ...


class Processes(Protocol):
    """The processes of this machine."""

    def started_at(self, pid: int) -> Instant | None:
        """Return when the process started, or None when there is no live process with this number."""
