"""The state directory: made safe, and held by one daemon at a time."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from leasedb_server.domain.errors import StartupError

LOCK_FILE: Final = "daemon.lock"


@contextlib.contextmanager
def held(directory: Path, url: str) -> Iterator[None]:
    """Create the directory when missing and hold it while the context lasts.

    The lock is the kernel's (flock): it ends with the process, however that dies. What the file says is for the reader
    of a second daemon's message.

    Args:
        directory: the state directory.
        url: where this daemon listens.

    Raises:
        StartupError: when the directory cannot be written, or another daemon holds it.
    """
    lock = _open_lock(directory)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartupError(
                f"Another daemon holds the state directory {directory}: {_who(lock)}.",
                hint="Use that one, stop it, or give this one a directory of its own with LEASEDB_STATE_DIR.",
            ) from None
        except OSError as error:
            raise _unusable(directory, error) from error
        try:
            os.ftruncate(lock, 0)
            os.write(lock, json.dumps({"pid": os.getpid(), "url": url}).encode())
        except OSError as error:
            raise _unusable(directory, error) from error
        yield
    finally:
        os.close(lock)


def _open_lock(directory: Path) -> int:
    # Others may pass through as root's Postgres runs as another user, but not list what is there.
    mode = 0o711 if os.geteuid() == 0 else 0o700
    try:
        directory.mkdir(mode=mode, parents=True, exist_ok=True)
        return os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unusable(directory, error) from error


def _unusable(directory: Path, error: OSError) -> StartupError:
    return StartupError(
        f"The state directory {directory} cannot be used: {error.strerror}.",
        hint="It must be writable for this user, with some room; or choose another with LEASEDB_STATE_DIR.",
    )


def _who(lock: int) -> str:
    try:
        holder = json.loads(os.pread(lock, 4096, 0))
        return f"process {holder['pid']}, listening at {holder['url']}"
    except (ValueError, KeyError, TypeError):
        return "a process that has only just started"
