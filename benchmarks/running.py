"""The processes that are measured: the daemon, as users start it, and the yardstick beside it."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.machine import BenchmarkError
from benchmarks.sources import Source

START_LIMIT = 60.0  # seconds
STOP_LIMIT = 30.0
END_LIMIT = 3.0
RETRY = 0.003
BODY = {"ttl": 120, "holder": "benchmark"}
_LOG_LINES = 40


@dataclass(frozen=True, slots=True)
class Site:
    """The run's own directory, deleted at its end with all that is in it."""

    path: Path

    @property
    def environment(self) -> dict[str, str]:
        """What the processes see: no settings of the user's, and bytecode as an installed package has it."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("LEASEDB_", "PG"))}
        kept.pop("PYTHONDONTWRITEBYTECODE", None)
        return {**kept, "PYTHONPYCACHEPREFIX": str(self.path / "bytecode")}

    def new_directory(self) -> Path:
        return self.path / secrets.token_hex(4)


@contextlib.contextmanager
def site(parent: Path) -> Iterator[Site]:
    path = Path(tempfile.mkdtemp(prefix="leasedb-benchmark-", dir=parent))
    try:
        path.chmod(0o711)  # root's Postgres runs as another user, who has to get through
        yield Site(path)
    finally:
        shutil.rmtree(path)


@dataclass(frozen=True, slots=True)
class Running:
    process: subprocess.Popen[bytes]
    url: str
    log: Path
    token: str | None = None

    def answered(self, client: httpx.Client, path: str, **body: object) -> httpx.Response:
        """Return the answer to a POST that is repeated until the process listens.

        Raises:
            BenchmarkError: when it ended or did not answer in time; with its last log lines.
        """
        end = time.monotonic() + START_LIMIT
        while True:
            try:
                return client.post(f"{self.url}{path}", json={**BODY, **body}).raise_for_status()
            except httpx.ConnectError as error:
                if self.process.poll() is not None or time.monotonic() > end:
                    raise BenchmarkError(f"{self.url} does not listen: {self.last_lines()}") from error
            except httpx.HTTPError as error:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(END_LIMIT)  # if it is about to end, its last line says why
                raise BenchmarkError(f"{self.url}{path}: {error!r}: {self.last_lines()}") from error
            time.sleep(RETRY)

    def last_lines(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        return "\n".join(lines) or "it logged nothing"


@contextlib.contextmanager
def daemon(place: Site, source: Source, state_dir: Path, *flags: str) -> Iterator[Running]:
    """Run ``leasedb serve``. It may still be starting when the block begins, and has ended after it."""
    given = ["--state-dir", str(state_dir), *source.flags, *flags]
    command = [sys.executable, "-m", "leasedb.cli", "serve", *given]
    with _process(place, command, "--port", source.environment) as running:
        yield running


@contextlib.contextmanager
def yardstick(place: Site, program: str = "bare.py") -> Iterator[Running]:
    """Run one of the programs beside this file in the same way."""
    path = Path(__file__).with_name(program)
    # -P: the modules beside it are no modules of its own
    command = [sys.executable, "-P", str(path), str(place.new_directory().with_suffix(".sqlite"))]
    with _process(place, command, None, {}) as running:
        yield running


@contextlib.contextmanager
def _process(
    place: Site, command: Sequence[str], port_flag: str | None, environment: Mapping[str, str]
) -> Iterator[Running]:
    port = str(free_port())
    log = place.new_directory().with_suffix(".log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *([port_flag] if port_flag else []), port],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=place.path,
            env={**place.environment, **environment},
            start_new_session=True,  # Ctrl-C ends the benchmark, and the benchmark ends its processes in order
        )
    try:
        yield Running(process, f"http://127.0.0.1:{port}", log, environment.get("LEASEDB_TOKEN"))
    finally:
        process.terminate()
        try:
            process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise BenchmarkError(f"{command[2]} did not end within {STOP_LIMIT:g} s of SIGTERM.") from None


@contextlib.contextmanager
def keep_alive(token: str | None = None) -> Iterator[httpx.Client]:
    """Return a client with one connection that is kept, and no proxy."""
    timeout, one = httpx.Timeout(START_LIMIT), httpx.Limits(max_connections=1)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with httpx.Client(trust_env=False, timeout=timeout, limits=one, headers=headers) as client:
        yield client


def first_lease(running: Running, **body: object) -> dict[str, Any]:
    """Return the first lease that the daemon gives, as soon as it does."""
    with keep_alive(running.token) as client:
        lease: dict[str, Any] = running.answered(client, "/leases", **body).json()
        return lease


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
