"""A template: a sealed database on one server that others are cloned from."""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from leasedb_server.domain.errors import IllegalTransitionError

BASE: Final = "base"  # the built-in template: empty, the extension `vector` created


class TemplateState(StrEnum):
    BUILDING = "building"
    SEALED = "sealed"
    GONE = "gone"


_NEXT: Final = {
    TemplateState.BUILDING: {TemplateState.SEALED, TemplateState.GONE},
    TemplateState.SEALED: {TemplateState.GONE},
    TemplateState.GONE: set[TemplateState](),
}


@dataclass(frozen=True, slots=True)
class Template:
    """``name`` is what callers say; ``database`` is the name on the server."""

    id: str
    server_id: str
    name: str
    database: str
    state: TemplateState = TemplateState.BUILDING

    def to(self, state: TemplateState) -> "Template":
        if state not in _NEXT[self.state]:
            raise IllegalTransitionError(self, state)
        return replace(self, state=state)
