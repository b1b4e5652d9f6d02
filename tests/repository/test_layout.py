"""The rooms are where DESIGN.md puts them, and nothing lies about."""

import shutil
import subprocess

import pytest

from tests.repository.sources import CLIENT, DAEMON, ROOT, python_files

TOP_LEVEL = {
    ".ci", ".dockerignore", ".gitignore", "CHANGELOG.md", "Dockerfile", "LICENSE", "README.md", "app", "benchmarks",
    "client", "compose.yaml", "docs", "examples", "pyproject.toml", "tests",
}  # fmt: skip
DAEMON_ROOMS = {
    "__init__", "cli", "assembly", "settings", "logs", "importing", "api", "background", "usecases", "backends",
    "postgres", "store", "processes", "statedir", "templatefiles", "ports", "domain", "py.typed",
}  # fmt: skip
CLIENT_ROOMS = {
    "__init__",
    "cli",
    "_client",
    "_protocol",
    "_models",
    "_errors",
    "_heartbeat",
    "pytest_plugin",
    "py.typed",
}
MOST_LINES = 400


def tracked() -> set[str]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("only a git clone knows which files belong to it")
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return {name for name in names.split("\0") if name and (ROOT / name).exists()}


def rooms(package):
    return {path.name.removesuffix(".py") for path in package.iterdir() if path.name != "__pycache__"}


@pytest.mark.parametrize("package", [DAEMON, CLIENT], ids=lambda package: package.name)
def test_a_source_root_holds_exactly_one_package(package):
    assert {path.name for path in package.parent.iterdir() if path.name != "__pycache__"} == {package.name}


def test_the_top_level_is_known():
    assert {name.partition("/")[0] for name in tracked()} == TOP_LEVEL


def test_the_daemon_has_its_rooms_and_no_others():
    assert rooms(DAEMON) == DAEMON_ROOMS


def test_the_client_has_its_rooms():
    assert rooms(CLIENT) >= CLIENT_ROOMS


def test_no_file_is_too_long():
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in python_files("app", "client")}
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}
