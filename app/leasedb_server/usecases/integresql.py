"""What IntegreSQL does for its clients, done with templates and leases.

Its clients name a template by a hash and say nothing about themselves; `attending` looks after their leases. How
IntegreSQL behaves is taken from its v1.1.0, https://github.com/allaboutapps/integresql: internal/api/templates,
pkg/manager, pkg/pool.
"""

import asyncio
import hashlib
import re
import secrets
from dataclasses import replace
from typing import Any, Final

from leasedb_server.domain.errors import (
    BuildFailedError,
    LeaseNotFoundError,
    TemplateBuildingError,
    TemplateInUseError,
    TemplateNotFoundError,
    TemplateSealedError,
)
from leasedb_server.domain.inventory import Inventory
from leasedb_server.domain.lease import Holder, Lease, LeaseState
from leasedb_server.domain.template import Template, TemplateState
from leasedb_server.usecases.asking import CallerGone, CallerGoneError, LeaseRequest, TemplateRequest
from leasedb_server.usecases.attending import LEAVING, Attending
from leasedb_server.usecases.leasing import Leasing
from leasedb_server.usecases.templating import Templating

LABEL: Final = "integresql"  # its value is the template's name; also the beginning of names and fingerprints
NUMBER: Final = f"{LABEL}-test"  # the label with the number by which a client knows its test database

WAIT: Final = 55.0  # seconds for a test database; IntegreSQL takes 60, for which some clients wait
PATIENCE: Final = 25.0  # seconds that calls take at most which nobody expects to take long; some clients wait for 30
ABSENT: Final = 60.0  # seconds without a session after which a builder makes way for whoever asks
MOMENT: Final = 1.0  # seconds between looks at a template whose builder may be gone without a word

CONNECTING: Final = 0.5  # seconds that a builder has, at first, to connect
AWAY: Final = 1.0  # seconds for which a builder may have disconnected, while somebody else calls the template complete
FORGOTTEN: Final = 5.0  # seconds after which sessions that do nothing count as ones that were not closed
GLANCE: Final = 0.2  # seconds between looks at them

_PLAIN: Final = re.compile(r"[A-Za-z0-9._-]{1,89}")  # a hash that can be part of a template's name
_NUMBERS: Final = 2**30  # so that some billion follow the first and fit 32 bits with a sign
_SHOWN: Final = len(LABEL) + 13  # characters of a template's name that stand for its callers
_DISCARDED: Final = "it was discarded"


