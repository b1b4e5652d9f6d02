"""Tests over HTTP, without a server and without a network."""

import pytest
from sqlalchemy.orm import Session

from app.models import Note

pytestmark = pytest.mark.anyio


@pytest.fixture
async def shopping(client):
    answer = await client.post("/notes", json={"title": "shopping", "body": "tea, nails"})
    assert answer.status_code == 201
    return answer.json()


async def test_there_is_nothing_at_first(client):
    assert (await client.get("/notes")).json() == []


async def test_a_note_is_kept(client, shopping):
    assert shopping["body"] == "tea, nails"
    assert (await client.get("/notes")).json() == [shopping]


async def test_a_title_is_taken_once(client, shopping):
    again = await client.post("/notes", json={"title": "shopping", "body": "more tea"})
    assert again.status_code == 409
    assert (await client.get("/notes")).json() == [shopping]


async def test_what_the_test_puts_there_is_seen_by_the_application(client, pg_engine):
    with Session(pg_engine) as session:
        session.add(Note(title="from below", body=""))
        session.commit()
    assert [note["title"] for note in (await client.get("/notes")).json()] == ["from below"]
