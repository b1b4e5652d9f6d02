"""The same with AsyncClient: the same names, awaited."""

import asyncio

import psycopg

import leasedb


async def main() -> None:
    async with leasedb.AsyncClient() as client, client.lease(ttl=60) as lease:
        async with await psycopg.AsyncConnection.connect(lease.dsn) as connection:
            cursor = await connection.execute("select '[1,2,3]'::vector <-> '[3,2,1]'")
            row = await cursor.fetchone()
        print(lease.database, row)


asyncio.run(main())
