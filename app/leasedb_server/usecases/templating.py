"""Templates from the first request to their end: built once whoever asks, sealed, deleted, evicted.

The life of one, and who has a hand in it:

1. Somebody asks for it. `Claims` makes the first one its builder and has the others wait.
2. It is built in a database on lease, by the caller (`Templating.build`) or by us from SQL (`Templating.put`).
3. `Templating.seal` makes that database the first `Copy` of it. `Copies` knows where all copies lie.
4. `Carrying` keeps its files where servers are thrown away, and makes copies of them on servers that come later.
5. `Making` clones databases from the copies, as for `base`.
6. It is deleted by a caller, or evicted by `Copies` when all templates take too much.

What a daemon that died had begun is ended by `Recovering`.
"""

import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Final

from leasedb_server.domain.database import Database, DatabaseState
from leasedb_server.domain.edition import parted
from leasedb_server.domain.errors import (
    IdempotencyMismatchError,
    LeasedbError,
    LeaseEndedError,
    NotTheBuilderError,
    ParentMissingError,
    SessionsOpenError,
    SqlFailedError,
    TemplateBuiltinError,
    TemplateCycleError,
    TemplateInUseError,
    TemplateNotFoundError,
    TemplateSealedError,
    TemplateTooLargeError,
)
from leasedb_server.domain.extensions import extension_remedy
from leasedb_server.domain.fault import Fault
from leasedb_server.domain.lease import Holder, Lease, LeaseState, ended
from leasedb_server.domain.names import Kind, Name, new_ident
from leasedb_server.domain.template import BASE, Copy, CopyState, Origin, Template, TemplateState, built_in
from leasedb_server.ports import Clock, DatabaseAdmin
from leasedb_server.usecases.asking import CallerGone, LeaseRequest, TemplateRequest
from leasedb_server.usecases.claims import Claims, Fingerprint, same
from leasedb_server.usecases.copies import Copies
from leasedb_server.usecases.leasing import Leasing
from leasedb_server.usecases.ledger import Ledger
from leasedb_server.usecases.limits import Patience, attended, within

log = logging.getLogger(__name__)

SEAL_LIMIT: Final = 300.0  # seconds for what runs on a server while its lease cannot end
ABANDONED: Final = "its template was abandoned by its builder"


