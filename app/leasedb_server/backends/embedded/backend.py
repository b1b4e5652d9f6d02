"""The `embedded` backend: Postgres as child processes of nobody, without a container engine."""

import asyncio
import contextlib
import logging
import os
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from leasedb_server.backends.access import SUPERUSER
from leasedb_server.backends.embedded import prepared as preparing
from leasedb_server.backends.embedded import segments
from leasedb_server.backends.embedded.account import Account, remove
from leasedb_server.backends.embedded.areas import Areas, Home, memory_room
from leasedb_server.backends.embedded.copying import copied
from leasedb_server.backends.embedded.launch import (
    HOST,
    Manner,
    PortTakenError,
    Running,
    await_ready,
    free_port,
    spawn,
    tail,
)
from leasedb_server.backends.embedded.place import Place, settle, settled_before
from leasedb_server.backends.embedded.prepared import Prepared
from leasedb_server.backends.embedded.running import PidFile, end, postmaster_runs
from leasedb_server.backends.embedded.running import find as find_processes
from leasedb_server.backends.embedded.sources import Source, Sources
from leasedb_server.backends.memory import granted
from leasedb_server.domain.edition import DEFAULT, Editions
from leasedb_server.domain.errors import (
    BackendUnavailableError,
    LeasedbError,
    ServerStartError,
    ServerUnreachableError,
)
from leasedb_server.domain.server import Endpoint
from leasedb_server.ports import Progress

log = logging.getLogger(__name__)

_PORTS_TRIED = 5
_CLOSE_LIMIT = 5.0


@dataclass(frozen=True, slots=True)
class EmbeddedSettings:
    """What the embedded backend has to know.

    Args:
        daemon: the daemon's id, as in the names of its servers.
        root: the directory for data directories; it is made, and is this backend's alone.
        postgres: the major version, such as "18"; None for what is there.
        pg_bin: the folder with the programs of an installed Postgres; None for the ones of the wheel.
        start_timeout: seconds for Postgres to take connections.
        orphan_timeout: seconds without a heartbeat after which a server stops by itself.
        memory: bytes of memory that the files of a server's databases may take; 0 for none, they lie below ``root``
            then; None for a share of what is free.
        servers: how many servers share the machine.
        versions: further major versions that callers may ask for; None for all that are installed with the wheel.
    """

    daemon: str
    root: Path
    postgres: str | None = "18"
    pg_bin: Path | None = None
    start_timeout: float = 60.0
    orphan_timeout: float = 600.0
    memory: int | None = None
    servers: int = 1
    versions: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class _Ground:
    """What servers run on, once it was found."""

    place: Place
    areas: Areas
    sources: Sources
    versions: tuple[str, ...]  # further ones that callers may ask for and there are programs of
    installed: tuple[str, ...]


