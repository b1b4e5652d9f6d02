"""Who is connected to a database, for those in whose way they are."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """One session.

    ``state`` as in pg_stat_activity; ``since`` in seconds since the Unix epoch; ``query`` is the beginning of the last
    statement.
    """

    pid: int
    application: str
    state: str
    since: float | None
    query: str
