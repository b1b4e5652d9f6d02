"""A lease: the right to use one database until an instant."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from leasedb_server.domain.errors import IllegalTransitionError, LeaseEndedError, LeaseLostError

Instant = float  # seconds since the Unix epoch, UTC


class LeaseState(StrEnum):
    ACTIVE = "active"
    RELEASED = "released"  # given back, or its holder's process died
    EXPIRED = "expired"  # its time ran out
    LOST = "lost"  # its server died


@dataclass(frozen=True, slots=True)
class Holder:
    """Who asked. ``pid_started`` tells the process from a later one with the same number."""

    name: str = ""
    pid: int | None = None
    pid_started: Instant | None = None

    @property
    def key(self) -> str:
        """What tells holders apart where turns and shares are given: the name, else the process."""
        return self.name or str(self.pid or "")


@dataclass(frozen=True, slots=True)
class Lease:
    id: str
    database_id: str
    holder: Holder
    labels: Mapping[str, str]
    created_at: Instant
    expires_at: Instant
    max_expires_at: Instant
    ttl: float
    state: LeaseState = LeaseState.ACTIVE
    ended_at: Instant | None = None
    end_reason: str = ""
    builds: str | None = None  # key of the template that its holder builds in it
    kept: bool = False  # outlives its holder's process, to be looked at
    # repr=False: a key is the caller's secret as much as a password is ours
    idempotency_key: str | None = field(default=None, repr=False)
    request_digest: str | None = field(default=None, repr=False)

    @property
    def active(self) -> bool:
        return self.state is LeaseState.ACTIVE

    def renewed(self, now: Instant, ttl: float) -> "Lease":
        """Return this lease with ``ttl`` seconds counted from now, cut at ``max_expires_at``.

        One that is kept is only prolonged: a holder's late renewal takes nothing away from whoever looks at it.
        """
        if not self.active:
            raise IllegalTransitionError(self, LeaseState.ACTIVE)
        expires_at = min(now + ttl, self.max_expires_at)
        if self.kept:
            expires_at = max(expires_at, self.expires_at)
        return replace(self, expires_at=expires_at, ttl=max(0.0, expires_at - now))

    def keep(self, now: Instant, ttl: float) -> "Lease":
        """Return this lease as one that lives ``ttl`` seconds from now whatever becomes of its holder's process."""
        return replace(self.renewed(now, ttl), kept=True, holder=Holder(self.holder.name))

    def ended(self, state: LeaseState, now: Instant, reason: str) -> "Lease":
        """Return this lease in an end state; ended is for ever."""
        if not self.active or state is LeaseState.ACTIVE:
            raise IllegalTransitionError(self, state)
        return replace(self, state=state, ended_at=now, end_reason=reason, kept=False)


def ended(lease: Lease) -> LeaseEndedError:
    """Return the error for whoever comes too late."""
    kind = LeaseLostError if lease.state is LeaseState.LOST else LeaseEndedError
    return kind(f"The lease {lease.id} is {lease.state}: {lease.end_reason}.")
