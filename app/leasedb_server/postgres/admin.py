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

from leasedb_server.domain.cloning import Strategy
from leasedb_server.domain.database import Database
from leasedb_server.domain.errors import ServerRefusedError, ServerUnreachableError
from leasedb_server.domain.names import daemon_prefix
from leasedb_server.domain.server import Endpoint, Versions
from leasedb_server.ports import Pulse, Survey
from leasedb_server.postgres.connecting import ANSWER_LIMIT, Connection, column, conninfo, direct, translated
from leasedb_server.postgres.fencing import end_sessions, ended_by
from leasedb_server.postgres.proof import prove_vector
from leasedb_server.postgres.pulse import Gauge, connections_of
from leasedb_server.postgres.rights import Login, first_answer
from leasedb_server.postgres.scram import scram_verifier

FRESH_BEAT: Final = 5  # every so many beats come over a new connection
CONNECTIONS: Final = 12  # per server: workers, fences, a beat
KNOWS_STRATEGY: Final = 150_000
KNOWS_CLONING: Final = 180_000
KNOWS_GRANT_OPTIONS: Final = 160_000  # a role's creator is no longer its member by itself

_OVERFLOW: Final = sql.Identifier("leasedb_overflow")

T = TypeVar("T")


class PostgresAdmin:
    """One small connection pool per server."""

    def __init__(self) -> None:
        self._pools: dict[str, AsyncConnectionPool[Connection]] = {}
        self._beats: Counter[str] = Counter()
        self._logins: dict[str, Login] = {}
        self._endpoints: dict[str, Endpoint] = {}
        self._gauges: dict[str, Gauge] = {}
        self._opening = asyncio.Lock()
        self._overflowing: set[str] = set()  # servers whose place on the disk is known to them
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

    async def create_base(self, server_id: str, database: str) -> Versions:
        name, endpoint = sql.Identifier(database), self._endpoint(server_id)
        async with self._connection(server_id) as connection:
            if endpoint.base:
                versions = await prove_vector(connection)
                waiting = sql.Identifier(endpoint.base)
                # Postgres deletes pg_internal.init when it starts. A session writes it anew, and clones have it then.
                await connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(waiting))
                async with direct(endpoint, endpoint.base):
                    pass
                await connection.execute(
                    sql.SQL("ALTER DATABASE {0} ALLOW_CONNECTIONS false; ALTER DATABASE {0} RENAME TO {1}").format(
                        waiting, name
                    )
                )
                return versions
            known = self._login(server_id)
            if known.heartbeat and not endpoint.guarded:  # ours, with somebody else's access rules
                await connection.execute("REVOKE CONNECT, TEMPORARY ON DATABASE postgres, template1 FROM PUBLIC")
            encoding = sql.SQL("ENCODING 'UTF8'" if known.source == "template0" else "")
            await connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {} {} ALLOW_CONNECTIONS false").format(
                    name, sql.Identifier(known.source), encoding
                )
            )
            await connection.execute(_keep_public_out(name))
            async with direct(endpoint, database) as inside:
                versions = await prove_vector(inside)
                if known.superuser:
                    # The fewer files and pages, the cheaper each clone; others may only vacuum what is their own.
                    await inside.execute("VACUUM FULL")
            async with direct(endpoint, database):
                pass  # writes pg_internal.init anew, which clones then have as well
            await connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false IS_TEMPLATE true").format(name))
        return versions

    async def strategies(self, server_id: str) -> tuple[Strategy, ...]:
        version = self._login(server_id).version
        if version >= KNOWS_CLONING:
            return (Strategy.COPY, Strategy.CLONE, Strategy.LOG)
        return (Strategy.COPY, Strategy.LOG) if version >= KNOWS_STRATEGY else (Strategy.COPY,)

    async def create_database(
        self, server_id: str, template_database: str, database: Database, strategy: Strategy, *, overflow: bool = False
    ) -> None:
        name, login = sql.Identifier(database.name), sql.Identifier(database.login)
        known, guarded = self._login(server_id), self._endpoint(server_id).guarded
        # Computed here: the server is spared 4 ms, and no statement carries the password.
        verifier = await _verifier(database.password, guarded=guarded)
        clone = sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER {} {} {} {}").format(
            name,
            sql.Identifier(template_database),
            login,
            _by(strategy, known),
            # Born closed where PUBLIC may connect to a new database until that is revoked: another lease could use it.
            sql.SQL("" if guarded else "ALLOW_CONNECTIONS false"),
            sql.SQL("TABLESPACE {}").format(_OVERFLOW) if overflow else sql.SQL(""),
        )
        async with self._connection(server_id) as connection:
            await connection.execute(
                sql.SQL(
                    "{}CREATE ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION"
                    " CONNECTION LIMIT {} PASSWORD {}{}",
                ).format(
                    _before(strategy, known),
                    login,
                    sql.Literal(known.lease_connections),
                    sql.Literal(verifier),
                    _membership(login, known),
                )
            )
            if overflow:
                await self._open_overflow(server_id, connection)
            await connection.execute(clone)
            if not guarded:
                await connection.execute(_keep_public_out(name))

    async def _open_overflow(self, server_id: str, connection: Connection) -> None:
        """Make the place on the disk known to the server, once."""
        place = self._endpoint(server_id).overflow
        if place is None:
            raise ServerRefusedError(f"Server {server_id} has no other place for databases.", sqlstate="0A000")
        async with self._opening:  # two at once would find it missing both
            if server_id not in self._overflowing:
                with contextlib.suppress(psycopg.errors.DuplicateObject):  # by an earlier daemon
                    await connection.execute(
                        sql.SQL("CREATE TABLESPACE {} LOCATION {}").format(_OVERFLOW, sql.Literal(place))
                    )
            self._overflowing.add(server_id)

    async def fence(self, server_id: str, database: Database) -> int:
        ending = end_sessions(database, superuser=self._login(server_id).superuser)
        # All in one message. Sessions are looked for once the refusal is committed, so that none can slip in between:
        # who is past it by then holds a lock on the database until its session shows.
        refuse = sql.SQL("BEGIN; ALTER ROLE {} NOLOGIN; ALTER DATABASE {} ALLOW_CONNECTIONS false; COMMIT; {}").format(
            sql.Identifier(database.login), sql.Identifier(database.name), ending
        )
        async with self._connection(server_id) as connection:
            try:
                return await ended_by(connection, refuse)
            except psycopg.errors.LockNotAvailable:
                # The login has changed itself in a transaction that is still open, or prepared.
                await connection.rollback()
                ended = await ended_by(connection, ending)
                await self._roll_back_prepared(server_id, connection, database.name)
                return ended + await ended_by(connection, refuse)

    async def drop(self, server_id: str, name: str, login: str | None) -> None:
        database = sql.Identifier(name)
        statement = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(database)
        async with self._connection(server_id) as connection:
            try:
                await connection.execute(statement)
            except psycopg.errors.ObjectInUse:
                await self._roll_back_prepared(server_id, connection, name)
                await connection.execute(statement)
            except psycopg.errors.WrongObjectType:  # a template, which has to be unsealed
                await connection.execute(sql.SQL("ALTER DATABASE {} IS_TEMPLATE false").format(database))
                await connection.execute(statement)
            if login:
                await self._drop_login(server_id, connection, login)

    async def drop_login(self, server_id: str, login: str) -> None:
        async with self._connection(server_id) as connection:
            await self._drop_login(server_id, connection, login)

    async def _drop_login(self, server_id: str, connection: Connection, login: str) -> None:
        statement = sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(login))
        try:
            await connection.execute(statement)
        except psycopg.errors.DependentObjectsStillExist:
            await self._drop_owned(server_id, login)
            await connection.execute(statement)

    async def beat(self, server_id: str) -> Pulse:
        endpoint, login = self._endpoint(server_id), self._login(server_id)
        gauge = self._gauges.setdefault(server_id, Gauge(endpoint))
        statement = (
            sql.SQL("COPY (SELECT clock_timestamp()) TO {}").format(sql.Literal(login.heartbeat))
            if login.heartbeat
            else sql.SQL("SELECT 1")
        )
        with translated(f"Server {server_id}"):
            async with asyncio.timeout(ANSWER_LIMIT):
                if self._beats[server_id] % FRESH_BEAT == FRESH_BEAT - 1:
                    # A server that is shutting down goes on answering the sessions it has, and takes no new ones.
                    async with direct(endpoint) as connection:
                        await connection.execute(statement)
                        await gauge.measure(connection)
                        connections = await connections_of(connection)
                else:
                    async with self._connection(server_id) as connection:
                        await connection.execute(statement)
                        connections = await connections_of(connection)
        # Counted when it was answered: after one that was not, the next comes over a new connection as well.
        self._beats[server_id] += 1
        ours = self._known(self._pools, server_id).get_stats().get("pool_size", 0)
        return Pulse(max(0, connections - ours), login.most_connections, gauge.room.memory, gauge.room.disk)

    async def tidy(self, server_id: str) -> None:
        # Autovacuum is off there, and every clone and drop leaves dead rows in the tables that all databases share.
        async with self._connection(server_id) as connection:
            await connection.execute("VACUUM pg_database, pg_authid, pg_shdepend, pg_db_role_setting, pg_auth_members")

    async def close(self, server_id: str) -> None:
        pool = self._pools.pop(server_id, None)
        self._logins.pop(server_id, None)
        self._endpoints.pop(server_id, None)
        self._beats.pop(server_id, None)
        self._gauges.pop(server_id, None)
        self._overflowing.discard(server_id)
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
        await connection.execute(
            sql.SQL("ALTER DATABASE {0} RESET ALL; ALTER DATABASE {0} ALLOW_CONNECTIONS true").format(
                sql.Identifier(name)
            )
        )
        async with direct(self._endpoint(server_id), name) as inside:
            for gid, owner in prepared:
                if not self._login(server_id).superuser:  # a superuser may end anybody's
                    await inside.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(owner)))
                await inside.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)))


async def _verifier(password: str, *, guarded: bool) -> str:
    if guarded:
        # The password comes as it is, so the server computes this at every login: as little as can be. What makes that
        # safe is the password itself, 128 random bits that live for minutes.
        return scram_verifier(password, 1)
    return await asyncio.to_thread(scram_verifier, password)  # some milliseconds


def _by(strategy: Strategy, known: Login) -> sql.SQL:
    if known.version < KNOWS_STRATEGY:
        return sql.SQL("")  # there, files are copied anyway
    return sql.SQL("STRATEGY WAL_LOG" if strategy is Strategy.LOG else "STRATEGY FILE_COPY")


def _before(strategy: Strategy, known: Login) -> sql.SQL:
    if known.version < KNOWS_CLONING:
        return sql.SQL("")
    return sql.SQL("SET file_copy_method = clone; " if strategy is Strategy.CLONE else "SET file_copy_method = copy; ")


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
