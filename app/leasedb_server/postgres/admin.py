"""The `DatabaseAdmin` of ports.py."""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Final, TypeVar

import psycopg
from psycopg import sql
from psycopg_pool import AsyncConnectionPool

from leasedb_server.domain.database import Database
from leasedb_server.domain.errors import ServerRefusedError, ServerUnreachableError
from leasedb_server.domain.names import daemon_prefix
from leasedb_server.domain.server import Endpoint, Versions
from leasedb_server.ports import Survey
from leasedb_server.postgres.connecting import ANSWER_LIMIT, Connection, column, conninfo, direct, translated
from leasedb_server.postgres.rights import Login, first_answer
from leasedb_server.postgres.scram import scram_verifier

FRESH_BEAT: Final = 5  # every so many beats come over a new connection
CONNECTIONS: Final = 4  # per server: two workers, a fence, a beat
KNOWS_STRATEGY: Final = 150_000
KNOWS_GRANT_OPTIONS: Final = 160_000  # a role's creator is no longer its member by itself

T = TypeVar("T")


class PostgresAdmin:
    """One small connection pool per server."""

    def __init__(self) -> None:
        self._pools: dict[str, AsyncConnectionPool[Connection]] = {}
        self._beats: Counter[str] = Counter()
        self._logins: dict[str, Login] = {}
        self._endpoints: dict[str, Endpoint] = {}
        # What the pool says while a server is away is said better, and once, by whoever asked.
        logging.getLogger("psycopg.pool").setLevel(logging.ERROR)

    def __repr__(self) -> str:
        return f"PostgresAdmin({sorted(self._pools)})"

    async def open(self, server_id: str, endpoint: Endpoint, within: float) -> None:
        await self.close(server_id)
        login = await first_answer(endpoint, within)
        pool = AsyncConnectionPool(
            conninfo(endpoint),
            kwargs={"autocommit": True, "prepare_threshold": None},
            min_size=1,
            max_size=CONNECTIONS,
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
            databases = await column(
                connection, "SELECT datname FROM pg_database WHERE starts_with(datname, %s)", prefix
            )
            logins = await column(connection, "SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s)", prefix)
            public = await column(
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
            known = self._login(server_id)
            encoding = sql.SQL("ENCODING 'UTF8'" if known.source == "template0" else "")
            await connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {} {} ALLOW_CONNECTIONS false {}").format(
                    name, sql.Identifier(known.source), encoding, _strategy(known)
                )
            )
            await connection.execute(_keep_public_out(name))
            endpoint = self._endpoint(server_id)
            async with direct(endpoint, database) as inside:
                versions = await _prove_vector(inside)
            await connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false IS_TEMPLATE true").format(name))
        return versions

    async def create_database(self, server_id: str, template_database: str, database: Database) -> None:
        name, login = sql.Identifier(database.name), sql.Identifier(database.login)
        # Computed here, off the event loop: the server is spared 4 ms, and no statement carries the password.
        verifier = await asyncio.to_thread(scram_verifier, database.password)
        known = self._login(server_id)
        async with self._connection(server_id) as connection:
            await connection.execute(
                sql.SQL(
                    "CREATE ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION"
                    " CONNECTION LIMIT {} PASSWORD {}{}",
                ).format(login, sql.Literal(known.lease_connections), sql.Literal(verifier), _membership(login, known))
            )
            # Born closed: PUBLIC may connect to a new database until that is revoked, which another lease could use.
            await connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER {} ALLOW_CONNECTIONS false {}").format(
                    name, sql.Identifier(template_database), login, _strategy(known)
                )
            )
            await connection.execute(_keep_public_out(name))

    async def fence(self, server_id: str, database: Database) -> int:
        refuse = sql.SQL("ALTER ROLE {} NOLOGIN").format(sql.Identifier(database.login))
        async with self._connection(server_id) as connection:
            try:
                await connection.execute(refuse)
                ended = 0
            except psycopg.errors.LockNotAvailable:
                # The login has changed itself in a transaction that is still open, or prepared.
                ended = await _end_sessions(connection, database)
                await self._roll_back_prepared(server_id, connection, database.name)
                await connection.execute(refuse)
            # Looked for once the refusal is committed, so that none can slip in between.
            return ended + await _end_sessions(connection, database)

    async def drop(self, server_id: str, name: str, login: str | None) -> None:
        database = sql.Identifier(name)
        async with self._connection(server_id) as connection:
            if await column(connection, "SELECT datname FROM pg_database WHERE datname = %s AND datistemplate", name):
                await connection.execute(sql.SQL("ALTER DATABASE {} IS_TEMPLATE false").format(database))
            await self._roll_back_prepared(server_id, connection, name)
            await connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(database))
        if login:
            await self.drop_login(server_id, login)

    async def drop_login(self, server_id: str, login: str) -> None:
        statement = sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(login))
        async with self._connection(server_id) as connection:
            try:
                await connection.execute(statement)
            except psycopg.errors.DependentObjectsStillExist:
                await self._drop_owned(server_id, login)
                await connection.execute(statement)

    async def beat(self, server_id: str) -> None:
        heartbeat = self._login(server_id).heartbeat
        statement = (
            sql.SQL("COPY (SELECT clock_timestamp()) TO {}").format(sql.Literal(heartbeat))
            if heartbeat
            else sql.SQL("SELECT 1")
        )
        with translated(f"Server {server_id}"):
            async with asyncio.timeout(ANSWER_LIMIT):
                if self._beats[server_id] % FRESH_BEAT == FRESH_BEAT - 1:
                    # A server that is shutting down goes on answering the sessions it has, and takes no new ones.
                    async with direct(self._endpoint(server_id)) as connection:
                        await connection.execute(statement)
                else:
                    async with self._connection(server_id) as connection:
                        await connection.execute(statement)
        # Counted when it was answered: after one that was not, the next comes over a new connection as well.
        self._beats[server_id] += 1

    async def tidy(self, server_id: str) -> None:
        # Autovacuum is off there, and every clone and drop leaves dead rows in the tables that all databases share.
        async with self._connection(server_id) as connection:
            await connection.execute("VACUUM pg_database, pg_authid, pg_shdepend, pg_db_role_setting, pg_auth_members")

    async def close(self, server_id: str) -> None:
        pool = self._pools.pop(server_id, None)
        self._logins.pop(server_id, None)
        self._endpoints.pop(server_id, None)
        self._beats.pop(server_id, None)
        if pool is not None:
            with contextlib.suppress(TimeoutError):  # a worker of the pool may have missed its cancellation
                async with asyncio.timeout(ANSWER_LIMIT):
                    await pool.close(timeout=ANSWER_LIMIT)

    async def close_all(self) -> None:
        """Let go of all connections."""
        await asyncio.gather(*map(self.close, list(self._pools)))

    def _login(self, server_id: str) -> Login:
        return self._known(self._logins, server_id)

    def _endpoint(self, server_id: str) -> Endpoint:
        return self._known(self._endpoints, server_id)

    def _known(self, what: Mapping[str, T], server_id: str) -> T:
        try:
            return what[server_id]
        except KeyError:
            raise ServerUnreachableError(f"There is no connection to server {server_id}.") from None

    @contextlib.asynccontextmanager
    async def _connection(self, server_id: str) -> AsyncIterator[Connection]:
        pool = self._known(self._pools, server_id)
        with translated(f"Server {server_id}"):
            async with pool.connection() as connection:
                yield connection

    async def _drop_owned(self, server_id: str, login: str) -> None:
        """Drop what a login made in databases that are not its own, where the server lets it in, and its grants."""
        async with self._connection(server_id) as connection:
            places = await column(
                connection,
                "SELECT DISTINCT d.datname FROM pg_shdepend s JOIN pg_database d ON d.oid = s.dbid"
                " JOIN pg_roles r ON r.oid = s.refobjid WHERE r.rolname = %s AND d.datallowconn",
                login,
            )
            statement = sql.SQL("DROP OWNED BY {}").format(sql.Identifier(login))
            await connection.execute(statement)
        for place in places:
            async with direct(self._endpoint(server_id), place) as inside:
                await inside.execute(statement)

    async def _roll_back_prepared(self, server_id: str, connection: Connection, name: str) -> None:
        """Roll back the database's prepared transactions: no DROP gets past them, and they may hold locks.

        That has to be done from inside the database. What its owner set there must not reach our session, least of all
        a superuser's: settings are reset first, and inside nothing is looked up.
        """
        cursor = await connection.execute("SELECT gid, owner FROM pg_prepared_xacts WHERE database = %s", [name])
        prepared = await cursor.fetchall()
        if not prepared:
            return
        await connection.execute(sql.SQL("ALTER DATABASE {} RESET ALL").format(sql.Identifier(name)))
        async with direct(self._endpoint(server_id), name) as inside:
            for gid, owner in prepared:
                if not self._login(server_id).superuser:  # a superuser may end anybody's
                    await inside.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(owner)))
                await inside.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)))


