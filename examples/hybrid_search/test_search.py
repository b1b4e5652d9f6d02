"""The top five of the fused ranking have to be those of an exact one, and each half has to do its part."""

from pathlib import Path

import pytest

from search import SCHEMA, add, embed, hybrid

NOTES = Path(__file__).with_name("notes.txt").read_text().splitlines()


@pytest.fixture(scope="session")
def pg_template():
    return SCHEMA


@pytest.fixture
def notes(pg_conn):
    add(pg_conn, NOTES)
    return pg_conn


def ranking(connection, condition, order, query):
    """Return the best notes by one measure, found without an index."""
    connection.execute("set local enable_indexscan = off; set local enable_bitmapscan = off")
    found = connection.execute(f"select body from note where {condition} order by {order}, id limit 20", query)
    return [body for (body,) in found]


def exact(connection, query):
    """Return the five notes that `hybrid` is to find: both rankings, fused in Python."""
    words = {"words": " | ".join(query.split())}
    matching = "words @@ to_tsquery('english', %(words)s)"
    rankings = [
        ranking(connection, matching, "ts_rank_cd(words, to_tsquery('english', %(words)s)) desc", words),
        ranking(connection, "true", "embedding <=> %(vector)s", {"vector": embed(query)}),
    ]
    scores = {note: sum(1 / (61 + found.index(note)) for found in rankings if note in found) for note in NOTES}
    return sorted(NOTES, key=lambda note: -scores[note])[:5]


@pytest.mark.parametrize("query", ["slow index build", "vacuum old rows", "connection limit reached", "restore backup"])
def test_the_top_five_are_nearly_the_exact_ones(notes, query):
    overlap = set(hybrid(notes, query)) & set(exact(notes, query))
    assert len(overlap) >= 4  # HNSW is approximate: it may miss one


def test_the_words_put_right_what_the_vector_mistakes(notes):
    assert hybrid(notes, "lagging replicas")[0] == "A replica that lags answers from the past."


def test_the_vector_finds_what_is_misspelt(notes):
    assert hybrid(notes, "checkpiont")[0] == "A checkpoint writes every dirty page to disk."


def test_an_empty_table(pg_conn):
    assert hybrid(pg_conn, "anything") == []
