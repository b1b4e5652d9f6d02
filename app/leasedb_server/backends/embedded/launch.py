"""Starting one server on its data directory: a free port, Postgres under its watchdog."""

import contextlib
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from leasedb_server.backends.embedded.account import Account, environment, last_lines
from leasedb_server.backends.embedded.areas import Home
from leasedb_server.backends.embedded.running import PidFile
from leasedb_server.backends.tuning import tuning
from leasedb_server.backends.watchdog import watched
from leasedb_server.domain.errors import ServerStartError

HOST = "127.0.0.1"
_PAUSE = 0.002
_LOG_SHARE = 8  # one part of so many of a server's memory
_LOG_END = 1 << 20  # bytes read from the end of a log, at most
_PORT_TAKEN = re.compile(r"could not bind .*\bin use\b")  # Postgres's words, then those of libc; LC_ALL=C fixes both


class PortTakenError(Exception):
    """Somebody took the port between our looking for one and Postgres's listening on it."""


@dataclass(frozen=True, slots=True)
class Running:
    """A server that this daemon started; ``log`` can be read on when the watchdog has deleted the directory."""

    process: subprocess.Popen[bytes]
    log: int  # file descriptor

    def close(self) -> None:
        """Let go of the log and of the process, and collect that if it has ended."""
        if self.process.poll() is None:
            self.process.returncode = 0  # it goes on without us, which Popen would warn of
        with contextlib.suppress(OSError):
            os.close(self.log)


def free_port() -> int:
    """Return a TCP port that nobody listens on at the moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True, slots=True)
class Manner:
    """How a server is run.

    Args:
        postgres: the program.
        account: who runs it.
        orphan_timeout: seconds without a heartbeat after which the server stops by itself.
        start_timeout: seconds for it to take connections.
        memory: bytes of memory that its files may take; None when they lie on a disk.
        socket: whether it also listens on a Unix socket, in its home's directory for that.
    """

    postgres: str
    account: Account
    orphan_timeout: float
    start_timeout: float
    memory: int | None
    socket: bool


def spawn(home: Home, port: int, manner: Manner) -> Running:
    """Start Postgres on the data directory, detached from the daemon.

    Raises:
        ServerStartError: when the log cannot be written or the process not be made.
    """
    command = [manner.postgres, "-D", str(home.data)]
    for name, value in _settings(home, port, manner).items():
        command += ["-c", f"{name}={value}"]
    try:
        # Not through a link, and only a new file: the directory belongs to another user when the daemon is root.
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        log = os.open(home.log, flags, 0o600)
    except OSError as error:
        raise ServerStartError(f"The log {home.log} cannot be written: {error.strerror}.") from error
    try:
        process = subprocess.Popen(  # noqa: S603 - the command is built here, never from a request
            watched(
                command,
                heartbeat=str(home.heartbeat),
                limit=manner.orphan_timeout,
                starting=manner.start_timeout,
                leftover=[str(path) for path in _leftover(home, manner)],
            ),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=environment(),
            start_new_session=True,
            **manner.account.change,
        )
    except OSError as error:
        os.close(log)
        raise ServerStartError(f"Postgres cannot be run as the user {manner.account.name}: {error}.") from error
    return Running(process, log)


def _leftover(home: Home, manner: Manner) -> Iterator[Path]:
    yield home.path
    if manner.memory is not None:
        yield home.overflow
    if manner.socket:
        yield home.socket


def _settings(home: Home, port: int, manner: Manner) -> dict[str, str]:
    log_size = {"min_wal_size": "80MB"}  # Postgres's own default; the prepared directory was made with less
    if manner.memory is not None:
        # the log of all changes counts as well; with Postgres's own default it may take a gigabyte
        most = max(64, min(1024, manner.memory // _LOG_SHARE // 1024**2))
        log_size = {"min_wal_size": "32MB", "max_wal_size": f"{most}MB"}
    return {
        **tuning(),
        **log_size,
        "listen_addresses": HOST,
        "port": str(port),
        "unix_socket_directories": str(home.socket) if manner.socket else "",
        "cluster_name": home.name,  # stands in the titles of all its processes, by which they are found
        # In the data directory, and so deleted with it: a killed server leaves nothing in /dev/shm, nor does the
        # size of that (64 MB in a container) limit queries.
        "dynamic_shared_memory_type": "mmap",
    }


def await_ready(home: Home, running: Running, limit: float, given_up: Callable[[], bool]) -> PidFile:
    """Wait until the postmaster says that it takes connections.

    Raises:
        PortTakenError: when the port was taken meanwhile.
        ServerStartError: when Postgres ended, or did not get there in ``limit`` seconds; with its last log lines.
    """
    end = time.monotonic() + limit
    pause = threading.Event()
    while True:
        ended = running.process.poll() is not None
        pid_file = PidFile.read(home)
        if pid_file is not None and pid_file.ready:
            return pid_file
        if ended:
            text = tail(running.log, 100)
            if _PORT_TAKEN.search(text):
                raise PortTakenError
            raise ServerStartError(
                f"Postgres ended with exit code {running.process.returncode} while starting; its last log lines:\n"
                f"{last_lines(text)}",
                hint="See what the log says; 'leasedb doctor' shows what the embedded backend needs.",
            )
        if given_up():
            raise ServerStartError("The start was given up.")
        if time.monotonic() > end:
            raise ServerStartError(
                f"Postgres was not ready within {limit:g} s; its last log lines:\n{last_lines(tail(running.log, 100))}",
                hint="Raise LEASEDB_START_TIMEOUT if the machine is slow.",
            )
        pause.wait(_PAUSE)


def tail(log: int, lines: int) -> str:
    """Return the last lines of an open log file, oldest first."""
    size = os.fstat(log).st_size
    start = max(0, size - _LOG_END)
    found = os.pread(log, _LOG_END, start).decode(errors="replace").splitlines()
    if start > 0:
        found = found[1:]  # cut somewhere in the middle
    return "\n".join(found[-lines:]) if lines > 0 else ""
