"""A pytest plugin: the fixture `db` in the way of ways.py that SUITE_WAY names."""

import os
from collections.abc import Iterator

import pytest

from benchmarks.suites.subject import Connection
from benchmarks.suites.ways import WAYS, Maker


@pytest.fixture(scope="session")
def fresh() -> Iterator[Maker]:
    with WAYS[os.environ["SUITE_WAY"]]() as made:
        yield made


@pytest.fixture
def db(fresh: Maker) -> Iterator[Connection]:
    with fresh() as connection:
        yield connection
