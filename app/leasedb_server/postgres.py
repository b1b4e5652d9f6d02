"""All that is said to a server in SQL, with psycopg."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import logging
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Final, LiteralString

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from leasedb_server.domain.database import Database
from leasedb_server.domain.errors import LeasedbError, ServerRefusedError, ServerUnreachableError, StartupError
from leasedb_server.domain.names import daemon_prefix
from leasedb_server.domain.server import Endpoint, Versions
from leasedb_server.ports import Survey

Connection = psycopg.AsyncConnection[TupleRow]

APPLICATION: Final = "leasedb"
OLDEST: Final = 130_000  # DROP DATABASE ... WITH (FORCE)
KNOWS_STRATEGY: Final = 150_000
KNOWS_GRANT_OPTIONS: Final = 160_000  # a role's creator is no longer its member by itself

# The default of Postgres, and the least that the drivers of Java and Bun accept (RFC 7677; ongres/scram issue 20).
SCRAM_ITERATIONS: Final = 4096

ANSWER_LIMIT: Final = 5.0  # seconds in which a healthy server connects and answers something small
_RETRY_PAUSE: Final = 0.02
_STARTING: Final = ("starting up", "not yet accepting", "shutting down", "in recovery")

_OBJECT_IN_USE: Final = "55006"


@dataclass(frozen=True, slots=True)
class _Login:
    """What the administrator's login may do on one server."""

    version: int  # as in server_version_num
    superuser: bool
    source: str  # what the base template is made from
    heartbeat: str | None


