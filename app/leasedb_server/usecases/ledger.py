"""Writing down and knowing: what is put here is in the store first and in the inventory right after."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from leasedb_server.domain.database import Database, DatabaseState
from leasedb_server.domain.errors import StoreFailedError
from leasedb_server.domain.inventory import Inventory
from leasedb_server.domain.lease import Instant, Lease
from leasedb_server.domain.server import Server
from leasedb_server.domain.template import Copy, Template
from leasedb_server.ports import Store

log = logging.getLogger(__name__)

Thing = TypeVar("Thing", Server, Template, Copy, Database, Lease)


class Ledger:
    """The inventory with its store behind it."""

    def __init__(self, inventory: Inventory, store: Store) -> None:
        self.inventory = inventory
        self._store = store
        self._owed: dict[str, Callable[[], Awaitable[None]]] = {}  # facts that the store does not know yet, by id
        self._until_gone: dict[str, asyncio.Event] = {}
        self._until_ended: dict[str, asyncio.Event] = {}
        self.after_end: list[Callable[[Lease], Awaitable[None]]] = []  # called with each lease that has ended

    def __repr__(self) -> str:
        return f"Ledger({self.inventory!r}, {self._store!r})"

    async def load(self) -> str:
        """Take in what the store holds and return the daemon's id."""
        snapshot = await self._store.load()
        for server in snapshot.servers:
            self.inventory.put_server(server.unproven())
        for template in snapshot.templates:
            self.inventory.put_template(template)
        for copy in snapshot.copies:
            self.inventory.put_copy(copy)
        for lease in snapshot.leases:  # before the databases: one that is gone stays for its lease only
            self.inventory.put_lease(lease)
        for database in snapshot.databases:
            self.inventory.put_database(database)
        return snapshot.daemon

    async def put_server(self, server: Server, *, fact: bool = False) -> None:
        """Write down and know.

        A ``fact`` holds whether or not it can be written: it is later, and else the next start finds it out again.
        """
        await self._write(self._store.save_server, server, fact=fact)
        self.inventory.put_server(server)

    async def put_template(self, template: Template, *, fact: bool = False) -> None:
        await self._write(self._store.save_template, template, fact=fact)
        self.inventory.put_template(template)

    async def put_copy(self, copy: Copy, *, fact: bool = False) -> None:
        await self._write(self._store.save_copy, copy, fact=fact)
        self.inventory.put_copy(copy)

    async def add_database(self, database: Database) -> None:
        await self._store.add_database(database)
        self.inventory.put_database(database)

    async def put_database(self, database: Database, *, fact: bool = False) -> None:
        await self._write(self._store.save_database, database, fact=fact)
        self.inventory.put_database(database)
        if database.state is DatabaseState.GONE and (gone := self._until_gone.pop(database.id, None)):
            gone.set()

    async def put_leased(self, database: Database) -> None:
        """Write a leased database's partner down. That it is leased is not the database's to say: its lease does."""
        await self._write(self._store.save_database, replace(database, state=DatabaseState.READY), fact=False)
        self.inventory.put_database(database)

    async def add_lease(self, lease: Lease) -> None:
        await self._store.add_lease(lease)
        self.inventory.put_lease(lease)

    async def put_lease(self, lease: Lease, *, fact: bool = False) -> None:
        await self._write(self._store.save_lease, lease, fact=fact)
        self.inventory.put_lease(lease)
        if not lease.active:
            if ended := self._until_ended.pop(lease.id, None):
                ended.set()
            for told in self.after_end:
                await told(lease)

    async def _write(self, save: Callable[[Thing], Awaitable[None]], thing: Thing, *, fact: bool) -> None:
        try:
            await save(thing)
        except StoreFailedError as error:
            if not fact:
                raise
            log.error("%s", error)
            self._owed[thing.id] = lambda: save(thing)
            return
        self._owed.pop(thing.id, None)
        await self._catch_up()

    async def _catch_up(self) -> None:
        """Write down the facts that could not be at their time."""
        for ident, save in list(self._owed.items()):
            try:
                await save()
            except StoreFailedError:
                return
            del self._owed[ident]

    async def forget(self, ended_before: Instant) -> None:
        await self._store.forget(ended_before)
        self.inventory.forget_ended(ended_before)

    def awaited(self) -> frozenset[str]:
        """Return the databases of which somebody waits that they are gone."""
        return frozenset(self._until_gone)

    async def until_gone(self, database_id: str) -> None:
        """Return when the database has been dropped."""
        database = self.inventory.databases.get(database_id)
        if database is not None and database.state is not DatabaseState.GONE:
            await self._until_gone.setdefault(database_id, asyncio.Event()).wait()

    async def until_ended(self, lease_id: str) -> None:
        """Return when the lease has ended."""
        lease = self.inventory.leases.get(lease_id)
        if lease is not None and lease.active:
            await self._until_ended.setdefault(lease_id, asyncio.Event()).wait()