async def _end_sessions(connection: Connection, database: Database) -> int:
    ended = await column(
        connection,
        "SELECT pg_terminate_backend(pid)::text FROM pg_stat_activity"
        " WHERE (datname = %s OR usename = %s) AND pg_has_role(usesysid, 'USAGE')",
        database.name,
        database.login,
    )
    return len(ended)


def _strategy(known: Login) -> sql.SQL:
    """Return how to clone: copying files takes half the time of writing them to the log."""
    return sql.SQL("STRATEGY FILE_COPY" if known.version >= KNOWS_STRATEGY else "")


def _keep_public_out(name: sql.Identifier) -> sql.Composed:
    return sql.SQL(
        "REVOKE CONNECT, TEMPORARY ON DATABASE {0} FROM PUBLIC; ALTER DATABASE {0} ALLOW_CONNECTIONS true"
    ).format(name)


def _membership(login: sql.Identifier, known: Login) -> sql.Composable:
    """Return what lets an administrator who is no superuser hand databases to the login and end its sessions."""
    if known.superuser:
        return sql.SQL("")
    options = " WITH INHERIT TRUE, SET TRUE" if known.version >= KNOWS_GRANT_OPTIONS else ""
    return sql.SQL("; GRANT {} TO CURRENT_USER").format(login) + sql.SQL(options)


async def _prove_vector(inside: Connection) -> Versions:
    """Create the extension and use it in earnest: a bundled build may crash only when it first computes a distance."""
    await inside.execute("SET search_path = public")
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
