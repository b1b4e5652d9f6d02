"""A lease in a program's hands: what the daemon said of it last, renewing and giving it back."""

import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self

from leasedb._errors import LeasedbError, LeaseEndedError, LeaseNotFoundError
from leasedb._heartbeat import how_ended
from leasedb._models import Holder, LeaseRecord

if TYPE_CHECKING:
    from leasedb._transport import AsyncLine, Line

_log = logging.getLogger("leasedb")


class _BaseLease:
    """What both kinds of lease tell; see `LeaseRecord` for the meaning of each."""

    def __init__(self, record: LeaseRecord) -> None:
        self._record = record
        self._ttl = record.ttl  # what the caller wants each time; the granted one is cut at max_expires_at
        self._owner = os.getpid()
        self._lost_reason: str | None = None

    def __repr__(self) -> str:
        record = self._record
        url = f"postgresql://{record.user}:***@{record.host}:{record.port}/{record.database}"
        return f"<{type(self).__name__} {record.id} {record.state} {url} until {record.expires_at.isoformat()}>"

    @property
    def record(self) -> LeaseRecord:
        """What the daemon said last."""
        return self._record

    @property
    def id(self) -> str:
        return self._record.id

    @property
    def state(self) -> str:
        """``active``, ``released``, ``expired`` or ``lost``, as far as this process knows."""
        return self._record.state

    @property
    def lost_reason(self) -> str | None:
        """Why the lease ended without being released here; None as long as it did not."""
        return self._lost_reason

    @property
    def dsn(self) -> str:
        """``postgresql://user:password@host:port/database``."""
        return self._record.dsn

    @property
    def host(self) -> str:
        return self._record.host

    @property
    def port(self) -> int:
        return self._record.port

    @property
    def database(self) -> str:
        return self._record.database

    @property
    def user(self) -> str:
        return self._record.user

    @property
    def password(self) -> str:
        return self._record.password

    @property
    def socket(self) -> str | None:
        """The directory of a Unix socket on which the server listens too, for processes on its machine; else None."""
        return self._record.socket

    @property
    def urls(self) -> Mapping[str, str]:
        """The DSN as ``libpq``, ``sqlalchemy``, ``asyncpg`` and ``jdbc`` write it.

        Where there is a `socket`, ``socket`` is the DSN over it, for libpq.
        """
        return self._record.urls

    @property
    def env(self) -> Mapping[str, str]:
        """``DATABASE_URL`` and libpq's ``PGHOST`` ... for a child's environment."""
        return self._record.env

    @property
    def template(self) -> str:
        return self._record.template

    @property
    def server(self) -> str:
        """The id of the server that holds the database."""
        return self._record.server

    @property
    def backend(self) -> str:
        return self._record.backend

    @property
    def versions(self) -> Mapping[str, str]:
        """Such as ``{"postgres": "18.4", "vector": "0.8.1"}``."""
        return self._record.versions

    @property
    def holder(self) -> Holder:
        return self._record.holder

    @property
    def labels(self) -> Mapping[str, str]:
        return self._record.labels

    @property
    def created_at(self) -> datetime:
        return self._record.created_at

    @property
    def expires_at(self) -> datetime:
        """When the lease ends unless it is renewed, by the daemon's clock."""
        return self._record.expires_at

    @property
    def max_expires_at(self) -> datetime:
        """When the lease ends whatever happens."""
        return self._record.max_expires_at

    @property
    def ttl(self) -> float:
        """Seconds granted the last time."""
        return self._record.ttl

    @property
    def _ours(self) -> bool:
        """False in a forked child: what it inherited is its parent's to release."""
        return self._owner == os.getpid()

    def _renewed(self, record: LeaseRecord) -> None:
        self._record = record

    def _released(self) -> None:
        self._record = replace(self._record, state="released")

    def _ended(self, state: str, reason: str, record: LeaseRecord | None = None) -> None:
        self._record = record or replace(self._record, state=state)
        self._lost_reason = reason

    def _over(self, state: str, reason: str, record: LeaseRecord | None = None) -> None:
        self._ended(state, reason, record)
        _log.warning("lease %s has ended (%s): %s", self.id, state, reason)

    def _not_released(self, error: LeasedbError) -> None:
        _log.warning(
            "lease %s could not be released and ends by itself at %s: %s", self.id, self.expires_at.isoformat(), error
        )


class Lease(_BaseLease):
    """A leased database. As a context manager it is released at the end, whatever happened.

    In a forked child, `release` and the end of the block do nothing: the lease is the parent's.
    """

    def __init__(self, line: "Line", record: LeaseRecord, *, heartbeat: bool) -> None:
        super().__init__(record)
        self._line = line
        self._heartbeat = heartbeat
        if heartbeat:
            line.heartbeat.put(self)

    def renew(self, ttl: float | None = None) -> float:
        """Let the lease live ``ttl`` seconds from now, or as long as it was asked for first.

        Returns:
            The seconds granted: fewer than asked for when ``max_expires_at`` is nearer.

        Raises:
            LeaseEndedError: the lease is over; LeaseLostError when its server died.
            LeasedbError: the daemon did not renew it, for the reason told.
        """
        wanted = self._ttl if ttl is None else ttl
        try:
            self._renewed(self._line.run(self._line.wire.renew(self.id, wanted)))
        except (LeaseEndedError, LeaseNotFoundError) as error:
            self._line.heartbeat.drop(self)
            self._ended(*how_ended(error))
            raise
        self._ttl = wanted
        if self._heartbeat and self._ours:
            self._line.heartbeat.put(self)
        return self.ttl

    def release(self, *, sync: bool = False) -> None:
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
            self._line.run(self._line.wire.release(self.id, sync=sync))
        if self.state == "active":
            self._released()

    def _beat(self, within: float) -> None:
        self._renewed(self._line.run(self._line.wire.renew(self.id, self._ttl, within)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.release()
        except LeasedbError as failure:
            self._not_released(failure)


class AsyncLease(_BaseLease):
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
            self._ended(*how_ended(error))
            raise
        self._ttl = wanted
        if self._heartbeat and self._ours:
            self._line.heartbeat.put(self)
        return self.ttl

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

    async def _beat(self, within: float) -> None:
        self._renewed(await self._line.run(self._line.wire.renew(self.id, self._ttl, within)))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._line.see_through(self._release_or_warn())

    async def _release_or_warn(self) -> None:
        try:
            await self.release()
        except LeasedbError as failure:
            self._not_released(failure)
