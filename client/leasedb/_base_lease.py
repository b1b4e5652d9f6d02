"""What both kinds of lease tell, and what they note about themselves."""

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from leasedb._errors import LeasedbError, LeaseEndedError, LeaseNotFoundError
from leasedb._heartbeat import how_ended
from leasedb._models import Holder, LeaseRecord
from leasedb._protocol import Terms
from leasedb._template import Checkpoint, Template

_log = logging.getLogger("leasedb")


class BaseLease:
    """A leased database; see `LeaseRecord` for the meaning of what it tells."""

    def __init__(self, record: LeaseRecord) -> None:
        self._record = record
        self._ttl = record.ttl  # what the caller wants each time; the granted one is cut at max_expires_at
        self._owner = os.getpid()
        self._lost_reason: str | None = None
        self._sealing = False  # its end is what we want, and no news
        self._checkpoint: str | None = None  # name of the last one that was made here

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
    def builds(self) -> str | None:
        """The name of the template that is made in it; None for leases that are for use."""
        return self._record.builds

    @property
    def kept(self) -> bool:
        """Whether it is kept to be looked at, see `keep`."""
        return self._record.kept

    @property
    def server(self) -> str:
        """The id of the server that holds the database."""
        return self._record.server

    @property
    def server_kind(self) -> str:
        """``exclusive`` where the lease has the whole server, else ``shared``."""
        return self._record.server_kind

    @property
    def image(self) -> str | None:
        """The image that was asked for; None for the daemon's default."""
        return self._record.image

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
        if not self._sealing:
            _log.warning("lease %s has ended (%s): %s", self.id, state, reason)

    def _ended_by(self, error: LeaseEndedError | LeaseNotFoundError) -> None:
        self._ended(*how_ended(error))

    def _sealed(self) -> None:
        """Take note that this lease has become a template, or shall not."""
        self._released()
        self._lost_reason = None

    def _fork_terms(self, checkpoint: Checkpoint, terms: Terms) -> Terms:
        return replace(
            terms,
            template=checkpoint.name,
            postgres=checkpoint.postgres,
            image=checkpoint.image,
            holder=self.holder.name if terms.holder is None else terms.holder,
            labels=self.labels if terms.labels is None else terms.labels,
        )

    def _not_released(self, error: LeasedbError) -> None:
        _log.warning(
            "lease %s could not be released and ends by itself at %s: %s", self.id, self.expires_at.isoformat(), error
        )


def name_of(template: Template | str | None) -> str | None:
    return template.name if isinstance(template, Template) else template
