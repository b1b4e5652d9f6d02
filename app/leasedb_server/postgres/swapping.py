"""Resetting a leased database: a fresh one takes its name, and its own content goes away under the other name."""

from typing import Final

import psycopg
from psycopg import sql

from leasedb_server.domain.database import Database
from leasedb_server.domain.errors import ServerRefusedError
from leasedb_server.postgres.cloning import verifier_of
from leasedb_server.postgres.connecting import Connection
from leasedb_server.postgres.fencing import emptied, end_sessions, left, refusal, shut
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
        ended, done, empty = await _shut(link, connection, database, spare)
        if done:
            await reopen(link, database)
            return 0
        for attempt in range(1, _ATTEMPTS + 1):
            if not empty:
                await emptied(link, connection, database)
            try:
                await connection.execute(exchange)
            except (psycopg.errors.ObjectInUse, psycopg.errors.LockNotAvailable):
                # somebody who was on the way in, or who looks into the fresh one
                await connection.rollback()
                if attempt == _ATTEMPTS:
                    raise
                ended += await shut(link, connection, database)
                empty = False
            else:
                break
    return ended


async def _shut(link: Link, connection: Connection, database: Database, spare: Database) -> tuple[int, bool, bool]:
    """Shut the database, all in one message; return how many sessions that ended, and two answers.

    Whether the exchange is done already, by an earlier attempt: the one with the used content is closed then, whatever
    name it has. And whether nobody is left in the database, so that it need not be looked at again.
    """
    admits = sql.SQL("SELECT datallowconn FROM pg_database WHERE datname = {}; ").format(sql.Literal(spare.name))
    ending = end_sessions(database, superuser=link.login.superuser)
    try:
        cursor = await connection.execute(admits + refusal(database) + ending + sql.SQL("; ") + left(database))
    except (psycopg.errors.LockNotAvailable, psycopg.errors.InternalError_):
        await connection.rollback()
        done = not await _admits(connection, spare)
        return await shut(link, connection, database), done, False
    answers = []
    while True:
        if cursor.description:
            answers.append((cursor.rowcount, await cursor.fetchone() or ()))
        if not cursor.nextset():
            break
    (_, admitted), *endings, (_, (sessions, prepared)) = answers
    if not admitted:
        await reopen(link, database)
        raise _missing(spare)
    return sum(count for count, _ in endings), not admitted[0], not (sessions or prepared)


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
        raise _missing(database)
    return bool(row[0])


def _missing(database: Database) -> ServerRefusedError:
    return ServerRefusedError(f"There is no database {database.name}.", sqlstate="3D000")
