"""Ending the sessions of a database whose login is refused from now on."""

from typing import Final, LiteralString

from psycopg import sql

from leasedb_server.domain.database import Database
from leasedb_server.postgres.connecting import Connection

# A session on its way in locks its database before it looks whether that may be connected to, and keeps the lock until
# it shows in pg_stat_activity (InitPostgres in src/backend/utils/init/postinit.c).
_ARRIVING: Final[LiteralString] = (
    "SELECT l.pid FROM pg_locks l JOIN pg_database d ON l.objid = d.oid WHERE l.locktype = 'object' AND l.database = 0"
    " AND l.classid = 'pg_database'::regclass AND d.datname = {database} AND l.pid <> pg_backend_pid()"
)
_PRESENT: Final[LiteralString] = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE (datname = {database} OR usename = {login}) AND pg_has_role(usesysid, 'USAGE')"
)
_AS_SUPERUSER: Final[LiteralString] = f"SELECT pg_terminate_backend(pid) FROM ({_ARRIVING}) a; {_PRESENT}"  # noqa: S608 - constants
# Not everybody who has a lock may be ended by one who is no superuser.
_AS_LENDER: Final[LiteralString] = (
    f"DO $$ DECLARE one int; BEGIN FOR one IN {_ARRIVING} LOOP BEGIN PERFORM pg_terminate_backend(one);"
    f" EXCEPTION WHEN insufficient_privilege THEN NULL; END; END LOOP; END $$; {_PRESENT}"
)


def end_sessions(database: Database, *, superuser: bool) -> sql.Composed:
    """Return the statements that end the database's sessions, those included that are on their way in.

    To be run once the refusal is committed: then none can slip in between.
    """
    return sql.SQL(_AS_SUPERUSER if superuser else _AS_LENDER).format(
        database=sql.Literal(database.name), login=sql.Literal(database.login)
    )


async def ended_by(connection: Connection, statements: sql.Composed) -> int:
    """Run statements, of which the queries end sessions; return how many they ended."""
    cursor = await connection.execute(statements)
    ended = 0
    while True:
        ended += cursor.rowcount if cursor.description else 0
        if not cursor.nextset():
            return ended
