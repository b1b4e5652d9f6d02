"""The `embedded` backend: Postgres as child processes of nobody, without a container engine."""

import asyncio
import contextlib
import os
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from leasedb_server.backends.embedded import segments
from leasedb_server.backends.embedded.account import Account, remove
from leasedb_server.backends.embedded.binaries import Installation, find
from leasedb_server.backends.embedded.launch import HOST, PortTakenError, Running, await_ready, free_port, spawn, tail
from leasedb_server.backends.embedded.place import Place, settle
from leasedb_server.backends.embedded.prepared import SUPERUSER, Cache, Prepared, copy
from leasedb_server.backends.embedded.running import Home, PidFile, end, postmaster_runs
from leasedb_server.backends.embedded.running import find as find_processes
from leasedb_server.domain.errors import (
    BackendUnavailableError,
    LeasedbError,
    ServerStartError,
    ServerUnreachableError,
)
from leasedb_server.domain.names import Kind, Name
from leasedb_server.domain.server import Endpoint
from leasedb_server.ports import Progress

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
    """

    daemon: str
    root: Path
    postgres: str | None = "18"
    pg_bin: Path | None = None
    start_timeout: float = 60.0
    orphan_timeout: float = 600.0


@dataclass(frozen=True, slots=True)
class _Ground:
    """What servers run on, once it was found."""

    account: Account
    place: Place
    installation: Installation
    cache: Cache


class EmbeddedBackend:
    """Runs Postgres as detached processes, each in a directory named after the server.

    Nothing about a server is known only here: any later object with the same settings finds, stops and sweeps it. All
    blocking work is done in threads.
    """

    kind = "embedded"
    disposable = True
    limit = None

    def __init__(self, settings: EmbeddedSettings, choose_port: Callable[[], int] = free_port) -> None:
        """Remember the settings; nothing is touched before the first call."""
        self._settings = settings
        self._choose_port = choose_port
        self._lock = threading.Lock()
        self._ground: _Ground | None = None
        self._place: tuple[Account, Place] | None = None
        self._running: dict[str, Running] = {}  # those started by this object and not yet stopped
        self._starting: set[str] = set()

    async def check(self, progress: Progress, *, fetch: bool = True) -> str:
        """See `ports.ServerBackend`. What an earlier run left half made is removed."""
        del fetch  # a wheel is installed by hand
        progress("looking for Postgres programs with pgvector")
        ground = await asyncio.to_thread(self._check)
        line = f"Postgres {ground.installation.version} from {ground.installation.source}"
        if ground.account.switched:
            line += f", run as the user {ground.account.name}"
        return f"{line}; {ground.place.note}" if ground.place.note else line

    async def start(self, name: str) -> Endpoint:
        """See `ports.ServerBackend`. The server takes connections when this returns."""
        given_up = threading.Event()
        self._starting.add(name)
        work = asyncio.ensure_future(asyncio.to_thread(self._start, name, given_up.is_set))
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

    async def close(self) -> None:
        """See `ports.ServerBackend`."""
        ground = self._ground
        if ground is not None:
            await asyncio.to_thread(ground.cache.close, _CLOSE_LIMIT)
        while self._running:
            self._running.popitem()[1].close()

    def _settled(self) -> tuple[Account, Place]:
        with self._lock:
            if self._place is None:
                account = Account.for_postgres()
                self._place = account, settle(self._settings.root, self._settings.daemon, account)
            return self._place

    def _check(self) -> _Ground:
        """Find everything anew, since an operator may have repaired something after the last time."""
        settings = self._settings
        with self._lock:
            self._place = None
        try:
            account, place = self._settled()
            installation = find(settings.postgres, settings.pg_bin, account, place.path)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BackendUnavailableError(f"Postgres's programs could not be tried: {error}.") from error
        with self._lock:
            ground = self._ground
            if ground is None or (ground.account, ground.place, ground.installation) != (account, place, installation):
                cache = Cache(place.path, settings.daemon, account, installation)
                ground = self._ground = _Ground(account, place, installation, cache)
        ground.cache.clean()
        return ground

    def _home(self, name: str) -> Home:
        return Home(self._settled()[1].path, name)

    def _start(self, name: str, given_up: Callable[[], bool]) -> Endpoint:
        try:
            ground = self._ground
            if ground is None or not ground.place.path.is_dir():
                ground = self._check()
            home = self._home(name)
            if os.path.lexists(home.path):
                raise ServerStartError(f"There is a server named {name} already.")
            prepared = ground.cache.get()
        except BackendUnavailableError as error:
            raise ServerStartError(error.detail, hint=error.hint) from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ServerStartError(f"A data directory cannot be prepared: {error}.") from error
        try:
            port = self._launch(home, ground, prepared, given_up)
            if given_up():
                raise ServerStartError("The start was given up.")  # noqa: TRY301 - cleaned up after like any other
        except BaseException:
            with contextlib.suppress(ServerUnreachableError):  # then a later sweep has to
                self._stop(name)
            raise
        return Endpoint(HOST, port, SUPERUSER, prepared.password, heartbeat=str(home.heartbeat))

    def _launch(self, home: Home, ground: _Ground, prepared: Prepared, given_up: Callable[[], bool]) -> int:
        """Try until a port was still free when Postgres came to listen on it; return the port."""
        for _ in range(_PORTS_TRIED):
            port = self._choose_port()
            copy(prepared, home.path, ground.account)
            running = spawn(
                home,
                ground.installation.postgres,
                port,
                ground.account,
                orphan_timeout=self._settings.orphan_timeout,
                start_timeout=self._settings.start_timeout,
            )
            self._running[home.name] = running
            try:
                pid_file = await_ready(home, running, self._settings.start_timeout, given_up)
            except PortTakenError:
                self._stop(home.name)
                continue
            _write_down(home, pid_file)
            return port
        raise ServerStartError(
            f"No port was free on {HOST} in {_PORTS_TRIED} attempts.",
            hint="See what takes so many ports on this machine.",
        )

    def _stop(self, name: str) -> None:
        try:
            account, place = self._settled()
        except BackendUnavailableError as error:
            raise ServerUnreachableError(error.detail, hint=error.hint) from error
        home = Home(place.path, name)
        used = _segments(home)
        left = end(name, place.path, self._settings.daemon, account)
        if left:
            raise ServerUnreachableError(f"{left} processes of the server {name} cannot be ended, not even by SIGKILL.")
        for segment in used:
            segments.remove(segment)
        for path in (home.path, home.segment):
            if os.path.lexists(path) and (reason := remove(path, account)):
                raise ServerUnreachableError(f"{path} cannot be deleted: {reason}")
        running = self._running.pop(name, None)
        if running is not None:
            running.close()

    def _known(self) -> set[str]:
        account, place = self._settled()
        names: set[str] = set()
        with contextlib.suppress(FileNotFoundError):  # somebody deleted it; processes may be left
            entries = {entry.name.removesuffix(".segment") for entry in place.path.iterdir()}
            names = {text for text in entries if _is_server_of(self._settings.daemon, text)}
        return names | find_processes(place.path, self._settings.daemon, account).keys()

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


def _is_server_of(daemon: str, text: str) -> bool:
    name = Name.parse(text)
    return name is not None and name.kind is Kind.SERVER and name.daemon == daemon


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
