"""Runs of pytest that start their daemon themselves, as they do for people who never heard of one."""

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.bench import Bench
from benchmarks.contest import ROOT, pytest_command, run
from benchmarks.running import free_port

PLUGIN = "leasedb.pytest_plugin"
_IDLE_EXIT = "300"  # seconds: should the benchmark be killed, the daemon goes by itself


@dataclass(frozen=True, slots=True)
class Unattended:
    """An address at which nobody listens at first, and a state directory that is not there at first."""

    bench: Bench
    folder: Path
    url: str
    environment: Mapping[str, str]

    def until_test(self, tests: Path, plugins: Iterable[str] = (PLUGIN,)) -> float:
        """Run the one test of a file; return the seconds from before the process is created until its body begins."""
        record = self.folder / "began"
        began = time.time()  # by the wall clock, which two processes share on every system
        run(self.command(tests, plugins), {**self.environment, "SUITE_RECORD": str(record)}, self.folder)
        return float(record.read_text()) - began

    def command(self, tests: Path, plugins: Iterable[str], workers: int = 1) -> list[str]:
        return pytest_command(self.folder, tests, plugins, workers)

    def daemon(self) -> dict[str, Any] | None:
        """Return what the daemon says of itself; None when nobody listens."""
        try:
            found: dict[str, Any] = httpx.get(f"{self.url}/healthz", trust_env=False).raise_for_status().json()
        except httpx.ConnectError:
            return None
        return found

    def stop(self) -> None:
        """Have the daemon end, if there is one, and its server with it."""
        if self.daemon() is not None:
            run([sys.executable, "-m", "leasedb.cli", "stop"], self.environment, self.folder)


@contextlib.contextmanager
def unattended(bench: Bench) -> Iterator[Unattended]:
    """Give an empty place; what was started there has ended after the block."""
    folder = bench.place.new_directory()
    folder.mkdir(mode=0o711)
    url = f"http://127.0.0.1:{free_port()}"
    environment = {
        **bench.place.environment,
        "PYTHONPATH": str(ROOT),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "LEASEDB_URL": url,
        "LEASEDB_STATE_DIR": str(folder / "state"),
        "LEASEDB_BACKEND": "embedded",
        "LEASEDB_IDLE_EXIT": _IDLE_EXIT,
    }
    place = Unattended(bench, folder, url, environment)
    try:
        yield place
    finally:
        place.stop()
