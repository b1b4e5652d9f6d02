"""Connections to servers: where a DSN leads, logging in, and a driver's errors in our words."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from typing import Final, LiteralString

import psycopg
from psycopg import pq, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow
from psycopg_pool import PoolClosed, PoolTimeout

from leasedb_server.domain.errors import LeasedbError, ServerRefusedError, ServerUnreachableError, StartupError
from leasedb_server.domain.server import Endpoint

Connection = psycopg.AsyncConnection[TupleRow]

APPLICATION: Final = "leasedb"
ANSWER_LIMIT: Final = 5.0  # seconds in which a healthy server connects and answers something small

_KNOWS_REQUIRE_AUTH: Final = 160_000  # libpq
_DRIVER: Final = re.compile(r"^(postgres(?:ql)?)\+\w+://")  # SQLAlchemy's way to name it in a URL
# An administrator's session may come into a database in which somebody else makes functions and settings: names mean
# Postgres's own there. And no lease may keep it waiting for a lock.
_OPTIONS: Final = "-c search_path=pg_catalog -c lock_timeout=2s -c statement_timeout=0"


def endpoint_of(dsn: str) -> Endpoint:
    """Return where a DSN leads, its gaps filled as libpq does (PG* variables, the service file).

    The driver of an SQLAlchemy URL, as in ``postgresql+psycopg://``, is passed over.

    Raises:
        StartupError: when it is no DSN, or of more than one host.
    """
    try:
        given = conninfo_to_dict(_DRIVER.sub(r"\1://", dsn))
    except psycopg.ProgrammingError:
        raise _no_dsn("libpq cannot read it") from None  # nor is it told why: libpq quotes the DSN, password and all
    known = {default.keyword.decode(): default.val for default in psycopg.pq.Conninfo.get_defaults()}

    def value(keyword: str, otherwise: str) -> str:
        fallback = known.get(keyword)
        return str(given.get(keyword) or (fallback.decode() if fallback else "") or otherwise)

    # Of what is wrong nothing is shown: a password with a / or @ in it ends up as port or host.
    user, port, host = value("user", "postgres"), value("port", "5432"), value("host", "127.0.0.1")
    if not port.isdecimal() or not 0 < int(port) < 2**16:
        raise _no_dsn("its port is none")
    if "," in host:
        raise _no_dsn("it names more than one host")
    if "@" in host[1:]:  # at the beginning it means an abstract socket
        raise _no_dsn("there is an @ in its host")
    ours = {"host", "port", "user", "password", "dbname", "connect_timeout", "application_name"}
    return Endpoint(
        host=host,
        port=int(port),
        user=user,
        password=value("password", ""),
        dbname=value("dbname", user),
        extra={keyword: str(text) for keyword, text in given.items() if keyword not in ours},
    )


def _no_dsn(why: str) -> StartupError:
    return StartupError(
        f"LEASEDB_EXISTING_DSN is no DSN of a server: {why}.",
        hint="It looks like postgresql://user:password@host:5432/postgres; in the password, an @ is written %40,"
        " a : %3A, a / %2F and a % itself %25.",
    )


def conninfo(endpoint: Endpoint, dbname: str | None = None) -> str:
    # A server of ours that died may have left its port to somebody who asks for the password as it is.
    proof = {"require_auth": "scram-sha-256"} if endpoint.heartbeat and pq.version() >= _KNOWS_REQUIRE_AUTH else {}
    return make_conninfo(
        host=endpoint.host,
        port=endpoint.port,
        user=endpoint.user,
        password=endpoint.password,
        dbname=dbname or endpoint.dbname,
        connect_timeout=round(ANSWER_LIMIT),
        application_name=APPLICATION,
        **{**proof, **endpoint.extra, "options": f"{endpoint.extra.get('options', '')} {_OPTIONS}".strip()},
    )


@contextlib.asynccontextmanager
async def direct(endpoint: Endpoint, dbname: str | None = None) -> AsyncIterator[Connection]:
    """Lend a connection of its own."""
    connecting = asyncio.ensure_future(psycopg.AsyncConnection.connect(conninfo(endpoint, dbname), autocommit=True))
    try:
        connection = await asyncio.shield(connecting)
    except asyncio.CancelledError:
        # Cut off half-way, its socket would stay open, and while a process of Postgres 18 waits for a password, no
        # database can be dropped.
        await asyncio.wait([connecting])
        if not connecting.cancelled() and connecting.exception() is None:
            await connecting.result().close()
        raise
    async with connection:
        yield connection


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    try:
        yield
    except (PoolTimeout, PoolClosed, TimeoutError) as error:
        raise ServerUnreachableError(f"{what} did not answer within {ANSWER_LIMIT:g} s.") from error
    except psycopg.Error as error:
        raise as_ours(what, error) from error


def as_ours(what: str, error: psycopg.Error) -> LeasedbError:
    """Tell a server that said no from one that could not be asked, by SQLSTATE (classes 08 and 57P: it is going)."""
    code = error.sqlstate or ""
    message = " ".join(str(error).split())
    if not code or code.startswith(("08", "57P")):
        return ServerUnreachableError(f"{what} cannot be reached: {message}.")
    return ServerRefusedError(f"{what} refused: {message} (SQLSTATE {code}).", sqlstate=code)


def program(command: str) -> sql.Composed:
    """Return the statement that has the server run a command of its shell, in the data directory.

    The command has to read what it is sent, or Postgres fails to send it.
    """
    return sql.SQL("COPY (SELECT) TO PROGRAM {}").format(sql.Literal(f"cat >/dev/null; {command}"))


async def column(connection: Connection, query: LiteralString, *values: str) -> list[str]:
    cursor = await connection.execute(query, values or None)
    return [row[0] for row in await cursor.fetchall()]
