"""Taking over what an earlier daemon left: its servers, and whatever it was in the middle of."""

import contextlib
import logging
from typing import Final

from leasedb_server.domain.database import Database, DatabaseState
from leasedb_server.domain.errors import LeasedbError, ServerRefusedError, TemplateTooLargeError
from leasedb_server.domain.lease import Lease, LeaseState
from leasedb_server.domain.server import Server, ServerState
from leasedb_server.domain.template import Copy, CopyState, Origin, TemplateState, base_key
from leasedb_server.ports import Clock, DatabaseAdmin, ServerBackend, Survey
from leasedb_server.usecases.copies import Copies
from leasedb_server.usecases.exclusive import Exclusives
from leasedb_server.usecases.leasing import Leasing
from leasedb_server.usecases.ledger import Ledger
from leasedb_server.usecases.resetting import Resetting
from leasedb_server.usecases.serving import Serving
from leasedb_server.usecases.templating import ABANDONED, Templating

log = logging.getLogger(__name__)

ADOPT_LIMIT: Final = 15.0  # seconds in which a server of an earlier daemon has to answer, as one of this daemon's
_ALIVE: Final = {DatabaseState.READY, DatabaseState.LEASED, DatabaseState.SPARE}


class Recovering:
    """What is done once, at the start.

    Args:
        daemon: the daemon's id.
        start_timeout: seconds a server may take until it answers a query.
    """

    def __init__(
        self,
        ledger: Ledger,
        admin: DatabaseAdmin,
        clock: Clock,
        *,
        serving: Serving,
        leasing: Leasing,
        templating: Templating,
        resetting: Resetting,
        exclusives: Exclusives,
        copies: Copies,
        daemon: str,
        start_timeout: float,
    ) -> None:
        self._ledger = ledger
        self._inventory = ledger.inventory
        self._admin = admin
        self._clock = clock
        self._serving = serving
        self._leasing = leasing
        self._templating = templating
        self._resetting = resetting
        self._exclusives = exclusives
        self._copies = copies
        self._daemon = daemon
        self._start_timeout = start_timeout
        # Callers may ask for others before it is the turn of these.
        self._builds = [one.id for one in self._inventory.templates.values() if one.state is TemplateState.BUILDING]

    def __repr__(self) -> str:
        return f"Recovering({self._inventory!r})"

    async def recover(self) -> None:
        """Keep the servers that work and end what was begun there; take everything else of ours away."""
        for server in list(self._inventory.servers.values()):
            if not await self._adopted(server):
                await self._discard(server)
        for server in self._inventory.left_behind():
            if self._serving.backend_of(server) is not self._serving.backend:
                await self._clear(server)
        keep = frozenset(server.name for server in self._inventory.servers.values())
        try:
            for name in await self._serving.backend.sweep(keep):
                log.info("took away %s, which no record speaks of", name)
        except LeasedbError as error:
            log.warning("not everything that no record speaks of could be taken away: %s", error)
        await self._write_off_the_lost()
        await self._end_builds()
        await self._copies.recovered()
        self._leasing.taken_over.set()

    async def _adopted(self, server: Server) -> bool:
        backend, endpoint, versions = self._serving.backend_of(server), server.endpoint, server.versions
        if backend is None or backend is not self._serving.backend or endpoint is None or versions is None:
            return False  # not of the backend in use now, or never ready
        if server.state is not ServerState.STARTING or (server.exclusive and not self._leased(server)):
            return False  # on its way out already; or touched, and of no use to anybody
        try:
            if not await backend.alive(server.name):
                return False
            await self._admin.open(server.id, endpoint, self._patience(backend))
            survey = await self._admin.survey(server.id, self._daemon, self._named(server))
            base = self._inventory.sealed_on(server.id, base_key(server.edition))
            if base is None or base.database not in survey.databases:
                return False
            await self._reconcile(server, survey)
            await self._ledger.put_server(server.ready(endpoint, versions, server.ready_at or self._clock.now()))
        except LeasedbError as error:
            log.warning("server %s of an earlier daemon cannot be used: %s", server.id, error)
            return False
        self._serving.notes[server.id] = () if backend.disposable else survey.notes
        log.info("server %s taken over from an earlier daemon", server.id)
        return True

    def _leased(self, server: Server) -> bool:
        """Tell whether everything that was made on a server of its own is leased."""
        return all(one.state is DatabaseState.LEASED for one in self._inventory.databases_of(server.id))

    def _named(self, server: Server) -> frozenset[str]:
        """Return the names of databases and logins there, which callers may have chosen themselves."""
        databases = self._inventory.databases_of(server.id)
        return frozenset(name for database in databases for name in (database.name, database.login))

    def _patience(self, backend: ServerBackend) -> float:
        """Return the seconds in which a server has to answer: one that was lent may itself be on its way up."""
        return ADOPT_LIMIT if backend.disposable else self._start_timeout

    # --- one server ---

    async def _reconcile(self, server: Server, survey: Survey) -> None:
        """Bring record and server together: what was begun is ended, half-made things go, and so does the unknown."""
        for copy in self._inventory.copies_of(server.id):
            await self._mend_copy(copy, survey)
        holders = {lease.database_id: lease for lease in self._inventory.active_leases()}
        known = {copy.database for copy in self._inventory.copies_of(server.id)}
        databases = self._inventory.databases_of(server.id)
        for database in sorted(databases, key=lambda one: one.state is not DatabaseState.SPARE):
            known |= {database.name, database.login}
            await self._mend(database, holders.get(database.id), survey)
        await self._serving.drop_strangers(server, survey, frozenset(known))

    async def _mend(self, database: Database, lease: Lease | None, survey: Survey) -> None:
        there = database.name in survey.databases and database.login in survey.logins
        if database.state is DatabaseState.MAKING:
            await self._ledger.put_database(database.to(DatabaseState.CONDEMNED))
        elif database.state is DatabaseState.SPARE:
            await self._mend_reset(database)
        elif database.partner and lease:
            await self._exclusives.finish(database)
        elif database.state in _ALIVE and not there:
            await self._lose(database, lease, "its database is no longer on the server")
        elif lease and database.name in survey.closed:
            try:
                await self._admin.reopen(database.server_id, database)
            except ServerRefusedError as error:  # no reason against the server, and the other leases there
                await self._lose(database, lease, f"its login could not be let in again: {error.detail}")

    async def _lose(self, database: Database, lease: Lease | None, reason: str) -> None:
        if lease:
            await self._ledger.put_lease(lease.ended(LeaseState.LOST, self._clock.now(), reason))
        await self._ledger.put_database(database.to(DatabaseState.CONDEMNED))

    async def _mend_reset(self, spare: Database) -> None:
        database = self._inventory.databases.get(spare.partner or "")
        if database is not None and database.state is DatabaseState.LEASED:
            try:
                await self._resetting.finish(database, spare)
            except ServerRefusedError as error:  # no reason against the server: the lease may be reset again
                log.warning("the reset of %s could not be ended: %s", database.name, error)
        else:
            await self._ledger.put_database(spare.to(DatabaseState.CONDEMNED))

    async def _mend_copy(self, copy: Copy, survey: Survey) -> None:
        source = self._inventory.databases.get(copy.source or "")
        if copy.state is CopyState.SEALED and copy.database not in survey.databases:
            await self._ledger.put_copy(copy.to(CopyState.GONE))
        elif copy.state is CopyState.MAKING and not (source and await self._sealed(copy, source, survey)):
            await self._ledger.put_copy(copy.to(CopyState.CONDEMNED))

    async def _sealed(self, copy: Copy, source: Database, survey: Survey) -> bool:
        """Write down that a copy is sealed, when it is; else the lease that it was to be made of goes on."""
        template = self._inventory.templates.get(copy.template)
        lease = self._inventory.leases.get(template.builder or "") if template else None
        if template is None or lease is None or lease.database_id != source.id:
            return False
        if copy.database not in survey.databases:
            return False
        size = template.size or 0
        if template.state is TemplateState.BUILDING:
            if template.origin is Origin.BRANCH or source.name in survey.databases or not lease.active:
                return False  # a branch may be half made; of anything else the last step is that it takes its name
            try:
                size = await self._admin.seal(copy.server_id, source, copy.database, force=True)
            except ServerRefusedError as error:
                log.warning("template %s could not be sealed: %s", template.name, error)
                return False
        elif not template.sealed:
            return False
        with contextlib.suppress(TemplateTooLargeError):
            await self._templating.finish(copy, size, await self._templating.layout(copy.server_id))
        return True

    # --- all of them ---

    async def _write_off_the_lost(self) -> None:
        """Take note of what went with a server of which nothing is left: it could not be written down at the time."""
        for lease in self._inventory.active_leases():
            database = self._inventory.databases[lease.database_id]
            if database.state is DatabaseState.GONE or database.server_id not in self._inventory.servers:
                await self._ledger.put_lease(lease.ended(LeaseState.LOST, self._clock.now(), "its database is gone"))
        for database in list(self._inventory.databases.values()):
            if database.state is not DatabaseState.GONE and database.server_id not in self._inventory.servers:
                await self._ledger.put_database(database.to(DatabaseState.GONE))

    async def _end_builds(self) -> None:
        """End the builds that nobody is going to end: the daemon's own, branches, and those without their lease."""
        for template in list(self._inventory.templates.values()):
            if template.state is not TemplateState.BUILDING or template.id not in self._builds:
                continue
            lease = self._inventory.leases.get(template.builder or "")
            ours = template.origin is not Origin.BUILD
            if lease is None or not lease.active or ours:
                await self._ledger.put_template(template.to(TemplateState.GONE), fact=True)
            if lease is not None and lease.active and ours and lease.builds == template.key:
                await self._leasing.end(lease, LeaseState.RELEASED, ABANDONED)
        for lease in self._inventory.active_leases():  # its claim was not yet written down, or it failed
            if lease.builds and self._templating.builder_of(lease.builds) != lease.id:
                await self._leasing.end(lease, LeaseState.RELEASED, ABANDONED)

    async def _discard(self, server: Server) -> None:
        """Take away a server of an earlier daemon that cannot be used, with its leases and databases."""
        await self._serving.end_leases(server, "its server was gone when the daemon started again")
        backend = self._serving.backend_of(server)
        # One that stays, and is no longer used. When it is still used, it is emptied when it is brought up.
        if backend is not self._serving.backend:
            await self._clear(server)
        try:
            await self._admin.close(server.id)
            if backend is not None:
                await backend.stop(server.name)
        except LeasedbError as error:
            log.warning("server %s of an earlier daemon was left as it is: %s", server.id, error)
        staying = self._serving.staying(server) if backend is self._serving.backend else frozenset[str]()
        await self._serving.write_off(server.to(ServerState.GONE), staying)

    async def _clear(self, server: Server) -> None:
        """Drop all of ours, templates too, on a server that stays and that this daemon does not use."""
        if server.endpoint is None or self._serving.disposable(server):
            return
        try:
            await self._admin.open(server.id, server.endpoint, self._start_timeout)
            await self._serving.empty(server, wholly=True)
        except LeasedbError as error:
            log.warning("what is of this daemon on server %s, which it used before, stays there: %s", server.id, error)
        await self._admin.close(server.id)
