"""What the tests of a suite need of a database: the schema, and a body that fails where it is not fresh."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg

from benchmarks.suites import fifty, shop, tables

Connection = psycopg.Connection[Any]

TESTS = int(os.environ.get("SUITE_TESTS", "100"))
EMPTY = "SUITE_EMPTY" in os.environ  # no schema, and a question that needs none


@dataclass(frozen=True, slots=True)
class Subject:
    """A schema and its test.

    Args:
        sql: what makes the schema, with its rows.
        renew: what makes a used database as it was, for those who have one database only.
        test: does what a small test does.
    """

    sql: str
    renew: str
    test: Callable[[Connection], None]


_SUBJECT = {
    "shop": Subject(shop.SQL, shop.RENEW, shop.body),
    "fifty": Subject(fifty.SQL, fifty.RENEW, fifty.body),
    "tables": Subject(tables.SQL, tables.RENEW, tables.body),
}[os.environ.get("SUITE_SCHEMA", "shop")]
SQL, RENEW = _SUBJECT.sql, _SUBJECT.renew


def apply(connection: Connection) -> None:
    if not EMPTY:
        connection.execute(SQL)


def body(connection: Connection) -> None:
    if not EMPTY:
        _SUBJECT.test(connection)
        return
    assert connection.execute("SELECT to_regclass('customer')").fetchone() == (None,), "not a fresh database"
