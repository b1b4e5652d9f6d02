"""A database: one clone of a template with its own login, leased once and never again."""

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from leasedb_server.domain.errors import IllegalTransitionError


class DatabaseState(StrEnum):
    MAKING = "making"  # written down; on the server there is nothing, a part or all of it
    READY = "ready"  # never seen by anybody
    LEASED = "leased"
    SPARE = "spare"  # exchanged for a leased one that is reset, or about to be
    CONDEMNED = "condemned"  # to be dropped: its lease ended, or it was never finished
    DROPPING = "dropping"
    GONE = "gone"


_NEXT: Final = {
    DatabaseState.MAKING: {DatabaseState.READY, DatabaseState.CONDEMNED, DatabaseState.GONE},
    # ready again: a hand-over that the waiting caller did not accept
    DatabaseState.READY: {DatabaseState.LEASED, DatabaseState.CONDEMNED, DatabaseState.GONE},
    DatabaseState.LEASED: {DatabaseState.READY, DatabaseState.SPARE, DatabaseState.CONDEMNED, DatabaseState.GONE},
    DatabaseState.SPARE: {DatabaseState.CONDEMNED, DatabaseState.GONE},
    # condemned again: the drop failed and is tried later
    DatabaseState.CONDEMNED: {DatabaseState.DROPPING, DatabaseState.GONE},
    DatabaseState.DROPPING: {DatabaseState.CONDEMNED, DatabaseState.GONE},
    DatabaseState.GONE: set[DatabaseState](),
}


@dataclass(frozen=True, slots=True)
class Database:
    """``name`` and ``login`` are the database's and the role's names on the server; ``template`` is the template's key.

    ``partner`` is the id of the database that a spare one is exchanged for; its own while a whole server is reset.
    """

    id: str
    server_id: str
    template: str
    name: str
    login: str
    password: str = field(repr=False)
    state: DatabaseState = DatabaseState.MAKING
    partner: str | None = None

    def to(self, state: DatabaseState) -> "Database":
        if state not in _NEXT[self.state]:
            raise IllegalTransitionError(self, state)
        return replace(self, state=state)
