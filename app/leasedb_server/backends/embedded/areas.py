"""Where the files of one server lie: in memory or on a disk, and a socket where every program can reach it."""

import contextlib
import functools
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from leasedb_server.backends.embedded.account import Account
from leasedb_server.backends.embedded.place import SERVERS, close_own, open_own, own, trusted_own, usable
from leasedb_server.domain.errors import BackendUnavailableError
from leasedb_server.domain.names import Kind, Name

MEMORY: Final = Path("/dev/shm")  # noqa: S108 - everybody's, so `open_own` looks at what is there
# Not TMPDIR, which may be long or closed to others: a socket's path has 107 bytes at most, 103 on macOS.
SOCKETS: Final = Path("/tmp")  # noqa: S108 - as above
_SOCKETS = "sockets"
_ASIDE = (".segment", ".overflow")


@dataclass(frozen=True, slots=True)
class Home:
    """The directory of one server and what is in it, and what lies elsewhere for it."""

    area: Path  # of the servers whose files lie where this one's do
    disk: Path
    sockets: Path
    name: str

    @property
    def path(self) -> Path:
        return self.area / self.name

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def log(self) -> Path:
        return self.path / "log"

    @property
    def heartbeat(self) -> Path:
        return self.path / "heartbeat"

    @property
    def segment(self) -> Path:
        """Beside the directory rather than in it: the watchdog deletes that."""
        return self.disk / f"{self.name}.segment"

    @property
    def overflow(self) -> Path:
        """On the disk: databases of a server in memory that no longer fit there."""
        return self.disk / f"{self.name}.overflow"

    @property
    def socket(self) -> Path:
        return self.sockets / self.name.rpartition("_")[2]


@dataclass(frozen=True, slots=True)
class Areas:
    """The directories that hold what belongs to a daemon's servers. The ones in shared places come and go."""

    daemon: str
    account: Account
    disk: Path

    def all(self) -> list[Path]:
        """Return those in which a server's directory can be at present; others' are never among them."""
        memory = trusted_own(MEMORY, self.daemon, SERVERS, self.account)
        return [self.disk] if memory is None else [self.disk, memory]

    def home(self, name: str) -> Home:
        """Return the home of a server that an earlier setting may have put in either area."""
        there = [area for area in self.all() if os.path.lexists(area / name)]
        return self._home(there[0] if there else self.disk, name)

    def homes(self, name: str) -> list[Home]:
        """Return a home for each area: one that is being started or taken away may be in any."""
        return [self._home(area, name) for area in self.all()]

    def remains(self, name: str) -> list[Path]:
        """Return what there is of a server, in whatever area."""
        homes = self.homes(name)
        paths = {path for home in homes for path in (home.path, home.overflow, home.segment)}
        if trusted_own(SOCKETS, self.daemon, _SOCKETS, self.account) is not None:
            paths |= {home.socket for home in homes}
        return sorted(path for path in paths if os.path.lexists(path))

    def open(self, name: str, *, in_memory: bool) -> Home:
        """Return the home of a server that is about to be started.

        Raises:
            BackendUnavailableError: when it is to be in memory and there is no area for it.
        """
        area = open_own(MEMORY, self.daemon, SERVERS, self.account) if in_memory else self.disk
        return self._home(area, name)

    def open_sockets(self) -> bool:
        """Make the directory for sockets; tell whether it is there."""
        try:
            open_own(SOCKETS, self.daemon, _SOCKETS, self.account, mode=0o711)
        except BackendUnavailableError:
            return False
        return True

    def close(self) -> None:
        """Remove the areas in shared places as far as they are empty."""
        for shared in {MEMORY, SOCKETS, Path(tempfile.gettempdir())}:
            close_own(shared, self.daemon)

    def names(self) -> set[str]:
        """Return the servers of which there are files."""
        return {text for text in self._entries() if _is_server_of(self.daemon, text)}

    def _entries(self) -> Iterator[str]:
        for area in self.all():
            with contextlib.suppress(FileNotFoundError):  # somebody deleted it; processes may be left
                for entry in area.iterdir():
                    yield entry.stem if entry.suffix in _ASIDE else entry.name
        sockets = trusted_own(SOCKETS, self.daemon, _SOCKETS, self.account)
        if sockets is not None:
            for entry in sockets.iterdir():
                yield str(Name(self.daemon, Kind.SERVER, entry.name))

    def _home(self, area: Path, name: str) -> Home:
        return Home(area, self.disk, own(SOCKETS, self.daemon) / _SOCKETS, name)


def memory_room(account: Account) -> int:
    """Return the free bytes of the file system in memory that Linux has; 0 where there is none for this user."""
    if not _in_memory(account):
        return 0
    try:
        found = os.statvfs(MEMORY)
    except OSError:
        return 0
    return found.f_bavail * found.f_frsize


@functools.cache
def _in_memory(account: Account) -> bool:
    try:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:  # not Linux
        return False
    kinds = [fields[2] for fields in mounts if fields[1] == str(MEMORY)]
    try:
        return kinds[-1:] == ["tmpfs"] and usable(MEMORY, account)  # the last one covers the others
    except (BackendUnavailableError, subprocess.TimeoutExpired):
        return False


def _is_server_of(daemon: str, text: str) -> bool:
    name = Name.parse(text)
    return name is not None and name.kind is Kind.SERVER and name.daemon == daemon
