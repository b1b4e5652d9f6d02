"""Each test has a database of its own; nothing to set up, nothing to clean."""

import pytest


@pytest.fixture
def products(pg_conn):
    pg_conn.execute("create table product (name text, embedding vector(3))")
    pg_conn.execute("insert into product values ('tea', '[1,2,3]'), ('nail', '[9,0,1]')")
    return pg_conn


def test_the_nearest_product(products):
    assert products.execute("select name from product order by embedding <-> '[1,2,2]' limit 1").fetchone() == ("tea",)


def test_that_no_other_test_has_been_here(pg_conn):
    assert pg_conn.execute("select to_regclass('product')").fetchone() == (None,)
