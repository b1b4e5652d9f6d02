"""A server's first answer: whether it can be leased from, and with which rights."""

import asyncio
from dataclasses import dataclass
from typing import Final

import psycopg

from leasedb_server.domain.errors import ServerRefusedError, ServerUnreachableError
from leasedb_server.domain.server import Endpoint
from leasedb_server.postgres.connecting import ANSWER_LIMIT, Connection, as_ours, column, direct

OLDEST: Final = 130_000  # DROP DATABASE ... WITH (FORCE)
LEASE_SHARE: Final = 5  # of a server's connections one lease may have one part of so many
_RETRY_PAUSE: Final = 0.02
_SLOW: Final = "See its log; a slow machine may need a larger LEASEDB_START_TIMEOUT."
_ABSENT: Final = "Is it up? Check host and port in LEASEDB_EXISTING_DSN."  # of a server that is not ours
_STARTING: Final = ("starting up", "not yet accepting", "shutting down", "in recovery")


@dataclass(frozen=True, slots=True)
class Login:
    """What the administrator's login may do on one server."""

    version: int  # as in server_version_num
    superuser: bool
    most_connections: int  # of all leases together
    lease_connections: int  # the most connections of one lease: it may not take all that the server has
    source: str  # what the base template is made from
    heartbeat: str | None


async def first_answer(endpoint: Endpoint, within: float) -> Login:
    """Ask until the server answers; then look at what the login may do."""
    loop = asyncio.get_running_loop()
    end = loop.time() + within
    where = f"The server at {endpoint.host}:{endpoint.port}"
    answers = False  # be it that it is not ready
    while True:
        try:
            async with asyncio.timeout(max(ANSWER_LIMIT, end - loop.time())):
                async with direct(endpoint, endpoint.dbname) as connection:
                    return await _rights(connection, endpoint, where)
        except (psycopg.OperationalError, TimeoutError) as error:
            message = " ".join(str(error).split()) or "it accepts connections and does not answer"
            answers = answers or "FATAL" in message
            if "FATAL" in message and not any(text in message for text in _STARTING):
                raise ServerRefusedError(
                    f"{where} refused the login {endpoint.user!r}: {message}.",
                    sqlstate="28000",
                    hint="Check user, password and database of the DSN.",
                ) from error
            if loop.time() >= end:
                raise ServerUnreachableError(
                    f"{where} did not answer a query within {within:g} s: {message}.",
                    hint=_SLOW if endpoint.heartbeat or answers else _ABSENT,
                ) from error
        except psycopg.Error as error:
            raise as_ours(where, error) from error
        await asyncio.sleep(_RETRY_PAUSE)


async def _rights(connection: Connection, endpoint: Endpoint, where: str) -> Login:
    """Raise when the login cannot do what leasing needs, naming the right that is missing."""
    if connection.info.server_version < OLDEST:
        raise ServerRefusedError(
            f"{where} is older than Postgres {OLDEST // 10_000}.", sqlstate="0A000", hint="Use a newer server."
        )
    cursor = await connection.execute(
        "SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int,"
        " r.rolsuper, r.rolcreatedb, r.rolcreaterole,"
        " (SELECT bool_or(v.trusted) FROM pg_available_extension_versions v WHERE v.name = 'vector')"
        " FROM pg_roles r WHERE r.rolname = current_user"
    )
    row = await cursor.fetchone()
    if row is None:
        raise ServerUnreachableError(f"{where} does not show its own roles.")
    most, superuser, may_create_databases, may_create_roles, vector_trusted = row
    login = endpoint.user
    fix: str | None = None
    if vector_trusted is None:
        missing = "does not have the extension 'vector'"
        fix = "Install pgvector there, or use an image that has it, such as pgvector/pgvector:pg18."
    elif not superuser and not may_create_databases:
        missing, fix = f"does not let the login {login!r} create databases", f'Grant it: ALTER ROLE "{login}" CREATEDB;'
    elif not superuser and not may_create_roles:
        missing, fix = f"does not let the login {login!r} create roles", f'Grant it: ALTER ROLE "{login}" CREATEROLE;'
    elif not superuser and not vector_trusted and not await _has_vector(endpoint, "template1"):
        missing = f"lets only superusers create the extension 'vector', and {login!r} is none"
        fix = "Use a superuser's login, or have one run CREATE EXTENSION vector in template1, which is then built upon."
    if fix:
        raise ServerRefusedError(f"{where} {missing}.", sqlstate="42501", hint=fix)
    source = "template0" if superuser or vector_trusted else "template1"
    return Login(
        connection.info.server_version, superuser, most, max(2, most // LEASE_SHARE), source, endpoint.heartbeat
    )


async def _has_vector(endpoint: Endpoint, dbname: str) -> bool:
    async with direct(endpoint, dbname) as connection:
        return bool(await column(connection, "SELECT extname FROM pg_extension WHERE extname = 'vector'"))
