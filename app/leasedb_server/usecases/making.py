"""Making databases ready and taking them away again, on the servers' behalf."""

import logging
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass
from typing import Final

from leasedb_server.domain.cloning import Cloning, Strategy
from leasedb_server.domain.database import Database, DatabaseState
from leasedb_server.domain.errors import LeasedbError, ServerRefusedError, StoreFailedError
from leasedb_server.domain.names import Kind, Name, new_ident, new_password
from leasedb_server.domain.pace import Pace
from leasedb_server.domain.room import Place
from leasedb_server.domain.setbacks import Setbacks
from leasedb_server.domain.template import Copy
from leasedb_server.ports import Clock, DatabaseAdmin
from leasedb_server.usecases.ledger import Ledger
from leasedb_server.usecases.serving import Serving

log = logging.getLogger(__name__)

# SQLSTATE. Not every file system can share blocks, and Postgres has no code of its own for one that cannot.
NOT_THIS_WAY: Final = frozenset({"0A000", "22023", "58030", "XX000"})
DISK_FULL: Final = "53100"  # of memory, too, where files lie there
# Bytes of a template from which on cloning by the write-ahead log is not even tried: it writes every page twice, and
# two trials of a large template would keep everybody waiting.
TOO_LARGE_TO_LOG: Final = 32 * 1024**2


@dataclass(slots=True)
class Workshop:
    """What was learned about cloning on one server."""

    pace: Pace
    strategies: tuple[Strategy, ...]
    cloning: dict[str, Cloning]  # by template