class PostgresAdmin:
    """The `DatabaseAdmin` of ports.py: one small connection pool per server."""

    def __init__(self, connections: int = 4) -> None:
        self._connections = connections
        self._pools: dict[str, AsyncConnectionPool[Connection]] = {}
        self._logins: dict[str, _Login] = {}
        self._endpoints: dict[str, Endpoint] = {}
        # What the pool says while a server is away is said better, and once, by whoever asked.
        logging.getLogger("psycopg.pool").setLevel(logging.ERROR)

    def __repr__(self) -> str:
        return f"PostgresAdmin({sorted(self._pools)})"

    async def open(self, server_id: str, endpoint: Endpoint, within: float) -> None:
        await self.close(server_id)
        login = await _first_answer(endpoint, within)
        pool = AsyncConnectionPool(
            _conninfo(endpoint),
            kwargs={"autocommit": True, "prepare_threshold": None},
            min_size=1,
            max_size=self._connections,
            timeout=ANSWER_LIMIT,
            reconnect_timeout=round(ANSWER_LIMIT),
            open=False,
        )
        await pool.open()
        self._pools[server_id], self._logins[server_id], self._endpoints[server_id] = pool, login, endpoint
        await self.beat(server_id)

    async def survey(self, server_id: str, daemon: str) -> Survey:
        prefix = daemon_prefix(daemon)
        async with self._connection(server_id) as connection:
            databases = await _column(
                connection, "SELECT datname FROM pg_database WHERE starts_with(datname, %s)", prefix
            )
            logins = await _column(connection, "SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s)", prefix)
            public = await _column(
                connection,
                "SELECT datname FROM pg_database WHERE datallowconn AND NOT starts_with(datname, %s)"
                " AND has_database_privilege('public', oid, 'CONNECT') ORDER BY datname",
                prefix,
            )
        note = (
            f"PUBLIC may connect to {', '.join(public)} on this server, and so may every lease's login; leasedb does"
            " not touch what is not its own. Close it with: REVOKE CONNECT ON DATABASE ... FROM PUBLIC."
        )
        notes = (note,) if public else ()
        return Survey(frozenset(databases), frozenset(logins), notes)

    async def guard(self, server_id: str) -> None:
        async with self._connection(server_id) as connection:
            await connection.execute("REVOKE CONNECT, TEMPORARY ON DATABASE postgres, template1 FROM PUBLIC")

    async def create_base(self, server_id: str, database: str) -> Versions:
        name = sql.Identifier(database)
        async with self._connection(server_id) as connection:
            source = self._login(server_id).source
            encoding = "ENCODING 'UTF8'" if source == "template0" else ""
            await connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {} {} ALLOW_CONNECTIONS false").format(
                    name, sql.Identifier(source), sql.SQL(encoding)
                )
            )
            await connection.execute(_keep_public_out(name))
            endpoint = self._endpoints[server_id]
            async with _direct(endpoint, database) as inside:
                versions = await _prove_vector(inside)
            await connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false IS_TEMPLATE true").format(name))
        return versions

    async def create_database(self, server_id: str, template_database: str, database: Database) -> None:
        name, login = sql.Identifier(database.name), sql.Identifier(database.login)
        # Computed here, off the event loop: the server is spared 4 ms, and no statement carries the password.
        verifier = await asyncio.to_thread(scram_verifier, database.password)
        known = self._login(server_id)
        strategy = sql.SQL("STRATEGY FILE_COPY" if known.version >= KNOWS_STRATEGY else "")
        async with self._connection(server_id) as connection:
            await connection.execute(
                sql.SQL(
                    "CREATE ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD {}{}",
                ).format(login, sql.Literal(verifier), _membership(login, known))
            )
            # Born closed: PUBLIC may connect to a new database until that is revoked, which another lease could use.
            await connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER {} ALLOW_CONNECTIONS false {}").format(
                    name, sql.Identifier(template_database), login, strategy
                )
            )
            await connection.execute(_keep_public_out(name))

    async def fence(self, server_id: str, database: Database) -> int:
        async with self._connection(server_id) as connection:
            await connection.execute(sql.SQL("ALTER ROLE {} NOLOGIN").format(sql.Identifier(database.login)))
            # Committed before the sessions are looked up, so that none can slip in between.
            ended = await _column(
                connection,
                "SELECT pg_terminate_backend(pid)::text FROM pg_stat_activity"
                " WHERE (datname = %s OR usename = %s) AND pg_has_role(usesysid, 'USAGE')",
                database.name,
                database.login,
            )
        return len(ended)

    async def drop(self, server_id: str, name: str, login: str | None) -> None:
        async with self._connection(server_id) as connection:
            sealed = await _column(
                connection, "SELECT datname FROM pg_database WHERE datname = %s AND datistemplate", name
            )
            if sealed:
                await connection.execute(sql.SQL("ALTER DATABASE {} IS_TEMPLATE false").format(sql.Identifier(name)))
            statement = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
            try:
                await connection.execute(statement)
            except psycopg.errors.ObjectInUse:
                await self._roll_back_prepared(server_id, name)
                await connection.execute(statement)
            if login:
                await connection.execute(_drop_role(login))

    async def drop_login(self, server_id: str, login: str) -> None:
        async with self._connection(server_id) as connection:
            await connection.execute(_drop_role(login))

    async def beat(self, server_id: str) -> None:
        heartbeat = self._login(server_id).heartbeat
        async with asyncio.timeout(ANSWER_LIMIT), self._connection(server_id) as connection:
            if heartbeat:
                await connection.execute(
                    sql.SQL("COPY (SELECT clock_timestamp()) TO {}").format(sql.Literal(heartbeat))
                )
            else:
                await connection.execute("SELECT 1")

    async def close(self, server_id: str) -> None:
        pool = self._pools.pop(server_id, None)
        self._logins.pop(server_id, None)
        self._endpoints.pop(server_id, None)
        if pool is not None:
            await pool.close(timeout=ANSWER_LIMIT)

    def _login(self, server_id: str) -> _Login:
        try:
            return self._logins[server_id]
        except KeyError:
            raise ServerUnreachableError(f"There is no connection to server {server_id}.") from None

    @contextlib.asynccontextmanager
    async def _connection(self, server_id: str) -> AsyncIterator[Connection]:
        pool = self._pools.get(server_id)
        if pool is None:
            raise ServerUnreachableError(f"There is no connection to server {server_id}.")
        with _translated(f"Server {server_id}"):
            async with pool.connection() as connection:
                yield connection

    async def _roll_back_prepared(self, server_id: str, name: str) -> None:
        """Roll back the database's prepared transactions, which no DROP gets past; only from inside can it be done."""
        async with _direct(self._endpoints[server_id], name) as inside:
            for gid in await _column(inside, "SELECT gid FROM pg_prepared_xacts WHERE database = %s", name):
                await inside.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)))


