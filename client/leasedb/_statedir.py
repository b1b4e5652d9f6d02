"""The state directory of a daemon that is started in the background, and who may start it."""

import contextlib
import fcntl
import logging
import os
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from leasedb._errors import DaemonStartError

_log = logging.getLogger("leasedb")

_PAUSE: Final = 0.03  # seconds between two looks
_QUIET: Final = 2.0  # seconds after which the person who waits is told why
_AGAIN: Final = 10.0  # seconds until that person is told something else


class Patience:
    """How long to wait yet, and when to say so."""

    def __init__(self, limit: float, given_up: threading.Event, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.given_up = given_up
        self._clock = clock
        self._end = clock() + limit
        self._next = clock() + _QUIET
        self._told = ""

    def lasts(self) -> bool:
        return not self.given_up.is_set() and self._clock() < self._end

    def news(self, words: Callable[[], str]) -> str:
        """Return what the person who waits is to be told now: nothing too soon, nothing twice."""
        if self._clock() < self._next or (said := words()) == self._told:
            return ""
        self._told, self._next = said, self._clock() + _AGAIN
        return said

    def pause(self) -> None:
        self.given_up.wait(_PAUSE)


def default_state_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the state directory that a daemon started here has: the same as the daemon's own default."""
    given = environ.get("LEASEDB_STATE_DIR") or file_settings().get("state_dir")
    if given:
        return Path(str(given)).expanduser().absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/leasedb")  # root's own home is closed to the user that Postgres then runs as
    base = environ.get("XDG_STATE_HOME", "")
    if Path(base).is_absolute():
        return Path(base) / "leasedb"
    home = Path("~/Library/Application Support" if sys.platform == "darwin" else "~/.local/state")
    return home.expanduser() / "leasedb"


def file_settings() -> Mapping[str, Any]:
    try:
        with Path("leasedb.toml").open("rb") as file:
            return tomllib.load(file)
    except (OSError, ValueError):
        return {}  # what is wrong with it the daemon says


@contextlib.contextmanager
def usable(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise DaemonStartError(
            f"No daemon can be started: its state directory {directory} cannot be used: {reason}.",
            hint="It must be writable for this user, with some room; or choose another with LEASEDB_STATE_DIR.",
        ) from None


def make(directory: Path) -> None:
    # as the daemon does
    directory.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)


@contextlib.contextmanager
def alone(directory: Path, patience: Patience) -> Iterator[None]:
    """Be the only one, of all processes, who starts a daemon here. The lock is the kernel's: it ends with us.

    Raises:
        DaemonStartError: the directory cannot be used, or somebody else has not come to an end in time.
    """
    with usable(directory):
        lock = _acquired(directory, patience)
    try:
        yield
    finally:
        fcntl.flock(lock, fcntl.LOCK_UN)  # a fork meanwhile has it open, too
        os.close(lock)


def _acquired(directory: Path, patience: Patience) -> int:
    """Return the lock's file, which is ours. Whoever had it may have taken the directory away: then begin anew."""
    path = directory / "start.lock"
    while True:
        make(directory)
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            if patience.lasts():
                continue
            raise
        try:
            _await_lock(lock, directory, patience)
            if _is_at(path, lock):
                return lock
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)


def _await_lock(lock: int, directory: Path, patience: Patience) -> None:
    while not _locked(lock):
        if not patience.lasts():
            raise DaemonStartError(
                f"Another process has been starting a daemon in {directory} for too long.",
                hint=f"Its log may say why: {directory / 'daemon.log'}",
            )
        if said := patience.news(lambda: "another process is starting a daemon, and this one waits for it"):
            _log.warning("%s (log: %s)", said, directory / "daemon.log")
        patience.pause()


def _is_at(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(path: Path) -> bool:
    """Tell whether a process has this file locked."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    else:
        return False
    finally:
        os.close(file)
