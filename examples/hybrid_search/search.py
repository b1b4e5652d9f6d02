"""The code under test: notes found by their words and by their vectors, the two rankings fused into one."""

from collections.abc import Iterable
from pathlib import Path
from zlib import crc32

import psycopg

SCHEMA = Path(__file__).with_name("schema.sql")
DIMENSIONS = 256

# Reciprocal rank fusion (Cormack, Clarke and Büttcher, 2009): a note scores 1 / (60 + rank) in each ranking it is in.
HYBRID = """
    with by_words as (
        select id, row_number() over (order by ts_rank_cd(words, query) desc, id) as rank
        from note, to_tsquery('english', %(words)s) query
        where words @@ query
        order by rank limit 20
    ), by_vector as (
        select id, row_number() over (order by distance, id) as rank
        from (select id, embedding <=> %(vector)s as distance from note order by distance limit 20) nearest
    )
    select body
    from (select * from by_words union all select * from by_vector) ranked join note using (id)
    group by id, body
    order by sum(1.0 / (60 + rank)) desc, id
    limit %(count)s
"""


def embed(text: str) -> str:
    """Return a vector in which texts with many trigrams in common lie near; a model would take its place."""
    vector = [0] * DIMENSIONS
    for word in text.lower().split():
        padded = f"  {word.strip('.,')} "
        for start in range(len(padded) - 2):
            vector[crc32(padded[start : start + 3].encode()) % DIMENSIONS] += 1
    return str(vector)


def add(connection: psycopg.Connection, bodies: Iterable[str]) -> None:
    rows = [(body, embed(body)) for body in bodies]
    connection.cursor().executemany("insert into note (body, embedding) values (%s, %s)", rows)


def hybrid(connection: psycopg.Connection, query: str, count: int = 5) -> list[str]:
    """Return the notes that fit a query best, the best first."""
    values = {"words": " | ".join(query.split()), "vector": embed(query), "count": count}
    return [body for (body,) in connection.execute(HYBRID, values)]
