"""Taking databases and logins away."""

import psycopg
from psycopg import sql

from leasedb_server.postgres.connecting import Connection, column
from leasedb_server.postgres.fencing import roll_back_prepared
from leasedb_server.postgres.servers import Link


async def drop(link: Link, name: str, login: str | None) -> None:
    database = sql.Identifier(name)
    statement = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(database)
    async with link.connection() as connection:
        try:
            await connection.execute(statement)
        except psycopg.errors.ObjectInUse:
            await roll_back_prepared(link, connection, name)
            await connection.execute(statement)
        except psycopg.errors.WrongObjectType:  # a template, which has to be unsealed
            await connection.execute(sql.SQL("ALTER DATABASE {} IS_TEMPLATE false").format(database))
            await connection.execute(statement)
        if login:
            await drop_login(link, connection, login)


async def drop_login(link: Link, connection: Connection, login: str) -> None:
    statement = sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(login))
    try:
        await connection.execute(statement)
    except psycopg.errors.DependentObjectsStillExist:
        await _drop_owned(link, connection, login)
        await connection.execute(statement)


async def _drop_owned(link: Link, connection: Connection, login: str) -> None:
    """Drop what a login made in databases that are not its own, where the server lets it in, and its grants."""
    places = await column(
        connection,
        "SELECT DISTINCT d.datname FROM pg_shdepend s JOIN pg_database d ON d.oid = s.dbid"
        " JOIN pg_roles r ON r.oid = s.refobjid WHERE r.rolname = %s AND d.datallowconn",
        login,
    )
    statement = sql.SQL("DROP OWNED BY {}").format(sql.Identifier(login))
    await connection.execute(statement)
    for place in places:
        async with link.inside(place) as inside:
            await inside.execute(statement)
