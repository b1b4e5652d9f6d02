"""The directories that data lies in: below the state directory, or where the user that Postgres runs as can reach."""

import contextlib
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from leasedb_server.backends.embedded.account import Account
from leasedb_server.domain.errors import BackendUnavailableError
from leasedb_server.domain.names import daemon_prefix

SERVERS = "servers"
_HINT = "Set LEASEDB_STATE_DIR to a directory that the daemon may write to."


@dataclass(frozen=True, slots=True)
class Place:
    """A directory that belongs to the account. ``note`` says why it is not the one asked for, else it is empty."""

    path: Path
    note: str = ""


def settle(root: Path, daemon: str, account: Account) -> Place:
    """Return a directory that Postgres's user owns and reaches: ``root`` when that works, made when it is missing.

    When the daemon had to change users and a parent of ``root`` keeps that user out, the place is a directory of this
    daemon's own below the system's temporary directory.

    Raises:
        BackendUnavailableError: when there is no such place; the message says what is in the way.
    """
    # What a configured path goes through is the operator's choice, symbolic links included.
    path = root.resolve()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise BackendUnavailableError(
            f"The directory {path} for Postgres's data cannot be made: {error.strerror}.", hint=_HINT
        ) from error
    _hand_over(path, account)
    if usable(path, account):
        return Place(path)
    if not account.switched:
        raise BackendUnavailableError(f"The user {account.name} cannot write to {path}.", hint=_HINT)
    fallback = _fallback(daemon, account)
    return Place(fallback, f"data in {fallback} because the user {account.name} cannot reach {path}")


def settled_before(root: Path, daemon: str, account: Account) -> list[Path]:
    """Return the places that `settle` may have chosen at any time and that are there; nothing is made."""
    places = (root.resolve(), own(Path(tempfile.gettempdir()), daemon) / SERVERS)
    return [path for path in places if _belongs(path, account)]


def own(parent: Path, daemon: str) -> Path:
    """Return the name of this daemon's own directory in one where everybody may create."""
    return parent / daemon_prefix(daemon).rstrip("_")


def open_own(parent: Path, daemon: str, leaf: str, account: Account, mode: int = 0o700) -> Path:
    """Return a directory of the account's, inside one of the daemon's own that nobody else can write to.

    The outer one has a name that can be guessed in a directory where everybody may create: whatever is found there
    under this name is used only when it is the daemon's own. Nobody can put anything into it before us then.

    Raises:
        BackendUnavailableError: when it cannot be made, or something of somebody else's is there.
    """
    outer = own(parent, daemon)
    inner = outer / leaf
    try:
        outer.mkdir(mode=0o700, exist_ok=True)
        if not _guarded(outer):
            raise BackendUnavailableError(
                f"{outer} is there already, but is not a directory that only this daemon can write to.",
                hint=f"Remove it, or set LEASEDB_STATE_DIR to a directory that the user {account.name} can reach.",
            )
        outer.chmod(0o711)
        inner.mkdir(mode=0o700, exist_ok=True)
        if inner.lstat().st_uid == os.geteuid():
            inner.chmod(mode)
    except OSError as error:
        raise BackendUnavailableError(
            f"The directory {outer} for Postgres's data cannot be made: {error.strerror}.", hint=_HINT
        ) from error
    _hand_over(inner, account)
    return inner


def trusted_own(parent: Path, daemon: str, leaf: str, account: Account) -> Path | None:
    """Return what `open_own` made at some time; None when it is not there, or is somebody else's."""
    outer = own(parent, daemon)
    try:
        return outer / leaf if _guarded(outer) and _belongs(outer / leaf, account) else None
    except OSError:
        return None


def close_own(parent: Path, daemon: str) -> None:
    """Remove this daemon's own directory, and the ones in it, as far as they are empty."""
    outer = own(parent, daemon)
    with contextlib.suppress(FileNotFoundError):
        if _guarded(outer):
            for inner in outer.iterdir():
                _remove_empty(inner)
            _remove_empty(outer)


def usable(path: Path, account: Account) -> bool:
    """Try it as that user: modes alone do not tell (access lists, mounts, security modules)."""
    try:
        return account.run(["sh", "-c", 'cd "$1" && test -w .', "sh", str(path)]).returncode == 0
    except OSError as error:
        raise BackendUnavailableError(
            f"No command can be run as the user {account.name}: {error}.",
            hint="Run the daemon as an ordinary user.",
        ) from error


def _remove_empty(path: Path) -> None:
    with contextlib.suppress(OSError):  # not empty, most likely
        path.rmdir()


def _guarded(outer: Path) -> bool:
    found = outer.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022


def _belongs(path: Path, account: Account) -> bool:
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == account.uid


def _hand_over(path: Path, account: Account) -> None:
    """Make the directory the account's. Only one that is the daemon's own or the account's already is accepted."""
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in {os.geteuid(), account.uid}:
        raise BackendUnavailableError(
            f"{path} is not a directory that belongs to this daemon (its owner has the user id {found.st_uid}).",
            hint="Remove it, run the daemon as its owner, or set LEASEDB_STATE_DIR to another directory.",
        )
    if found.st_uid != account.uid:
        try:
            os.chown(path, account.uid, account.gid, follow_symlinks=False)
        except OSError as error:
            raise BackendUnavailableError(
                f"{path} cannot be given to the user {account.name}: {error.strerror}.", hint=_HINT
            ) from error


def _fallback(daemon: str, account: Account) -> Path:
    inner = open_own(Path(tempfile.gettempdir()), daemon, SERVERS, account)
    if not usable(inner, account):
        raise BackendUnavailableError(
            f"The user {account.name}, which Postgres runs as, can reach neither the state directory nor"
            f" {inner.parent}.",
            hint="Set LEASEDB_STATE_DIR to a directory all of whose parents that user may pass through.",
        )
    return inner
