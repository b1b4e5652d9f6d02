"""Why a template could not be built."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """``statement`` and ``line`` of the text count from 1; ``sql`` is the beginning of the statement.

    Without a ``hint`` the usual one is what to do.
    """

    message: str
    sqlstate: str | None = None
    statement: int | None = None
    line: int | None = None
    sql: str | None = None
    hint: str = ""
