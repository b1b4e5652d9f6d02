"""The same lease, awaited."""

import uuid
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

from leasedb._base_lease import BaseLease, name_of
from leasedb._errors import LeasedbError, LeaseEndedError, LeaseNotFoundError
from leasedb._exchange import Pid
from leasedb._models import LeaseRecord
from leasedb._protocol import Terms
from leasedb._template import Checkpoint, Template

if TYPE_CHECKING:
    from leasedb._transport import AsyncLine


class AsyncLease(BaseLease):
    """A leased database. As an async context manager it is released at the end, whatever happened.

    In a forked child, `release` and the end of the block do nothing: the lease is the parent's.
    """

    def __init__(self, line: "AsyncLine", record: LeaseRecord, *, heartbeat: bool) -> None:
        super().__init__(record)
        self._line = line
        self._heartbeat = heartbeat
        if heartbeat:
            line.heartbeat.put(self)

    async def renew(self, ttl: float | None = None) -> float:
        """Let the lease live ``ttl`` seconds from now, or as long as it was asked for first.

        Returns:
            The seconds granted: fewer than asked for when ``max_expires_at`` is nearer.

        Raises:
            LeaseEndedError: the lease is over; LeaseLostError when its server died.
            LeasedbError: the daemon did not renew it, for the reason told.
        """
        wanted = self._ttl if ttl is None else ttl
        try:
            self._renewed(await self._line.run(self._line.wire.renew(self.id, wanted)))
        except (LeaseEndedError, LeaseNotFoundError) as error:
            self._line.heartbeat.drop(self)
            self._ended_by(error)
            raise
        self._ttl = wanted
        if self._heartbeat and self._ours:
            self._line.heartbeat.put(self)
        return self.ttl

    async def keep(self, ttl: float = 3600) -> None:
        """Let the lease live on for ``ttl`` seconds whatever becomes of this program, for somebody to look at.

        It is renewed no more, and not released at the end of its block; `release`, or ``leasedb kept`` later, ends it.

        Raises:
            KeepQuotaError: as many leases are kept as may be, all of them by this holder.
            LeaseEndedError: the lease is over; LeaseLostError when its server died.
            LeasedbError: the daemon refused, for the reason told; NotFoundError: it is too old to keep any.
        """
        try:
            record = await self._line.run(self._line.wire.keep(self.id, ttl))
        except (LeaseEndedError, LeaseNotFoundError) as error:
            self._line.heartbeat.drop(self)
            self._ended_by(error)
            raise
        self._line.heartbeat.drop(self)
        self._heartbeat = False
        self._renewed(record)

    async def release(self, *, sync: bool = False) -> None:
        """Give the database back; its login is refused from now on. Again, or after the lease's end, it does nothing.

        Args:
            sync: return only once the database is gone.

        Raises:
            LeasedbError: the daemon could not be told; the lease ends with its time.
        """
        if not self._ours or (self.state != "active" and not sync):
            return
        self._line.heartbeat.drop(self)
        with suppress(LeaseNotFoundError):  # ended so long ago that the daemon has forgotten it
            await self._line.run(self._line.wire.release(self.id, sync=sync))
        if self.state == "active":
            self._released()

    async def reset(self, template: Template | str | None = None, wait: float | None = None) -> int:
        """Give the database its template's content again, whatever was done to it; the URL and the login stay.

        All sessions on it are ended, this program's too: connections have to be opened anew.

        Args:
            template: a checkpoint or template made of this lease's database; what the lease was taken with if left out.
            wait: seconds to wait for a database at most; the daemon's default (60) when left out.

        Returns:
            How many sessions were ended.

        Raises:
            LeaseEndedError: the lease is over; LeaseLostError when its server died.
            UnknownTemplateError: there is no such template.
            PoolExhaustedError: no database came free within ``wait``.
        """
        try:
            exchange = self._line.wire.reset(self.id, template=name_of(template), wait=wait)
            record, ended = await self._line.run(exchange)
        except (LeaseEndedError, LeaseNotFoundError) as error:
            self._line.heartbeat.drop(self)
            self._ended_by(error)
            raise
        self._renewed(record)
        return ended

    async def to_template(
        self, name: str | None = None, fingerprint: str | None = None, *, force: bool = False
    ) -> Template:
        """Make a template of what the database holds now, which other leases can be taken with; this one goes on.

        Args:
            name: of the template; without one it lasts as long as this lease, as a checkpoint does.
            fingerprint: of its content; a new one when left out.
            force: end the sessions on the database, this program's too, which are in the way otherwise.

        Raises:
            SessionsOpenError: there are some, and ``force`` is not given.
            TemplateExistsError: there is one of this name, with another fingerprint.
        """
        if name is None:
            return await self._line.run(self._line.wire.checkpoint(self.id, force=force))
        content = f"branch:{uuid.uuid4().hex}" if fingerprint is None else fingerprint
        return await self._line.run(self._line.wire.branch(self.id, name=name, fingerprint=content, force=force))

    async def checkpoint(self, *, force: bool = True) -> Checkpoint:
        """Keep what the database holds now, for `restore`; it lasts as long as this lease.

        All sessions on the database are ended, this program's too: connections have to be opened anew.

        Args:
            force: False, to be refused instead of ending sessions.

        Raises:
            SessionsOpenError: there are some, and ``force`` is False.
        """
        checkpoint = await self._line.run(self._line.wire.checkpoint(self.id, force=force))
        self._checkpoint = checkpoint.name
        return checkpoint

    async def restore(self, checkpoint: Template | str | None = None, wait: float | None = None) -> int:
        """Give the database the content it had at a checkpoint, the latest one when left out.

        It ends sessions, returns and raises what `reset` does.

        Raises:
            TemplateNotFoundError: there is no checkpoint yet.
        """
        name = name_of(checkpoint) or self._checkpoint
        return await self.reset(name or await self._line.run(self._line.wire.latest_checkpoint(self.id)), wait)

    async def fork(
        self,
        n: int = 1,
        *,
        force: bool = True,
        ttl: float | None = None,
        wait: float | None = None,
        holder: str | None = None,
        labels: Mapping[str, str] | None = None,
        pid: Pid = "auto",
        heartbeat: bool = True,
    ) -> "AsyncLeases":
        """Take ``n`` leases on copies of what the database holds now.

        All sessions on this database are ended, as by `checkpoint`.

        Args:
            n: how many.
            force: False, to be refused instead of ending sessions.
            ttl: seconds that each lives unless renewed; the daemon's default (300) when left out.
            wait: seconds to wait for each at most; the daemon's default (60) when left out.
            holder: who asks; this lease's holder when left out.
            labels: of the new leases; this lease's labels when left out.
            pid: the process with which they end, as in `Client.acquire`.
            heartbeat: renew them in the background.

        Returns:
            A list of leases, which as a context manager releases them all.

        Raises:
            SessionsOpenError: there are some, and ``force`` is False.
            PoolExhaustedError: not all came free within ``wait``; none is held then.
        """
        checkpoint = await self._line.run(self._line.wire.checkpoint(self.id, force=force))
        terms = self._fork_terms(checkpoint, Terms(ttl=ttl, wait=wait, holder=holder, labels=labels, pid=pid))
        leases = AsyncLeases()
        try:
            for _ in range(n):
                record = await self._line.run(self._line.wire.acquire(terms))
                leases.append(AsyncLease(self._line, record, heartbeat=heartbeat))
        except BaseException:
            await self._line.see_through(leases.release())
            raise
        return leases

    async def _beat(self, within: float) -> None:
        self._renewed(await self._line.run(self._line.wire.renew(self.id, self._ttl, within)))

    async def _seal(self, name: str, *, force: bool) -> Template:
        self._sealing = True  # renewed meanwhile, for it may take long
        try:
            template = await self._line.run(self._line.wire.seal_template(name, self.id, force=force))
        except BaseException:
            self._sealing = False
            raise
        self._line.heartbeat.drop(self)
        self._sealed()
        return template

    async def _abandon(self, name: str, error: str | None) -> None:
        self._line.heartbeat.drop(self)
        await self._line.run(self._line.wire.abandon_template(name, self.id, error))
        self._sealed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self.kept:
            await self._line.see_through(self._release_or_warn())

    async def _release_or_warn(self) -> None:
        try:
            await self.release()
        except LeasedbError as failure:
            self._not_released(failure)


class AsyncLeases(list[AsyncLease]):
    """Several leases. As an async context manager they are released at the end, whatever happened."""

    async def release(self) -> None:
        """Give them all back; one that cannot be ends with its time."""
        for lease in self:
            await lease._release_or_warn()  # noqa: SLF001 - a list of nothing else

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        passing = AsyncLeases(lease for lease in self if not lease.kept)
        if passing:
            await passing[0]._line.see_through(passing.release())  # noqa: SLF001 - as above
