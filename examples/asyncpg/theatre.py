"""The code under test: the seats of a theatre, taken by as many visitors at once as there are."""

import asyncpg

TAKE = """
    update seat set visitor = $1
    where number = (select number from seat where visitor is null order by number for update skip locked limit 1)
    returning number
"""


async def take_seat(pool: asyncpg.Pool, visitor: str) -> int | None:
    """Give a visitor a seat that nobody has, and return its number; None when the house is full."""
    return await pool.fetchval(TAKE, visitor)
