"""The pytest plugin: `pg_lease`, `pg_session_lease`, `pg_conn` and `leasedb_client`.

Loaded at every pytest start of everybody who has leasedb installed: it imports nothing that pytest has not.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

import leasedb

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg

_LONGEST_LABEL = 255  # characters the daemon takes
# A suite at capacity shall get slower, not red: longer than the daemon's default, short enough to end a deadlock.
_WAIT = 600.0  # seconds


@pytest.fixture(scope="session")
def leasedb_client() -> Iterator[leasedb.Client]:
    """A `leasedb.Client` for the daemon at ``LEASEDB_URL``, known to answer."""
    with _in_one_line():
        client = leasedb.Client()
    with client:
        with _in_one_line():
            client.health()
        yield client


@pytest.fixture(scope="session")
def pg_session_lease(request: pytest.FixtureRequest, leasedb_client: leasedb.Client) -> Iterator[leasedb.Lease]:
    """A database for the whole session; with pytest-xdist one for each worker."""
    with _leased(request, leasedb_client, "") as lease:
        yield lease


@pytest.fixture
def pg_lease(request: pytest.FixtureRequest, leasedb_client: leasedb.Client) -> Iterator[leasedb.Lease]:
    """A fresh database for this test: ``pg_lease.dsn``, ``.urls["sqlalchemy"]``, ``.env``."""
    with _leased(request, leasedb_client, request.node.nodeid) as lease:
        yield lease


@pytest.fixture
def pg_conn(request: pytest.FixtureRequest) -> Iterator[psycopg.Connection[Any]]:
    """A psycopg connection to the database of `pg_lease`, not in autocommit mode."""
    try:
        import psycopg  # noqa: PLC0415 - an optional one, and never at pytest's start
    except ImportError as error:
        message = f"leasedb: pg_conn needs psycopg ({error}): pip install 'psycopg[binary]'"
        raise pytest.fail.Exception(message, pytrace=False) from None
    # asked for only now: without psycopg there is no use in a database
    lease: leasedb.Lease = request.getfixturevalue("pg_lease")
    connection = psycopg.connect(lease.dsn)
    try:
        yield connection
    finally:
        connection.close()


@contextmanager
def _leased(request: pytest.FixtureRequest, client: leasedb.Client, nodeid: str) -> Iterator[leasedb.Lease]:
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID") or _own_run(request.config)
    labels = {
        "run": run,
        "worker": os.environ.get("PYTEST_XDIST_WORKER", "main"),
        "pytest": nodeid.encode("utf-8", "replace").decode()[:_LONGEST_LABEL],
    }
    with _in_one_line():
        lease = client.acquire(
            wait=_WAIT,
            holder=f"pytest {request.config.rootpath.name[:100]} {run[:8]}",
            labels={key: value for key, value in labels.items() if value},
        )
    with lease:
        yield lease


_RUN = pytest.StashKey[str]()


def _own_run(config: pytest.Config) -> str:
    return config.stash.setdefault(_RUN, os.urandom(16).hex())


@contextmanager
def _in_one_line() -> Iterator[None]:
    """Report what the daemon says as it says it; forty lines of traceback would hide the one with the remedy."""
    try:
        yield
    except leasedb.LeasedbError as error:
        raise pytest.fail.Exception(f"leasedb: {error}", pytrace=False) from None
