"""One contract, two stores: what is true of one has to be true of the other."""

import pytest

from stores import MemoryStore, PostgresStore


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.postgres)])
def store(request):
    if request.param == "memory":
        return MemoryStore()
    # asked for by name only here, so that the tests of the other store need no database
    return PostgresStore(request.getfixturevalue("pg_conn"), dimensions=3)


@pytest.fixture
def shop(store):
    store.put("tea", [1, 2, 3])
    store.put("coffee", [1, 2, 5])
    store.put("nail", [9, 0, 1])
    return store


def test_an_empty_store_finds_nothing(store):
    assert store.nearest([1, 2, 3], 5) == []


def test_the_nearest_comes_first(shop):
    assert shop.nearest([1, 2, 3], 3) == ["tea", "coffee", "nail"]


def test_no_more_are_found_than_asked_for(shop):
    assert shop.nearest([8, 0, 1], 1) == ["nail"]


def test_of_equally_near_ones_the_name_decides(shop):
    assert shop.nearest([1, 2, 4], 2) == ["coffee", "tea"]


def test_putting_again_moves(shop):
    shop.put("tea", [9, 9, 9])
    assert shop.nearest([9, 9, 8], 1) == ["tea"]
    assert shop.nearest([1, 2, 3], 1) == ["coffee"]


def test_what_is_removed_is_not_found(shop):
    shop.remove("tea")
    shop.remove("tea")
    assert shop.nearest([1, 2, 3], 3) == ["coffee", "nail"]