def scram_verifier(password: str, iterations: int = SCRAM_ITERATIONS) -> str:
    """Return what Postgres stores for a SCRAM-SHA-256 password (RFC 5803, with the salt and keys in base64)."""
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    parts = [base64.b64encode(part).decode() for part in (salt, stored_key, server_key)]
    return f"SCRAM-SHA-256${iterations}:{parts[0]}${parts[1]}:{parts[2]}"


def endpoint_of(dsn: str) -> Endpoint:
    """Return where a DSN leads, its gaps filled as libpq does (PG* variables, the service file).

    Raises:
        StartupError: when it is no DSN.
    """
    try:
        given = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError as error:
        raise StartupError(
            f"LEASEDB_EXISTING_DSN is no DSN: {' '.join(str(error).split())}.",
            hint="It looks like postgresql://user:password@host:5432/postgres.",
        ) from None
    known = {default.keyword.decode(): default.val for default in psycopg.pq.Conninfo.get_defaults()}

    def value(keyword: str, otherwise: str) -> str:
        fallback = known.get(keyword)
        return str(given.get(keyword) or (fallback.decode() if fallback else "") or otherwise)

    user = value("user", "postgres")
    return Endpoint(
        host=value("host", "127.0.0.1"),
        port=int(value("port", "5432")),
        user=user,
        password=value("password", ""),
        dbname=value("dbname", user),
    )


def _conninfo(endpoint: Endpoint, dbname: str | None = None) -> str:
    return make_conninfo(
        host=endpoint.host,
        port=endpoint.port,
        user=endpoint.user,
        password=endpoint.password,
        dbname=dbname or endpoint.dbname,
        connect_timeout=round(ANSWER_LIMIT),
        application_name=APPLICATION,
    )


@contextlib.asynccontextmanager
async def _direct(endpoint: Endpoint, dbname: str) -> AsyncIterator[Connection]:
    connection = await psycopg.AsyncConnection.connect(_conninfo(endpoint, dbname), autocommit=True)
    async with connection:
        yield connection


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except (PoolTimeout, PoolClosed, TimeoutError) as error:
        raise ServerUnreachableError(f"{what} did not answer within {ANSWER_LIMIT:g} s.") from error
    except psycopg.Error as error:
        raise _as_ours(what, error) from error


def _as_ours(what: str, error: psycopg.Error) -> LeasedbError:
    """Tell a server that said no from one that could not be asked, by SQLSTATE (classes 08 and 57P: it is going)."""
    code = error.sqlstate or ""
    message = " ".join(str(error).split())
    if not code or code.startswith(("08", "57P")):
        return ServerUnreachableError(f"{what} cannot be reached: {message}.")
    return ServerRefusedError(f"{what} refused: {message} (SQLSTATE {code}).", sqlstate=code)


async def _column(connection: Connection, query: LiteralString, *values: str) -> list[str]:
    cursor = await connection.execute(query, values or None)
    return [row[0] for row in await cursor.fetchall()]


def _drop_role(login: str) -> sql.Composed:
    return sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(login))


def _keep_public_out(name: sql.Identifier) -> sql.Composed:
    return sql.SQL(
        "REVOKE CONNECT, TEMPORARY ON DATABASE {0} FROM PUBLIC; ALTER DATABASE {0} ALLOW_CONNECTIONS true"
    ).format(name)


