"""What survives ``kill -9``: SQLModel tables and the Store on SQLite.

Commits happen inline, without a thread hop: one row in WAL mode takes some tens of microseconds, less than a hop. What
happens at every lease is compiled once from the tables and then said to the driver itself, which keeps it prepared.
``synchronous=NORMAL`` loses no commit to a killed process; a power cut may take the last ones, and with them the
servers they speak of.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, Insert, Row, Table, Update, bindparam, create_engine, event
from sqlalchemy.dialects.sqlite import dialect as sqlite_dialect
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Field, SQLModel

from leasedb_server.domain.database import Database, DatabaseState
from leasedb_server.domain.errors import StartupError, StoreFailedError
from leasedb_server.domain.lease import Holder, Instant, Lease, LeaseState
from leasedb_server.domain.names import new_daemon_id
from leasedb_server.domain.server import Endpoint, Server, ServerState, Versions
from leasedb_server.domain.template import Template, TemplateState
from leasedb_server.ports import Snapshot

STORE_FILE: Final = "leasedb.sqlite"
SCHEMA: Final = 1  # raised whenever a table changes


class DaemonRow(SQLModel, table=True):
    __tablename__ = "daemon"
    id: str = Field(primary_key=True)


class ServerRow(SQLModel, table=True):
    __tablename__ = "server"
    id: str = Field(primary_key=True)
    name: str
    backend: str
    state: str
    created_at: float
    ready_at: float | None
    error: str
    endpoint: str | None  # JSON
    versions: str | None  # JSON


class TemplateRow(SQLModel, table=True):
    __tablename__ = "template"
    id: str = Field(primary_key=True)
    server_id: str
    name: str
    database: str
    state: str


class DatabaseRow(SQLModel, table=True):
    __tablename__ = "database"
    id: str = Field(primary_key=True)
    server_id: str
    template: str
    name: str
    login: str
    password: str
    state: str


class LeaseRow(SQLModel, table=True):
    __tablename__ = "lease"
    id: str = Field(primary_key=True)
    database_id: str = Field(unique=True)  # never two holders of one database, whatever the code above does
    holder: str
    pid: int | None
    pid_started: float | None
    labels: str  # JSON
    created_at: float
    expires_at: float
    max_expires_at: float
    ttl: float
    state: str
    ended_at: float | None = Field(index=True)
    end_reason: str
    idempotency_key: str | None
    request_digest: str | None


def _table(model: type[SQLModel]) -> Table:
    return SQLModel.metadata.tables[str(model.__tablename__)]


DAEMON, SERVER, TEMPLATE = _table(DaemonRow), _table(ServerRow), _table(TemplateRow)
DATABASE, LEASE = _table(DatabaseRow), _table(LeaseRow)


def _prepared(statement: Insert | Update) -> str:
    """Return the statement's text with ``:name`` for each value."""
    return str(statement.compile(dialect=sqlite_dialect(paramstyle="named")))


_ADD_DATABASE, _ADD_LEASE = _prepared(DATABASE.insert()), _prepared(LEASE.insert())
_PUT_SERVER = SERVER.insert().prefix_with("OR REPLACE")
_PUT_TEMPLATE = TEMPLATE.insert().prefix_with("OR REPLACE")
_SAVE_DATABASE = _prepared(
    DATABASE.update().where(DATABASE.c.id == bindparam("which")).values(state=bindparam("state"))
)
_SAVE_LEASE = _prepared(
    LEASE.update()
    .where(LEASE.c.id == bindparam("which"))
    .values({name: bindparam(name) for name in ("expires_at", "ttl", "state", "ended_at", "end_reason")})
)


