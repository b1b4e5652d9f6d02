"""Each test starts from a database that has the shop's tables and rows; they were put there once, not for each test."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def pg_template(leasedb_client):
    return leasedb_client.template("shop", Path(__file__).parent / "shop")


def test_selling_out(pg_conn):
    pg_conn.execute("delete from product")
    assert pg_conn.execute("select count(*) from product").fetchone() == (0,)


def test_that_no_other_test_has_been_here(pg_conn):
    assert pg_conn.execute("select count(*) from product").fetchone() == (3,)
