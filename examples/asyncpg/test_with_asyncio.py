"""With pytest-asyncio."""

import asyncio

import asyncpg
import pytest
import pytest_asyncio

from theatre import take_seat

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def pool(pg_lease):
    async with asyncpg.create_pool(pg_lease.urls["asyncpg"], min_size=1) as pool:
        yield pool


async def test_no_seat_is_given_twice(pool):
    seats = await asyncio.gather(*(take_seat(pool, f"visitor {n}") for n in range(10)))
    assert sorted(seats) == list(range(1, 11))


async def test_a_full_house(pool):
    await pool.execute("update seat set visitor = 'the mayor'")
    assert await take_seat(pool, "ann") is None


async def test_that_the_house_is_empty_again(pool):
    assert await take_seat(pool, "ann") == 1
