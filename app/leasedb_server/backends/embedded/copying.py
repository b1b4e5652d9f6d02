"""A server's directories, with a copy of the prepared data directory: most of it is copied while Postgres starts."""

import contextlib
import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from leasedb_server.backends.embedded.account import Account, environment, last_lines, said
from leasedb_server.backends.embedded.areas import Home
from leasedb_server.backends.embedded.making import CACHE, HINT, KEPT_CACHE
from leasedb_server.backends.embedded.prepared import Prepared
from leasedb_server.domain.errors import ServerStartError

# An empty name is of a directory that the server does without. Every program may pass through the last one.
_COPY = """
umask 077
mkdir "$1" && { [ -z "$2" ] || mkdir "$2"; } && { [ -z "$3" ] || mkdir -m 711 "$3"; } && shift 3 && exec cp "$@"
"""
_COPY_LIMIT = 60.0
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def copied(
    prepared: Prepared, home: Home, account: Account, *, overflow: bool, socket: bool
) -> Iterator[Callable[[], None]]:
    """Make the server's directories. Postgres can be started at once; what is yielded completes its data after that.

    To start, Postgres needs none of the files of databases: it looks through their folders for what a crash left, and
    no more.

    Raises:
        ServerStartError: also from what is yielded: when something cannot be copied; a part may be there then.
    """
    aside = (str(home.overflow) if overflow else "", str(home.socket) if socket else "")
    cp = (*_copy_options(), str(prepared.data), str(home.data))
    try:
        done = account.run(["sh", "-c", _COPY, "leasedb-copy", str(home.path), *aside, *cp])
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _failure(home, str(error)) from error
    if done.returncode != 0:
        raise _failure(home, said(done, 1))
    if prepared.databases is None:
        yield lambda: None
        return
    with _unpacking(prepared.databases, home, account) as process:

        def complete() -> None:
            try:
                _, errors = process.communicate(timeout=_COPY_LIMIT)
            except subprocess.TimeoutExpired as error:
                raise _failure(home, f"tar did not end within {_COPY_LIMIT:g} s") from error
            if process.returncode != 0:
                raise _failure(home, last_lines(errors.decode(errors="replace"), 1))
            for folder in (home.data / "global", *(home.data / "base").glob("*")):
                _bring_back_cache(home.data, folder)

        try:
            yield complete
        finally:
            process.kill()


def _unpacking(databases: Path, home: Home, account: Account) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(  # noqa: S603 - the command is built here, never from a request
            ["tar", "-xmf", str(databases), "-C", str(home.data / "base")],  # noqa: S607 - PATH's
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd="/",
            env=environment(),
            start_new_session=True,
            umask=0o077,
            **account.change,
        )
    except OSError as error:
        raise _failure(home, str(error)) from error


def _bring_back_cache(data: Path, folder: Path) -> None:
    """Rename the relation cache that was kept, without following a link: the directory is another user's, for root."""
    with contextlib.suppress(OSError), contextlib.ExitStack() as opened:  # without it, the first session makes one
        inside = None
        for name in (str(data), *folder.relative_to(data).parts):
            inside = os.open(name, _FOLDER, dir_fd=inside)
            opened.callback(os.close, inside)
        os.rename(KEPT_CACHE, CACHE, src_dir_fd=inside, dst_dir_fd=inside)


def _failure(home: Home, reason: str) -> ServerStartError:
    return ServerStartError(f"A data directory cannot be copied to {home.path}: {reason.rstrip('.')}.", hint=HINT)


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
