"""Resetting a leased database: a fresh one takes its name, and its own content goes away under the other name."""

from typing import Final

import psycopg
from psycopg import sql

from leasedb_server.domain.database import Database
from leasedb_server.domain.errors import ServerRefusedError
from leasedb_server.postgres.cloning import verifier_of
from leasedb_server.postgres.connecting import Connection
from leasedb_server.postgres.fencing import emptied, shut
from leasedb_server.postgres.servers import Link

# All or nothing. Objects need no new owner: what is in a template belongs to the role that every owner of a database is
# a member of. A database's settings go with the database; a login may have made itself some for another one.
_EXCHANGE: Final = sql.SQL(
    "BEGIN;"
    " ALTER DATABASE {name} RENAME TO {aside};"
    " ALTER DATABASE {spare} RENAME TO {name};"
    " ALTER DATABASE {aside} RENAME TO {spare};"
    " ALTER DATABASE {name} OWNER TO {login};"
    " ALTER DATABASE {spare} OWNER TO {spare_login};"
    " ALTER DATABASE {spare} ALLOW_CONNECTIONS false;"
    " ALTER ROLE {login} LOGIN CONNECTION LIMIT {connections} PASSWORD {verifier};"
    " ALTER ROLE {login} RESET ALL;"
    " ALTER ROLE {login} IN DATABASE {name} RESET ALL;"
    " COMMIT"
)
_ATTEMPTS: Final = 3


async def reset(link: Link, database: Database, spare: Database) -> int:
    exchange = _EXCHANGE.format(
        name=sql.Identifier(database.name),
        login=sql.Identifier(database.login),
        spare=sql.Identifier(spare.name),
        spare_login=sql.Identifier(spare.login),
        aside=sql.Identifier(f"{database.name}_"),  # seen by nobody
        connections=sql.Literal(link.login.lease_connections),
        # it may have changed its password
        verifier=sql.Literal(await verifier_of(database.password, guarded=link.endpoint.guarded)),
    )
    async with link.connection() as connection:
        if not await _admits(connection, spare):
            return 0  # exchanged already: the one with the used content is closed, whatever name it has
        ended = await shut(link, connection, database)
        for attempt in range(1, _ATTEMPTS + 1):
            await emptied(link, connection, database)
            try:
                await connection.execute(exchange)
            except (psycopg.errors.ObjectInUse, psycopg.errors.LockNotAvailable):
                # somebody who was on the way in, or who looks into the fresh one
                await connection.rollback()
                if attempt == _ATTEMPTS:
                    raise
                ended += await shut(link, connection, database)
            else:
                break
    return ended


async def reopen(link: Link, database: Database) -> None:
    statements = sql.SQL(
        "BEGIN; ALTER DATABASE {0} OWNER TO {1};"  # a template may have been about to be made of it
        " ALTER DATABASE {0} ALLOW_CONNECTIONS true; ALTER ROLE {1} LOGIN; COMMIT"
    ).format(sql.Identifier(database.name), sql.Identifier(database.login))
    async with link.connection() as connection:
        try:
            await connection.execute(statements)
        except psycopg.Error:
            await connection.rollback()
            raise


async def _admits(connection: Connection, database: Database) -> bool:
    cursor = await connection.execute("SELECT datallowconn FROM pg_database WHERE datname = %s", [database.name])
    row = await cursor.fetchone()
    if row is None:
        raise ServerRefusedError(f"There is no database {database.name}.", sqlstate="3D000")
    return bool(row[0])
