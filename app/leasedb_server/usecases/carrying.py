"""Templates on their way: from servers into files, and from files to servers."""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Final

from leasedb_server.domain.edition import parted
from leasedb_server.domain.errors import LeasedbError, ServerRefusedError, ServerUnreachableError, UnknownTemplateError
from leasedb_server.domain.lease import Instant
from leasedb_server.domain.names import Kind, Name, new_ident
from leasedb_server.domain.server import Server, ServerState
from leasedb_server.domain.setbacks import Setbacks
from leasedb_server.domain.template import Copy, CopyState, Template
from leasedb_server.ports import Clock, DatabaseAdmin, TemplateFiles
from leasedb_server.usecases.ledger import Ledger

log = logging.getLogger(__name__)

Work = Coroutine[None, None, object]
HOPELESS: Final = 3  # failures in a row after which files count as of no use, or as not to be had
_NOT_SUPPORTED: Final = "0A000"  # SQLSTATE


class Carrying:
    """Keeps the files of templates, and makes copies of them where they are needed.

    Args:
        wanted: tells whether databases of a template, by its key, are waited for or to be kept ready.
        kept: called with a template once its files are kept, whatever has become of it since.
        of_no_use: called with a template when its files cannot be used.
        room: returns what tells how many bytes more there may be of a template.
        setbacks: what failed lately.
        daemon: the daemon's id.
        wake: tells upkeep that there is something to plan for.
    """

    def __init__(
        self,
        ledger: Ledger,
        admin: DatabaseAdmin,
        clock: Clock,
        files: TemplateFiles,
        *,
        wanted: Callable[[str], bool],
        kept: Callable[[Template], Awaitable[None]],
        of_no_use: Callable[[Template], Awaitable[None]],
        room: Callable[[], Callable[[Template], int]],
        setbacks: Setbacks,
        daemon: str,
        wake: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._inventory = ledger.inventory
        self._admin = admin
        self._clock = clock
        self._files = files
        self._wanted = wanted
        self._kept = kept
        self._of_no_use = of_no_use
        self._room = room
        self._setbacks = setbacks
        self._daemon = daemon
        self._wake = wake
        self._held: Counter[str] = Counter()  # keys of templates that somebody is about to use
        self._at_work: dict[str, asyncio.Event] = {}  # ids of copies, templates, servers that something is done with

    def __repr__(self) -> str:
        return f"Carrying({sorted(self._at_work)})"

    # --- what is under way ---

    def at_work(self, ident: str) -> bool:
        """Tell whether something is done with the copy, the template or the server with this id."""
        return ident in self._at_work

    def is_held(self, key: str) -> bool:
        """Tell whether somebody is about to use the template with this key."""
        return self._held[key] > 0

    @contextlib.contextmanager
    def held(self, key: str) -> Iterator[None]:
        """Keep the template with this key from being deleted."""
        self._held[key] += 1
        try:
            yield
        finally:
            self._held -= Counter([key])

    def begun(self, ident: str, work: Callable[[], Work]) -> Work:
        """Return work that counts as begun on what has this id, until it is done."""
        ended = self._at_work[ident] = asyncio.Event()

        async def done() -> None:
            try:
                await work()
            finally:
                self._at_work.pop(ident, None)
                ended.set()
                self._wake()

        return done()

    def due(self) -> list[Work]:
        """Return what is to be carried now; it counts as begun."""
        now, retry = self._clock.now(), self._setbacks.retry_at()

        def free(ident: str) -> bool:
            return ident not in self._at_work and retry.get(ident, 0.0) <= now

        work: list[Work] = []
        for template, source in self._unkept():
            if free(template.id):
                work.append(self.begun(template.id, partial(self._export, template, source)))
        for server in self._inventory.ready_servers():
            if free(server.id) and not server.exclusive:
                missing = next(self._missing(server, retry, now), None)
                if missing is not None:
                    work.append(self.begun(server.id, partial(self._import, server, missing)))
        return work

    # --- into files ---

    async def keep_all(self) -> None:
        """Keep the files of what is not kept yet: the servers are about to go, and nothing else is under way."""
        self._at_work.clear()
        for template, source in self._unkept():
            await self.begun(template.id, partial(self._export, template, source))

    async def keep(self, template: Template) -> None:
        """Keep the files of one template now, if they can be."""
        if under_way := self._at_work.get(template.id):
            await under_way.wait()
        elif not template.kept and (source := self._exportable(template)):
            await self.begun(template.id, partial(self._export, template, source))

    def needed_on(self, server_id: str) -> bool:
        """Tell whether files are to be had from this server that are kept nowhere, and are going to be."""
        for template, source in self._unkept():
            setback = self._setbacks.get(template.id)
            if source.server_id == server_id and (setback is None or setback.count < HOPELESS):
                return True
        return False

    def _unkept(self) -> list[tuple[Template, Copy]]:
        """Return the templates whose files are still to be kept, and where they can be had from."""
        missing = [one for one in self._inventory.templates.values() if one.sealed and one.layout and not one.kept]
        if not missing:
            return []
        room = self._room()
        fitting = [one for one in missing if (one.size or 0) <= room(one)]
        return [(one, source) for one in fitting if (source := self._exportable(one))]

    def _exportable(self, template: Template) -> Copy | None:
        if template.until_lease or not template.layout:  # with a lease it ends, and so with the server
            return None
        for copy in self._inventory.copies_from(template.key):
            server = self._inventory.servers.get(copy.server_id)
            if copy.state is CopyState.SEALED and server is not None and server.state is ServerState.READY:
                return copy
        return None

    async def _export(self, template: Template, copy: Copy) -> None:
        try:
            size = await self._files.write(template.id, self._admin.export_copy(copy.server_id, copy.database))
            current = self._inventory.templates.get(template.key)
            if current is not None and current.id == template.id:
                await self._ledger.put_template(replace(current, kept=size))
                self._setbacks.clear(template.id)
            await self._kept(replace(template, kept=size))
        except LeasedbError as error:
            current = self._inventory.templates.get(template.key)
            if current is not None and current.id == template.id:  # else it was deleted meanwhile, and is not missed
                self._fail(template.id, "the files of template %s were not kept: %s", template.name, error)

    # --- to servers ---

    def _missing(self, server: Server, retry: Mapping[str, Instant], now: Instant) -> Iterator[Template]:
        """Yield the templates of which the server should get a copy now, from what is kept."""
        copies = self._inventory.copies_of(server.id)
        there = {copy.template for copy in copies if copy.state is not CopyState.CONDEMNED}
        for key, template in self._inventory.templates.items():
            fitting = template.sealed and template.kept and template.edition == server.edition and key not in there
            if not fitting or not self._wanted(key) or retry.get(_way(template, server), 0.0) > now:
                continue
            # One copy there has to be, whatever the others take.
            if not self._on_servers(template) or (template.size or 0) <= self._room()(template):
                yield template

    async def bring(self, server: Server, key: str) -> Copy:
        """Return the server's copy of the template, brought there from the kept files when it has none.

        The template has to be `held` meanwhile.

        Raises:
            LeasedbError: when it cannot be had.
        """
        if found := self._inventory.sealed_on(server.id, key):
            return found
        await self.keep(self._sealed(key))
        template = self._sealed(key)
        if not template.kept:
            raise ServerUnreachableError(f"The template {template.name!r} cannot be brought to another server.")
        copy = await self._imported(server, template)
        if copy.state is not CopyState.SEALED:
            raise ServerUnreachableError(f"The server that the template {template.name!r} was brought to was lost.")
        return copy

    def _sealed(self, key: str) -> Template:
        template = self._inventory.templates.get(key)
        if template is None or not template.sealed:
            raise UnknownTemplateError(f"There is no template {parted(key)[0]!r}.")
        return template

    async def _import(self, server: Server, template: Template) -> None:
        way = _way(template, server)
        try:
            await self._imported(server, template)
        except LeasedbError as error:
            self._fail(way, "template %s was not brought to server %s: %s", template.name, server.id, error)
            setback = self._setbacks.get(way)
            unfit = isinstance(error, ServerRefusedError) and error.sqlstate == _NOT_SUPPORTED
            hopeless = unfit or (setback is not None and setback.count >= HOPELESS)
            if hopeless and not isinstance(error, ServerUnreachableError) and not self._on_servers(template):
                log.warning("template %s has to be built again: its files are of no use", template.name)
                await self._of_no_use(template)
        else:
            self._setbacks.clear(way)

    async def _imported(self, server: Server, template: Template) -> Copy:
        """Make a copy of the kept files.

        Raises:
            LeasedbError: when it could not be made; nothing of it stays.
        """
        if await self._admin.layout(server.id) != template.layout:
            raise ServerRefusedError("its files are of another kind of server", sqlstate=_NOT_SUPPORTED)
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

    # --- room ---

    def _on_servers(self, template: Template) -> bool:
        copies = self._inventory.copies_from(template.key)
        return any(copy.state is CopyState.SEALED and self._inventory.serves(copy.server_id) for copy in copies)

    def _fail(self, whose: str, message: str, *values: object) -> None:
        if self._setbacks.add(whose, message % values, self._clock.now()).count == 1:
            log.warning(message, *values)


def _way(template: Template, server: Server) -> str:
    """Return by what failures to bring a template to a server are known: it alone is put off for them."""
    return f"{template.id} to {server.id}"
