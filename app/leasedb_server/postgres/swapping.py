"""Resetting a leased database: a fresh one takes its name, and its own content goes away under the other name."""

from collections.abc import Collection, Mapping
from typing import Final

import psycopg
from psycopg import sql

from leasedb_server.domain.database import Database
from leasedb_server.postgres.cloning import verifier_of
from leasedb_server.postgres.connecting import Connection
from leasedb_server.postgres.fencing import emptied, end_sessions, nobody, refusal, shut
from leasedb_server.postgres.servers import Link

# Objects need no new owner: what is in a template belongs to the role that every owner of a database is a member of. A
# database's settings go with the database; a login may have made itself some for another one.
_STEPS: Final = (
    " ALTER DATABASE {name} RENAME TO {aside};"
    " ALTER DATABASE {spare} RENAME TO {name};"
    " ALTER DATABASE {aside} RENAME TO {spare};"
    " ALTER DATABASE {name} OWNER TO {login};"
    " ALTER DATABASE {spare} OWNER TO {spare_login};"
    " ALTER DATABASE {spare} ALLOW_CONNECTIONS false;"
    " ALTER ROLE {login} LOGIN CONNECTION LIMIT {connections} PASSWORD {verifier};"
    " ALTER ROLE {login} RESET ALL;"
    " ALTER ROLE {login} IN DATABASE {name} RESET ALL;"
)
_EXCHANGE: Final = sql.SQL(f"BEGIN;{_STEPS} COMMIT")  # all or nothing
# The same as soon as nobody is left, without a message for each look: those who were ended take a millisecond or two to
# go, and Postgres cannot sleep for less than one.
_SOON: Final = sql.SQL(
    "DO $do$ BEGIN FOR attempt IN 1..50 LOOP"  # noqa: S608 - constants
    " EXIT WHEN NOT (SELECT datallowconn FROM pg_database WHERE datname = {spare_name});"
    " PERFORM pg_stat_clear_snapshot();"
    " IF {nobody} THEN"
    f"{_STEPS} EXIT; END IF;"
    " END LOOP; END $do$; "
)
_ADMITTING: Final = sql.SQL(
    "SELECT array_agg(datname::text) FROM pg_database WHERE datallowconn AND datname IN ({}, {})"
)
_ATTEMPTS: Final = 3


async def reset(link: Link, database: Database, spare: Database) -> int:
    values = {
        "name": sql.Identifier(database.name),
        "login": sql.Identifier(database.login),
        "spare": sql.Identifier(spare.name),
        "spare_login": sql.Identifier(spare.login),
        "aside": sql.Identifier(f"{database.name}_"),  # seen by nobody
        "connections": sql.Literal(link.login.lease_connections),
        # it may have changed its password
        "verifier": sql.Literal(await verifier_of(database.password, guarded=link.endpoint.guarded)),
    }
    async with link.connection() as connection:
        ended, admitting = await _at_once(link, connection, database, spare, values)
        if database.name in admitting:
            return ended
        if spare.name not in admitting:
            await reopen(link, database)  # exchanged before: the one with the used content is the closed one
            return ended
        for attempt in range(1, _ATTEMPTS + 1):
            await emptied(link, connection, database)
            try:
                await connection.execute(_EXCHANGE.format(**values))
                break
            except (psycopg.errors.ObjectInUse, psycopg.errors.LockNotAvailable):
                # somebody who was on the way in, or who looks into the fresh one
                await connection.rollback()
                if attempt == _ATTEMPTS:
                    raise
                ended += await shut(link, connection, database)
    return ended


async def _at_once(
    link: Link, connection: Connection, database: Database, spare: Database, values: Mapping[str, sql.Composable]
) -> tuple[int, Collection[str]]:
    """Shut the database and exchange it, in one message; return how many sessions that ended, and what admits now.

    It is not exchanged when sessions take longer to go, when somebody is in the way, or when it was before.
    """
    names = sql.Literal(database.name), sql.Literal(spare.name)
    ending = end_sessions(database, superuser=link.login.superuser)
    soon = _SOON.format(spare_name=names[1], nobody=nobody(database), **values)
    admitting = _ADMITTING.format(*names)
    try:
        cursor = await connection.execute(refusal(database) + ending + sql.SQL("; ") + soon + admitting)
    except psycopg.Error as error:
        if error.sqlstate is None or connection.broken:
            raise
        await connection.rollback()
        if isinstance(error, psycopg.errors.InvalidCatalogName):  # there is no spare one
            await reopen(link, database)
            raise
        ended = await shut(link, connection, database)
        cursor = await connection.execute(admitting)
        return ended, (await cursor.fetchone() or ([],))[0] or []
    answers = []
    while True:
        if cursor.description:
            answers.append((cursor.rowcount, await cursor.fetchone() or (None,)))
        if not cursor.nextset():
            break
    *endings, (_, (admits,)) = answers
    return sum(count for count, _ in endings), admits or []


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
