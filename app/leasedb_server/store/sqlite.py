"""What survives ``kill -9``: one SQLite file.

Commits happen inline, without a thread hop: one row in WAL mode takes some tens of microseconds, less than a hop.
``synchronous=NORMAL`` loses no commit to a killed process; a power cut may take the last ones, and with them the
servers they speak of. What the tables are is said in `tables`.
"""

import contextlib
import importlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from leasedb_server.domain.database import Database, DatabaseState
from leasedb_server.domain.errors import StartupError, StoreFailedError
from leasedb_server.domain.fault import Fault
from leasedb_server.domain.lease import Holder, Instant, Lease, LeaseState
from leasedb_server.domain.names import new_daemon_id
from leasedb_server.domain.server import Endpoint, Server, ServerState, Versions
from leasedb_server.domain.template import Copy, CopyState, Origin, Template, TemplateState
from leasedb_server.ports import Snapshot

STORE_FILE: Final = "leasedb.sqlite"
SCHEMA: Final = 3  # raised whenever a table changes
_LEAST_ROOM: Final = 2**20  # bytes without which a store cannot be opened

COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "daemon": ("id",),
    "server": (
        "id",
        "name",
        "backend",
        "state",
        "created_at",
        "ready_at",
        "error",
        "endpoint",
        "versions",
        "edition",
        "exclusive",
    ),
    "template": (
        "id",
        "name",
        "edition",
        "fingerprint",
        "parent",
        "origin",
        "created_at",
        "used_at",
        "state",
        "size",
        "layout",
        "kept",
        "builder",
        "until_lease",
        "fault",
        "notes",
    ),
    "copy": ("id", "server_id", "template", "database", "state", "source"),
    "database": ("id", "server_id", "template", "name", "login", "password", "state", "partner"),
    "lease": (
        "id",
        "database_id",
        "holder",
        "pid",
        "pid_started",
        "labels",
        "created_at",
        "expires_at",
        "max_expires_at",
        "ttl",
        "state",
        "ended_at",
        "end_reason",
        "idempotency_key",
        "request_digest",
        "builds",
        "kept",
    ),
}


def _insert(table: str, how: str = "INSERT") -> str:
    names = COLUMNS[table]
    return f'{how} INTO "{table}" ({", ".join(names)}) VALUES ({", ".join(f":{name}" for name in names)})'


