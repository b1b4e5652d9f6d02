"""A pytest plugin: the fixture `db` with pytest-postgresql, as its documentation has it.

The schema is loaded once, into the template that it makes its databases from.
"""

import os
from typing import Any

import psycopg
import pytest
from pytest_postgresql import factories

from benchmarks.suites import subject


def _load(**login: Any) -> None:
    login.pop("autocommit", None)
    with psycopg.connect(**login) as connection:
        subject.apply(connection)


server = factories.postgresql_proc(
    executable=os.environ["SUITE_PG_CTL"], port=None, unixsocketdir=os.environ["SUITE_SOCKETS"], load=[_load]
)
database = factories.postgresql("server")


@pytest.fixture
def db(database: subject.Connection) -> subject.Connection:
    return database
