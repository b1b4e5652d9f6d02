"""Runs of pytest with the plugin, in processes of their own."""

import importlib.metadata
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpcore  # noqa: F401 - httpx would import it in some test, and pytester forgets what a test imports
import pytest

from tests.client.processes import environment
from tests.daemons import RealDaemon

INSTALLED = any(entry.name == "leasedb" for entry in importlib.metadata.entry_points(group="pytest11"))
# Installed for other tests: what people have is what a test asks for.
_OTHERS = ("anyio", "asyncio", "django", "hypothesispytest", "pytest_databases", "pytest_postgresql")
LOAD = [*([] if INSTALLED else ["-p", "leasedb.pytest_plugin"]), *(f"-pno:{name}" for name in _OTHERS)]
_LIMIT = 120.0  # seconds for a run


def load(plugins: Collection[str]) -> list[str]:
    """Return the arguments that load our plugin, and of others those named."""
    return [word for word in LOAD if word.removeprefix("-pno:") not in plugins]


def left(daemon: RealDaemon, folder: Path) -> list[str]:
    """Return the leases that runs in a folder still have, by the tests that took them."""
    active = daemon.get("/leases?state=active")["leases"]
    return [lease["labels"].get("pytest", "") for lease in active if f" {folder.name} " in lease["holder"]["name"]]


@pytest.fixture
def run(pytester, monkeypatch, stand_in):
    """Run tests, given as source, against the stand-in or what `url` says; of other plugins those named are there.

    The source may be left out to run again what is there. ``variables`` are set in the environment, too.
    """

    def run_pytest(
        source: str | None, *arguments: str, url: str | None = None, plugins: Collection[str] = (), **variables: str
    ) -> pytest.RunResult:
        for name in [name for name in os.environ if name.startswith("PYTEST_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("LEASEDB_URL", url or stand_in.url)
        monkeypatch.setenv("LEASEDB_AUTOSTART", "0")
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        if source is not None:
            pytester.makepyfile(source)
        return pytester.runpytest_subprocess(*load(plugins), "-p", "no:cacheprovider", *arguments)

    return run_pytest


@dataclass
class Checkout:
    """A folder with tests in it, where several runs may go on at once."""

    folder: Path
    env: Mapping[str, str]
    started: list["subprocess.Popen[str]"] = field(default_factory=list)

    def write(self, **files: str) -> None:
        """Write modules: ``test_one="def test_it(): ..."``."""
        self.folder.mkdir(exist_ok=True)
        for name, source in files.items():
            (self.folder / f"{name}.py").write_text(textwrap.dedent(source))

    def start(self, *arguments: str, plugins: Collection[str] = ()) -> "subprocess.Popen[str]":
        """Begin a run, in a process group of its own."""
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *load(plugins), "-p", "no:cacheprovider", *arguments],
            cwd=self.folder,
            env=dict(self.env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def run(self, *arguments: str, plugins: Collection[str] = ()) -> pytest.RunResult:
        return finished(self.start(*arguments, plugins=plugins))

    def end(self) -> None:
        """Kill what still runs."""
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def finished(process: "subprocess.Popen[str]") -> pytest.RunResult:
    """Wait for a run's end."""
    begin = time.perf_counter()
    out, _ = process.communicate(timeout=_LIMIT)
    print(out)  # noqa: T201 - shown when the test fails
    return pytest.RunResult(process.returncode, out.splitlines(), [], time.perf_counter() - begin)


@pytest.fixture
def checkouts(tmp_path) -> Iterator["Checkouts"]:
    made = Checkouts(tmp_path)
    yield made
    for checkout in made.all:
        checkout.end()


@dataclass
class Checkouts:
    """Makes folders of tests."""

    root: Path
    all: list[Checkout] = field(default_factory=list)

    def make(self, name: str, url: str, **variables: str) -> Checkout:
        path = os.pathsep.join(path for path in sys.path if path)
        checkout = Checkout(self.root / name, environment(url, PYTHONPATH=path, **variables))
        checkout.folder.mkdir()
        self.all.append(checkout)
        return checkout
