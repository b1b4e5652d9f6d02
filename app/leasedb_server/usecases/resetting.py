"""What is done to the database of a lease that goes on: reset, and branched off."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace

from leasedb_server.domain.database import Database, DatabaseState
from leasedb_server.domain.edition import key, parted
from leasedb_server.domain.errors import (
    LeasedbError,
    ServerRefusedError,
    ServerUnreachableError,
    TemplateBuiltinError,
    TemplateExistsError,
    UnknownTemplateError,
)
from leasedb_server.domain.lease import Lease, ended
from leasedb_server.domain.names import Kind, Name, new_ident
from leasedb_server.domain.template import BASE, Copy, CopyState, Origin, Template, TemplateState
from leasedb_server.ports import Clock, DatabaseAdmin
from leasedb_server.usecases.asking import CallerGone, CallerGoneError
from leasedb_server.usecases.exclusive import Exclusives
from leasedb_server.usecases.leasing import Leasing
from leasedb_server.usecases.ledger import Ledger
from leasedb_server.usecases.limits import within
from leasedb_server.usecases.making import Making
from leasedb_server.usecases.queueing import Queue, Want
from leasedb_server.usecases.templating import SEAL_LIMIT, Templating

log = logging.getLogger(__name__)


class Resetting:
    """Resets and branches.

    Args:
        daemon: the daemon's id.
        wake_soon: tells upkeep that there will be something to plan for.
    """

    def __init__(
        self,
        ledger: Ledger,
        admin: DatabaseAdmin,
        clock: Clock,
        *,
        leasing: Leasing,
        queue: Queue,
        templating: Templating,
        making: Making,
        exclusives: Exclusives,
        daemon: str,
        wake_soon: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._inventory = ledger.inventory
        self._admin = admin
        self._clock = clock
        self._leasing = leasing
        self._queue = queue
        self._templating = templating
        self._making = making
        self._exclusives = exclusives
        self._daemon = daemon
        self._wake_soon = wake_soon

    def __repr__(self) -> str:
        return f"Resetting({self._inventory!r})"

    # --- reset ---

    async def reset(
        self, lease_id: str, template: str | None, wait: float, caller_gone: CallerGone
    ) -> tuple[Lease, int]:
        """Give the lease's database its template's content again, or another's; return how many sessions were ended.

        What a ready database holds is exchanged for it, so that nothing depends on what was done to it.

        Raises:
            LeasedbError: as documented for ``POST /leases/{id}/reset``. The lease then has what it had, or its login is
                refused until it is reset again.
            CallerGoneError: when the caller hung up while it waited; nothing was reset.
        """
        lease = self._active(lease_id)
        database = self._inventory.databases[lease.database_id]
        server = self._inventory.server_of(database)
        stock = database.template if template is None else key(template, server.edition)
        self._leasing.known_template(stock)
        if server.exclusive:
            async with self._leasing.acting(lease_id):
                number = await self._exclusives.reset(self._inventory.databases[database.id], stock)
        else:
            self._within_reach(stock, server.id)
            spare = await self._spare(lease, Want(stock, lease.holder.key, wait, server.id), caller_gone)
            number = await self._exchanged(lease_id, database, spare)
        self._inventory.used(stock, self._clock.now())
        self._wake_soon()
        return self._active(lease_id), number

    def _active(self, lease_id: str) -> Lease:
        lease = self._leasing.get(lease_id)
        if not lease.active:
            raise ended(lease)
        return lease

    def _within_reach(self, stock: str, server_id: str) -> None:
        """Raise when the template will never be on this server: a branch without a name stays where it is."""
        found = self._inventory.templates.get(stock)
        if found and found.until_lease and not self._inventory.sealed_on(server_id, stock):
            raise UnknownTemplateError(
                f"The template {found.name!r} is on another server than the lease.",
                hint="Give the branch a name: POST /leases/{id}/template with 'name'.",
            )

    async def _spare(self, lease: Lease, want: Want, caller_gone: CallerGone) -> Database:
        """Return a ready database of the lease's server; nobody waits for one when the lease has ended."""

        async def over() -> None:
            either = [asyncio.ensure_future(caller_gone()), asyncio.ensure_future(self._ledger.until_ended(lease.id))]
            try:
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for one in either:
                    one.cancel()

        try:
            return await self._queue.database(want, over)
        except CallerGoneError:
            self._active(lease.id)  # raises when it is that
            raise

    async def _exchanged(self, lease_id: str, database: Database, spare: Database) -> int:
        begun: Database | None = None
        try:
            async with self._leasing.acting(lease_id):
                if earlier := self._inventory.spare_for(database.id):
                    await self._end_earlier(database, earlier)
                if not self._queue.in_hand(spare):
                    self._active(lease_id)
                    raise ServerUnreachableError(f"The server of lease {lease_id} was lost.")
                # Written down before it begins: whoever finds it half done can tell how far it came, and ends it.
                wanted = replace(spare.to(DatabaseState.SPARE), partner=database.id)
                await self._ledger.put_database(wanted)
                begun = wanted
                return await self._finish(database, begun)
        finally:
            if begun is None:
                self._queue.give_back(spare)

    async def _end_earlier(self, database: Database, spare: Database) -> None:
        """End a reset that failed. What the caller did since is lost with the next one, which follows."""
        try:
            await self._finish(database, spare)
        except ServerRefusedError as error:
            log.warning("a reset of %s that failed is given up: %s", database.name, error)
            await self._give_up(spare)

    async def _finish(self, database: Database, spare: Database) -> int:
        number = await self._admin.reset(database.server_id, database, spare)
        await self._give_up(spare)
        return number

    async def _give_up(self, spare: Database) -> None:
        if self._inventory.databases.get(spare.id) is spare:  # else its server was lost meanwhile
            await self._ledger.put_database(spare.to(DatabaseState.CONDEMNED), fact=True)

    async def finish(self, database: Database, spare: Database) -> None:
        """End a reset that an earlier daemon began."""
        log.info("ending the reset of %s that was begun", database.name)
        await self._finish(database, spare)

    # --- branches ---

    async def branch(self, lease_id: str, name: str | None, fingerprint: str | None, *, force: bool) -> Template:
        """Make a template of what the lease's database holds now. The lease goes on.

        Raises:
            LeasedbError: as documented for ``POST /leases/{id}/template``.
        """
        async with self._leasing.acting(lease_id) as lease:
            database = self._inventory.databases[lease.database_id]
            edition = self._inventory.server_of(database).edition
            ident = new_ident()
            template = Template(
                id=ident,
                name=name or f"branch-{ident}",
                edition=edition,
                fingerprint=fingerprint or f"branch:{ident}",
                parent=parted(database.template)[0],
                origin=Origin.BRANCH,
                created_at=self._clock.now(),
                used_at=self._clock.now(),
                builder=lease.id,
                until_lease=None if name else lease.id,
            )
            found = self._there(template, fingerprint)
            if found is not None and found.sealed:
                return found
            if found is not None:
                await self._ledger.put_template(found.to(TemplateState.GONE))
            await self._ledger.put_template(template)
            return await self._branch(template, database, force=force)

    def _there(self, template: Template, fingerprint: str | None) -> Template | None:
        """Return what there is of this name: the same content, or a build that failed."""
        if template.name == BASE:
            raise TemplateBuiltinError("The template 'base' is built in and stays as it is.")
        found = self._inventory.templates.get(template.key)
        if found is None or found.state is TemplateState.FAILED:
            return found
        if found.sealed and fingerprint is not None and found.fingerprint == fingerprint:
            return found
        raise TemplateExistsError(
            f"There is a template {found.name!r} already.",
            fingerprint=found.fingerprint,
            requested=template.fingerprint,
        )

    async def _branch(self, template: Template, database: Database, *, force: bool) -> Template:
        name = Name(self._daemon, Kind.TEMPLATE, new_ident())
        copy = Copy(name.ident, database.server_id, template.key, str(name), source=database.id)
        try:
            await self._ledger.put_copy(copy)
            way = await self._making.way(database.server_id, database.template)
            branching = self._admin.branch(database.server_id, database, copy.database, way, force=force)
            size = await within(SEAL_LIMIT, branching, f"A branch of {database.name}")
            layout = await self._templating.layout(database.server_id)
            self._active(template.builder or "")  # still: the server may have been lost meanwhile
            return await self._templating.finish(copy, size, layout)
        except BaseException as error:
            if self._inventory.copies.get(copy.id) is copy:
                await self._ledger.put_copy(copy.to(CopyState.CONDEMNED), fact=True)
            await self._templating.drop(template)
            if isinstance(error, LeasedbError):
                with contextlib.suppress(LeasedbError):
                    await self._admin.reopen(database.server_id, database)
            raise
