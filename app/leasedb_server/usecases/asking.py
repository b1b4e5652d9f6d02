"""What callers ask for, and what those who wait have to know."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from leasedb_server.domain.lease import Holder
from leasedb_server.domain.template import BASE


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    """What a caller asked for; durations in seconds. ``digest`` tells a repeated request from another one."""

    ttl: float
    wait: float
    template: str = BASE
    holder: Holder = field(default_factory=Holder)
    labels: Mapping[str, str] = field(default_factory=dict)
    postgres: str | None = None
    key: str | None = field(default=None, repr=False)
    digest: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Refill:
    """``rate``: clones per second of all servers; ``room``: databases that may still be made before the ceiling.

    ``obstacle`` says what keeps databases from being made or leased, if it is not their number.
    """

    rate: float
    room: int
    obstacle: str = ""


class CallerGoneError(Exception):
    """The caller hung up while it waited; there is nobody to answer."""
