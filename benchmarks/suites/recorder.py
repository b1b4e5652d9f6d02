"""A pytest plugin: writes down what each test took, with its fixtures. The file's name is in SUITE_RECORD."""

import json
import os
from collections import defaultdict
from pathlib import Path

import pytest

_seconds: dict[str, float] = defaultdict(float)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add up setup, call and teardown; under pytest-xdist the reports of all workers come by here."""
    _seconds[report.nodeid] += report.duration


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput"):
        Path(os.environ["SUITE_RECORD"]).write_text(json.dumps(list(_seconds.values())))
