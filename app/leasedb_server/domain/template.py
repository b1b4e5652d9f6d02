"""A template: a content that databases start from; and its copies, the sealed databases that clones are made of."""

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from leasedb_server.domain import edition as editions
from leasedb_server.domain.errors import IllegalTransitionError
from leasedb_server.domain.fault import Fault
from leasedb_server.domain.lease import Instant

BASE: Final = "base"  # the built-in template: empty, the extension `vector` created


class CopyState(StrEnum):
    MAKING = "making"  # written down; on the server there is nothing, a part or all of it
    SEALED = "sealed"
    CONDEMNED = "condemned"  # to be dropped
    GONE = "gone"


_NEXT_OF_COPY: Final = {
    CopyState.MAKING: {CopyState.SEALED, CopyState.CONDEMNED, CopyState.GONE},
    CopyState.SEALED: {CopyState.CONDEMNED, CopyState.GONE},
    CopyState.CONDEMNED: {CopyState.GONE},
    CopyState.GONE: set[CopyState](),
}


@dataclass(frozen=True, slots=True)
class Copy:
    """A template on one server. ``template`` is its key; ``database`` is the name on the server.

    ``source`` is the id of the leased database that it is made of, while it is being made of one.
    """

    id: str
    server_id: str
    template: str
    database: str
    state: CopyState = CopyState.MAKING
    source: str | None = None

    def to(self, state: CopyState) -> "Copy":
        if state not in _NEXT_OF_COPY[self.state]:
            raise IllegalTransitionError(self, state)
        return replace(self, state=state)


class TemplateState(StrEnum):
    BUILDING = "building"
    SEALED = "sealed"
    FAILED = "failed"  # its last build did; the next one who asks may try again
    GONE = "gone"


_NEXT: Final = {
    TemplateState.BUILDING: {TemplateState.SEALED, TemplateState.FAILED, TemplateState.GONE},
    TemplateState.SEALED: {TemplateState.GONE},
    TemplateState.FAILED: {TemplateState.GONE},
    TemplateState.GONE: set[TemplateState](),
}


class Origin(StrEnum):
    BUILTIN = "builtin"
    SQL = "sql"  # a text that was sent
    BUILD = "build"  # whatever the builder did in its lease
    BRANCH = "branch"  # what a lease held


@dataclass(frozen=True, slots=True)
class Template:
    """What callers lease from, by name; one per name and edition.

    Args:
        fingerprint: stands for the content: the same fingerprint, the same content.
        parent: name of the template it was built upon.
        size: bytes of one copy; None until it is sealed.
        layout: servers of the same layout can take the kept files.
        kept: bytes of the files that survive the servers; 0 when there are none.
        builder: the lease in which it is or was built.
        until_lease: the lease with which it ends, of a branch without a name.
    """

    id: str
    name: str
    edition: str
    fingerprint: str
    parent: str
    origin: Origin
    created_at: Instant
    used_at: Instant
    state: TemplateState = TemplateState.BUILDING
    size: int | None = None
    layout: str = ""
    kept: int = 0
    builder: str | None = None
    until_lease: str | None = None
    fault: Fault | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def key(self) -> str:
        """What tells it from all others inside the daemon."""
        return editions.key(self.name, self.edition)

    @property
    def sealed(self) -> bool:
        return self.state is TemplateState.SEALED

    def to(self, state: TemplateState) -> "Template":
        if state not in _NEXT[self.state]:
            raise IllegalTransitionError(self, state)
        return replace(self, state=state)


def is_base(key: str) -> bool:
    return editions.parted(key)[0] == BASE


def base_key(edition: str) -> str:
    return editions.key(BASE, edition)


def built_in(edition: str) -> Template:
    """Return what the template `base` looks like."""
    return Template("", BASE, edition, BASE, BASE, Origin.BUILTIN, 0.0, 0.0, TemplateState.SEALED)
