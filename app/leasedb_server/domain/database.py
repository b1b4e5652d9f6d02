"""A database: one clone of a template with its own login, leased once and never again."""

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from leasedb_server.domain.errors import IllegalTransitionError


class DatabaseState(StrEnum):
    MAKING = "making"  # written down; on the server there is nothing, a part or all of it
    READY = "ready"  # never seen by anybody
    LEASED = "leased"
    CONDEMNED = "condemned"  # to be dropped: its lease ended, or it was never finished
    DROPPING = "dropping"
    GONE = "gone"


_NEXT: Final = {
    DatabaseState.MAKING: {DatabaseState.READY, DatabaseState.CONDEMNED, DatabaseState.GONE},
    # ready again: a hand-over that the waiting caller did not accept
    DatabaseState.READY: {DatabaseState.LEASED, DatabaseState.CONDEMNED, DatabaseState.GONE},
    DatabaseState.LEASED: {DatabaseState.READY, DatabaseState.CONDEMNED, DatabaseState.GONE},
    # condemned again: the drop failed and is tried later
    DatabaseState.CONDEMNED: {DatabaseState.DROPPING, DatabaseState.GONE},
    DatabaseState.DROPPING: {DatabaseState.CONDEMNED, DatabaseState.GONE},
    DatabaseState.GONE: set[DatabaseState](),
}


@dataclass(frozen=True, slots=True)
class Database:
    """``name`` and ``login`` are the database's and the role's names on the server."""

    id: str
    server_id: str
    template: str
    name: str
    login: str
    password: str = field(repr=False)
    state: DatabaseState = DatabaseState.MAKING

    def to(self, state: DatabaseState) -> "Database":
        if state not in _NEXT[self.state]:
            raise IllegalTransitionError(self, state)
        return replace(self, state=state)
