"""A store whose rows are in dictionaries."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from leasedb_server.domain.database import Database, DatabaseState
from leasedb_server.domain.errors import StoreFailedError
from leasedb_server.domain.lease import Instant, Lease
from leasedb_server.domain.names import new_daemon_id
from leasedb_server.domain.server import Server, ServerState
from leasedb_server.domain.template import Copy, CopyState, Template, TemplateState
from leasedb_server.ports import Snapshot
from tests.doubles.world import FakeWorld, Faults


class MemoryStore:
    """Rows in dictionaries. It outlives the daemon that wrote to it, as a file does.

    Args:
        world: whose fuse kills before and after each commit.
    """

    def __init__(self, world: FakeWorld | None = None) -> None:
        self.faults = Faults()
        self.commits: list[str] = []
        self.tried = 0  # commits, whether or not they succeeded
        self.fails: frozenset[int] = frozenset()  # the numbers, counted from 1, of those that do not
        self._world = world
        self._daemon = ""
        self._rows: dict[type[Any], dict[str, Any]] = defaultdict(dict)

    async def load(self) -> Snapshot:
        self._daemon = self._daemon or new_daemon_id()
        ended = sorted(self._rows[Lease].values(), key=lambda lease: lease.ended_at or 0.0)
        by_database = {lease.database_id: lease for lease in ended}
        return Snapshot(
            daemon=self._daemon,
            servers=list(self._rows[Server].values()),
            templates=list(self._rows[Template].values()),
            copies=list(self._rows[Copy].values()),
            databases=[_known(row, by_database.get(row.id)) for row in self._rows[Database].values()],
            leases=ended,
        )

    async def save_server(self, server: Server) -> None:
        await self._commit("save_server", lambda: self._put(server))

    async def save_template(self, template: Template) -> None:
        await self._commit("save_template", lambda: self._put(template))

    async def save_copy(self, copy: Copy) -> None:
        await self._commit("save_copy", lambda: self._put(copy))

    async def add_database(self, database: Database) -> None:
        await self._commit("add_database", lambda: self._insert(database))

    async def save_database(self, database: Database) -> None:
        def update() -> None:
            row = self._rows[Database].get(database.id)
            if row is not None:
                self._put(replace(row, state=database.state, partner=database.partner))

        await self._commit("save_database", update)

    async def add_lease(self, lease: Lease) -> None:
        def insert() -> None:
            if any(other.database_id == lease.database_id for other in self._rows[Lease].values()):
                raise StoreFailedError("UNIQUE constraint failed: lease.database_id")
            self._insert(lease)

        await self._commit("add_lease", insert)

    async def save_lease(self, lease: Lease) -> None:
        def update() -> None:
            row = self._rows[Lease].get(lease.id)
            if row is not None:
                changing = ("expires_at", "ttl", "state", "ended_at", "end_reason", "holder", "kept")
                self._put(replace(row, **{name: getattr(lease, name) for name in changing}))

        await self._commit("save_lease", update)

    async def forget(self, ended_before: Instant) -> None:
        def delete() -> None:
            self._keep(Lease, lambda lease: lease.ended_at is None or lease.ended_at >= ended_before)
            referred = {lease.database_id for lease in self._rows[Lease].values()}
            self._keep(Database, lambda row: row.state is not DatabaseState.GONE or row.id in referred)
            self._keep(Template, lambda row: row.state is not TemplateState.GONE)
            self._keep(Copy, lambda row: row.state is not CopyState.GONE)
            lived_on = {row.server_id for row in self._rows[Database].values()}
            self._keep(Server, lambda row: row.state is not ServerState.GONE or row.id in lived_on)

        await self._commit("forget", delete)

    async def close(self) -> None:
        pass

    async def _commit(self, method: str, change: Callable[[], None]) -> None:
        """Change the rows. Like the store on SQLite, this never lets another task of the loop go first."""
        self._step(method)
        self.tried += 1
        if self.tried in self.fails:
            raise StoreFailedError(f"The state file cannot be written: {method} failed.")
        await self.faults.meet(method)
        change()
        self.commits.append(method)
        self._step(f"{method} committed")

    def _step(self, what: str) -> None:
        if self._world is not None:
            self._world.fuse.step(what)

    def _insert(self, row: Any) -> None:
        if row.id in self._rows[type(row)]:
            raise StoreFailedError(f"UNIQUE constraint failed: {type(row).__name__.lower()}.id")
        self._put(row)

    def _put(self, row: Any) -> None:
        self._rows[type(row)][row.id] = row

    def _keep(self, kind: type[Any], wanted: Callable[[Any], bool]) -> None:
        self._rows[kind] = {key: row for key, row in self._rows[kind].items() if wanted(row)}


def _known(row: Database, lease: Lease | None) -> Database:
    """Return the database with the state that the lease on it makes of `ready`."""
    if row.state is not DatabaseState.READY or lease is None:
        return row
    return replace(row, state=DatabaseState.LEASED if lease.active else DatabaseState.CONDEMNED)
