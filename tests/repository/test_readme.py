"""The README's examples are the files in examples/, and these run against a real daemon."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.repository.sources import ROOT, marked_block
from tests.toolchains import programs

PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = sorted(path for path in (ROOT / "examples").iterdir() if path.is_file())
LIMIT = 60.0


def command_for(example: Path) -> list[str]:
    match example.suffix:
        case ".sh":
            return ["sh", str(example)]
        case ".py" if example.name.startswith("test_"):
            return [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(example)]
        case ".py":
            return [sys.executable, str(example)]
    raise AssertionError(f"nobody knows how to run {example.name}")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_the_readme_shows_the_example_as_it_is(example):
    assert marked_block(ROOT / "README.md", f"examples/{example.name}") == example.read_text()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_the_example_runs(example, daemon, tmp_path):
    if example.suffix == ".sh" and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    environment = {**daemon.env, "PATH": programs()}
    answer = subprocess.run(
        command_for(example), cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert answer.stderr == ""


def test_the_readme_shows_no_other_example():
    shown = re.findall(r"^<!-- (examples/.*) -->$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert sorted(shown) == [f"examples/{example.name}" for example in EXAMPLES]


@pytest.mark.parametrize("mark", ["command: run", "command: test"])
def test_a_command_is_one_line(mark):
    assert len(marked_block(ROOT / "README.md", mark).splitlines()) == 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = page.read_text()
    targets = re.findall(r"\]\((?!https?:)([^)#]*)(#[^)]*)?\)", text)
    assert [target for target, _ in targets if target and not (page.parent / target).exists()] == []
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in text.splitlines()
        if line.startswith("#")
    }
    assert [anchor for target, anchor in targets if not target and anchor[1:] not in headings] == []
