"""Starting one server: a copy of the prepared data directory, a free port, Postgres under its watchdog."""

import contextlib
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from leasedb_server.backends.embedded.account import Account, environment, last_lines
from leasedb_server.backends.embedded.running import Home, PidFile
from leasedb_server.backends.tuning import tuning
from leasedb_server.backends.watchdog import watched
from leasedb_server.domain.errors import ServerStartError

HOST = "127.0.0.1"
_PAUSE = 0.002
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


def spawn(
    home: Home, postgres: str, port: int, account: Account, *, orphan_timeout: float, start_timeout: float
) -> Running:
    """Start Postgres on the data directory, detached from the daemon.

    Raises:
        ServerStartError: when the log cannot be written or the process not be made.
    """
    settings = {
        **tuning(),
        "listen_addresses": HOST,
        "port": str(port),
        "unix_socket_directories": "",
        "cluster_name": home.name,  # stands in the titles of all its processes, by which they are found
        # In the data directory, and so deleted with it: a killed server leaves nothing in /dev/shm, nor does the
        # size of that (64 MB in a container) limit queries.
        "dynamic_shared_memory_type": "mmap",
        "min_wal_size": "80MB",  # Postgres's own default; the prepared directory was made with less
    }
    command = [postgres, "-D", str(home.data)]
    for name, value in settings.items():
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
                limit=orphan_timeout,
                starting=start_timeout,
                leftover=str(home.path),
            ),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=environment(),
            start_new_session=True,
            **account.change,
        )
    except OSError as error:
        os.close(log)
        raise ServerStartError(f"Postgres cannot be run as the user {account.name}: {error}.") from error
    return Running(process, log)


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