class Templating:
    """The templates of one daemon.

    Args:
        copies: where they lie.
        daemon: the daemon's id.
        wake: tells upkeep that there is something to plan for.
    """

    def __init__(
        self,
        ledger: Ledger,
        admin: DatabaseAdmin,
        clock: Clock,
        leasing: Leasing,
        copies: Copies,
        *,
        daemon: str,
        wake: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._inventory = ledger.inventory
        self._admin = admin
        self._clock = clock
        self._leasing = leasing
        self._copies = copies
        self._daemon = daemon
        self._claims = Claims(ledger, clock, wake)
        ledger.after_end.append(self._lease_ended)
        leasing.at_close.append(self._claims.close)

    def __repr__(self) -> str:
        return f"Templating({sorted(self._inventory.templates)})"

    # --- looking ---

    def get(self, key: str) -> Template:
        """Return the template with this key; the built-in one, too.

        Raises:
            TemplateNotFoundError: there is none.
        """
        name, edition = parted(key)
        if name == BASE:
            return built_in(edition)
        try:
            return self._inventory.templates[key]
        except KeyError:
            raise TemplateNotFoundError(f"There is no template {name!r}.") from None

    def builder_of(self, key: str) -> str | None:
        """Return the lease in which the template with this key is being built, or None."""
        found = self._inventory.templates.get(key)
        return found.builder if found and found.state is TemplateState.BUILDING else None

    def progress(self, template: Template) -> str:
        """Return how far a build is, for people; empty when there is none."""
        return self._claims.progress(template)

    # --- building ---

    async def build(
        self, wanted: TemplateRequest, request: LeaseRequest, caller_gone: CallerGone
    ) -> tuple[Template, Lease | None]:
        """Return the sealed template; or the template and the lease in which the caller is to build it.

        Whoever asks while somebody else builds waits, and becomes the builder when that one gives up or dies.

        ``request`` is for the lease to build in; its template is left to this.

        Raises:
            LeasedbError: as documented for ``POST /templates/{name}/build``.
            CallerGoneError: when the caller hung up while it waited.
        """
        wanted = await self._checked(wanted)
        with self._leasing.keys.of(request) as earlier:
            if earlier is not None:
                if earlier.builds != wanted.key:
                    raise IdempotencyMismatchError("The Idempotency-Key was used before, for another template.")
                return self.get(wanted.key), earlier
            patience = Patience(request.wait)
            template, ours = await self._claims.claimed(wanted, caller_gone)
            if not ours:
                return template, None
            lease = await self._begin(template, wanted, replace(request, wait=patience.left), caller_gone)
            return self.get(wanted.key), lease

    async def put(
        self, wanted: TemplateRequest, text: AsyncIterator[str], caller_gone: CallerGone
    ) -> tuple[Template, bool]:
        """Have a template built of SQL text, unless it is there; return it, and whether it was built now.

        Raises:
            LeasedbError: as documented for ``PUT /templates/{name}``.
            CallerGoneError: when the caller hung up while it waited.
        """
        wanted, patience = await self._checked(wanted), Patience(wanted.wait)
        template, ours = await self._claims.claimed(wanted, caller_gone)
        if not ours:
            if wanted.fingerprint is None:
                fingerprint = Fingerprint(self.get(wanted.parent_key).fingerprint)
                async for _ in fingerprint.of(text):
                    pass
                same(template, fingerprint.text)
            return template, False
        request = LeaseRequest(
            ttl=self._leasing.max_ttl, wait=patience.left, holder=Holder(f"leasedb: builds template {wanted.name}")
        )
        lease = await self._begin(template, wanted, request, caller_gone)
        try:
            fingerprint = Fingerprint(self.get(wanted.parent_key).fingerprint)
            notes = await attended(self._run(lease, wanted, fingerprint.of(text)), caller_gone)
            template = self._builder(wanted.key, lease.id)
            await self._ledger.put_template(
                replace(template, fingerprint=wanted.fingerprint or fingerprint.text, notes=notes)
            )
            return await self.seal(wanted.key, lease.id, force=True), True
        except BaseException:
            # a statement that failed, an upload that broke off, a daemon that stops: nothing of it stays
            await self._leasing.end(lease, LeaseState.RELEASED, ABANDONED, fact=True)
            raise
        finally:
            self._claims.note(wanted.key, "")

    async def _run(self, lease: Lease, wanted: TemplateRequest, text: AsyncIterator[str]) -> tuple[str, ...]:
        database = self._inventory.databases[lease.database_id]

        def progress(line: str) -> None:
            self._claims.note(wanted.key, line)

        try:
            return await self._admin.run_sql(database.server_id, database, text, progress)
        except SqlFailedError as error:
            backend = self._inventory.server_of(database).backend
            error.hint = extension_remedy(error.sqlstate, error.sql or "", backend) or error.hint
            fault = Fault(error.detail, error.sqlstate, error.statement, error.line, error.sql, error.hint)
            await self._fail(self._builder(wanted.key, lease.id), fault)
            raise

    async def _checked(self, wanted: TemplateRequest) -> TemplateRequest:
        """Return the request with its edition found out; raise when the template can never be built."""
        if wanted.postgres is not None or wanted.image is not None:
            await self._leasing.until_taken_over(wanted.wait)
        edition = self._leasing.edition(wanted.postgres, wanted.image)
        wanted = replace(wanted, edition=edition)
        if wanted.name == BASE:
            raise TemplateBuiltinError("The template 'base' is built in and stays as it is.")
        if not self._is_there(wanted):  # one that is holds all of its parent, which may have been evicted
            self._check_parents(wanted)
        return wanted

    def _is_there(self, wanted: TemplateRequest) -> bool:
        found = self._inventory.templates.get(wanted.key)
        return found is not None and found.sealed and found.fingerprint == wanted.fingerprint

    def _check_parents(self, wanted: TemplateRequest) -> None:
        ancestor = wanted.parent
        while ancestor != BASE:
            if ancestor == wanted.name:
                via = "" if wanted.parent == wanted.name else f", by way of {wanted.parent!r}"
                raise TemplateCycleError(f"The template {wanted.name!r} would be its own parent{via}.")
            found = self._inventory.templates.get(replace(wanted, name=ancestor).key)
            if found is None or not found.sealed:
                if ancestor == wanted.parent:
                    state = f"is {found.state}" if found else "is not there"
                    raise ParentMissingError(f"The parent {ancestor!r} of the template {wanted.name!r} {state}.")
                break  # it is no longer needed: the one built upon it holds all of it
            ancestor = found.parent

    async def _begin(
        self, template: Template, wanted: TemplateRequest, request: LeaseRequest, caller_gone: CallerGone
    ) -> Lease:
        """Lease a clone of the parent to build in."""
        request = replace(request, template=wanted.parent, edition=wanted.edition, builds=wanted.key)
        try:
            self._check_parents(wanted)  # somebody else's build may have taken its time
            lease = await self._leasing.lease(self._leasing.checked(request), caller_gone)
        except BaseException:
            await self.drop(template)
            raise
        try:
            await self._ledger.put_template(replace(template, builder=lease.id))
        except LeasedbError:
            await self.drop(template)
            await self._leasing.end(lease, LeaseState.RELEASED, ABANDONED, fact=True)
            raise
        return lease

    async def _lease_ended(self, lease: Lease) -> None:
        """Make room for the next builder when this lease was the one to build."""
        for copy in list(self._inventory.copies.values()):  # of it, which did not come about
            if copy.source == lease.database_id and copy.state is CopyState.MAKING:
                await self._ledger.put_copy(copy.to(CopyState.CONDEMNED), fact=True)
        template = self._inventory.templates.get(lease.builds or "")
        if template and template.builder == lease.id and template.state is TemplateState.BUILDING:
            log.info("template %s was not finished: its build lease %s has ended", template.name, lease.id)
            await self.drop(template)

    async def drop(self, template: Template) -> None:
        """Forget a template that did not come about, and let the next who waits build it."""
        current = self._inventory.templates.get(template.key)
        if current is not None and current.id == template.id and current.state is TemplateState.BUILDING:
            await self._ledger.put_template(current.to(TemplateState.GONE), fact=True)
        self._claims.changed(template.key)

    async def _fail(self, template: Template, fault: Fault) -> None:
        await self._ledger.put_template(replace(template, fault=fault).to(TemplateState.FAILED))
        self._claims.changed(template.key, fault)

    # --- sealing ---

    async def seal(self, key: str, lease_id: str, *, force: bool) -> Template:
        """Make the build lease's database the template; the lease ends with that.

        Raises:
            LeasedbError: as documented for ``POST /templates/{name}/seal``.
        """
        self._builder(key, lease_id)
        try:
            async with self._leasing.acting(lease_id) as lease:
                self._builder(key, lease_id)
                return await self._seal(key, lease, force=force)
        except LeaseEndedError:
            self._builder(key, lease_id)  # raises when somebody else has sealed it meanwhile
            raise

    async def _seal(self, key: str, lease: Lease, *, force: bool) -> Template:
        database = self._inventory.databases[lease.database_id]
        copy = await self._half_sealed(database, key)
        try:
            sealing = self._admin.seal(database.server_id, database, copy.database, force=force)
            size = await within(SEAL_LIMIT, sealing, f"Sealing {database.name}")
        except SessionsOpenError:
            await self._ledger.put_copy(copy.to(CopyState.GONE), fact=True)
            raise
        except LeasedbError:
            # How far it came is not known: the copy stays for the next try, or ends with the lease.
            with contextlib.suppress(LeasedbError):
                await self._admin.reopen(database.server_id, database)
            raise
        layout = await self.layout(database.server_id)
        self._builder(key, lease.id)  # still: the server may be lost, or the build given up
        return await self.finish(copy, size, layout)

    async def _half_sealed(self, database: Database, key: str) -> Copy:
        """Return the copy that the database is going to be, as written down; one that was begun is gone on with."""
        for copy in self._inventory.copies_from(key):
            if copy.state is CopyState.MAKING and copy.source == database.id:
                return copy
        name = Name(self._daemon, Kind.TEMPLATE, new_ident())
        await self._ledger.put_copy(copy := Copy(name.ident, database.server_id, key, str(name), source=database.id))
        return copy

    def _builder(self, key: str, lease_id: str) -> Template:
        """Return the template that is built in this lease."""
        found, lease = self._inventory.templates.get(key), self._leasing.get(lease_id)
        if found is not None and found.sealed:
            raise TemplateSealedError(f"The template {found.name!r} is sealed.")
        if lease.builds == key and not lease.active:
            raise ended(lease)
        template = self.get(key)
        if template.state is not TemplateState.BUILDING or template.builder != lease_id:
            raise NotTheBuilderError(f"The lease {lease_id} does not build the template {template.name!r}.")
        return template

    async def layout(self, server_id: str) -> str:
        """Return which servers can take the files of templates from this one."""
        return await self._copies.layout(server_id)

    async def finish(self, copy: Copy, size: int, layout: str) -> Template:
        """Write down that a copy is sealed, and with it its template; also after an interruption.

        Once the template is written down, the rest are facts: whoever finds it so goes on here.

        Raises:
            TemplateTooLargeError: the template has failed with that.
            StoreFailedError: everything is as before.
        """
        template = self._inventory.templates[copy.template]
        if template.state is TemplateState.BUILDING:
            if not self._copies.fits(size):
                await self._too_large(template, copy, size)
            template = replace(template, size=size, layout=layout, used_at=self._clock.now()).to(TemplateState.SEALED)
            await self._ledger.put_template(template)
        await self._ledger.put_copy(replace(copy, source=None).to(CopyState.SEALED), fact=True)
        await self._conclude(template, copy)
        log.info("template %s sealed: %d bytes", template.name, size)
        self._claims.changed(template.key)
        await self._copies.sealed(template, copy.server_id)
        return template

    async def _conclude(self, template: Template, copy: Copy) -> None:
        """End the lease whose database is the template now; a branch leaves its lease alone."""
        source = self._inventory.databases.get(copy.source or "")
        lease = self._inventory.leases.get(template.builder or "")
        if template.origin is Origin.BRANCH or source is None or lease is None:
            return
        if lease.active:
            reason = f"it became the template {template.name}"
            await self._leasing.conclude(lease, LeaseState.RELEASED, reason, fact=True)
        if source.state is not DatabaseState.GONE:
            await self._ledger.put_database(source.to(DatabaseState.GONE), fact=True)

    async def _too_large(self, template: Template, copy: Copy, size: int) -> None:
        message = f"it has {size} bytes, and all templates together may have {self._copies.budget}"
        await self._fail(template, Fault(message, hint=TemplateTooLargeError.default_hint))
        await self._ledger.put_copy(copy.to(CopyState.CONDEMNED), fact=True)
        await self._conclude(template, copy)
        raise TemplateTooLargeError(f"The template {template.name!r} is not kept: {message}.")

    async def abandon(self, key: str, lease_id: str, error: str | None) -> None:
        """End a build: the next who waits builds, or all who wait are told the error.

        Raises:
            LeasedbError: as documented for ``POST /templates/{name}/abandon``.
        """
        template = self._builder(key, lease_id)
        if error is not None:
            await self._fail(template, Fault(error))
        await self._leasing.end(self._leasing.get(lease_id), LeaseState.RELEASED, ABANDONED)

    # --- the end ---

    async def delete(self, key: str) -> None:
        """Delete a template that nobody uses, and all that was made of it.

        Raises:
            LeasedbError: as documented for ``DELETE /templates/{name}``.
        """
        template = self.get(key)
        if template.origin is Origin.BUILTIN:
            raise TemplateBuiltinError("The template 'base' is built in and stays.")
        if template.state is TemplateState.BUILDING:
            raise TemplateInUseError(
                f"The template {template.name!r} is {self._claims.progress(template)}.",
                hint="Abandon the build first: POST /templates/{name}/abandon, or release its lease.",
            )
        if reason := self._copies.use(template):
            raise TemplateInUseError(f"The template {template.name!r} is in use: {reason}.")
        await self._copies.delete(template)
