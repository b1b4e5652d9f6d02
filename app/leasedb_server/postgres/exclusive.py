"""A server of ours that is leased as a whole, with a superuser's login: opened up, and reset after anything.

Whoever holds it can change whatever there is on a server. A reset undoes all that it can be asked about, over SQL, step
by step; each step looks at what is there, so that the whole may be repeated after an interruption at any point.
"""

import asyncio
import contextlib
from dataclasses import replace
from typing import Final, LiteralString

import psycopg
from psycopg import sql

from leasedb_server.domain.cloning import Strategy
from leasedb_server.domain.database import Database
from leasedb_server.domain.errors import ServerRefusedError, ServerUnreachableError
from leasedb_server.postgres import undoing
from leasedb_server.postgres.cloning import before, by, verifier_of
from leasedb_server.postgres.connecting import ANSWER_LIMIT, Connection, column, direct, translated
from leasedb_server.postgres.servers import Link

_GLANCE: Final = 0.002  # seconds between two looks

# The administrator's password is not shown to whoever took a dead server's port; logins send theirs as they are, like
# on all servers of ours. `all` does not mean `replication`.
_ADMINISTRATOR: Final[LiteralString] = """
local all,replication {}      scram-sha-256
host  all,replication {} all  scram-sha-256
"""
_EVERYBODY: Final[LiteralString] = """
local all,replication all      password
host  all,replication all all  password
"""


async def open_up(link: Link) -> None:
    """Have the server admit every login with its password to every database, and to replication."""
    async with link.connection() as connection:
        if not link.endpoint.guarded:  # they were taken from PUBLIC when the base template was made
            await connection.execute(
                "GRANT CONNECT, TEMPORARY ON DATABASE postgres TO PUBLIC; GRANT CONNECT ON DATABASE template1 TO PUBLIC"
            )
        await _rule(connection, link, _ADMINISTRATOR, _EVERYBODY)


async def create_exclusive(link: Link, template_database: str, database: Database, strategy: Strategy) -> None:
    """Clone the template under the database's name, with its login as a superuser; both names are the caller's.

    Raises:
        ServerRefusedError: one of the names is taken; nothing is made then.
    """
    async with link.connection() as connection:
        await _create(connection, link, template_database, database, strategy)


async def reset_exclusive(
    link: Link, template_database: str, database: Database, keep: frozenset[str], strategy: Strategy = Strategy.COPY
) -> int:
    """Undo all that was done to the server, and clone the template anew; end all sessions and return how many.

    Databases named in ``keep`` stay as they are. Files that somebody had the server write elsewhere stay, too.
    """
    with translated(f"Server {link.server_id}"):
        await _regain(link, database)
        async with direct(undoing.undisturbed(link), undoing.TEMPLATE) as standing:
            ended = await undoing.end_sessions(standing, link)
            await undoing.let_go(standing, link)
            ours = keep | {undoing.POSTGRES, undoing.TEMPLATE, undoing.ORIGIN}
            await undoing.drop_databases(
                standing, await undoing.other_names(standing, "SELECT datname FROM pg_database", ours)
            )
            await undoing.renew(standing, link, undoing.POSTGRES)
        async with direct(undoing.undisturbed(link), undoing.POSTGRES) as standing:
            await undoing.renew(standing, link, undoing.TEMPLATE)
            if link.endpoint.base:  # as it came: vector is proven there when a server starts
                await standing.execute("CREATE EXTENSION IF NOT EXISTS vector SCHEMA public")
            await undoing.take_back(standing, link)
            await undoing.forget(standing, link, keep)
            await _create(standing, link, template_database, database, strategy)
            await _rule(standing, link, _ADMINISTRATOR, _EVERYBODY)
        await link.pool.check()  # its connections led to the database `postgres` that was
    return ended


