"""Real daemons for tests: a process of its own, on a port of its own, with a state directory of its own."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.waiting import until

START_LIMIT = 90.0


def open_directory() -> Path:
    """Return a new directory that the user whom Postgres runs as can pass through; in memory where there is some."""
    memory = Path("/dev/shm")
    path = Path(tempfile.mkdtemp(prefix="leasedb-test-", dir=memory if memory.is_dir() else None)).resolve()
    path.chmod(0o711)
    return path


def clean_environment() -> dict[str, str]:
    """Return this process's environment without what would steer a daemon or a client."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("LEASEDB_", "PG"))}


@dataclass
class RealDaemon:
    """A daemon that can be started, killed and started again on the same state directory.

    Args:
        settings: LEASEDB_* variables without the prefix, such as ``{"BACKEND": "embedded"}``.
        environment: further variables, such as DOCKER_HOST.
    """

    settings: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    directory: Path = field(default_factory=open_directory)
    process: subprocess.Popen[bytes] | None = None
    port: int = 0

    @property
    def state_dir(self) -> Path:
        return self.directory / "state"

    @property
    def log(self) -> str:
        path = self.directory / "log"
        return path.read_text() if path.exists() else ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def env(self) -> dict[str, str]:
        """The environment of a program that is to use this daemon, and to start none in its place."""
        return {**clean_environment(), "LEASEDB_URL": self.url, "LEASEDB_AUTOSTART": "0"}

    def spawn(self, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        """Start the process without waiting for anything."""
        settings = {"BACKEND": "embedded", "STATE_DIR": str(self.state_dir), "PORT": str(self.port), **self.settings}
        environment = {**clean_environment(), **self.environment}
        environment |= {f"LEASEDB_{name}": value for name, value in settings.items()}
        command = [sys.executable, "-c", "import sys; from leasedb_server.cli import main; sys.exit(main([]))"]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdin=stdin, stdout=log, stderr=log, cwd=self.directory
            )
        return self.process

    def start(self) -> "RealDaemon":
        if not self.port:
            self.port = free_port()
        self.spawn()
        until(self._ready, START_LIMIT, f"the daemon to be ready; it said:\n{self.log}")
        return self

    def _ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the daemon ended:\n{self.log}"
        try:
            return httpx.get(f"{self.url}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        """End it as a power cut would, as far as it is concerned."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """End it as Ctrl-C would and return its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(30)

    def remove(self) -> None:
        """Stop it, or what a killed one left, and delete the directory."""
        if self.process is not None and self.process.poll() is not None and self.process.returncode < 0:
            self.start()
        if self.process is not None and self.process.poll() is None:
            self.stop()
        shutil.rmtree(self.directory)

    # --- talking to it ---

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        return httpx.request(method, f"{self.url}{path}", timeout=60, **options)

    def lease(self, **body: Any) -> dict[str, Any]:
        answer = self.call("POST", "/leases", json=body)
        assert answer.status_code == 201, answer.text
        return answer.json()

    def get(self, path: str) -> dict[str, Any]:
        answer = self.call("GET", path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def release(self, lease: Mapping[str, Any], *, sync: bool = False) -> None:
        answer = self.call("DELETE", f"/leases/{lease['id']}", params={"sync": sync})
        assert answer.status_code == 204, answer.text

    def full(self) -> None:
        """Wait until the pool has what it is to have."""

        def settled() -> bool:
            pool = self.get("/pool")
            targets = sum(part["target"] for part in pool["per"])
            return bool(pool["per"]) and pool["ready"] >= targets and not pool["making"] and not pool["condemned"]

        until(settled, 60, "the pool to be full")


def free_port() -> int:
    """Return a port that nobody listens on at present."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def signal_postgres(name: str, number: signal.Signals) -> None:
    """Send a signal to the Postgres of an embedded server; some of its processes may end while they are looked at.

    The watchdog, which names the program only further on in its command line, is spared.
    """
    for process in processes_naming(name):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name() == "postgres":
                process.send_signal(number)


def processes_naming(text: str) -> list[psutil.Process]:
    """Return the processes whose command line contains the text."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            if any(text in word for word in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found