class Integresql:
    """Templates by hash, and test databases by number.

    What is known of a test database is in its lease's labels, and so outlives the process.
    """

    def __init__(self, inventory: Inventory, *, leasing: Leasing, templating: Templating, attending: Attending) -> None:
        self._inventory = inventory
        self._leasing = leasing
        self._templating = templating
        self._attending = attending
        self._number = secrets.randbelow(_NUMBERS)  # not those of an earlier process: a late client may send one
        self._changed = asyncio.Event()  # another one after each change of a template

    def __repr__(self) -> str:
        return f"Integresql({self._attending!r})"

    async def run(self) -> None:
        """Look after the leases of clients; never returns."""
        await self._attending.run()

    # --- templates ---

    async def initialize(self, hashed: str, caller_gone: CallerGone) -> Lease:
        """Return the lease in which the caller is to build the template.

        Raises:
            TemplateSealedError: it is there.
            TemplateBuildingError: somebody builds it, and was connected lately.
            LeasedbError: as documented for ``POST /templates/{name}/build``.
            CallerGoneError: when the caller hung up while it waited.
        """
        name = name_of(hashed)
        await self._replace_absent(name)
        wanted = TemplateRequest(name, fingerprint=_fingerprint(hashed), wait=0.0)
        try:
            _, lease = await self._templating.build(wanted, self._request(hashed, PATIENCE), caller_gone)
        except TemplateBuildingError as error:
            raise TemplateBuildingError(
                f"The template {name!r} is {error.progress}.", progress=error.progress
            ) from None
        if lease is None:
            raise TemplateSealedError(f"The template {name!r} is initialized already.")
        return lease

    async def _replace_absent(self, name: str) -> None:
        """End a build in which nobody has been connected for long: nothing else tells of a dead builder."""
        found = self._inventory.templates.get(name)
        lease = self._inventory.leases.get(found.builder or "") if found else None
        if lease is None or lease.builds != name or not lease.active:
            return
        absent = min(ABSENT, self._attending.ttl)
        empty, _ = await self._attending.parted([lease])
        if empty and self._attending.unattended_for(lease) >= absent:
            await self._leasing.end(lease, LeaseState.RELEASED, f"no builder was connected for {absent:g} s")

    async def finalize(self, hashed: str) -> None:
        """Seal the template once its builder has left it. One that is sealed stays as it is.

        Programs finalize also what others build: the Python client does when it was told that the template is locked.
        That must not cut the build short, and has no effect when it goes on for long: its builder will finalize it.

        Raises:
            LeasedbError: as documented for ``POST /templates/{name}/seal``.
        """
        template = self._known(name_of(hashed))
        if template.sealed or not await self._left(template):
            return
        template = self._known(template.key)
        try:
            await self._templating.seal(template.key, template.builder or "", force=True)
        except TemplateSealedError:
            return  # by another call, meanwhile
        finally:
            self._change()

    async def _left(self, template: Template) -> bool:
        """Wait until nobody works on the template any more; tell whether that came about."""
        clock = asyncio.get_running_loop().time
        begin, others = clock(), False
        while clock() - begin < PATIENCE:
            found = self._inventory.templates.get(template.key)
            if found is None or found.id != template.id or found.state is not TemplateState.BUILDING:
                return True
            if lease := self._inventory.leases.get(found.builder or ""):
                quiet = await self._attending.quiet_for(lease)
                if quiet is None:
                    away = self._attending.unattended_for(lease) if others else self._attending.age(lease)
                    left = away >= (AWAY if others else CONNECTING)
                else:
                    left = quiet >= FORGOTTEN
                    others = others or clock() - begin > LEAVING
                if left:
                    return True
            await self._until_changed(None, GLANCE)
        return False

    async def discard(self, hashed: str) -> None:
        """Take the template away with all databases made of it; who waits for it is told.

        Raises:
            TemplateInUseError: somebody is connected to one of them, or waits for one. They all stay.
            LeasedbError: as documented for ``DELETE /templates/{name}`` and ``POST /templates/{name}/abandon``.
        """
        await self._discard(self._known(name_of(hashed)))

    async def discard_all(self) -> None:
        """Discard all templates that were made here.

        Raises:
            TemplateInUseError: naming those that are in use; all others are gone.
        """
        stay: list[str] = []
        for key in list(self._inventory.templates):
            template = self._inventory.templates.get(key)
            if template is not None and template.fingerprint.startswith(f"{LABEL}:"):
                try:
                    await self._discard(template)
                except TemplateInUseError as error:
                    stay.append(error.detail)
        if stay:
            raise TemplateInUseError(" ".join(stay))

    async def _discard(self, template: Template) -> None:
        try:
            if template.state is TemplateState.BUILDING:
                if template.builder is None:
                    raise TemplateInUseError(f"The template {template.name!r} is just being initialized.")
                await self._templating.abandon(template.key, template.builder, _DISCARDED)
                return
            leases = self._attending.leases(template.name)
            if used := await self._attending.attended(leases):
                raise TemplateInUseError(f"The template {template.name!r} is in use: {used} tests are connected.")
            for lease in leases:
                await self._leasing.end(lease, LeaseState.RELEASED, "its template was discarded")
            await self._templating.delete(template.key)
        finally:
            self._change()

    def _known(self, name: str) -> Template:
        """Return the template; one whose build failed is none."""
        template = self._templating.get(name)
        if template.state is TemplateState.FAILED:
            raise TemplateNotFoundError(f"There is no template {name!r}: {_why(template)}.")
        return template

    def _change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # --- test databases ---

    async def test(self, hashed: str, caller_gone: CallerGone) -> tuple[int, Lease]:
        """Return the number and the lease of a fresh database, once the template is sealed.

        Raises:
            TemplateNotFoundError: it was never initialized, or its builder is gone and nobody took its place in time.
            BuildFailedError: it was discarded while the caller waited.
            TemplateBuildingError: it was not finalized in time.
            LeasedbError: as documented for ``POST /leases``.
            CallerGoneError: when the caller hung up while it waited.
        """
        name = name_of(hashed)
        clock = asyncio.get_running_loop().time
        end = clock() + WAIT
        await self._until_sealed(name, end, caller_gone)
        self._number += 1
        if self._inventory.take_ready(name) is None:
            self._attending.hurry()
        wait = max(MOMENT, end - clock())
        lease = await self._leasing.acquire(self._request(hashed, wait, number := self._number), caller_gone)
        self._attending.leased(name)
        return number, lease

    async def give_back(self, hashed: str, number: int) -> None:
        """End the test database's lease: now, or once nobody is connected any more.

        Raises:
            LeaseNotFoundError, TemplateNotFoundError: there is no such test database.
        """
        name = name_of(hashed)
        labels = {LABEL: name, NUMBER: str(number)}
        lease = next((one for one in self._inventory.leases.values() if one.labels == labels), None)
        if lease is None:
            self._known(name)
            raise LeaseNotFoundError(f"There is no test database {number} of the template {name!r}.")
        if lease.active:
            await self._attending.give_back(lease)

    async def _until_sealed(self, name: str, end: float, caller_gone: CallerGone) -> None:
        found: Template | None = self._known(name)
        clock = asyncio.get_running_loop().time
        gone = asyncio.ensure_future(caller_gone())
        try:
            while found is None or not found.sealed:
                if found is not None and found.fault is not None:
                    raise BuildFailedError(f"The template {name!r} cannot be used: {_why(found)}.", cause=found.fault)
                if clock() > end:
                    progress = self._templating.progress(self._known(name))
                    raise TemplateBuildingError(
                        f"The template {name!r} was not finalized within {WAIT:g} s: {progress}.", progress=progress
                    )
                await self._until_changed(gone, MOMENT)
                found = self._inventory.templates.get(name)
        finally:
            gone.cancel()

    async def _until_changed(self, gone: asyncio.Future[object] | None, seconds: float) -> None:
        """Wait for a template to change, so many seconds at most, or until the caller is gone."""
        changed = asyncio.ensure_future(self._changed.wait())
        either: set[asyncio.Future[Any]] = {changed, gone} if gone else {changed}
        try:
            await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
        if gone is not None and gone.done():
            raise CallerGoneError

    def _request(self, hashed: str, wait: float, number: int | None = None) -> LeaseRequest:
        """Return what to ask for: the test database with this number, or a database to build in."""
        name = name_of(hashed)
        wish = LeaseRequest(self._attending.ttl, wait, holder=Holder(name[:_SHOWN]), labels={LABEL: name})
        return wish if number is None else replace(wish, template=name, labels={LABEL: name, NUMBER: str(number)})


def name_of(hashed: str) -> str:
    """Return the name of the template for this hash."""
    return f"{LABEL}-{hashed if _PLAIN.fullmatch(hashed) else _digest(hashed)}"


def _fingerprint(hashed: str) -> str:
    return f"{LABEL}:{_digest(hashed)}"


def _digest(hashed: str) -> str:
    return hashlib.sha256(hashed.encode()).hexdigest()


def _why(template: Template) -> str:
    return template.fault.message if template.fault else "its build failed"
