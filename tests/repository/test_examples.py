"""The recipes, a project each in a folder of examples/, do what their READMEs say: in copies, against a real daemon."""

import ast
import importlib.metadata
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from tests.daemons import free_port
from tests.repository.sources import ROOT
from tests.toolchains import missing, programs
from tests.waiting import until

EXAMPLES = ROOT / "examples"
RECIPES = sorted(path.parent.name for path in EXAMPLES.glob("*/README.md"))
IN_PYTHON = sorted(path.parent.name for path in EXAMPLES.glob("*/requirements.txt"))
CI_FILES = sorted((EXAMPLES / "ci").glob("*.yml"))
# what a README says for those who have neither what it needs nor a daemon
SET_UP = ("pip install", "leasedb serve")
# pytest's plugins for which a recipe has to ask: what it does not, a fresh environment of it would not have either
PLUGINS = {"pytest-asyncio": "asyncio", "pytest-django": "django", "pytest-xdist": "xdist"}
# come with pytest or are told by other means than an import
NOT_IMPORTED = {"leasedb", "pytest"} | set(PLUGINS)
JDBC = Path("/usr/share/java/postgresql.jar")
LIMIT = 180.0


def commands(recipe):
    """Return the lines of the README's block of commands, set-up left out."""
    block = re.search(r"^```sh\n(.*?)^```$", (EXAMPLES / recipe / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    return [line for line in block[1].splitlines() if not line.startswith(SET_UP)] if block else []


def requirements(recipe):
    lines = (EXAMPLES / recipe / "requirements.txt").read_text().split()
    return {line.partition("[")[0] for line in lines}


def need_toolchain(recipe):
    if recipe == "node" and not (shutil.which("node") and shutil.which("npm")):
        missing("node", "node and npm are not installed")
    if recipe == "java" and not (shutil.which("javac") and JDBC.exists()):
        missing("java", f"needs a JDK, and JDBC's driver for Postgres as {JDBC}")
    if recipe == "curl" and shutil.which("curl") is None:
        pytest.skip("curl is not installed")


@pytest.fixture
def project(tmp_path):
    """Return a function that makes a copy of a recipe, outside of the repository and its configuration."""

    def copy(recipe):
        leave_out = shutil.ignore_patterns("__pycache__", "node_modules", ".*_cache")
        return shutil.copytree(EXAMPLES / recipe, tmp_path / recipe, ignore=leave_out)

    return copy


@pytest.fixture
def environment(daemon):
    return {
        **{name: value for name, value in daemon.env.items() if not name.startswith("PYTEST_")},
        "LEASEDB_AUTOSTART": "0",
        "PATH": programs(),
        "PYTEST_ADDOPTS": "-p no:cacheprovider -W error",
        "npm_config_audit": "false",
        "npm_config_fund": "false",
        "npm_config_ignore_scripts": "true",
    }


def without(plugins):
    return "".join(f" -p no:{plugin}" for plugin in plugins)


def run(command, directory, environment):
    answer = subprocess.run(
        ["sh", "-c", command],
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    if command == "npm ci" and answer.returncode:
        missing("node", f"npm ci failed: {answer.stdout}")
    assert answer.returncode == 0, f"$ {command}\n{answer.stdout}"
    return answer.stdout


def in_python(recipe, environment):
    """Return the environment with the plugins off that the recipe does not ask for."""
    absent = [plugin for name, plugin in PLUGINS.items() if name not in requirements(recipe)]
    return {**environment, "PYTEST_ADDOPTS": environment["PYTEST_ADDOPTS"] + without(absent)}


def test_a_folder_is_a_recipe():
    folders = {path.name for path in EXAMPLES.iterdir() if path.is_dir() and path.name[0] not in "._"}  # caches
    assert folders == {*RECIPES, "shop"}  # the SQL of the flat examples


@pytest.mark.parametrize("recipe", [name for name in RECIPES if commands(name)])
def test_the_recipe_does_what_its_readme_says(recipe, project, environment):
    need_toolchain(recipe)
    if recipe in IN_PYTHON:
        environment = in_python(recipe, environment)
    directory = project(recipe)
    for command in commands(recipe):
        said = run(command, directory, environment)
        assert not re.search(r"\b[1-9]\d* (skipped|warnings?)\b|^# skipped [1-9]", said, re.MULTILINE), said


def imported(recipe):
    """Return the distributions of what the recipe's files import, its own modules and Python's left out."""
    folder = EXAMPLES / recipe
    own = {path.stem for path in [*folder.iterdir(), *folder.glob("tests/*")] if path.is_dir() or path.suffix == ".py"}
    modules = set()
    for path in folder.rglob("*.py"):
        for statement in ast.walk(ast.parse(path.read_text())):
            if isinstance(statement, ast.Import):
                modules |= {name.name for name in statement.names}
            elif isinstance(statement, ast.ImportFrom):
                modules.add(statement.module)
    distributions = importlib.metadata.packages_distributions()
    foreign = {name.partition(".")[0] for name in modules} - own - sys.stdlib_module_names
    return {re.sub(r"[-_.]+", "-", distributions[name][0]).lower() for name in foreign}


@pytest.mark.parametrize("recipe", IN_PYTHON)
def test_the_recipe_asks_for_what_it_imports(recipe):
    asked = requirements(recipe)
    assert imported(recipe) - {"psycopg-pool", "pydantic"} <= asked  # psycopg[pool]; FastAPI is built upon it
    assert asked - NOT_IMPORTED <= imported(recipe) | {"psycopg"}  # SQLAlchemy and Django import it by themselves


def test_workers_of_xdist_have_a_django_database_each(project, environment):
    run(f"pytest -n 2{without(['asyncio'])}", project("django"), environment)


def test_stores_without_a_database_are_skipped_with_the_reason(project, environment):
    nowhere = f"http://127.0.0.1:{free_port()}"
    alone = in_python("vector_stores", {**environment, "LEASEDB_URL": nowhere})
    directory = project("vector_stores")
    said = run("pytest", directory, alone)
    assert "6 passed, 6 skipped" in said
    assert re.search(rf"^SKIPPED .*No leasedb daemon answers at {nowhere}", said, re.MULTILINE)
    assert "6 passed, 6 deselected" in run('pytest -m "not postgres"', directory, alone)


# --- curl ---


@pytest.fixture
def held(tmp_path, project, environment):
    """Run hold.sh, with tests that last; yields its process group and the id of its lease."""
    need_toolchain("curl")
    lasting = tmp_path / "bin" / "psql"
    lasting.parent.mkdir()
    lasting.write_text("#!/bin/sh\nexec tail -f /dev/null\n")
    lasting.chmod(0o755)
    environment["PATH"] = f"{lasting.parent}{os.pathsep}{environment['PATH']}"
    process = subprocess.Popen(
        ["sh", "hold.sh"],
        cwd=project("curl"),
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().split()[-1]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_lease_that_is_held_ends_with_the_script(held, daemon, number):
    process, lease = held
    until(lambda: daemon.get(f"/leases/{lease}")["state"] == "active", what="the lease to be there")
    os.killpg(process.pid, number)
    until(lambda: daemon.get(f"/leases/{lease}")["state"] == "released", what="the lease to be released")


# --- CI ---


def jobs(file):
    """Return the jobs of a workflow, whichever of the two it is for: their commands, variables and services."""
    content = yaml.safe_load(file.read_text())
    if "jobs" in content:
        for job in content["jobs"].values():
            (service,) = job.get("services", {"": {}}).values()
            scripts = [step["run"] for step in job["steps"] if "run" in step]
            yield scripts, job.get("env", {}), service.get("image"), service.get("env", {}), "localhost"
    else:
        default = content.pop("default")
        for job in content.values():
            (service,) = job.get("services", [{}])
            variables = job.get("variables", {})
            scripts = [*default["before_script"], *job["script"]]
            yield scripts, variables, service.get("name"), variables, service.get("alias")


@pytest.mark.parametrize("file", CI_FILES, ids=lambda file: file.name)
def test_a_workflow_has_a_job_with_a_service_container_and_one_without(file):
    embedded, contained = jobs(file)
    assert embedded[1:3] == ({}, None)
    _, variables, image, settings, host = contained
    address = urlsplit(variables["LEASEDB_DATABASE_URL"])
    assert image.startswith("pgvector/pgvector:")
    assert (address.hostname, address.username, address.password) == (host, "postgres", settings["POSTGRES_PASSWORD"])


@pytest.mark.parametrize("file", CI_FILES, ids=lambda file: file.name)
def test_the_commands_of_a_workflow_run(file, project, environment):
    directory = project("vector_stores")
    for command in sorted({line for job in jobs(file) for line in job[0]}):
        if command.startswith("pip "):
            assert (directory / shlex.split(command)[-1]).exists()
        else:
            run(f"{command}{without(['asyncio', 'django'])}", directory, environment)
