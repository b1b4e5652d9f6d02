"""What callers ask for, and what those who wait have to know."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from leasedb_server.domain import edition as editions
from leasedb_server.domain.lease import Holder
from leasedb_server.domain.template import BASE, Origin

CallerGone = Callable[[], Awaitable[object]]  # returns when the caller has hung up; used only while one waits


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    """What a caller asked for; durations in seconds. ``digest`` tells a repeated request from another one.

    Args:
        edition: what the server is to be made of; found out from ``postgres`` and ``image``.
        builds: key of the template that is going to be built in the lease.
        exclusive: a whole server, with ``database`` and ``user`` as names there (made up when they are None).
    """

    ttl: float
    wait: float
    template: str = BASE
    holder: Holder = field(default_factory=Holder)
    labels: Mapping[str, str] = field(default_factory=dict)
    postgres: str | None = None
    image: str | None = None
    key: str | None = field(default=None, repr=False)
    digest: str | None = field(default=None, repr=False)
    edition: str = ""
    builds: str | None = None
    exclusive: bool = False
    database: str | None = None
    user: str | None = None

    @property
    def stock(self) -> str:
        """Key of the template that is asked for."""
        return editions.key(self.template, self.edition)


@dataclass(frozen=True, slots=True)
class TemplateRequest:
    """A template that a caller wants to be there; ``wait`` is seconds for somebody else's build to end.

    ``fingerprint`` is None for a text that is to be hashed.
    """

    name: str
    parent: str = BASE
    fingerprint: str | None = None
    origin: Origin = Origin.BUILD
    wait: float = 60.0
    postgres: str | None = None
    image: str | None = None
    edition: str = ""

    @property
    def key(self) -> str:
        return editions.key(self.name, self.edition)

    @property
    def parent_key(self) -> str:
        return editions.key(self.parent, self.edition)


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
