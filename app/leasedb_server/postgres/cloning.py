"""Making databases: the base template, and clones of templates with a login of their own."""

import asyncio
import contextlib
from typing import Final

import psycopg
from psycopg import sql

from leasedb_server.domain.cloning import Strategy
from leasedb_server.domain.database import Database
from leasedb_server.domain.errors import ServerRefusedError
from leasedb_server.domain.server import Versions
from leasedb_server.postgres.compacting import build_cache, compact
from leasedb_server.postgres.connecting import Connection
from leasedb_server.postgres.proof import prove_vector
from leasedb_server.postgres.rights import Login
from leasedb_server.postgres.scram import scram_verifier
from leasedb_server.postgres.servers import Link

KNOWS_STRATEGY: Final = 150_000
KNOWS_CLONING: Final = 180_000
KNOWS_GRANT_OPTIONS: Final = 160_000  # a role's creator is no longer its member by itself

OVERFLOW_NAME: Final = "leasedb_overflow"
OVERFLOW: Final = sql.Identifier(OVERFLOW_NAME)


def ways_to_clone(version: int) -> tuple[Strategy, ...]:
    if version >= KNOWS_CLONING:
        return (Strategy.COPY, Strategy.CLONE, Strategy.LOG)
    return (Strategy.COPY, Strategy.LOG) if version >= KNOWS_STRATEGY else (Strategy.COPY,)


async def create_base(link: Link, database: str) -> Versions:
    name, endpoint = sql.Identifier(database), link.endpoint
    async with link.connection() as connection:
        if endpoint.base:
            versions = await prove_vector(connection)
            waiting = sql.Identifier(endpoint.base)
            # Postgres deletes the cache when it starts.
            await connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(waiting))
            await build_cache(link, endpoint.base)
            await connection.execute(
                sql.SQL("ALTER DATABASE {0} ALLOW_CONNECTIONS false; ALTER DATABASE {0} RENAME TO {1}").format(
                    waiting, name
                )
            )
            return versions
        if link.login.heartbeat and not endpoint.guarded:  # ours, with somebody else's access rules
            await connection.execute("REVOKE CONNECT, TEMPORARY ON DATABASE postgres, template1 FROM PUBLIC")
        encoding = sql.SQL("ENCODING 'UTF8'" if link.login.source == "template0" else "")
        await connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} {} ALLOW_CONNECTIONS false").format(
                name, sql.Identifier(link.login.source), encoding
            )
        )
        await connection.execute(keep_public_out(name))
        async with link.inside(database) as inside:
            versions = await prove_vector(inside)
            await compact(inside)
        await build_cache(link, database)
        await connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false IS_TEMPLATE true").format(name))
    return versions


async def create_database(
    link: Link, template_database: str, database: Database, strategy: Strategy, *, overflow: bool
) -> None:
    name, login = sql.Identifier(database.name), sql.Identifier(database.login)
    known, guarded = link.login, link.endpoint.guarded
    # Computed here: the server is spared 4 ms, and no statement carries the password.
    verifier = await verifier_of(database.password, guarded=guarded)
    clone = sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER {} {} {} {}").format(
        name,
        sql.Identifier(template_database),
        login,
        by(strategy, known),
        # Born closed where PUBLIC may connect to a new database until that is revoked: another lease could use it.
        sql.SQL("" if guarded else "ALLOW_CONNECTIONS false"),
        sql.SQL("TABLESPACE {}").format(OVERFLOW) if overflow else sql.SQL(""),
    )
    async with link.connection() as connection:
        await connection.execute(
            sql.SQL(
                "{}CREATE ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION"
                " CONNECTION LIMIT {} PASSWORD {}{}",
            ).format(
                before(strategy, known),
                login,
                sql.Literal(known.lease_connections),
                sql.Literal(verifier),
                _membership(login, known),
            )
        )
        if overflow:
            await _open_overflow(link, connection)
        await connection.execute(clone)
        if not guarded:
            await connection.execute(keep_public_out(name))


async def _open_overflow(link: Link, connection: Connection) -> None:
    """Make the place on the disk known to the server, once."""
    place = link.endpoint.overflow
    if place is None:
        raise ServerRefusedError(f"Server {link.server_id} has no other place for databases.", sqlstate="0A000")
    async with link.opening:  # two at once would find it missing both
        if not link.overflowing:
            with contextlib.suppress(psycopg.errors.DuplicateObject):  # by an earlier daemon
                await connection.execute(
                    sql.SQL("CREATE TABLESPACE {} LOCATION {}").format(OVERFLOW, sql.Literal(place))
                )
        link.overflowing = True


async def verifier_of(password: str, *, guarded: bool) -> str:
    """Return what a server keeps of a lease's password."""
    if guarded:
        # The password comes as it is, so the server computes this at every login: as little as can be. What makes that
        # safe is the password itself, 128 random bits that live for minutes.
        return scram_verifier(password, 1)
    return await asyncio.to_thread(scram_verifier, password)  # some milliseconds


def by(strategy: Strategy, known: Login) -> sql.SQL:
    """Return the words of CREATE DATABASE that name the strategy; what has to be said `before` it goes with them."""
    if known.version < KNOWS_STRATEGY:
        return sql.SQL("")  # there, files are copied anyway
    return sql.SQL("STRATEGY WAL_LOG" if strategy is Strategy.LOG else "STRATEGY FILE_COPY")


def before(strategy: Strategy, known: Login) -> sql.SQL:
    if known.version < KNOWS_CLONING:
        return sql.SQL("")
    return sql.SQL("SET file_copy_method = clone; " if strategy is Strategy.CLONE else "SET file_copy_method = copy; ")


def keep_public_out(name: sql.Identifier) -> sql.Composed:
    return sql.SQL(
        "REVOKE CONNECT, TEMPORARY ON DATABASE {0} FROM PUBLIC; ALTER DATABASE {0} ALLOW_CONNECTIONS true"
    ).format(name)


def _membership(login: sql.Identifier, known: Login) -> sql.Composable:
    """Return what lets an administrator who is no superuser hand databases to the login and end its sessions."""
    if known.superuser:
        return sql.SQL("")
    options = " WITH INHERIT TRUE, SET TRUE" if known.version >= KNOWS_GRANT_OPTIONS else ""
    return sql.SQL("; GRANT {} TO CURRENT_USER").format(login) + sql.SQL(options)