class EmbeddedBackend:
    """Runs Postgres as detached processes, each in a directory named after the server, in memory where there is some.

    Nothing about a server is known only here: any later object with the same settings finds, stops and sweeps it. All
    blocking work is done in threads.
    """

    kind = "embedded"
    disposable = True
    confined = False  # all servers run as one user, the daemon's own where that is not root
    limit = None

    def __init__(self, settings: EmbeddedSettings, choose_port: Callable[[], int] = free_port) -> None:
        """Remember the settings; nothing is touched before the first call."""
        self._settings = settings
        self._choose_port = choose_port
        self._lock = threading.Lock()
        self._ground: _Ground | None = None
        self._place: tuple[Place, Areas] | None = None
        self._sources: Sources | None = None
        self._running: dict[str, Running] = {}  # those started by this object and not yet stopped
        self._starting: set[str] = set()
        self._under_way: set[str] = set()  # those whose directories are being made

    @property
    def editions(self) -> Editions:
        """See `ports.ServerBackend`. Versions without programs are left out once `check` has looked."""
        ground = self._ground
        if ground is None:
            return Editions(self._settings.postgres, None, self._settings.versions or ())
        return Editions(ground.sources.major, None, ground.versions, installed=ground.installed)

    async def lacks(self, progress: Progress) -> str:
        """See `ports.ServerBackend`. A wheel is installed by hand."""
        del progress
        return ""

    async def check(self, progress: Progress, *, fetch: bool = True) -> str:
        """See `ports.ServerBackend`. What an earlier run left half made is removed."""
        del fetch  # a wheel is installed by hand
        progress("looking for Postgres programs with pgvector")
        ground = await asyncio.to_thread(self._check)
        installation = ground.sources.get(DEFAULT).installation
        line = f"Postgres {installation.version} from {installation.source}"
        if ground.areas.account.switched:
            line += f", run as the user {ground.areas.account.name}"
        return f"{line}; {ground.place.note}" if ground.place.note else line

    async def start(self, name: str, edition: str = "") -> Endpoint:
        """See `ports.ServerBackend`. The server takes connections when this returns."""
        given_up = threading.Event()
        self._starting.add(name)
        work = asyncio.ensure_future(asyncio.to_thread(self._start, name, edition, given_up.is_set))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            # The thread cannot be cancelled. It is told, and what it had already finished is taken away again.
            given_up.set()
            with contextlib.suppress(LeasedbError):
                await work
                await asyncio.to_thread(self._stop, name)
            raise
        finally:
            self._starting.discard(name)

    async def alive(self, name: str) -> bool:
        """See `ports.ServerBackend`. True as well while a start of this object is under way."""
        if self._place is None:
            await asyncio.to_thread(self._settled)
        running = self._running.get(name)
        if running is not None:
            running.process.poll()  # collects it when it has ended: it is our child
        return postmaster_runs(self._home(name)) or name in self._starting

    async def stop(self, name: str) -> None:
        """See `ports.ServerBackend`."""
        await asyncio.to_thread(self._stop, name)

    async def sweep(self, keep: frozenset[str]) -> list[str]:
        """See `ports.ServerBackend`; raises ServerUnreachableError, after all were tried, when one did not go."""
        swept = sorted(await asyncio.to_thread(self._known) - keep)
        failures = await asyncio.gather(*(self.stop(name) for name in swept), return_exceptions=True)
        for failure in failures:
            if failure is not None:
                raise failure
        return swept

    async def logs(self, name: str, lines: int) -> str:
        """See `ports.ServerBackend`."""
        return await asyncio.to_thread(self._logs, name, lines)

    async def clean(self) -> list[str]:
        """See `ports.ServerBackend`. Prepared directories are used only while a server starts."""
        return await asyncio.to_thread(self._clean)

    async def close(self) -> None:
        """See `ports.ServerBackend`."""
        ground = self._ground
        if ground is not None:
            await asyncio.to_thread(ground.sources.close, _CLOSE_LIMIT)
        while self._running:
            self._running.popitem()[1].close()
        if self._place is not None:
            await asyncio.to_thread(self._place[1].close)  # looking for servers may have made directories

    def _settled(self) -> tuple[Place, Areas]:
        with self._lock:
            if self._place is None:
                account = Account.for_postgres()
                place = settle(self._settings.root, self._settings.daemon, account)
                self._place = place, Areas(self._settings.daemon, account, place.path)
            return self._place

    def _check(self) -> _Ground:
        """Find everything anew, since an operator may have repaired something after the last time."""
        settings = self._settings
        with self._lock:
            self._place = None
        try:
            place, areas = self._settled()
            with self._lock:
                sources = self._sources
                if sources is None or (sources.place, sources.account) != (place.path, areas.account):
                    sources = Sources(place.path, settings.daemon, areas.account, settings.postgres, settings.pg_bin)
                    self._sources = sources
            sources.look(DEFAULT)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BackendUnavailableError(f"Postgres's programs could not be tried: {error}.") from error
        installed = sources.installed()
        further = tuple(major for major in installed if major != sources.major)
        versions = further if settings.versions is None else sources.available(settings.versions)
        ground = self._ground = _Ground(place, areas, sources, versions, installed)
        sources.clear()
        return ground

    def _home(self, name: str) -> Home:
        return self._settled()[1].home(name)

    def _start(self, name: str, edition: str, given_up: Callable[[], bool]) -> Endpoint:
        try:
            ground = self._ground
            if ground is None or not ground.place.path.is_dir():
                ground = self._check()
            if any(os.path.lexists(home.path) for home in ground.areas.homes(name)):
                raise ServerStartError(f"There is a server named {name} already.")
            source = self._source(ground, edition)
            prepared = source.cache.get()
        except BackendUnavailableError as error:
            raise ServerStartError(error.detail, hint=error.hint) from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ServerStartError(f"A data directory cannot be prepared: {error}.") from error
        with self._lock:
            self._under_way.add(name)
        try:
            endpoint = self._launch(name, ground, source, prepared, given_up)
            if given_up():
                raise ServerStartError("The start was given up.")  # noqa: TRY301 - cleaned up after like any other
        except BaseException as error:
            with contextlib.suppress(ServerUnreachableError):  # then a later sweep has to
                self._stop(name)
            if isinstance(error, ServerStartError) and not given_up():
                source.cache.distrust(prepared)
            raise
        finally:
            with self._lock:
                self._under_way.discard(name)
        source.cache.finish()  # only now: it would take the processor from the start
        return endpoint

    def _source(self, ground: _Ground, edition: str) -> Source:
        if edition == DEFAULT:
            return ground.sources.get(edition)
        if edition not in ground.versions:
            raise BackendUnavailableError(
                f"There are no servers of Postgres {edition} here.", hint="LEASEDB_VERSIONS says what there is."
            )
        try:
            return ground.sources.get(edition)
        except BackendUnavailableError as error:
            named = self._settings.versions is not None
            less = f"Take {edition} out of LEASEDB_VERSIONS" if named else "Ask for another version"
            hint = f"{less}, or use LEASEDB_BACKEND=container."
            raise BackendUnavailableError(error.detail, hint=hint) from error

    def _launch(
        self, name: str, ground: _Ground, source: Source, prepared: Prepared, given_up: Callable[[], bool]
    ) -> Endpoint:
        """Try until a port was still free when Postgres came to listen on it."""
        for _ in range(_PORTS_TRIED):
            home, manner = self._plan(name, ground, source)
            port = self._choose_port()
            with copied(
                prepared, home, manner.account, overflow=manner.memory is not None, socket=manner.socket
            ) as complete:
                running = self._running[name] = spawn(home, port, manner)
                try:
                    pid_file = await_ready(home, running, manner.start_timeout, given_up)
                except PortTakenError:
                    self._stop(name)
                    continue
                _write_down(home, pid_file)
                complete()
            return Endpoint(
                HOST,
                port,
                SUPERUSER,
                prepared.password,
                heartbeat=str(home.heartbeat),
                guarded=True,
                base=prepared.base,
                socket=str(home.socket) if manner.socket else None,
                memory=manner.memory,
                overflow=None if manner.memory is None else str(home.overflow),
            )
        raise ServerStartError(
            f"No port was free on {HOST} in {_PORTS_TRIED} attempts.",
            hint="See what takes so many ports on this machine.",
        )

    def _plan(self, name: str, ground: _Ground, source: Source) -> tuple[Home, Manner]:
        """Decide where the server's files go, and make the directories for that which servers share."""
        settings, areas = self._settings, ground.areas
        with self._lock:  # so that nobody removes them again as empty
            memory = granted(settings.memory, memory_room(areas.account), settings.servers)
            try:
                home = areas.open(name, in_memory=memory is not None)
            except BackendUnavailableError as error:
                log.warning("databases go to a disk, not into memory: %s", error)
                memory, home = None, areas.open(name, in_memory=False)
            socket = areas.open_sockets()
        return home, Manner(
            source.installation.postgres,
            areas.account,
            orphan_timeout=settings.orphan_timeout,
            start_timeout=settings.start_timeout,
            memory=memory,
            socket=socket,
        )

    def _stop(self, name: str) -> None:
        try:
            areas = self._settled()[1]
        except BackendUnavailableError as error:
            raise ServerUnreachableError(error.detail, hint=error.hint) from error
        used = {segment for home in areas.homes(name) for segment in _segments(home)}
        left = end(name, areas.all(), self._settings.daemon, areas.account)
        if left:
            raise ServerUnreachableError(f"{left} processes of the server {name} cannot be ended, not even by SIGKILL.")
        for segment in used:
            segments.remove(segment)
        for path in areas.remains(name):
            if reason := remove(path, areas.account):
                raise ServerUnreachableError(f"{path} cannot be deleted: {reason}")
        running = self._running.pop(name, None)
        if running is not None:
            running.close()
        with self._lock:
            if not self._under_way - {name}:
                areas.close()

    def _known(self) -> set[str]:
        areas = self._settled()[1]
        return areas.names() | find_processes(areas.all(), self._settings.daemon, areas.account).keys()

    def _clean(self) -> list[str]:
        account = Account.for_postgres()
        places = settled_before(self._settings.root, self._settings.daemon, account)
        return [line for place in places for line in preparing.clean(place, account)]

    def _logs(self, name: str, lines: int) -> str:
        running = self._running.get(name)
        if running is not None:
            return tail(running.log, lines)
        try:
            log = os.open(self._home(name).log, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return ""
        try:
            return tail(log, lines)
        finally:
            os.close(log)


def _write_down(home: Home, pid_file: PidFile) -> None:
    """Keep the server's shared memory segment in mind beyond the life of its directory."""
    with contextlib.suppress(OSError):  # then it is known as long as the directory is there
        # Not through a link: the directory belongs to another user when the daemon is root.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(home.segment, flags, 0o600)
        with os.fdopen(file, "w") as writer:
            writer.write(str(pid_file.segment))


def _segments(home: Home) -> set[segments.Segment]:
    """Return the shared memory segments that this server is known to have."""
    found = set()
    pid_file = PidFile.read(home)
    if pid_file is not None:
        found.add(pid_file.segment)
    with contextlib.suppress(OSError, UnicodeDecodeError):
        found.add(segments.Segment.parse(home.segment.read_text()))
    return {segment for segment in found if segment is not None}
