"""Who builds a template, and who waits for it."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

from leasedb_server.domain.errors import (
    BuildFailedError,
    ShuttingDownError,
    TemplateBuildingError,
    TemplateExistsError,
)
from leasedb_server.domain.fault import Fault
from leasedb_server.domain.names import new_ident
from leasedb_server.domain.template import Template, TemplateState
from leasedb_server.ports import Clock
from leasedb_server.usecases.asking import CallerGone, CallerGoneError, TemplateRequest
from leasedb_server.usecases.ledger import Ledger


class Claims:
    """One builder per template, and the callers that wait for it.

    Args:
        wake: tells upkeep that there is something to plan for.
    """

    def __init__(self, ledger: Ledger, clock: Clock, wake: Callable[[], None]) -> None:
        self._ledger = ledger
        self._inventory = ledger.inventory
        self._clock = clock
        self._wake = wake
        # By key, while somebody waits for a build to end; the fault for which it did, if any.
        self._changes: dict[str, asyncio.Future[Fault | None]] = {}
        self._progress: dict[str, str] = {}
        self._closing = False

    def __repr__(self) -> str:
        return f"Claims({sorted(self._changes)})"

    def progress(self, template: Template) -> str:
        """Return how far a build is, for people; empty when there is none."""
        if template.state is not TemplateState.BUILDING:
            return ""
        since = datetime.fromtimestamp(template.created_at, UTC).strftime("%H:%M:%S")
        lease = self._inventory.leases.get(template.builder or "")
        holder = f" by {lease.holder.name}" if lease and lease.holder.name else ""
        done = self._progress.get(template.key)
        return f"being built{holder} since {since} UTC{f': {done}' if done else ''}"

    def note(self, key: str, progress: str) -> None:
        """Take in how far a build is."""
        if progress:
            self._progress[key] = progress
        else:
            self._progress.pop(key, None)

    async def claimed(self, wanted: TemplateRequest, caller_gone: CallerGone) -> tuple[Template, bool]:
        """Return the sealed template and False; or True, and the caller has to build what is written down now."""
        end = asyncio.get_running_loop().time() + wanted.wait
        while not self._closing:
            found = self._inventory.templates.get(wanted.key)
            if found is None or found.state is TemplateState.FAILED:
                return await self._claim(wanted, found), True
            if wanted.fingerprint is not None and found.fingerprint:
                same(found, wanted.fingerprint)
            if found.sealed:
                self._inventory.used(found.key, self._clock.now())
                return found, False
            if fault := await self._change(found, wanted, end, caller_gone):
                raise BuildFailedError(
                    f"The build of the template {wanted.name!r} failed: {fault.message}", cause=fault
                )
        raise ShuttingDownError("The daemon is stopping and builds nothing any more.")

    async def _claim(self, wanted: TemplateRequest, failed: Template | None) -> Template:
        if failed is not None:
            await self._ledger.put_template(failed.to(TemplateState.GONE))
        now = self._clock.now()
        template = Template(
            id=new_ident(),
            name=wanted.name,
            edition=wanted.edition,
            fingerprint=wanted.fingerprint or "",
            parent=wanted.parent,
            origin=wanted.origin,
            created_at=now,
            used_at=now,
        )
        await self._ledger.put_template(template)
        return template

    async def _change(
        self, found: Template, wanted: TemplateRequest, end: float, caller_gone: CallerGone
    ) -> Fault | None:
        """Wait until the build has ended in whatever way; return its fault, if it had one."""
        loop = asyncio.get_running_loop()
        change = self._changes.setdefault(found.key, loop.create_future())
        gone = asyncio.ensure_future(caller_gone())
        try:
            either: set[asyncio.Future[Any]] = {change, gone}
            rest = max(0.0, end - loop.time())
            await asyncio.wait(either, timeout=rest, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
        if gone.done():  # first of all: nobody builds for a caller who has left
            raise CallerGoneError
        if change.done():
            return change.result()
        progress = self.progress(found)
        raise TemplateBuildingError(
            f"The template {found.name!r} was not done within {wanted.wait:g} s: {progress}.", progress=progress
        )

    def changed(self, key: str, fault: Fault | None = None) -> None:
        """Have all who wait for this template look again, or tell them why its build failed."""
        if change := self._changes.pop(key, None):
            change.set_result(fault)
        self._wake()

    def close(self) -> None:
        """Refuse those who wait, and all who come."""
        self._closing = True
        for key in list(self._changes):
            self.changed(key)


def same(found: Template, requested: str) -> None:
    """Raise when the template has another content than the one asked for.

    Raises:
        TemplateExistsError: with both fingerprints.
    """
    if found.fingerprint != requested:
        raise TemplateExistsError(
            f"There is a template {found.name!r} with another content: its fingerprint is {found.fingerprint},"
            f" and {requested} was asked for.",
            fingerprint=found.fingerprint,
            requested=requested,
        )


class Fingerprint:
    """Made of a text while it is read."""

    def __init__(self, parent: str) -> None:
        self._hash = hashlib.sha256(f"{parent}\n".encode())

    @property
    def text(self) -> str:
        return f"sql:{self._hash.hexdigest()}"

    async def of(self, text: AsyncIterator[str]) -> AsyncIterator[str]:
        """Pass the text on."""
        async for part in text:
            self._hash.update(part.encode())
            yield part
