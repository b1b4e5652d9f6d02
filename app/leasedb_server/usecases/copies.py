"""Where templates lie: sealed on servers, and as files for servers to come. Beyond a budget the least used go first."""

import contextlib
import logging
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final

from leasedb_server.domain.database import DatabaseState
from leasedb_server.domain.demand import Demand
from leasedb_server.domain.errors import LeasedbError, StoreFailedError
from leasedb_server.domain.server import Server, ServerState
from leasedb_server.domain.setbacks import Setbacks
from leasedb_server.domain.template import Copy, CopyState, Template, TemplateState, is_base
from leasedb_server.ports import Clock, DatabaseAdmin, TemplateFiles
from leasedb_server.usecases.carrying import Carrying, Work
from leasedb_server.usecases.ledger import Ledger
from leasedb_server.usecases.serving import Serving

log = logging.getLogger(__name__)

_FEW: Final = 1  # databases kept ready of a branch without a name, which is leased from a few times
RECENT: Final = 20.0  # seconds since its last use in which a template is not evicted: a suite leases it again and again
FAILED_KEPT: Final = 3600.0  # seconds for which a build that failed can be asked about


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
        self.budget = budget
        self._wake = wake
        self._carrying = Carrying(
            ledger,
            admin,
            clock,
            files,
            wanted=self._wanted,
            kept=self._kept,
            of_no_use=self._give_up,
            room=self._room,
            setbacks=setbacks,
            daemon=daemon,
            wake=wake,
        )

    def __repr__(self) -> str:
        return f"Copies({len(self._inventory.copies)})"

    # --- size and use ---

    def fits(self, size: int) -> bool:
        """Tell whether a template of so many bytes can be kept at all."""
        return size <= self.budget

    def taken(self) -> int:
        """Return what all templates take: their copies and their files. What is being dropped is of none."""
        return sum(self._takes().values())

    def _takes(self) -> Counter[str]:
        """Return what each template takes, by its key."""
        takes = Counter({key: template.kept for key, template in self._inventory.templates.items()})
        for copy in self._inventory.copies.values():
            template = self._inventory.templates.get(copy.template)
            if template and copy.state is not CopyState.CONDEMNED:
                takes[template.key] += template.size or 0
        return takes

    def _room(self) -> Callable[[Template], int]:
        """Return what tells how many bytes more a template may take: what is free, or may go and was used before it."""
        takes = self._takes()
        free = self.budget - takes.total()
        going = [(one.used_at, takes[one.key]) for one in self._inventory.templates.values() if self._may_go(one)]
        return lambda template: free + sum(size for used_at, size in going if used_at < template.used_at)

    def use(self, template: Template) -> str:
        """Return who uses the template, for people; empty when nobody does."""
        key = template.key
        if leased := self._inventory.leases_from(key):
            return f"{leased} of its databases are leased"
        if self._waiting(key):
            return "callers wait for a database of it"
        if self._carrying.is_held(key):
            return "a database of it is being made"
        children = [
            child.name
            for child in self._inventory.templates.values()
            if child.state is TemplateState.BUILDING
            and (child.parent, child.edition) == (template.name, template.edition)
        ]
        return f"{', '.join(children)} is being built upon it" if children else ""

    async def layout(self, server_id: str) -> str:
        """Return which servers can take the files of this one; empty when it keeps its templates itself."""
        server = self._inventory.servers.get(server_id)
        return await self._admin.layout(server_id) if server and self._serving.disposable(server) else ""

    # --- what happens to templates ---

    async def sealed(self, template: Template, server_id: str) -> None:
        """Have databases of a new template made ready, and its files kept."""
        self._demand.known(template.key, self._clock.now(), _FEW if template.until_lease else None)
        self._wake()
        server = self._inventory.servers.get(server_id)
        if server is not None and server.exclusive:  # it goes with its lease, which may be in a moment
            await self._carrying.keep(template)

    async def _kept(self, template: Template) -> None:
        current = self._inventory.templates.get(template.key)
        if current is None or current.id != template.id:  # deleted meanwhile
            await self._delete_files(template)
        else:
            await self.tidy()

    async def delete(self, template: Template) -> None:
        """Take the template away with everything that was made of it."""
        current = self._inventory.templates.get(template.key)
        if current is None or current.id != template.id:
            return
        await self._ledger.put_template(current.to(TemplateState.GONE))
        # From here on all are facts. What is still being made is looked at again when it is done.
        for copy in self._inventory.copies_from(template.key):
            if copy.state is CopyState.SEALED:
                await self._condemn(copy)
        for database in self._inventory.ready_from(template.key):
            await self._ledger.put_database(database.to(DatabaseState.CONDEMNED), fact=True)
        self._refuse(template.key)
        log.info("template %s deleted", template.name)
        self._wake()
        await self._delete_files(current)

    async def _condemn(self, copy: Copy) -> None:
        """Have a copy dropped. On a lent server that is away it counts as unknown, and goes when that is back."""
        there = copy.server_id in self._inventory.servers
        await self._ledger.put_copy(copy.to(CopyState.CONDEMNED if there else CopyState.GONE), fact=True)

    async def _delete_files(self, template: Template) -> None:
        if template.layout:  # also when it could not be written down that they are kept
            try:
                await self._files.delete(template.id)
            except StoreFailedError as error:
                log.warning("the files of template %s stay until the next start: %s", template.name, error)

    async def _give_up(self, template: Template) -> None:
        try:
            await self.delete(template)
        except StoreFailedError as error:
            log.error("%s", error)

    async def tidy(self) -> None:
        """Delete branches whose lease has ended, what is nowhere, and the least used templates beyond the budget."""
        for template in list(self._inventory.templates.values()):
            if not template.sealed:
                await self._forget(template)
            elif not self._lasts(template):
                log.warning("template %s went with its server and has to be built again", template.name)
                await self.delete(template)
            elif template.until_lease and not self._leased(template.until_lease) and not self.use(template):
                await self.delete(template)
        sealed = [one for one in self._inventory.templates.values() if one.sealed]
        for template in sorted(sealed, key=lambda one: one.used_at):
            if self.taken() <= self.budget:
                break
            if self._may_go(template):
                log.info("template %s is evicted: all templates take %d bytes", template.name, self.taken())
                await self.delete(template)

    def _may_go(self, template: Template) -> bool:
        """Tell whether the template may be evicted."""
        unused = template.sealed and self._clock.now() - template.used_at >= RECENT and not self.use(template)
        return unused and not self._carrying.at_work(template.id) and not self._leased(template.until_lease)

    async def _forget(self, template: Template) -> None:
        """Delete a build that failed long ago; another may have been made under another name."""
        long_ago = self._clock.now() - template.created_at >= FAILED_KEPT
        if template.state is TemplateState.FAILED and long_ago and not self.use(template):
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

    async def write_uses_down(self) -> None:
        """Have the store know when templates were used last; not done with each lease."""
        for template in self._inventory.used_since():
            await self._ledger.put_template(template)

    # --- work that is due ---

    def due(self) -> list[Work]:
        """Return what is to be done with copies now; it counts as begun."""
        now, retry = self._clock.now(), self._setbacks.retry_at()
        dropping = [
            self._carrying.begun(copy.id, partial(self._drop, copy))
            for copy in self._inventory.copies.values()
            if copy.state is CopyState.CONDEMNED
            and not self._carrying.at_work(copy.id)
            and retry.get(copy.id, 0.0) <= now
        ]
        return [*dropping, *self._carrying.due()]

    async def keep(self) -> None:
        """Keep the files of what is not kept yet: the servers are about to go."""
        await self._carrying.keep_all()

    def needed_on(self, server_id: str) -> bool:
        """Tell whether files are to be had from this server that are kept nowhere, and are going to be."""
        return self._carrying.needed_on(server_id)

    def held(self, key: str) -> contextlib.AbstractContextManager[None]:
        """Keep the template with this key from being deleted."""
        return self._carrying.held(key)

    async def bring(self, server: Server, key: str) -> Copy:
        """Return the server's copy of the template, brought there from the kept files when it has none.

        The template has to be `held` meanwhile.

        Raises:
            LeasedbError: when it cannot be had.
        """
        return await self._carrying.bring(server, key)

    def _wanted(self, key: str) -> bool:
        return bool(self._waiting(key) or self._demand.wanted(key, self._clock.now()))

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
            lasting = copy.state is CopyState.SEALED and not self._serving.backend.disposable
            # On a server that is lent no more. When it is lent again, what is there counts as unknown.
            if copy.server_id not in self._inventory.servers and not lasting:
                await self._ledger.put_copy(copy.to(CopyState.GONE), fact=True)
        for template in list(self._inventory.templates.values()):
            if template.sealed and not self._lasts(template):
                log.warning("template %s went with its server and has to be built again", template.name)
                await self._give_up(template)
        for copy in list(self._inventory.copies.values()):
            found = self._inventory.templates.get(copy.template)
            known = is_base(copy.template) or (found is not None and found.sealed)
            if copy.state is CopyState.SEALED and not known:
                await self._condemn(copy)
        await self._files.sweep(frozenset(one.id for one in self._inventory.templates.values() if one.kept))
