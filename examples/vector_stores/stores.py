"""The code under test: two stores of vectors that are to behave alike."""

from collections.abc import Sequence
from math import dist
from typing import Protocol

import psycopg

Vector = Sequence[float]


class Store(Protocol):
    def put(self, key: str, vector: Vector) -> None: ...
    def remove(self, key: str) -> None: ...
    def nearest(self, vector: Vector, count: int) -> list[str]: ...


class MemoryStore:
    """In this process: for small collections, and for tests of what uses a store."""

    def __init__(self) -> None:
        self._vectors: dict[str, Vector] = {}

    def put(self, key: str, vector: Vector) -> None:
        self._vectors[key] = vector

    def remove(self, key: str) -> None:
        self._vectors.pop(key, None)

    def nearest(self, vector: Vector, count: int) -> list[str]:
        return sorted(self._vectors, key=lambda key: (dist(vector, self._vectors[key]), key))[:count]


class PostgresStore:
    """In a table with pgvector."""

    def __init__(self, connection: psycopg.Connection, dimensions: int) -> None:
        self._connection = connection
        connection.execute(f"create table if not exists item (key text primary key, vector vector({dimensions}))")

    def put(self, key: str, vector: Vector) -> None:
        self._connection.execute(
            "insert into item values (%s, %s) on conflict (key) do update set vector = excluded.vector",
            [key, str(list(vector))],
        )

    def remove(self, key: str) -> None:
        self._connection.execute("delete from item where key = %s", [key])

    def nearest(self, vector: Vector, count: int) -> list[str]:
        found = self._connection.execute(
            "select key from item order by vector <-> %s, key limit %s", [str(list(vector)), count]
        )
        return [key for (key,) in found]
