"""A Postgres of the benchmark's own, with leasedb's settings, where a daemon would be in the way."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from benchmarks.machine import BenchmarkError
from benchmarks.running import START_LIMIT, STOP_LIMIT, Site, free_port
from leasedb_server.backends.embedded.account import Account, environment, said
from leasedb_server.backends.embedded.binaries import Installation, find
from leasedb_server.backends.tuning import tuning
from leasedb_server.domain.errors import LeasedbError

VERSION = "18"
_POLL = 0.01
Administrator = psycopg.Connection[Any]


def installation(place: Site) -> tuple[Installation, Account]:
    """Return the wheel's programs where the user who runs Postgres can reach them, and that user.

    Raises:
        BenchmarkError: when there are none.
    """
    try:
        account = Account.for_postgres()
        programs = place.path / "programs"
        if not programs.exists():
            programs.mkdir(mode=0o755)
            if account.switched:
                os.chown(programs, account.uid, account.gid)
        return find(VERSION, None, account, programs), account
    except LeasedbError as error:
        raise BenchmarkError(str(error)) from error


@contextlib.contextmanager
def server(place: Site, folder: Path) -> Iterator[str]:
    """Run a server whose files lie in a new directory of this name; yield how its superuser logs in."""
    found, account = installation(place)
    port = free_port()
    folder.mkdir(mode=0o700)
    if account.switched:
        os.chown(folder, account.uid, account.gid)
    options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync", "--no-data-checksums"]
    done = account.run([found.initdb, "-D", str(folder / "data"), *options])
    if done.returncode:
        raise BenchmarkError(f"initdb in {folder}: {said(done)}")
    settings = {**tuning(), "listen_addresses": "127.0.0.1", "port": str(port), "unix_socket_directories": ""}
    log = place.new_directory().with_suffix(".log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [found.postgres, "-D", str(folder / "data"), *(f"--{name}={value}" for name, value in settings.items())],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            env=environment(),
            start_new_session=True,
            **account.change,
        )
    try:
        dsn = make_conninfo(host="127.0.0.1", port=port, user="postgres", dbname="postgres")
        _await(dsn, process, log)
        yield dsn
    finally:
        process.send_signal(signal.SIGINT)  # Postgres: end all sessions, then end
        try:
            process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(folder)


def _await(dsn: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_LIMIT
    while True:
        try:
            psycopg.connect(dsn, connect_timeout=3).close()
        except psycopg.OperationalError as error:
            if process.poll() is not None or time.monotonic() > end:
                raise BenchmarkError(f"Postgres did not start: {error}: {log.read_text()[-1000:]}") from error
            time.sleep(_POLL)
        else:
            return
