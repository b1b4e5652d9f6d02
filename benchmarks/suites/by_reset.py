"""A pytest plugin: the fixture `db` with one lease for the session, reset after each test."""

from collections.abc import Iterator

import psycopg
import pytest

import leasedb
from benchmarks.suites import subject


@pytest.fixture(scope="session")
def pg_template(leasedb_client: leasedb.Client) -> leasedb.Template:
    return leasedb_client.template("suite-reset", subject.SQL)


@pytest.fixture
def db(pg_session_lease: leasedb.Lease) -> Iterator[subject.Connection]:
    with psycopg.connect(pg_session_lease.dsn) as connection:
        yield connection
    pg_session_lease.reset()
