"""The code under test: a catalogue that is searched while it grows and while its index is built."""

from collections.abc import Iterable, Sequence

from psycopg_pool import ConnectionPool

Vector = Sequence[float]

SCHEMA = "create table product (id bigint generated always as identity, name text not null, embedding vector(8))"
NEAREST = "select name from product order by embedding <-> %s limit 1"


class Catalogue:
    """Products in a database, reached through a pool of connections."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    def add(self, products: Iterable[tuple[str, Vector]]) -> None:
        rows = [(name, str(list(vector))) for name, vector in products]
        with self._pool.connection() as connection:
            connection.cursor().executemany("insert into product (name, embedding) values (%s, %s)", rows)

    def index(self) -> None:
        """Build the index without being in the way of those who search and add."""
        with self._pool.connection() as connection:
            connection.autocommit = True  # as "concurrently" demands
            try:
                connection.execute("create index concurrently on product using hnsw (embedding vector_l2_ops)")
            finally:
                connection.autocommit = False  # who has this connection next expects transactions

    def nearest(self, vector: Vector) -> str | None:
        with self._pool.connection() as connection:
            connection.execute("set local hnsw.ef_search = 200")
            row = connection.execute(NEAREST, [str(list(vector))]).fetchone()
        return row[0] if row else None