def _membership(login: sql.Identifier, known: _Login) -> sql.Composable:
    """Return what lets an administrator who is no superuser hand databases to the login and end its sessions."""
    if known.superuser:
        return sql.SQL("")
    options = " WITH INHERIT TRUE, SET TRUE" if known.version >= KNOWS_GRANT_OPTIONS else ""
    return sql.SQL("; GRANT {} TO CURRENT_USER").format(login) + sql.SQL(options)


async def _first_answer(endpoint: Endpoint, within: float) -> _Login:
    """Ask until the server answers; then look at what the login may do."""
    loop = asyncio.get_running_loop()
    end = loop.time() + within
    where = f"The server at {endpoint.host}:{endpoint.port}"
    while True:
        try:
            async with _direct(endpoint, endpoint.dbname) as connection:
                return await _rights(connection, endpoint, where)
        except psycopg.OperationalError as error:
            message = " ".join(str(error).split())
            if "FATAL" in message and not any(text in message for text in _STARTING):
                raise ServerRefusedError(
                    f"{where} refused the login {endpoint.user!r}: {message}.",
                    sqlstate=error.sqlstate or "28000",
                    hint="Check user, password and database of the DSN.",
                ) from error
            if loop.time() >= end:
                raise ServerUnreachableError(
                    f"{where} did not answer a query within {within:g} s: {message}.",
                    hint="See its log; a slow machine may need a larger LEASEDB_START_TIMEOUT.",
                ) from error
        await asyncio.sleep(_RETRY_PAUSE)


async def _rights(connection: Connection, endpoint: Endpoint, where: str) -> _Login:
    """Raise when the login cannot do what leasing needs, naming the right that is missing."""
    cursor = await connection.execute(
        "SELECT current_setting('server_version_num')::int, r.rolsuper, r.rolcreatedb, r.rolcreaterole,"
        " (SELECT bool_or(v.trusted) FROM pg_available_extension_versions v WHERE v.name = 'vector')"
        " FROM pg_roles r WHERE r.rolname = current_user"
    )
    row = await cursor.fetchone()
    if row is None:
        raise ServerUnreachableError(f"{where} does not show its own roles.")
    version, superuser, may_create_databases, may_create_roles, vector_trusted = row
    login = endpoint.user
    fix: str | None = None
    if version < OLDEST:
        missing, fix = f"is older than Postgres {OLDEST // 10_000}", "Use a newer server."
    elif vector_trusted is None:
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
    return _Login(version, superuser, source, endpoint.heartbeat)


async def _has_vector(endpoint: Endpoint, dbname: str) -> bool:
    async with _direct(endpoint, dbname) as connection:
        return bool(await _column(connection, "SELECT extname FROM pg_extension WHERE extname = 'vector'"))


async def _prove_vector(inside: Connection) -> Versions:
    """Create the extension and use it in earnest: a bundled build may crash only when it first computes a distance."""
    await inside.execute("CREATE EXTENSION IF NOT EXISTS vector")
    async with inside.transaction(force_rollback=True):
        await inside.execute("CREATE TABLE leasedb_proof (embedding vector(3))")
        await inside.execute("INSERT INTO leasedb_proof VALUES ('[1,2,3]'), ('[3,2,1]'), ('[9,9,9]')")
        await inside.execute("CREATE INDEX ON leasedb_proof USING hnsw (embedding vector_l2_ops)")
        cursor = await inside.execute("SELECT '[1,2,3]'::vector <-> '[3,2,1]'::vector")
        distance = (await cursor.fetchone() or (None,))[0]
        if distance is None or abs(distance - 8**0.5) > 1e-6:  # noqa: PLR2004 - the square root of 2² + 0² + 2²
            raise ServerRefusedError(f"'vector' computes a wrong distance: {distance}.", sqlstate="XX000")
    cursor = await inside.execute(
        "SELECT split_part(current_setting('server_version'), ' ', 1), extversion"
        " FROM pg_extension WHERE extname = 'vector'"
    )
    postgres, vector = await cursor.fetchone() or ("", "")
    return Versions(postgres, vector)
