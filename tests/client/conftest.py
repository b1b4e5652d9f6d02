"""The daemons these tests talk to: a stand-in that speaks the wire contract on a real port, and the real one."""

import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.client.plugin_runs import checkouts, run
from tests.client.processes import environment
from tests.client.stand_in import StandIn
from tests.client.twins import Twin

__all__ = ["checkouts", "run"]  # fixtures of another file

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    with StandIn() as daemon:
        yield daemon


@pytest.fixture(params=["stand-in", "daemon"])
def daemon_url(request: pytest.FixtureRequest) -> str:
    """The URL of a daemon, which other tests may use too; tests that take it look at nothing but its answers."""
    if request.param == "stand-in":
        return request.getfixturevalue("stand_in").url
    return request.getfixturevalue("daemon").url


@pytest.fixture
def run_id() -> str:
    """A label's value that no other test uses."""
    return uuid.uuid4().hex


@pytest.fixture
def start_cli(tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start `leasedb ...` in a process of its own; what still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(
        url: str, *arguments: str, env: dict[str, str] | None = None, prefix: Sequence[str] = (), **options: Any
    ) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "leasedb.cli", *arguments],
            env=environment(url, **(env or {})),
            cwd=tmp_path,
            text=True,
            **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def cli(start_cli: Callable[..., "subprocess.Popen[str]"]) -> Run:
    """Run `leasedb ...` to its end."""

    def run(url: str, *arguments: str, **options: Any) -> "subprocess.CompletedProcess[str]":
        process = start_cli(url, *arguments, **options)
        out, err = process.communicate(timeout=30)
        assert "Traceback" not in err, err
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    return run


@pytest.fixture(params=["Client", "AsyncClient"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Make clients of one kind; both are called in the same way here, and closed at the end."""
    with Twin(request.param) as twin:
        yield twin.connect


@pytest.fixture
def client(connect: Callable[..., Any], daemon_url: str) -> Any:
    return connect(daemon_url)
