"""A pytest plugin: the fixture `db` with leasedb's own fixture `pg_conn`, the schema applied in each test."""

import pytest

from benchmarks.suites import subject


@pytest.fixture
def db(pg_conn: subject.Connection) -> subject.Connection:
    subject.apply(pg_conn)
    return pg_conn
