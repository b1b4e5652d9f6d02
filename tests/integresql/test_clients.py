"""Clients of IntegreSQL as they are published, with the URL changed and nothing else."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.toolchains import missing

PROJECT = Path(__file__).with_name("javascript")
WORKER = Path(__file__).with_name("python_worker.py")
LIMIT = 120.0


def run(command: list[str], directory: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The project of JavaScript with what it needs, outside the repository."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        missing("node", "node and npm are not installed")
    directory = tmp_path_factory.mktemp("javascript") / "project"
    shutil.copytree(PROJECT, directory, ignore=shutil.ignore_patterns("node_modules"))
    installed = run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], directory, dict(os.environ))
    if installed.returncode:
        missing("node", f"npm ci failed: {installed.stderr}")
    return directory


def test_the_client_for_node(integresql, project):
    answer = run(["node", "suite.js"], project, integresql.daemon.env)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert answer.stderr == ""


@pytest.fixture
def migrations(tmp_path):
    """A directory of which the client makes a hash."""
    pytest.importorskip("integresql_client_python", reason="needs pip install integresql-client-python")
    directory = tmp_path / "migrations"
    directory.mkdir()
    (directory / "1.sql").write_text(f"CREATE TABLE person (name text); -- {tmp_path}")
    return directory


def worker(integresql, migrations: Path) -> subprocess.Popen[str]:
    environment = {**integresql.daemon.env, "INTEGRESQL_CLIENT_BASE_URL": f"{integresql.daemon.url}/api"}
    return subprocess.Popen(
        [sys.executable, str(WORKER), str(migrations)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_the_client_for_python(integresql, migrations):
    workers = [worker(integresql, migrations) for _ in range(4)]
    said = [one.communicate(timeout=LIMIT)[0] for one in workers]
    assert [one.returncode for one in workers] == [0] * 4, "\n".join(said)
    assert sorted(text.count("built") for text in said) == [0, 0, 0, 1]
