"""Where templates lie: sealed on servers, and as files for servers to come. Beyond a budget the least used go first."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from functools import partial
from typing import Final

from leasedb_server.domain.database import DatabaseState
from leasedb_server.domain.demand import Demand
from leasedb_server.domain.edition import parted
from leasedb_server.domain.errors import (
    LeasedbError,
    ServerRefusedError,
    ServerUnreachableError,
    StoreFailedError,
    UnknownTemplateError,
)
from leasedb_server.domain.names import Kind, Name, new_ident
from leasedb_server.domain.server import Server, ServerState
from leasedb_server.domain.setbacks import Setbacks
from leasedb_server.domain.template import Copy, CopyState, Template, TemplateState, is_base
from leasedb_server.ports import Clock, DatabaseAdmin, TemplateFiles
from leasedb_server.usecases.ledger import Ledger
from leasedb_server.usecases.serving import Serving

log = logging.getLogger(__name__)

Work = Coroutine[None, None, object]
_FEW: Final = 1  # databases kept ready of a branch without a name, which is leased from a few times
NOT_SUPPORTED: Final = "0A000"  # SQLSTATE
HOPELESS: Final = 3  # failures in a row after which files count as of no use, or as not to be had


class Copies:
    """The copies and the files of all templates.

    Args:
        waiting: tells how many callers wait for databases of a template, by its key.
        refuse: tells those who wait for databases of a template that there will be none.
        setbacks: what failed lately.
        daemon: the daemon's id.
        budget: bytes that all templates may take, on servers and as files.
        wake: tells upkeep that there is something to plan for.
    """

    def __init__(
        self,
        ledger: Ledger,
        admin: DatabaseAdmin,
        clock: Clock,
        serving: Serving,
        files: TemplateFiles,
        *,
        demand: Demand,
        waiting: Callable[[str], int],
        refuse: Callable[[str], None],
        setbacks: Setbacks,
        daemon: str,
        budget: int,
        wake: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._inventory = ledger.inventory
        self._admin = admin
        self._clock = clock
        self._serving = serving
        self._files = files
        self._demand = demand
        self._waiting = waiting
        self._refuse = refuse
        self._setbacks = setbacks
        self._daemon = daemon
        self.budget = budget
        self._wake = wake
        self._brought: Counter[str] = Counter()  # keys of templates that are on their way to a server
        self._at_work: dict[str, asyncio.Event] = {}  # ids of copies, templates, servers that something is done with

    def __repr__(self) -> str:
        return f"Copies({len(self._inventory.copies)})"

    # --- size and use ---

    def fits(self, size: int) -> bool:
        """Tell whether a template of so many bytes can be kept at all."""
        return size <= self.budget

    def taken(self) -> int:
        """Return what all templates take: their copies and their files. What is being dropped is of none."""
        taken = sum(template.kept for template in self._inventory.templates.values())
        for copy in self._inventory.copies.values():
            template = self._inventory.templates.get(copy.template)
            taken += (template.size or 0) if template and copy.state is not CopyState.CONDEMNED else 0
        return taken

    def use(self, template: Template) -> str:
        """Return who uses the template, for people; empty when nobody does."""
        key = template.key
        if leased := self._inventory.leases_from(key):
            return f"{leased} of its databases are leased"
        if self._waiting(key):
            return "callers wait for a database of it"
        if self._brought[key]:
            return "it is being brought to a server"
        children = [
            child.name
            for child in self._inventory.templates.values()
            if child.state is TemplateState.BUILDING
            and (child.parent, child.edition) == (template.name, template.edition)
        ]
        return f"{', '.join(children)} is being built upon it" if children else ""

    async def layout(self, server_id: str) -> str:
        """Return which servers can take the files of this one; empty when it keeps its templates itself."""
        server = self._inventory.servers[server_id]
        return await self._admin.layout(server_id) if self._serving.disposable(server) else ""

    # --- what happens to templates ---

    async def sealed(self, template: Template, server_id: str) -> None:
        """Have databases of a new template made ready, and its files kept."""
        self._demand.known(template.key, self._clock.now(), _FEW if template.until_lease else None)
        self._wake()
        server = self._inventory.servers.get(server_id)
        if server is not None and server.exclusive:  # it goes with its lease, which may be in a moment
            await self._keep(template)

    async def delete(self, template: Template) -> None:
        """Take the template away with everything that was made of it."""
        current = self._inventory.templates.get(template.key)
        if current is None or current.id != template.id:
            return
        await self._ledger.put_template(current.to(TemplateState.GONE))
        # From here on all are facts. What is still being made is looked at again when it is done.
        for copy in self._inventory.copies_from(template.key):
            if copy.state is CopyState.SEALED:
                await self._ledger.put_copy(copy.to(CopyState.CONDEMNED), fact=True)
        for database in self._inventory.ready_from(template.key):
            await self._ledger.put_database(database.to(DatabaseState.CONDEMNED), fact=True)
        self._refuse(template.key)
        log.info("template %s deleted", template.name)
        self._wake()
        await self._delete_files(current)

    async def _delete_files(self, template: Template) -> None:
        if template.kept:
            try:
                await self._files.delete(template.id)
            except StoreFailedError as error:
                log.warning("the files of template %s stay until the next start: %s", template.name, error)

    async def tidy(self) -> None:
        """Delete branches whose lease has ended, what is nowhere, and the least used templates beyond the budget."""
        sealed = [one for one in self._inventory.templates.values() if one.sealed]
        for template in sealed:
            if not self._lasts(template):
                log.warning("template %s went with its server and has to be built again", template.name)
                await self.delete(template)
            elif template.until_lease and not self._leased(template.until_lease) and not self.use(template):
                await self.delete(template)
        sealed = [one for one in self._inventory.templates.values() if one.sealed]
        for template in sorted(sealed, key=lambda one: one.used_at):
            if self.taken() <= self.budget:
                break
            free = not self.use(template) and template.id not in self._at_work
            if free and not self._leased(template.until_lease):
                log.info("template %s is evicted: all templates take %d bytes", template.name, self.taken())
                await self.delete(template)

    def _leased(self, lease_id: str | None) -> bool:
        lease = self._inventory.leases.get(lease_id or "")
        return lease is not None and lease.active

    def _lasts(self, template: Template) -> bool:
        """Tell whether databases can be made of it: it is on a server that stays, or could be brought to one."""
        return bool(template.kept) or any(
            copy.state is not CopyState.CONDEMNED and self._stays(copy.server_id)
            for copy in self._inventory.copies_from(template.key)
        )

    def _stays(self, server_id: str) -> bool:
        if not self._serving.backend.disposable:
            return True  # what is there is found again
        server = self._inventory.servers.get(server_id)
        return server is not None and server.state in {ServerState.STARTING, ServerState.READY}

    def _on_servers(self, template: Template) -> bool:
        copies = self._inventory.copies_from(template.key)
        return any(copy.state is CopyState.SEALED and self._inventory.serves(copy.server_id) for copy in copies)

    def _room_for(self, template: Template, more: int) -> bool:
        """Tell whether all that there is of the template, and so many bytes more of it, can be kept."""
        there = [copy for copy in self._inventory.copies_from(template.key) if copy.state is not CopyState.CONDEMNED]
        return template.kept + len(there) * (template.size or 0) + more <= self.budget

    async def write_uses_down(self) -> None:
        """Have the store know when templates were used last; not done with each lease."""
        for template in self._inventory.used_since():
            await self._ledger.put_template(template)

    # --- work that is due ---

    def due(self) -> list[Work]:
        """Return what is to be done with copies now; it counts as begun."""
        now = self._clock.now()
        retry = self._setbacks.retry_at()

        def free(ident: str) -> bool:
            return ident not in self._at_work and retry.get(ident, 0.0) <= now

        work: list[Work] = [
            self._begun(copy.id, partial(self._drop, copy))
            for copy in self._inventory.copies.values()
            if copy.state is CopyState.CONDEMNED and free(copy.id)
        ]
        for template, source in self._unkept():
            if free(template.id):
                work.append(self._begun(template.id, partial(self._export, template, source)))
        for server in self._inventory.ready_servers():
            if not free(server.id) or server.exclusive:
                continue
            missing = [one for one in self._missing(server) if retry.get(_way(one, server), 0.0) <= now]
            if missing:
                work.append(self._begun(server.id, partial(self._import, server, missing[0])))
        return work

    def _begun(self, ident: str, work: Callable[[], Work]) -> Work:
        ended = self._at_work[ident] = asyncio.Event()

        async def done() -> None:
            try:
                await work()
            finally:
                self._at_work.pop(ident, None)
                ended.set()
                self._wake()

        return done()

    def _missing(self, server: Server) -> Iterator[Template]:
        """Yield the templates of which the server should get a copy now, from what is kept."""
        copies = self._inventory.copies_of(server.id)
        there = {copy.template for copy in copies if copy.state is not CopyState.CONDEMNED}
        for key, template in self._inventory.templates.items():
            fitting = template.sealed and template.kept and template.edition == server.edition and key not in there
            # One copy there has to be, whatever the others take.
            fits = self._room_for(template, template.size or 0) or not self._on_servers(template)
            if fitting and fits and (self._waiting(key) or self._demand.wanted(key, self._clock.now())):
                yield template

    def _unkept(self) -> list[tuple[Template, Copy]]:
        """Return the templates whose files are still to be kept, and where they can be had from."""
        missing = [one for one in self._inventory.templates.values() if one.sealed and one.layout and not one.kept]
        fitting = [one for one in missing if self._room_for(one, one.size or 0)]
        return [(one, source) for one in fitting if (source := self._exportable(one))]

    def _exportable(self, template: Template) -> Copy | None:
        if template.until_lease or not template.layout:  # with a lease it ends, and so with the server
            return None
        for copy in self._inventory.copies_from(template.key):
            server = self._inventory.servers.get(copy.server_id)
            if copy.state is CopyState.SEALED and server is not None and server.state is ServerState.READY:
                return copy
        return None

    async def keep(self) -> None:
        """Keep the files of what is not kept yet: the servers are about to go."""
        self._at_work.clear()  # nobody is
        for template, source in self._unkept():
            await self._begun(template.id, partial(self._export, template, source))

    def needed_on(self, server_id: str) -> bool:
        """Tell whether files are to be had from this server that are kept nowhere, and are going to be."""
        for template, source in self._unkept():
            setback = self._setbacks.get(template.id)
            if source.server_id == server_id and (setback is None or setback.count < HOPELESS):
                return True
        return False

    async def _keep(self, template: Template) -> None:
        """Keep the files of one template now, if they can be."""
        if under_way := self._at_work.get(template.id):
            await under_way.wait()
        elif not template.kept and (source := self._exportable(template)):
            await self._begun(template.id, partial(self._export, template, source))

    async def _export(self, template: Template, copy: Copy) -> None:
        try:
            kept = await self._files.write(template.id, self._admin.export_copy(copy.server_id, copy.database))
            current = self._inventory.templates.get(template.key)
            if current is None or current.id != template.id:
                await self._delete_files(replace(template, kept=kept))  # deleted meanwhile
                return
            await self._ledger.put_template(replace(current, kept=kept))
            self._setbacks.clear(template.id)
            await self.tidy()
        except LeasedbError as error:
            self._fail(template.id, "the files of template %s were not kept: %s", template.name, error)

    async def bring(self, server: Server, key: str) -> Copy:
        """Return the server's copy of the template, brought there from the kept files when it has none.

        Raises:
            LeasedbError: when it cannot be had.
        """
        if found := self._inventory.sealed_on(server.id, key):
            return found
        self._brought[key] += 1
        try:
            await self._keep(self._sealed(key))
            template = self._sealed(key)
            if not template.kept:
                raise ServerUnreachableError(f"The template {template.name!r} cannot be brought to another server.")
            copy = await self._imported(server, template)
            if copy.state is not CopyState.SEALED:
                raise ServerUnreachableError(f"The server that the template {template.name!r} was brought to was lost.")
            return copy
        finally:
            self._brought -= Counter([key])

    def _sealed(self, key: str) -> Template:
        template = self._inventory.templates.get(key)
        if template is None or not template.sealed:
            raise UnknownTemplateError(f"There is no template {parted(key)[0]!r}.")
        return template

    async def _import(self, server: Server, template: Template) -> None:
        try:
            await self._imported(server, template)
        except LeasedbError as error:
            way = _way(template, server)
            self._fail(way, "template %s was not brought to server %s: %s", template.name, server.id, error)
            setback = self._setbacks.get(way)
            unfit = isinstance(error, ServerRefusedError) and error.sqlstate == NOT_SUPPORTED
            hopeless = unfit or (setback is not None and setback.count >= HOPELESS)
            if hopeless and not isinstance(error, ServerUnreachableError) and not self._on_servers(template):
                log.warning("template %s has to be built again: its files are of no use", template.name)
                await self._give_up(template)
        else:
            self._setbacks.clear(_way(template, server))

    async def _give_up(self, template: Template) -> None:
        try:
            await self.delete(template)
        except StoreFailedError as error:
            log.error("%s", error)

    async def _imported(self, server: Server, template: Template) -> Copy:
        """Make a copy of the kept files.

        Raises:
            LeasedbError: when it could not be made; nothing of it stays.
        """
        if await self._admin.layout(server.id) != template.layout:
            raise ServerRefusedError("its files are of another kind of server", sqlstate=NOT_SUPPORTED)
        name = Name(self._daemon, Kind.TEMPLATE, new_ident())
        copy = Copy(name.ident, server.id, template.key, str(name))
        await self._ledger.put_copy(copy)
        try:
            await self._admin.import_copy(server.id, copy.database, self._files.read(template.id))
        except BaseException:
            await self._become(copy, CopyState.CONDEMNED)
            raise
        current = self._inventory.templates.get(template.key)
        deleted = current is None or current.id != template.id
        return await self._become(copy, CopyState.CONDEMNED if deleted else CopyState.SEALED)

    async def _become(self, copy: Copy, state: CopyState) -> Copy:
        """Put the new state, unless the server was lost meanwhile and the copy went with it."""
        if self._inventory.copies.get(copy.id) is copy:
            await self._ledger.put_copy(copy := copy.to(state), fact=True)
        return copy

    async def _drop(self, copy: Copy) -> None:
        """Drop a condemned copy; nothing is cloned from it any more."""
        try:
            if not self._inventory.count(copy.server_id, copy.template, DatabaseState.MAKING):
                await self._admin.drop(copy.server_id, copy.database, None)
                await self._ledger.put_copy(copy.to(CopyState.GONE))
                self._setbacks.clear(copy.id)
                return
            self._setbacks.add(copy.id, f"{copy.database} is still being cloned", self._clock.now())
        except LeasedbError as error:
            self._fail(copy.id, "the copy %s was not dropped: %s", copy.database, error)

    def _fail(self, whose: str, message: str, *values: object) -> None:
        setback = self._setbacks.add(whose, message % values, self._clock.now())
        if setback.count == 1:
            log.warning(message, *values)

    # --- taken over ---

    async def recovered(self) -> None:
        """Forget the templates of which nothing is left, and delete the files that no record speaks of."""
        for copy in list(self._inventory.copies.values()):
            # On a server that is lent no more. When it is lent again, what is there counts as unknown.
            if copy.server_id not in self._inventory.servers and self._serving.backend.disposable:
                await self._ledger.put_copy(copy.to(CopyState.GONE), fact=True)
        for template in list(self._inventory.templates.values()):
            if template.sealed and not self._lasts(template):
                log.warning("template %s went with its server and has to be built again", template.name)
                await self._give_up(template)
        for copy in list(self._inventory.copies.values()):
            known = is_base(copy.template) or copy.template in self._inventory.templates
            if copy.state is CopyState.SEALED and not known:
                there = copy.server_id in self._inventory.servers  # else it is dropped as unknown when it is lent again
                await self._ledger.put_copy(copy.to(CopyState.CONDEMNED if there else CopyState.GONE), fact=True)
        await self._files.sweep(frozenset(one.id for one in self._inventory.templates.values() if one.kept))


def _way(template: Template, server: Server) -> str:
    """Return by what failures to bring a template to a server are known: it alone is put off for them."""
    return f"{template.id} to {server.id}"
