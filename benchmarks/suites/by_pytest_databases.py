"""A pytest plugin: the fixture `db` with pytest-databases' server, and databases cloned by hand in it.

It offers one database per worker; a fresh one per test is up to whoever writes the tests.
"""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo

from benchmarks.suites.subject import Connection
from benchmarks.suites.ways import Maker, hands


@pytest.fixture(scope="session")
def pgvector_image() -> str:
    return os.environ["SUITE_IMAGE"]


@pytest.fixture(scope="session")
def fresh(pgvector_service: Any) -> Iterator[Maker]:
    service = pgvector_service
    dsn = make_conninfo(host=service.host, port=service.port, user=service.user, password=service.password)
    with hands(make_conninfo(dsn, dbname=service.database), template=True) as made:
        yield made


@pytest.fixture
def db(fresh: Maker) -> Iterator[Connection]:
    with fresh() as connection:
        yield connection
