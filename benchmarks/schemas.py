"""Schemas for templates, as SQL text: what a database holds when its lease begins.

Each has the table `account` of ten rows, and all others hang from it by foreign keys.
"""

from dataclasses import dataclass

DOCUMENTS = 20_000
DIMENSIONS = 64
ENTRIES = 20  # rows of each small table of FIFTY
_ACCOUNT = """
CREATE TABLE account (id int PRIMARY KEY GENERATED ALWAYS AS IDENTITY, name text NOT NULL);
INSERT INTO account (name) SELECT 'account ' || n FROM generate_series(1, 10) n;
"""
_DOCUMENT = f"""
CREATE EXTENSION IF NOT EXISTS vector;
CREATE TABLE document (id int PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    owner int NOT NULL REFERENCES account, embedding vector({DIMENSIONS}) NOT NULL);
SELECT setseed(0.5);
INSERT INTO document (owner, embedding) SELECT n % 10 + 1,
    (SELECT array_agg(random()) FROM generate_series(1, {DIMENSIONS}) WHERE n > 0)::vector
    FROM generate_series(1, {DOCUMENTS}) n;
CREATE INDEX ON document USING hnsw (embedding vector_l2_ops);
"""
_ENTRY = """
CREATE TABLE {name} (id int PRIMARY KEY GENERATED ALWAYS AS IDENTITY, owner int NOT NULL REFERENCES {parent},
    amount numeric NOT NULL, made timestamptz NOT NULL DEFAULT now());
CREATE INDEX ON {name} (owner);
"""
_FILLER = """
CREATE TABLE filler (text text);
ALTER TABLE filler ALTER text SET STORAGE PLAIN;
INSERT INTO filler SELECT repeat('x', 8100) FROM generate_series(1, {pages});
"""
_PAGES = 128  # per megabyte


@dataclass(frozen=True, slots=True)
class Schema:
    """A schema by the name that rows have; ``key`` is that of its template."""

    name: str
    key: str
    sql: str


def entries(count: int) -> list[str]:
    """Return the names of so many small tables."""
    return [f"entry_{number}" for number in range(count)]


def filled(tables: list[str], rows: int) -> str:
    """Return what puts rows into small tables that are empty."""
    return "".join(
        f"INSERT INTO {name} (owner, amount) SELECT n % 10 + 1, n * 1.5 FROM generate_series(1, {rows}) n;\n"
        for name in tables
    )


def _chain(count: int, rows: int) -> str:
    """Return small tables that refer to each other in a row, the first to `account`."""
    names = entries(count)
    parents = ["account", *names]
    tables = [_ENTRY.format(name=name, parent=parent) for name, parent in zip(names, parents, strict=False)]
    return "".join(tables) + filled(names, rows)


FIFTY_ENTRIES = entries(48)
ONE = Schema("1 table", "one", _ACCOUNT)
FIFTY = Schema("50 tables", "fifty", _ACCOUNT + _DOCUMENT + _chain(48, ENTRIES))
MANY = Schema("500 tables", "many", _ACCOUNT + _chain(499, 10))
GIGABYTE = Schema("1 GB", "gigabyte", _ACCOUNT + _FILLER.format(pages=1016 * _PAGES))
