"""The prepared data directory: what servers are copied from, made once."""

import contextlib
import hashlib
import logging
import secrets
import subprocess
import sys
import threading
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from leasedb_server.backends.access import BASE
from leasedb_server.backends.embedded.account import Account, remove
from leasedb_server.backends.embedded.binaries import Installation, unused_programs
from leasedb_server.backends.embedded.making import DATABASES, complete, fingerprint, initialise
from leasedb_server.domain.errors import ServerStartError, ServerUnreachableError
from leasedb_server.domain.names import new_password

log = logging.getLogger(__name__)

_SEALED = "sealed"
_LAYOUT = 3  # of the prepared directory; another number makes old ones be left alone
_OTHERS_KEPT = 2  # sealed ones for other programs, so that two versions can be used in turn
_SYNC_LIMIT = 60.0


@dataclass(frozen=True, slots=True)
class Prepared:
    """What to copy; a server on the copy lets the superuser in with ``password``.

    ``data`` is a whole data directory until the prepared one is complete; then its databases are in the archive
    ``databases``, to be unpacked into ``base`` while Postgres starts, and the database ``base`` is one of them.
    """

    data: Path
    password: str
    databases: Path | None = None
    base: str | None = None

    @classmethod
    def read(cls, home: Path) -> "Prepared | None":
        """Return what is there; None when that is nothing to start from."""
        data, databases = home / "data", home / DATABASES
        try:
            if not (data / "global" / "pg_control").is_file():
                return None
            if not databases.is_file() and not (data / "base" / "1").is_dir():
                return None  # a part of it was deleted
            password = (home / "password").read_text().strip()
            return cls(data, password, databases, BASE) if databases.is_file() else cls(data, password)
        except OSError:
            return None


class Cache:
    """Prepared directories below ``place``, with names made of everything that went into them.

    The first server is copied from what initdb made, at once. What takes longer is done in the background, for the
    later ones: a base database, and sealing, when it all is safely on the disk. A later run of the daemon uses only
    sealed ones. So a power cut leaves no damaged directory in use, and nobody waits for the disk.
    """

    def __init__(self, place: Path, daemon: str, account: Account, installation: Installation) -> None:
        self._place = place
        self._daemon = daemon
        self._account = account
        self._installation = installation
        self._lock = threading.Lock()
        self._raw: Path | None = None  # by this object; what initdb made
        self._whole: Path | None = None  # by this object; complete, perhaps not yet sealed
        self._making: Path | None = None  # to become the whole one
        self._background: threading.Thread | None = None

    def get(self) -> Prepared:
        """Return the prepared directory, made now when there is none.

        Raises:
            ServerStartError: when it cannot be made, with the last lines of what initdb said.
        """
        with self._lock:
            key = self._key()
            sealed = (mark.parent for mark in self._place.glob(f"{key}.*/{_SEALED}"))
            for home in (self._whole, *sealed, self._raw):
                if home is not None and (prepared := Prepared.read(home)) is not None:
                    return prepared
            self._raw = self._whole = self._background = None
            home = self._new()
            try:
                data = initialise(home, password := new_password(), self._installation, self._account)
            except BaseException:
                remove(home, self._account)
                raise
            self._raw = home
            return Prepared(data, password)

    def finish(self) -> None:
        """Complete and seal in the background what was begun, if that is left to do."""
        with self._lock:
            if self._raw is not None and self._whole is None and self._background is None:
                thread = threading.Thread(target=self._finish, args=(self._raw,), name="leasedb-prepare", daemon=True)
                self._background = thread
                thread.start()

    def distrust(self, prepared: Prepared) -> None:
        """Remove what a server could not be started from: it may be damaged, and the next start makes another."""
        with self._lock:
            home = prepared.data.parent
            if home == self._whole:
                self._whole = None
            if home == self._raw:
                self._raw = self._background = None
            remove(home, self._account)

    def holds(self, home: Path) -> bool:
        """Tell whether the directory is in the making here, or in use without being sealed yet."""
        with self._lock:
            return home in {self._raw, self._making, self._whole}

    def close(self, limit: float) -> None:
        """Wait at most ``limit`` seconds for a new directory to be sealed. No start may be under way any more."""
        if self._background is not None:
            self._background.join(limit)
        with self._lock:
            if self._raw is not None and self._whole not in {None, self._raw}:
                remove(self._raw, self._account)
                self._raw = None

    def _key(self) -> str:
        parts = (_LAYOUT, *fingerprint(self._installation, self._account))
        return f"prepared-{hashlib.sha256(repr(parts).encode()).hexdigest()[:12]}"

    def _new(self) -> Path:
        return self._place / f"{self._key()}.{self._daemon}.{secrets.token_hex(4)}"

    def _finish(self, raw: Path) -> None:
        home = self._making = self._new()
        try:
            prepared = Prepared.read(raw)
            if prepared is None:
                return  # somebody deleted it; the next start makes another
            complete(raw, home, prepared.password, self._installation, self._account)
        except (ServerStartError, OSError, subprocess.TimeoutExpired) as error:
            log.warning("further servers start without a base database: %s", error)
            remove(home, self._account)
            home = raw  # good enough to be kept
        with self._lock:
            self._whole = home
        self._seal(home)
        self._tidy()

    def _seal(self, home: Path) -> None:
        # -f: this file system only. Elsewhere than on Linux, sync knows no such choice.
        sync = 'sync -f "$1"' if sys.platform == "linux" else "sync"
        # Not sealed (a full disk, a busy one): it serves this run, and the next one makes its own.
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self._account.run(["sh", "-c", f'{sync} && : >"$1/{_SEALED}"', "sh", str(home)], timeout=_SYNC_LIMIT)

    def _tidy(self) -> None:
        """Remove the oldest of what was made for other programs, or by other versions of this code."""
        key = self._key()
        others = [
            mark.parent for mark in self._place.glob(f"prepared-*/{_SEALED}") if not mark.parent.name.startswith(key)
        ]
        programs = [path for path in unused_programs(self._place) if path not in self._installation.folder.parents]
        for kind in (others, programs):
            for path in sorted(kind, key=_age)[_OTHERS_KEPT:]:
                remove(path, self._account)


def clear(place: Path, daemon: str, account: Account, caches: Collection[Cache]) -> None:
    """Remove what an earlier run of this daemon did not seal: what none of its present caches knows."""
    for found in place.glob(f"prepared-*.{daemon}.*"):
        if not (found / _SEALED).exists() and not any(cache.holds(found) for cache in caches):
            remove(found, account)


def clean(place: Path, account: Account) -> list[str]:
    """Remove all prepared directories, of whatever layout, and copied programs that nothing runs from.

    Returns:
        A line for each.

    Raises:
        ServerUnreachableError: when one could not be removed.
    """
    taken = []
    for what, paths in (("directory", sorted(place.glob("prepared-*"))), ("programs in", unused_programs(place))):
        for path in paths:
            if reason := remove(path, account):
                raise ServerUnreachableError(f"{path} cannot be deleted: {reason}")
            taken.append(f"the {what} {path}")
    return taken


def _age(path: Path) -> float:
    try:
        return -path.stat().st_mtime
    except OSError:
        return 0.0
