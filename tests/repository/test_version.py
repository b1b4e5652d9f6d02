"""One version, wherever it is said."""

import json
import tomllib
import urllib.request
from importlib.metadata import version

import leasedb
from tests.repository.sources import ROOT


def project() -> str:
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def test_package_and_client_say_the_same():
    assert {leasedb.__version__, version("leasedb")} == {project()}


def test_the_daemon_says_the_same(daemon):
    with urllib.request.urlopen(f"{daemon.url}/healthz", timeout=10) as answer:
        assert json.load(answer)["version"] == project()


def test_the_changelog_knows_the_version():
    assert f"\n## [{project()}] - 20" in (ROOT / "CHANGELOG.md").read_text()
