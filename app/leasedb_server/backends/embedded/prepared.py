"""The prepared data directory: what initdb makes, made once and copied for every server."""

import contextlib
import functools
import hashlib
import platform
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from leasedb_server.backends.embedded.account import Account, remove, said
from leasedb_server.backends.embedded.binaries import Installation
from leasedb_server.domain.errors import ServerStartError
from leasedb_server.domain.names import new_password

SUPERUSER = "postgres"
_SEALED = "sealed"
_LAYOUT = 1  # of the prepared directory; another number makes old ones be left alone
_INITDB_LIMIT = 120.0
_SYNC_LIMIT = 60.0
_HINT = "Make room in, or repair, the directory named above (it is below LEASEDB_STATE_DIR)."


@dataclass(frozen=True, slots=True)
class Prepared:
    """``data`` is the directory to copy; a server on the copy lets the superuser in with ``password``."""

    data: Path
    password: str


class Cache:
    """Prepared directories below ``place``, with names made of everything that went into them.

    A new one is used at once, and marked as sealed when it is safely on the disk; a later run of the daemon uses only
    sealed ones. So a power cut leaves no damaged directory in use, and nobody waits for the disk.
    """

    def __init__(self, place: Path, daemon: str, account: Account, installation: Installation) -> None:
        self._place = place
        self._daemon = daemon
        self._account = account
        self._installation = installation
        self._lock = threading.Lock()
        self._made: Path | None = None  # by this object; complete, perhaps not yet sealed
        self._sealing: threading.Thread | None = None

    def get(self) -> Prepared:
        """Return the prepared directory, made now when there is none.

        Raises:
            ServerStartError: when it cannot be made, with the last lines of what initdb said.
        """
        with self._lock:
            key = self._key()
            for home in (self._made, *(mark.parent for mark in self._place.glob(f"{key}.*/{_SEALED}"))):
                if home is not None and (home / "data" / "global" / "pg_control").is_file():
                    return Prepared(home / "data", (home / "password").read_text().strip())
            home = self._place / f"{key}.{self._daemon}.{secrets.token_hex(4)}"
            try:
                prepared = self._make(home)
            except BaseException:
                remove(home, self._account)
                raise
            self._made = home
            self._sealing = threading.Thread(target=self._seal, args=(home,), name="leasedb-seal", daemon=True)
            self._sealing.start()
            return prepared

    def clean(self) -> None:
        """Remove what an earlier run of this daemon did not seal."""
        with self._lock:
            for found in self._place.glob(f"prepared-*.{self._daemon}.*"):
                if found != self._made and not (found / _SEALED).exists():
                    remove(found, self._account)

    def close(self, limit: float) -> None:
        """Wait at most ``limit`` seconds for a new directory to be sealed."""
        if self._sealing is not None:
            self._sealing.join(limit)

    def _key(self) -> str:
        program = Path(self._installation.postgres).stat()
        parts = (
            _LAYOUT,
            self._installation.postgres,
            self._installation.version,
            program.st_size,
            program.st_mtime_ns,
            self._account.uid,
            platform.machine(),
            _options(self._installation.major),
            *_locales(self._installation.major),
        )
        return f"prepared-{hashlib.sha256(repr(parts).encode()).hexdigest()[:12]}"

    def _make(self, home: Path) -> Prepared:
        password = new_password()
        keep = 'umask 077; mkdir "$1" && cat >"$1/password"'
        done = self._account.run(["sh", "-c", keep, "sh", str(home)], text=f"{password}\n")
        if done.returncode != 0:
            raise ServerStartError(f"The directory {home} cannot be made: {said(done)}", hint=_HINT)
        for locale in _locales(self._installation.major):
            command = [
                self._installation.initdb,
                f"--pgdata={home / 'data'}",
                f"--pwfile={home / 'password'}",
                *_options(self._installation.major),
                *locale,
            ]
            try:
                done = self._account.run(command, timeout=_INITDB_LIMIT)
            except (OSError, subprocess.TimeoutExpired) as error:
                raise ServerStartError(f"initdb in {home} did not end well: {error}.", hint=_HINT) from error
            if done.returncode == 0:
                return Prepared(home / "data", password)
            if "locale" not in done.stderr:
                break
        raise ServerStartError(
            f"initdb in {home} failed with exit code {done.returncode}; its last lines:\n{said(done)}", hint=_HINT
        )

    def _seal(self, home: Path) -> None:
        # -f: this file system only. Elsewhere than on Linux, sync knows no such choice.
        sync = 'sync -f "$1"' if sys.platform == "linux" else "sync"
        # Not sealed (a full disk, a busy one): it serves this run, and the next one makes its own.
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self._account.run(["sh", "-c", f'{sync} && : >"$1/{_SEALED}"', "sh", str(home)], timeout=_SYNC_LIMIT)


def copy(prepared: Prepared, target: Path, account: Account) -> None:
    """Make the directory ``target`` with a copy of the prepared one, called data, in it.

    Raises:
        ServerStartError: when it cannot be copied; a part may be there then.
    """
    script = 'umask 077; mkdir "$1" && shift && exec cp "$@"'
    command = ["sh", "-c", script, "leasedb-copy", str(target), *_copy_options()]
    try:
        done = account.run([*command, str(prepared.data), str(target / "data")])
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServerStartError(f"A data directory cannot be copied to {target}: {error}.", hint=_HINT) from error
    if done.returncode != 0:
        raise ServerStartError(f"A data directory cannot be copied to {target}: {said(done, 1)}.", hint=_HINT)


def _options(major: int) -> tuple[str, ...]:
    newer = {
        14: ("--no-instructions",),
        # old segments are not kept for later, which makes less to copy; the server is started with the usual size
        16: ("--set=min_wal_size=2MB",),
        18: ("--no-data-checksums",),
    }
    common = (f"--username={SUPERUSER}", "--auth=scram-sha-256", "--encoding=UTF8", "--wal-segsize=1", "--no-sync")
    return sum((options for since, options in newer.items() if major >= since), common)


def _locales(major: int) -> Iterator[tuple[str, ...]]:
    """Yield the choices of locale, best first: sorted by code points everywhere, and with Unicode's letters."""
    for libc in ("C.UTF-8", "C"):  # not every libc knows the first
        if major >= 17:  # noqa: PLR2004 - the version that brought the provider
            yield "--locale-provider=builtin", "--builtin-locale=C.UTF-8", f"--locale={libc}"
        else:
            yield (f"--locale={libc}",)


def _copy_options() -> tuple[str, ...]:
    """Return what has `cp` share the blocks of the files where the file system can (Btrfs, XFS, APFS)."""
    if sys.platform == "darwin":
        return ("-cR",)
    return ("-R", "--reflink=auto") if _gnu_cp() else ("-R",)


@functools.cache
def _gnu_cp() -> bool:
    try:
        done = subprocess.run(["cp", "--version"], capture_output=True, check=False, timeout=10)  # noqa: S607 - PATH's
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
