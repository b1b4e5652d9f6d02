"""Keeping a database's login out, and ending the sessions that are there."""

import asyncio
from typing import Final, LiteralString

import psycopg
from psycopg import sql

from leasedb_server.domain.database import Database
from leasedb_server.domain.errors import ServerRefusedError
from leasedb_server.domain.sessions import SessionInfo
from leasedb_server.postgres.connecting import ANSWER_LIMIT, Connection
from leasedb_server.postgres.servers import Link

_ATTEMPTS: Final = 3
_GLANCE: Final = 0.0005  # seconds between two looks at sessions that end
_GRACE: Final = 0.5  # seconds for a session that was just closed to go
_SHOWN: Final = 200  # characters of a query

# A session on its way in locks its database before it looks whether that may be connected to, and keeps the lock until
# it shows in pg_stat_activity (InitPostgres in src/backend/utils/init/postinit.c).
_ARRIVING: Final[LiteralString] = (
    "SELECT l.pid FROM pg_locks l WHERE l.locktype = 'object' AND l.database = 0"
    " AND l.classid = 'pg_database'::regclass AND l.objid = (SELECT oid FROM pg_database WHERE datname = {database})"
    " AND l.pid <> pg_backend_pid() AND l.pid NOT IN (SELECT pg_stat_get_backend_pid(id)"
    " FROM pg_stat_get_backend_idset() AS id WHERE pg_stat_get_backend_dbid(id) = l.objid)"
)
# The functions beneath pg_stat_activity: planning that view anew costs most of a millisecond whenever a database or a
# login has changed. Workers of autovacuum, which have no login, make way by themselves.
_PRESENT: Final[LiteralString] = (
    "FROM pg_stat_get_backend_idset() AS id"
    " WHERE (pg_stat_get_backend_dbid(id) = (SELECT oid FROM pg_database WHERE datname = {database})"
    " OR pg_stat_get_backend_userid(id) = (SELECT oid FROM pg_roles WHERE rolname = {login}))"
    " AND pg_stat_get_backend_userid(id) <> 0"
)
_END: Final[LiteralString] = (
    f"SELECT pg_terminate_backend(pg_stat_get_backend_pid(id)) {_PRESENT}"
    " AND pg_has_role(pg_stat_get_backend_userid(id), 'USAGE')"
)
_AS_SUPERUSER: Final[LiteralString] = f"SELECT pg_terminate_backend(pid) FROM ({_ARRIVING}) a; {_END}"  # noqa: S608 - constants
# Not everybody who has a lock may be ended by one who is no superuser.
_AS_LENDER: Final[LiteralString] = (
    f"DO $$ DECLARE one int; BEGIN FOR one IN {_ARRIVING} LOOP BEGIN PERFORM pg_terminate_backend(one);"
    f" EXCEPTION WHEN insufficient_privilege THEN NULL; END; END LOOP; END $$; {_END}"
)
_LEFT: Final[LiteralString] = (
    f"SELECT (SELECT count(*) {_PRESENT}),"  # noqa: S608 - constants
    " (SELECT count(*) FROM pg_prepared_xacts WHERE database = {database})"
)
# The same without the view, which has to be planned each time.
_NOBODY: Final[LiteralString] = (
    f"NOT EXISTS (SELECT {_PRESENT}) AND NOT EXISTS (SELECT FROM pg_prepared_xact() AS x"  # noqa: S608 - constants
    " WHERE x.dbid = (SELECT oid FROM pg_database WHERE datname = {database}))"
)
_WHO: Final[LiteralString] = (
    "SELECT pid, application_name, coalesce(state, backend_type),"  # noqa: S608 - constants
    " extract(epoch FROM state_change)::float8,"
    " left(query, {shown}) FROM pg_stat_activity"
    " WHERE (datname = {database} OR usename = {login}) AND backend_type <> 'autovacuum worker'"
    " UNION ALL SELECT 0, '', 'prepared transaction', extract(epoch FROM prepared)::float8,"
    " left('PREPARE TRANSACTION ' || quote_literal(gid), {shown}) FROM pg_prepared_xacts WHERE database = {database}"
    f" UNION ALL SELECT pid, '', 'connecting', NULL, '' FROM ({_ARRIVING}) a"
)


async def fence(link: Link, database: Database) -> int:
    """Refuse the login and end the database's sessions; return how many were ended."""
    async with link.connection() as connection:
        return await shut(link, connection, database)


