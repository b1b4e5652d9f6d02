"""Imports go down only. The contracts stand in pyproject.toml; here they run, and are shown to bite."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.repository.sources import ROOT, trees

# What each package may import from outside, file by file where only one may.
OUTSIDE = {
    "app/leasedb_server/domain/": set[str](),
    "app/leasedb_server/ports.py": set[str](),
    "app/leasedb_server/usecases/": set[str](),
    "client/leasedb/pytest_plugin.py": {"pytest", "psycopg", "psycopg_pool", "sqlalchemy"},
    "client/leasedb/_plugin/connecting.py": {"psycopg", "psycopg_pool", "sqlalchemy"},
    "client/leasedb/_plugin/rollback": {"psycopg", "sqlalchemy"},
    "client/leasedb/_plugin/fixtures.py": {"pytest", "psycopg", "sqlalchemy"},
    "client/leasedb/_plugin/async_fixtures.py": {"pytest", "pytest_asyncio"},
    "client/leasedb/_plugin/": {"pytest", "psycopg"},
    "client/leasedb/": {"httpx"},
}

VIOLATIONS = [
    ("layers", "leasedb_server/settings.py", "import leasedb_server.assembly"),
    ("layers", "leasedb_server/logs.py", "import leasedb_server.settings"),
    ("layers", "leasedb_server/api/__init__.py", "import leasedb_server.background"),
    ("layers", "leasedb_server/background/__init__.py", "import leasedb_server.api"),
    ("layers", "leasedb_server/usecases/__init__.py", "import leasedb_server.store"),
    ("layers", "leasedb_server/store/__init__.py", "import leasedb_server.postgres"),
    ("layers", "leasedb_server/ports.py", "import leasedb_server.usecases"),
    ("layers", "leasedb_server/domain/__init__.py", "import leasedb_server.ports"),
    ("layers", "leasedb_server/new_room.py", "import sys"),
    ("composition-root", "leasedb_server/api/__init__.py", "import leasedb_server.backends.existing"),
    ("backends", "leasedb_server/backends/existing.py", "import leasedb_server.backends.embedded"),
    ("wire", "leasedb/_client.py", "import leasedb_server.domain"),
    ("wire", "leasedb_server/domain/__init__.py", "import leasedb"),
    ("docker", "leasedb_server/backends/existing.py", "import docker.errors"),
    ("psycopg", "leasedb_server/backends/existing.py", "import psycopg.conninfo"),
    ("orm", "leasedb_server/api/__init__.py", "import sqlmodel"),
    ("http", "leasedb_server/store/__init__.py", "import fastapi"),
    ("pure", "leasedb_server/domain/__init__.py", "import pydantic"),
    ("psycopg", "leasedb/_client.py", "import psycopg_pool"),
    ("orm", "leasedb/_client.py", "import sqlalchemy"),
    ("client", "leasedb/_client.py", "import psutil"),
    ("client", "leasedb/_client.py", "import sqlalchemy"),
]


def lint_imports(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the contracts of this repository on the packages that lie in ``path``, wherever else they are installed."""
    program = Path(sys.executable).with_name("lint-imports")
    command = [str(program), "--config", str(ROOT / "pyproject.toml"), "--no-cache", *options]
    environment = {**os.environ, "PYTHONPATH": f"{path / 'app'}:{path / 'client'}", "NO_COLOR": "1"}
    return subprocess.run(command, cwd=path, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copy")
    for root in ("app", "client"):
        shutil.copytree(ROOT / root, folder / root, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_every_contract_holds():
    answer = lint_imports(ROOT)
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.parametrize(
    ("contract", "file", "line"), VIOLATIONS, ids=lambda value: value.replace("leasedb_server", ".")
)
def test_a_contract_bites(copy, contract, file, line):
    path = copy / ("client" if file.startswith("leasedb/") else "app") / file
    before = path.read_text() if path.exists() else None
    path.write_text(f"{before or ''}\n{line}\n")
    try:
        answer = lint_imports(copy, "--contract", contract)
    finally:
        path.unlink() if before is None else path.write_text(before)
    assert answer.returncode == 1, answer.stdout + answer.stderr
    assert "BROKEN" in answer.stdout


def imported(tree: ast.Module) -> set[str]:
    """Return the top-level packages that a file imports anywhere."""
    absolute = [step for step in ast.walk(tree) if isinstance(step, ast.ImportFrom) and not step.level]
    plain = [alias.name for step in ast.walk(tree) if isinstance(step, ast.Import) for alias in step.names]
    return {name.partition(".")[0] for name in [*plain, *(step.module or "" for step in absolute)]}


def test_nothing_else_is_imported_from_outside():
    ours = {"leasedb", "leasedb_server"}
    strangers = {}
    for path, tree in trees("app", "client"):
        allowed = next((names for room, names in OUTSIDE.items() if path.startswith(room)), None)
        if allowed is not None and (found := imported(tree) - sys.stdlib_module_names - ours - allowed):
            strangers[path] = found
    assert strangers == {}
