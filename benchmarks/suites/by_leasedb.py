"""A pytest plugin: the fixture `db` with leasedb's own fixture `pg_conn`."""

import pytest

from benchmarks.suites import shop


@pytest.fixture
def db(pg_conn: shop.Connection) -> shop.Connection:
    shop.apply(pg_conn)
    return pg_conn