async def shut(link: Link, connection: Connection, database: Database) -> int:
    """Refuse the login and end the database's sessions, which may take a moment to go; return how many there were."""
    ending = end_sessions(database, superuser=link.login.superuser)
    # All in one message. Sessions are looked for once the refusal is committed, so that none can slip in between:
    # who is past it by then holds a lock on the database until its session shows.
    refuse = refusal(database) + ending
    ended = 0
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return ended + await ended_by(connection, refuse)
        except (psycopg.errors.LockNotAvailable, psycopg.errors.InternalError_):
            # The login has changed itself in a transaction that is still open, or prepared, or does so all the time.
            await connection.rollback()
            if attempt == _ATTEMPTS:
                raise
            ended += await ended_by(connection, ending)
            await roll_back_prepared(link, connection, database.name)
    return ended


def refusal(database: Database) -> sql.Composed:
    """Return the statements after which nobody gets in any more."""
    return sql.SQL("BEGIN; ALTER ROLE {} NOLOGIN; ALTER DATABASE {} ALLOW_CONNECTIONS false; COMMIT; ").format(
        sql.Identifier(database.login), sql.Identifier(database.name)
    )


def end_sessions(database: Database, *, superuser: bool) -> sql.Composed:
    """Return the statements that end the database's sessions, those included that are on their way in.

    To be run once the refusal is committed: then none can slip in between.
    """
    return _of(database, _AS_SUPERUSER if superuser else _AS_LENDER)


def nobody(database: Database) -> sql.Composed:
    """Return the condition that no session is there, and nothing is prepared."""
    return _of(database, _NOBODY)


def left(database: Database) -> sql.Composed:
    """Return the query that counts the sessions that are still there, and what is prepared."""
    return _of(database, _LEFT)


async def ended_by(connection: Connection, statements: sql.Composed) -> int:
    """Run statements, of which the queries end sessions; return how many they ended."""
    cursor = await connection.execute(statements)
    ended = 0
    while True:
        ended += cursor.rowcount if cursor.description else 0
        if not cursor.nextset():
            return ended


async def who_stays(connection: Connection, database: Database) -> tuple[SessionInfo, ...]:
    """Return who is there, or on the way in, and is not just leaving.

    Prepared transactions count as sessions, with the process number 0.
    """
    clock = asyncio.get_running_loop().time
    end = clock() + _GRACE
    while True:
        cursor = await connection.execute(_of(database, _WHO))
        sessions = tuple(SessionInfo(*row) for row in await cursor.fetchall())
        if not sessions or clock() > end:
            return sessions
        await asyncio.sleep(_GLANCE)


async def emptied(link: Link, connection: Connection, database: Database) -> None:
    """Wait until the sessions that were ended are gone, and roll back what is prepared.

    Postgres itself would look again only every tenth of a second (CountOtherDBBackends in procarray.c).

    Raises:
        ServerRefusedError: when a session does not end.
    """
    clock = asyncio.get_running_loop().time
    end = clock() + ANSWER_LIMIT
    look = left(database)
    while True:
        sessions, prepared = await (await connection.execute(look)).fetchone() or (0, 0)
        if not sessions and not prepared:
            return
        if clock() > end:
            raise ServerRefusedError(
                f"{sessions} sessions on {database.name} did not end within {ANSWER_LIMIT:g} s.", sqlstate="55006"
            )
        if sessions:
            await asyncio.sleep(_GLANCE)
        else:
            await roll_back_prepared(link, connection, database.name)


async def roll_back_prepared(link: Link, connection: Connection, name: str) -> None:
    """Roll back the database's prepared transactions: no DROP gets past them, and they may hold locks.

    That has to be done from inside the database. What its owner set there must not reach our session, least of all
    a superuser's: settings are reset first, and inside nothing is looked up.
    """
    cursor = await connection.execute("SELECT gid, owner FROM pg_prepared_xacts WHERE database = %s", [name])
    prepared = await cursor.fetchall()
    if not prepared:
        return
    await connection.execute(
        sql.SQL("ALTER DATABASE {0} RESET ALL; ALTER DATABASE {0} ALLOW_CONNECTIONS true CONNECTION LIMIT -1").format(
            sql.Identifier(name)
        )
    )
    async with link.inside(name) as inside:
        for gid, owner in prepared:
            if not link.login.superuser:  # a superuser may end anybody's
                await inside.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(owner)))
            await inside.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)))


def _of(database: Database, statement: LiteralString) -> sql.Composed:
    return sql.SQL(statement).format(
        database=sql.Literal(database.name), login=sql.Literal(database.login), shown=sql.Literal(_SHOWN)
    )
