"""Runs of pytest with the plugin, in processes of their own."""

import importlib.metadata
import os
import sys

import pytest

INSTALLED = any(entry.name == "leasedb" for entry in importlib.metadata.entry_points(group="pytest11"))
LOAD = [] if INSTALLED else ["-p", "leasedb.pytest_plugin"]


@pytest.fixture
def run(pytester, monkeypatch, stand_in):
    """Run tests, given as source, against the stand-in or what `url` says."""

    def run_pytest(source: str, *arguments: str, url: str | None = None) -> pytest.RunResult:
        for name in [name for name in os.environ if name.startswith("PYTEST_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("LEASEDB_URL", url or stand_in.url)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
        pytester.makepyfile(source)
        return pytester.runpytest_subprocess(*LOAD, "-p", "no:cacheprovider", *arguments)

    return run_pytest