class SqliteStore:
    """The `Store` of ports.py in one file.

    Args:
        path: the file; made with mode 0600 when missing.

    Raises:
        StartupError: when the file cannot be written, is no store, or is of another leasedb.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.touch(mode=0o600)
            path.chmod(0o600)
            self._engine = _engine(path)
            self._connection = self._engine.connect()
            with self._connection.begin():
                _prepare(self._connection, path)
            driver = self._connection.connection.driver_connection
            assert isinstance(driver, sqlite3.Connection)  # noqa: S101 - the URL of the engine says so
            self._driver = driver
        except (SQLAlchemyError, OSError) as error:
            raise _unusable(path, error) from error

    def __repr__(self) -> str:
        return f"SqliteStore({str(self._path)!r})"

    async def load(self) -> Snapshot:
        """See `ports.Store`; raises StartupError when there is something in the file that means nothing."""
        try:
            return self._load()
        except (SQLAlchemyError, ValueError, TypeError) as error:
            raise _unusable(self._path, error) from error

    def _load(self) -> Snapshot:
        with self._connection.begin():
            connection = self._connection
            daemon = connection.execute(DAEMON.select()).scalar()
            if daemon is None:
                daemon = new_daemon_id()
                connection.execute(DAEMON.insert(), {"id": daemon})
            leases = [_lease(row) for row in connection.execute(LEASE.select().order_by(LEASE.c.ended_at))]
            active = {lease.database_id: lease.active for lease in leases}
            return Snapshot(
                daemon=daemon,
                servers=[_server(row) for row in connection.execute(SERVER.select())],
                templates=[_template(row) for row in connection.execute(TEMPLATE.select())],
                databases=[_database(row, active.get(row.id)) for row in connection.execute(DATABASE.select())],
                leases=leases,
            )

    async def save_server(self, server: Server) -> None:
        with self._transaction() as connection:
            connection.execute(_PUT_SERVER, _server_row(server))

    async def save_template(self, template: Template) -> None:
        with self._transaction() as connection:
            connection.execute(_PUT_TEMPLATE, asdict(template))

    async def add_database(self, database: Database) -> None:
        self._commit(_ADD_DATABASE, asdict(database))

    async def save_database(self, database: Database) -> None:
        self._commit(_SAVE_DATABASE, {"which": database.id, "state": database.state})

    async def add_lease(self, lease: Lease) -> None:
        self._commit(_ADD_LEASE, _lease_row(lease))

    async def save_lease(self, lease: Lease) -> None:
        values = {"expires_at": lease.expires_at, "ttl": lease.ttl, "state": lease.state}
        ending = {"ended_at": lease.ended_at, "end_reason": lease.end_reason}
        self._commit(_SAVE_LEASE, {"which": lease.id, **values, **ending})

    async def forget(self, ended_before: Instant) -> None:
        with self._transaction() as connection:
            connection.execute(LEASE.delete().where(LEASE.c.ended_at < ended_before))
            referred = LEASE.select().with_only_columns(LEASE.c.database_id)
            gone = DATABASE.c.state == DatabaseState.GONE
            connection.execute(DATABASE.delete().where(gone, DATABASE.c.id.not_in(referred)))
            connection.execute(TEMPLATE.delete().where(TEMPLATE.c.state == TemplateState.GONE))
            lived_on = DATABASE.select().with_only_columns(DATABASE.c.server_id)
            connection.execute(SERVER.delete().where(SERVER.c.state == ServerState.GONE, SERVER.c.id.not_in(lived_on)))

    async def close(self) -> None:
        self._connection.close()
        self._engine.dispose()

    def _commit(self, statement: str, values: Mapping[str, Any]) -> None:
        """Run one prepared statement in a transaction of its own."""
        try:
            with self._driver:
                self._driver.execute(statement, values)
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> StoreFailedError:
        return StoreFailedError(f"The state file {self._path} cannot be written: {_cause(error)}.")

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            with self._connection.begin():
                yield self._connection
        except SQLAlchemyError as error:
            raise self._failed(error) from error


def _engine(path: Path) -> Engine:
    engine = create_engine(f"sqlite:///{path}")

    @event.listens_for(engine, "connect")
    def _tune(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")

    return engine


def _prepare(connection: Connection, path: Path) -> None:
    found = connection.exec_driver_sql("PRAGMA user_version").scalar()
    if found not in {0, SCHEMA}:
        raise StartupError(
            f"The state file {path} is of another leasedb (format {found}, this one writes {SCHEMA}).",
            hint="Run the leasedb that wrote it, or choose another directory with LEASEDB_STATE_DIR.",
        )
    SQLModel.metadata.create_all(connection, tables=[DAEMON, SERVER, TEMPLATE, DATABASE, LEASE])
    connection.exec_driver_sql(f"PRAGMA user_version = {SCHEMA}")


def _unusable(path: Path, error: Exception) -> StartupError:
    cause = _cause(error)
    hint = "If it is damaged, move it away: a new one is made, and the old servers stop by themselves."
    if "full" in cause or "No space" in cause:  # SQLITE_FULL, ENOSPC
        hint = "Free some space on its disk, and start again: the leases in it go on."
    return StartupError(f"The state file {path} cannot be used: {cause}.", hint=hint)


def _cause(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error)


def _server_row(server: Server) -> Mapping[str, Any]:
    return {
        **asdict(server),
        "endpoint": json.dumps(asdict(server.endpoint)) if server.endpoint else None,
        "versions": json.dumps(asdict(server.versions)) if server.versions else None,
    }


def _server(row: Row[Any]) -> Server:
    values = {
        **row._mapping,  # noqa: SLF001 - the documented way to a row's names
        "state": ServerState(row.state),
        "endpoint": Endpoint(**json.loads(row.endpoint)) if row.endpoint else None,
        "versions": Versions(**json.loads(row.versions)) if row.versions else None,
    }
    return Server(**values)


def _template(row: Row[Any]) -> Template:
    return Template(row.id, row.server_id, row.name, row.database, TemplateState(row.state))


def _database(row: Row[Any], lease_active: bool | None) -> Database:  # noqa: FBT001 - three-valued
    """Return the database; ``lease_active`` tells of the lease on it, None when it was never leased."""
    state = DatabaseState(row.state)
    if state is DatabaseState.READY and lease_active is not None:
        state = DatabaseState.LEASED if lease_active else DatabaseState.CONDEMNED
    return Database(row.id, row.server_id, row.template, row.name, row.login, row.password, state)


def _lease_row(lease: Lease) -> Mapping[str, Any]:
    holder = lease.holder
    return {
        "id": lease.id,
        "database_id": lease.database_id,
        "holder": holder.name,
        "pid": holder.pid,
        "pid_started": holder.pid_started,
        "labels": json.dumps(dict(lease.labels)),
        "created_at": lease.created_at,
        "expires_at": lease.expires_at,
        "max_expires_at": lease.max_expires_at,
        "ttl": lease.ttl,
        "state": lease.state,
        "ended_at": lease.ended_at,
        "end_reason": lease.end_reason,
        "idempotency_key": lease.idempotency_key,
        "request_digest": lease.request_digest,
    }


def _lease(row: Row[Any]) -> Lease:
    return Lease(
        id=row.id,
        database_id=row.database_id,
        holder=Holder(row.holder, row.pid, row.pid_started),
        labels=json.loads(row.labels),
        created_at=row.created_at,
        expires_at=row.expires_at,
        max_expires_at=row.max_expires_at,
        ttl=row.ttl,
        state=LeaseState(row.state),
        ended_at=row.ended_at,
        end_reason=row.end_reason,
        idempotency_key=row.idempotency_key,
        request_digest=row.request_digest,
    )
