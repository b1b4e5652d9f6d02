"""The schema of 50 tables, one of them of 20,000 rows with an HNSW index, and its test."""

from typing import Any

import psycopg

from benchmarks.schemas import DOCUMENTS, ENTRIES, FIFTY, FIFTY_ENTRIES, filled

SQL = FIFTY.sql
# What nobody would empty and fill again between tests is left as it is, but for the test's own row.
RENEW = (
    f"TRUNCATE {', '.join(FIFTY_ENTRIES)} RESTART IDENTITY; {filled(FIFTY_ENTRIES, ENTRIES)}"
    f" DELETE FROM document WHERE id > {DOCUMENTS}"
)


def body(connection: "psycopg.Connection[Any]") -> None:
    """Write to three tables, and ask for neighbours and for sums."""
    for table in (FIFTY_ENTRIES[0], FIFTY_ENTRIES[-1]):
        connection.execute(f"INSERT INTO {table} (owner, amount) VALUES (1, 7)")
    connection.execute("INSERT INTO document (owner, embedding) SELECT 1, embedding FROM document WHERE id = 1")
    near = "SELECT id FROM document ORDER BY embedding <-> (SELECT embedding FROM document WHERE id = 1) LIMIT 5"
    found = [row[0] for row in connection.execute(near)]
    assert len(found) == 5, f"neighbours are missing: {found}"
    counts = [f"(SELECT count(*) FROM {table})" for table in (FIFTY_ENTRIES[0], FIFTY_ENTRIES[-1])]
    counts.append(f"(SELECT count(*) FROM document WHERE id > {DOCUMENTS})")
    row = connection.execute(f"SELECT {', '.join(counts)}").fetchone()
    assert row == (ENTRIES + 1, ENTRIES + 1, 1), f"not a fresh database: {row}"
