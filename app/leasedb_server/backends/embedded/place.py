"""Where data directories live: below the state directory, or where the user that Postgres runs as can reach."""

import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from leasedb_server.backends.embedded.account import Account
from leasedb_server.domain.errors import BackendUnavailableError
from leasedb_server.domain.names import daemon_prefix

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
    if _usable(path, account):
        return Place(path)
    if not account.switched:
        raise BackendUnavailableError(f"The user {account.name} cannot write to {path}.", hint=_HINT)
    fallback = _fallback(daemon, account)
    return Place(fallback, f"data in {fallback} because the user {account.name} cannot reach {path}")


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


def _usable(path: Path, account: Account) -> bool:
    """Try it as that user: modes alone do not tell (access lists, mounts, security modules)."""
    try:
        return account.run(["sh", "-c", 'cd "$1" && test -w .', "sh", str(path)]).returncode == 0
    except OSError as error:
        raise BackendUnavailableError(
            f"No command can be run as the user {account.name}: {error}.",
            hint="Run the daemon as an ordinary user.",
        ) from error


def _fallback(daemon: str, account: Account) -> Path:
    """Return a directory of the account's, inside one of the daemon's own that nobody else can write to.

    The outer one has a name that can be guessed in a directory where everybody may create: whatever is found there
    under this name is used only when it is the daemon's own. Nobody can put anything into it before us then.
    """
    outer = Path(tempfile.gettempdir()) / daemon_prefix(daemon).rstrip("_")
    try:
        outer.mkdir(mode=0o700, exist_ok=True)
        found = outer.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise BackendUnavailableError(
                f"{outer} is there already, but is not a directory that only this daemon can write to.",
                hint=f"Remove it, or set LEASEDB_STATE_DIR to a directory that the user {account.name} can reach.",
            )
        outer.chmod(0o711)
        inner = outer / "servers"
        inner.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise BackendUnavailableError(
            f"The directory {outer} for Postgres's data cannot be made: {error.strerror}.", hint=_HINT
        ) from error
    _hand_over(inner, account)
    if not _usable(inner, account):
        raise BackendUnavailableError(
            f"The user {account.name}, which Postgres runs as, can reach neither the state directory nor {outer}.",
            hint="Set LEASEDB_STATE_DIR to a directory all of whose parents that user may pass through.",
        )
    return inner