class Making:
    """Creates and drops the databases that the planner wants made and dropped.

    Args:
        setbacks: what failed lately.
        daemon: the daemon's id.
        wake: tells upkeep that there is something to plan for.
    """

    def __init__(
        self,
        ledger: Ledger,
        admin: DatabaseAdmin,
        clock: Clock,
        serving: Serving,
        *,
        setbacks: Setbacks,
        daemon: str,
        wake: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._inventory = ledger.inventory
        self._admin = admin
        self._clock = clock
        self._serving = serving
        self._setbacks = setbacks
        self._daemon = daemon
        self._wake = wake
        self._workshops: dict[str, Workshop] = {}
        self._on_disk: set[str] = set()  # databases of servers in memory

    def __repr__(self) -> str:
        return f"Making({sorted(self._workshops)})"

    # --- what was learned ---

    def learned(self, server_id: str) -> Workshop | None:
        """Return what is known of cloning on a server, or None before its first clone."""
        return self._workshops.get(server_id)

    def pace(self, server_id: str) -> Pace:
        """Return how quickly a server clones, as far as that is known."""
        known = self._workshops.get(server_id)
        return known.pace if known else Pace()

    def forget(self, servers: Collection[str]) -> None:
        """Forget what was learned about all servers but these."""
        self._workshops = {server_id: known for server_id, known in self._workshops.items() if server_id in servers}
        templates = self._inventory.known_templates()
        for known in self._workshops.values():
            for template in known.cloning.keys() - templates:
                del known.cloning[template]
        self._on_disk.intersection_update(self._inventory.databases)

    # --- making ---

    async def begin_to_make(self, server_id: str, template: str) -> Coroutine[None, None, None]:
        """Write the intent down and return the rest of the work."""
        ident = new_ident()
        name = str(Name(self._daemon, Kind.DATABASE, ident))
        # The login has the database's name: access rules can then say who may go where without being changed.
        database = Database(ident, server_id, template, name, name, new_password())
        await self._ledger.add_database(database)
        return self._make(database)

    async def _make(self, database: Database) -> None:
        server_id = database.server_id
        copy = self._inventory.sealed_on(server_id, database.template)
        if copy is None:  # deleted meanwhile
            await self._become(database, DatabaseState.CONDEMNED)
            self._wake()
            return
        try:
            await self._clone(copy, database)
        except LeasedbError as error:
            self.fail(server_id, "database %s was not made: %s", database.name, error)
            await self._become(database, DatabaseState.CONDEMNED)
        else:
            self._setbacks.clear(server_id)
            # Of a template that was deleted meanwhile nothing is leased: there may be another of its name.
            deleted = self._inventory.copies.get(copy.id) is not copy
            await self._become(database, DatabaseState.CONDEMNED if deleted else DatabaseState.READY)
        self._wake()

    async def _clone(self, copy: Copy, database: Database) -> None:
        workshop = await self._workshop(database.server_id)
        cloning = self._cloning(workshop, copy)
        overflow = self._serving.pulses.place(database.server_id) is Place.OVERFLOW
        # From memory to a disk nothing can be shared, and how long that takes says nothing about the rest.
        strategy = cloning.surest if overflow else cloning.begin()
        work, made, refused = workshop.pace.started(began := self._clock.now()), False, ""
        try:
            await self._admin.create_database(database.server_id, copy.database, database, strategy, overflow=overflow)
        except ServerRefusedError as error:
            if error.sqlstate == DISK_FULL:
                self._serving.pulses.used_up(database.server_id)
            elif error.sqlstate in NOT_THIS_WAY and strategy is not cloning.surest:
                refused = str(error)
            raise
        else:
            now = self._clock.now()
            workshop.pace.finished(work, now)
            if overflow:
                self._on_disk.add(database.id)
            else:
                cloning.took(strategy, max(0.0, now - began))
            made = True
        finally:
            if not made:
                workshop.pace.ended(work, self._clock.now())
                if not overflow:
                    cloning.failed(strategy, refused)

    def _cloning(self, workshop: Workshop, copy: Copy) -> Cloning:
        if copy.template not in workshop.cloning:
            template = self._inventory.templates.get(copy.template)
            large = template is not None and (template.size or 0) > TOO_LARGE_TO_LOG
            ways = tuple(way for way in workshop.strategies if not (large and way is Strategy.LOG))
            workshop.cloning[copy.template] = Cloning(ways)
        return workshop.cloning[copy.template]

    async def way(self, server_id: str, template: str) -> Strategy:
        """Return how to clone this template, for a clone that is not to be ready for others."""
        workshop = await self._workshop(server_id)
        known = workshop.cloning.get(template)
        return known.best if known else workshop.strategies[0]

    async def _workshop(self, server_id: str) -> Workshop:
        if server_id not in self._workshops:
            strategies = await self._admin.strategies(server_id)
            self._workshops.setdefault(server_id, Workshop(Pace(), strategies, {}))
        return self._workshops[server_id]

    # --- dropping ---

    def begin_to_drop(self, database_id: str) -> Coroutine[None, None, None]:
        """Take a condemned database in hand and return the rest of the work.

        Not written down: that its lease has ended, or that it never became ready, says it already.
        """
        database = self._inventory.databases[database_id].to(DatabaseState.DROPPING)
        self._inventory.put_database(database)
        return self._drop(database)

    async def _drop(self, database: Database) -> None:
        try:
            workshop = await self._workshop(database.server_id)
            work = workshop.pace.started(self._clock.now())
            # What a reset took away belongs to the same login, which goes with the last of it.
            login = None if self._inventory.stripped(database.id) else database.login
            try:
                await self._admin.drop(database.server_id, database.name, login)
            finally:
                workshop.pace.ended(work, self._clock.now())
        except LeasedbError as error:
            # What the server refuses is this one's trouble: the others, and the callers in line, do not wait for it.
            whose = database.id if isinstance(error, ServerRefusedError) else database.server_id
            self.fail(whose, "database %s was not dropped: %s", database.name, error)
            await self._become(database, DatabaseState.CONDEMNED)
        else:
            self._setbacks.clear(database.id)
            await self._become(database, DatabaseState.GONE)
            if database.partner or login is None:
                await self._let_login_go(database.server_id, database.partner or database.id)
        self._wake()

    async def _let_login_go(self, server_id: str, database_id: str) -> None:
        """Drop a login that stayed for the sake of what it owned, once that is gone and its database as well."""
        database = self._inventory.databases.get(database_id)
        if self._inventory.stripped(database_id) or (database and database.state is not DatabaseState.GONE):
            return
        login = str(Name(self._daemon, Kind.DATABASE, database_id))
        try:
            await self._admin.drop_login(server_id, login)
        except LeasedbError as error:
            log.warning("login %s stays until the next start: %s", login, error)

    async def give_up(self, server_id: str, template: str, count: int) -> None:
        """Condemn ready databases that nobody needs any more."""
        for _ in range(count):
            database = self._inventory.ready_on(server_id, template)
            if database is None:
                return
            await self._ledger.put_database(database.to(DatabaseState.CONDEMNED))

    async def clear_memory(self, server_id: str) -> None:
        """Condemn the ready databases of a server whose memory is used up to the last: nobody could write to them."""
        for database in self._inventory.ready_of(server_id):
            if database.id not in self._on_disk:
                await self._ledger.put_database(database.to(DatabaseState.CONDEMNED))
                self._wake()

    async def _become(self, database: Database, state: DatabaseState) -> None:
        """Put the new state, unless the server was lost meanwhile and the database went with it."""
        if self._inventory.databases.get(database.id) is not database:
            return
        try:
            await self._ledger.put_database(database.to(state))
        except StoreFailedError as error:
            # The store still says what was, and the next start of the daemon puts that right.
            self.fail(database.server_id, "%s", error)
            self._inventory.put_database(database.to(DatabaseState.CONDEMNED))

    def fail(self, whose: str, message: str, *values: object) -> None:
        """Count a failure of a server or a database."""
        setback = self._setbacks.add(whose, message % values, self._clock.now())
        if setback.count == 1:
            log.warning(message, *values)
