"""A pytest plugin: writes down what each phase of each test took. The file's name is in SUITE_RECORD."""

import json
import os
from collections import defaultdict
from pathlib import Path

import pytest

_tests: dict[str, dict[str, float]] = defaultdict(dict)
_failed: set[str] = set()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Take note of setup, call and teardown; under pytest-xdist the reports of all workers come by here."""
    _tests[report.nodeid][report.when] = report.duration
    if not report.passed:
        _failed.add(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput"):
        found = [{**seconds, "passed": nodeid not in _failed} for nodeid, seconds in _tests.items()]
        Path(os.environ["SUITE_RECORD"]).write_text(json.dumps(found))
