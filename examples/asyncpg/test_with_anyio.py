"""With the pytest plugin that comes with anyio; asyncpg needs asyncio's loop."""

import anyio
import asyncpg
import pytest

from theatre import take_seat

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
async def pool(pg_lease):
    async with asyncpg.create_pool(pg_lease.urls["asyncpg"], min_size=1) as pool:
        yield pool


async def test_more_visitors_than_seats(pool):
    async def visit(visitor):
        seats.append(await take_seat(pool, visitor))

    seats = []
    async with anyio.create_task_group() as visitors:
        for n in range(12):
            visitors.start_soon(visit, f"visitor {n}")
    assert sorted(seat for seat in seats if seat) == list(range(1, 11))
    assert seats.count(None) == 2


async def test_types(pool):
    assert await pool.fetchrow("select number, visitor from seat order by number limit 1") == (1, None)
