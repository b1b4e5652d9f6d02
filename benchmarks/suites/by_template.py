"""A pytest plugin: the fixture `db` with leasedb's own fixture `pg_conn`, cloned from a template with the schema."""

import pytest

import leasedb
from benchmarks.suites import subject


@pytest.fixture(scope="session")
def pg_template(leasedb_client: leasedb.Client) -> leasedb.Template:
    return leasedb_client.template("suite", subject.SQL)


@pytest.fixture
def db(pg_conn: subject.Connection) -> subject.Connection:
    return pg_conn
