"""A pytest plugin: the fixture `db` with the fixture of leasedb's plugin that SUITE_FIXTURE names."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import leasedb
from benchmarks.suites import subject
from benchmarks.suites.subject import Connection


def _fresh(pg_conn: Connection) -> Connection:
    return pg_conn


def _reset(pg_reset: leasedb.Lease, pg_conn: Connection) -> Connection:
    del pg_reset  # named beside it, it is what pg_conn connects to
    return pg_conn


def _truncate(pg_truncate: leasedb.Lease, pg_conn: Connection) -> Connection:
    del pg_truncate
    return pg_conn


def _rollback(pg_rollback: Connection) -> Connection:
    return pg_rollback


def _pool(pg_pool: Any) -> Iterator[Connection]:
    with pg_pool.connection() as connection:
        yield connection


def _engine(pg_engine: Any) -> Iterator[Connection]:
    with pg_engine.connect() as connection:
        yield connection.connection.driver_connection


FIXTURES: dict[str, Callable[..., object]] = {
    "pg_conn": _fresh,
    "pg_reset": _reset,
    "pg_truncate": _truncate,
    "pg_rollback": _rollback,
    "pg_pool": _pool,
    "pg_engine": _engine,
}
db = pytest.fixture(FIXTURES[os.environ.get("SUITE_FIXTURE", "pg_conn")], name="db")


@pytest.fixture(scope="session")
def pg_template() -> str:
    return subject.SQL