async def _create(
    connection: Connection, link: Link, template_database: str, database: Database, strategy: Strategy
) -> None:
    name, login = sql.Identifier(database.name), sql.Identifier(database.login)
    # whatever the server's rules were: by now they have passwords sent as they are
    verifier = sql.Literal(await verifier_of(database.password, guarded=True))
    try:
        await connection.execute(
            before(strategy, link.login) + sql.SQL("CREATE ROLE {} ").format(login) + undoing.SUPERUSER + verifier
        )
    except psycopg.errors.DuplicateObject as error:
        raise _taken("login", database.login, error) from error
    try:
        await connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER {} ").format(name, sql.Identifier(template_database), login)
            + by(strategy, link.login)
        )
    except psycopg.errors.DuplicateDatabase as error:
        await connection.execute(sql.SQL("DROP ROLE {}").format(login))
        raise _taken("database", database.name, error) from error


def _taken(kind: str, name: str, error: psycopg.Error) -> ServerRefusedError:
    return ServerRefusedError(
        f"The server has a {kind} named {name!r} already.", sqlstate=error.sqlstate or "", hint="Choose another name."
    )


# --- access ---


async def _rule(connection: Connection, link: Link, *rules: LiteralString) -> None:
    """Write the access rules (pg_hba.conf), and return when whoever connects from now on meets them.

    Raises:
        ServerUnreachableError: they did not come into force.
    """
    user = sql.Identifier(link.endpoint.user).as_string(connection)
    lines = [line for text in rules for line in text.format(user, user).splitlines() if line]
    file = (await column(connection, "SELECT setting FROM pg_settings WHERE name = 'hba_file'"))[0]
    await connection.execute(
        sql.SQL("COPY (SELECT unnest({}::text[])) TO {}").format(sql.Literal(lines), sql.Literal(file))
    )
    cursor = await connection.execute("SELECT clock_timestamp()")
    (written,) = await cursor.fetchone() or (None,)
    await connection.execute("SELECT pg_reload_conf()")
    # Before it reads the rules, and then takes connections again, the postmaster tells all sessions to reload as well
    # (process_pm_reload_request in src/backend/postmaster/postmaster.c).
    clock = asyncio.get_running_loop().time
    end = clock() + ANSWER_LIMIT
    while True:
        cursor = await connection.execute("SELECT pg_conf_load_time() > %s", [written])
        if (await cursor.fetchone() or (False,))[0]:
            return
        if clock() > end:
            raise ServerUnreachableError(
                f"Server {link.server_id} did not take over its new access rules within {ANSWER_LIMIT:g} s."
            )
        await asyncio.sleep(_GLANCE)


async def _regain(link: Link, database: Database) -> None:
    """See to it that the administrator gets in, and nobody else, by whichever way is left."""
    async with contextlib.AsyncExitStack() as stack:
        connection, administrator = await _way_in(link, database, stack)
        await connection.execute("SET default_transaction_read_only = off; SET statement_timeout = 0; SET ROLE NONE")
        await connection.execute("ALTER SYSTEM RESET ALL")
        if not administrator:
            await undoing.restore_administrator(connection, link)
        await _rule(connection, link, _ADMINISTRATOR)
        for name in (undoing.TEMPLATE, undoing.POSTGRES):
            there = await column(connection, "SELECT datallowconn::text FROM pg_database WHERE datname = %s", name)
            if not there:
                await undoing.copy_origin(connection, link, name)
            elif there != ["true"]:
                await connection.execute(
                    sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(sql.Identifier(name))
                )


async def _way_in(link: Link, database: Database, stack: contextlib.AsyncExitStack) -> tuple[Connection, bool]:
    """Return a superuser's connection, and whether the administrator's login works.

    Otherwise it is the lease's login that does, or all that is left is a session that was there before.
    """
    ours = undoing.undisturbed(link)
    theirs = replace(ours, user=database.login, password=database.password, heartbeat=None)
    ways = [(ours, undoing.TEMPLATE), (ours, undoing.POSTGRES)]
    ways += [(theirs, name) for name in (database.name, undoing.TEMPLATE, undoing.POSTGRES)]
    for endpoint, name in ways:
        with contextlib.suppress(psycopg.OperationalError):
            return await stack.enter_async_context(direct(endpoint, name)), endpoint is ours
    return await stack.enter_async_context(link.connection()), False
