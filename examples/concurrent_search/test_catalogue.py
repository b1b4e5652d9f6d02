"""Fifty search at once, through ten connections, while one adds rows and then builds the index."""

import random
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from catalogue import SCHEMA, Catalogue

SEARCHERS = 50
ADDED = 2000

LANDMARKS = {f"landmark {n}": [float(n)] * 8 for n in range(SEARCHERS)}
CONNECTIONS = (
    "select count(*) from pg_stat_activity where datname = current_database() and backend_type = 'client backend'"
)


@pytest.fixture
def catalogue(pg_pool):
    with pg_pool.connection() as connection:
        connection.execute(SCHEMA)
    catalogue = Catalogue(pg_pool)
    catalogue.add(LANDMARKS.items())
    return catalogue


def grow(catalogue, indexed):
    """Add far-away products in batches, then build the index."""
    chance = random.Random(7)  # the same products in every run
    try:
        for batch in range(0, ADDED, 100):
            catalogue.add((f"product {batch + n}", [chance.uniform(100, 200) for _ in range(8)]) for n in range(100))
        catalogue.index()
    finally:
        indexed.set()


def search(catalogue, name, indexed):
    """Look for one landmark until the index is there, and once more with it; return all that was found."""
    found = []
    done = False
    while not done:
        done = indexed.is_set()
        found.append(catalogue.nearest(LANDMARKS[name]))
    return found


def test_searching_while_the_index_is_built(catalogue, pg_pool):
    indexed = Event()
    with ThreadPoolExecutor(SEARCHERS + 1) as threads:
        growing = threads.submit(grow, catalogue, indexed)
        searching = {name: threads.submit(search, catalogue, name, indexed) for name in LANDMARKS}
        growing.result()
        assert {name: set(answers.result()) for name, answers in searching.items()} == {n: {n} for n in LANDMARKS}

    with pg_pool.connection() as connection:
        assert one(connection, "select count(*) from product") == len(LANDMARKS) + ADDED
        assert one(connection, "select indisvalid from pg_index where indrelid = 'product'::regclass")
        assert one(connection, CONNECTIONS) <= 10


def one(connection, query):
    (value,) = connection.execute(query).fetchone()
    return value


def test_searching_an_empty_catalogue(pg_pool):
    with pg_pool.connection() as connection:
        connection.execute(SCHEMA)
    assert Catalogue(pg_pool).nearest([0] * 8) is None