# The driver keeps them prepared.
_ADD_DAEMON, _ADD_DATABASE, _ADD_LEASE = _insert("daemon"), _insert("database"), _insert("lease")
_PUT_SERVER, _PUT_TEMPLATE = _insert("server", "INSERT OR REPLACE"), _insert("template", "INSERT OR REPLACE")
_PUT_COPY = _insert("copy", "INSERT OR REPLACE")
_SAVE_DATABASE = 'UPDATE "database" SET state = :state, partner = :partner WHERE id = :id'
_SAVE_LEASE = (
    'UPDATE "lease" SET expires_at = :expires_at, ttl = :ttl, state = :state, ended_at = :ended_at,'
    " end_reason = :end_reason, pid = :pid, pid_started = :pid_started, kept = :kept WHERE id = :id"
)
_FORGET = (
    'DELETE FROM "lease" WHERE ended_at < :before',
    'DELETE FROM "database" WHERE state = :gone AND id NOT IN (SELECT database_id FROM "lease")',
    'DELETE FROM "template" WHERE state = :gone',
    'DELETE FROM "copy" WHERE state = :gone',
    'DELETE FROM "server" WHERE state = :gone AND id NOT IN (SELECT server_id FROM "database")',
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
        self._new, self._discarded = not path.exists(), False
        try:
            path.touch(mode=0o600)
            path.chmod(0o600)
            self._driver = sqlite3.connect(path)
            self._driver.row_factory = sqlite3.Row
            try:
                _prepare(self._driver, path)
            except BaseException:
                self._driver.close()
                raise
        except (sqlite3.Error, OSError) as error:
            raise _unusable(path, error) from error

    def __repr__(self) -> str:
        return f"SqliteStore({str(self._path)!r})"

    async def load(self) -> Snapshot:
        """See `ports.Store`; raises StartupError when there is something in the file that means nothing."""
        try:
            return self._load()
        except (sqlite3.Error, ValueError, TypeError) as error:
            raise _unusable(self._path, error) from error

    def _load(self) -> Snapshot:
        with self._driver as driver:
            row = driver.execute('SELECT id FROM "daemon"').fetchone()
            daemon: str = row["id"] if row else new_daemon_id()
            if row is None:
                driver.execute(_ADD_DAEMON, {"id": daemon})
            leases = [_lease(row) for row in driver.execute('SELECT * FROM "lease" ORDER BY ended_at')]
            active = {lease.database_id: lease.active for lease in leases}
            return Snapshot(
                daemon=daemon,
                servers=[_server(row) for row in driver.execute('SELECT * FROM "server"')],
                templates=[_template(row) for row in driver.execute('SELECT * FROM "template"')],
                copies=[_copy(row) for row in driver.execute('SELECT * FROM "copy"')],
                databases=[_database(row, active.get(row["id"])) for row in driver.execute('SELECT * FROM "database"')],
                leases=leases,
            )

    async def save_server(self, server: Server) -> None:
        self._commit(_PUT_SERVER, _server_row(server))

    async def save_template(self, template: Template) -> None:
        self._commit(_PUT_TEMPLATE, _template_row(template))

    async def save_copy(self, copy: Copy) -> None:
        self._commit(_PUT_COPY, asdict(copy))

    async def add_database(self, database: Database) -> None:
        self._commit(_ADD_DATABASE, asdict(database))

    async def save_database(self, database: Database) -> None:
        self._commit(_SAVE_DATABASE, {"id": database.id, "state": database.state, "partner": database.partner})

    async def add_lease(self, lease: Lease) -> None:
        self._commit(_ADD_LEASE, _lease_row(lease))

    async def save_lease(self, lease: Lease) -> None:
        self._commit(_SAVE_LEASE, _lease_row(lease))

    async def forget(self, ended_before: Instant) -> None:
        values = {"before": ended_before, "gone": "gone"}
        with self._transaction() as driver:
            for statement in _FORGET:
                driver.execute(statement, values)

    def discard(self) -> None:
        """Leave no file behind when closed, if there was none before."""
        self._discarded = self._new

    async def close(self) -> None:
        self._driver.close()  # takes the other files of the database away
        if self._discarded:
            self._path.unlink(missing_ok=True)

    def _commit(self, statement: str, values: Mapping[str, Any]) -> None:
        """Run one statement in a transaction of its own."""
        with self._transaction() as driver:
            driver.execute(statement, values)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._driver as driver:
                yield driver
        except sqlite3.Error as error:
            raise StoreFailedError(f"The state file {self._path} cannot be written: {error}.") from error


def _prepare(driver: sqlite3.Connection, path: Path) -> None:
    driver.execute("PRAGMA journal_mode = WAL")
    driver.execute("PRAGMA synchronous = NORMAL")
    found = driver.execute("PRAGMA user_version").fetchone()[0]
    if found == SCHEMA:
        return
    if found != 0:
        raise StartupError(
            f"The state file {path} is of another leasedb (format {found}, this one writes {SCHEMA}).",
            hint="Run the leasedb that wrote it, or choose another directory with LEASEDB_STATE_DIR.",
        )
    tables = importlib.import_module("leasedb_server.store.tables")  # late, see there
    try:
        tables.create(path)
    except tables.Failed as error:
        raise _unusable(path, error) from error
    driver.execute(f"PRAGMA user_version = {SCHEMA}")


def _unusable(path: Path, error: Exception) -> StartupError:
    cause = _cause(error)
    hint = "If it is damaged, move it away: a new one is made, and the old servers stop by themselves."
    # SQLITE_FULL, ENOSPC; of its shared memory SQLite only says that it could not be written
    if "full" in cause or "No space" in cause or ("I/O" in cause and _is_full(path)):
        hint = "Free some space on its disk, and start again: the leases in it go on."
    return StartupError(f"The state file {path} cannot be used: {cause}.", hint=hint)


def _is_full(path: Path) -> bool:
    try:
        room = os.statvfs(path.parent)
    except OSError:
        return False
    return room.f_bavail * room.f_frsize < _LEAST_ROOM


def _cause(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error)


def _server_row(server: Server) -> Mapping[str, Any]:
    return {
        **asdict(server),
        "endpoint": json.dumps(asdict(server.endpoint)) if server.endpoint else None,
        "versions": json.dumps(asdict(server.versions)) if server.versions else None,
    }


def _server(row: sqlite3.Row) -> Server:
    values = {
        **dict(row),
        "state": ServerState(row["state"]),
        "endpoint": Endpoint(**json.loads(row["endpoint"])) if row["endpoint"] else None,
        "versions": Versions(**json.loads(row["versions"])) if row["versions"] else None,
        "exclusive": bool(row["exclusive"]),
    }
    return Server(**values)


def _template_row(template: Template) -> Mapping[str, Any]:
    return {
        **asdict(template),
        "fault": json.dumps(asdict(template.fault)) if template.fault else None,
        "notes": json.dumps(template.notes),
    }


def _template(row: sqlite3.Row) -> Template:
    values = {
        **dict(row),
        "origin": Origin(row["origin"]),
        "state": TemplateState(row["state"]),
        "fault": Fault(**json.loads(row["fault"])) if row["fault"] else None,
        "notes": tuple(json.loads(row["notes"])),
    }
    return Template(**values)


def _copy(row: sqlite3.Row) -> Copy:
    return Copy(**{**dict(row), "state": CopyState(row["state"])})


def _database(row: sqlite3.Row, lease_active: bool | None) -> Database:  # noqa: FBT001 - three-valued
    """Return the database; ``lease_active`` tells of the lease on it, None when it was never leased."""
    state = DatabaseState(row["state"])
    if state is DatabaseState.READY and lease_active is not None:
        state = DatabaseState.LEASED if lease_active else DatabaseState.CONDEMNED
    return Database(**{**dict(row), "state": state})


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
        "builds": lease.builds,
        "kept": lease.kept,
    }


def _lease(row: sqlite3.Row) -> Lease:
    return Lease(
        id=row["id"],
        database_id=row["database_id"],
        holder=Holder(row["holder"], row["pid"], row["pid_started"]),
        labels=json.loads(row["labels"]),
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        max_expires_at=row["max_expires_at"],
        ttl=row["ttl"],
        state=LeaseState(row["state"]),
        ended_at=row["ended_at"],
        end_reason=row["end_reason"],
        idempotency_key=row["idempotency_key"],
        request_digest=row["request_digest"],
        builds=row["builds"],
        kept=bool(row["kept"]),
    )
