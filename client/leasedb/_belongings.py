"""What a daemon beside the default one has of its own, from one start to the next: a port and a token."""

import errno
import os
import re
import secrets
import socket
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from leasedb._statedir import usable

_LOWEST: Final = 1024  # those below are not for everybody to listen on
_HIGHEST: Final = 65535
# What a start writes, and the next one writes anew; the lock comes last, for until then nobody else begins here.
_TRACES: Final = ("daemon.lock", "started.pid", "port", "start.lock")
_TOKEN: Final = re.compile(r"[!-~]+")  # what an HTTP header can carry


def kept_port(directory: Path) -> int:
    """Return the port that was chosen for this state directory; 0: none was, or the file says nothing of use."""
    try:
        port = int((directory / "port").read_text("ascii"))
    except (OSError, ValueError):
        return 0
    return port if _LOWEST <= port <= _HIGHEST else 0


def keep_port(directory: Path, port: int) -> None:
    with usable(directory):
        (directory / "port").write_text(str(port), "ascii")


def kept_token(directory: Path) -> str:
    """Return the token that was made for this state directory; nobody but this user can read it.

    It is made where there is none, or nothing that could be one: an empty one would let everybody in.
    """
    file = directory / "token"
    with usable(directory):
        try:
            token = file.read_text("ascii").strip()
        except (FileNotFoundError, ValueError):
            token = ""
        if not _TOKEN.fullmatch(token):
            token = secrets.token_hex(16)
            new = file.with_name("token.new")
            new.unlink(missing_ok=True)
            with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as made:
                made.write(token)
            new.rename(file)
        return token


def clear_failed(directory: Path, log: Path) -> Path:
    """Take away a state directory that holds nothing but traces of starts; the log moves to the folder that it is in.

    A daemon that never made anything leaves no state file. Call it inside `alone`.

    Returns:
        Where the log is then.
    """
    kept = directory.with_name("failed-start.log")  # one for all: each mistyped address has a directory of its own
    try:
        if {file.name for file in directory.iterdir()} - {*_TRACES, log.name}:
            return log
        log.replace(kept)
        for name in _TRACES:
            (directory / name).unlink(missing_ok=True)
        directory.rmdir()
    except OSError:
        return log if log.exists() else kept
    return kept


def port_of(url: str) -> int | None:
    """Return the port of an http:// address; None: it has none."""
    try:
        parts = urlsplit(url)
        port = parts.port or 80
    except ValueError:
        return None
    return port if parts.scheme == "http" else None


def is_free(port: int) -> bool:
    """Tell whether nobody listens there."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            return error.errno != errno.EADDRINUSE
    return True


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
