"""All tables of a database made empty, and all sequences started again."""

from __future__ import annotations

from typing import Any, Final

import psycopg
from psycopg import errors, sql

from leasedb._plugin.connecting import FixtureError, session_name

LOCK_TIMEOUT: Final = 5.0  # seconds; a session that is only slow to end is done by then
_MOST_SHOWN: Final = 5
_LONGEST_QUERY: Final = 80  # characters

_OF_THE_USER: Final = """
    c.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                    AND d.objid = c.oid AND d.deptype = 'e')
"""
# A table whose file has no block has had no row since it was made or truncated, committed or not: that is known
# without reading it. Leaves are named, and ONLY them: a partitioned table has no rows and may have foreign partitions.
_TABLES: Final = f"""
    SELECT c.oid, n.nspname, c.relname
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND pg_catalog.pg_relation_size(c.oid) > 0 AND {_OF_THE_USER}
"""  # noqa: S608 - constants
# All of them, not only those of the tables above: a test may have used nextval and left no row. RESTART would
# give each sequence a new file, which takes forty times as long.
_RESTART: Final = f"""
    SELECT pg_catalog.setval(s.seqrelid::pg_catalog.regclass, s.seqstart, false)
    FROM pg_catalog.pg_sequence s JOIN pg_catalog.pg_class c ON c.oid = s.seqrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE {_OF_THE_USER}
"""  # noqa: S608 - constants
_IN_THE_WAY: Final = """
    SELECT a.pid, a.application_name, a.state, a.query, extract(epoch FROM now() - a.state_change)::float8,
           array_agg(DISTINCT l.relation::pg_catalog.regclass::text)
    FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a USING (pid)
    WHERE l.granted AND l.locktype = 'relation' AND l.pid <> pg_catalog.pg_backend_pid()
      AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
      AND CASE WHEN %(tables)s::oid[] IS NULL THEN l.mode = 'AccessExclusiveLock' ELSE l.relation = ANY(%(tables)s) END
    GROUP BY a.pid, a.application_name, a.state, a.query, a.state_change ORDER BY a.pid
"""


class TruncateBlockedError(FixtureError):
    """A session had a lock on a table and did not give it up in time; the message names it."""


class Truncater:
    """Empties the tables of a database, through one session that stays open between tests.

    All tables are emptied, those too whose rows came with the template, and every sequence begins at its start.
    Materialized views keep what they hold, and so do foreign tables, tables of an extension and large objects. A
    session that is in the way is told of, and then ended, so that it fails one test and not all that follow.

    Args:
        dsn: the database.
        fixture: the name that the session goes by.
        lock_timeout: seconds that another session may keep a table.
    """

    def __init__(self, dsn: str, fixture: str = "pg_truncate", *, lock_timeout: float = LOCK_TIMEOUT) -> None:
        self._dsn = dsn
        self._fixture = fixture
        self._lock_timeout = lock_timeout
        self._connection: psycopg.Connection[Any] | None = None

    @property
    def pid(self) -> int | None:
        """The server's process of the session; None while there is none."""
        return self._connection.info.backend_pid if self._connection is not None else None

    def truncate(self) -> int:
        """Empty all tables that have had rows; return how many those were.

        Raises:
            TruncateBlockedError: another session has one of them.
            psycopg.Error: it was not possible for another reason.
        """
        if self._connection is None:
            return self._truncate(self._connected())
        try:
            return self._truncate(self._connection)
        except psycopg.OperationalError:
            if not self._connection.closed:
                raise
            self.close()  # the server ended it meanwhile, for a reset, say
            return self._truncate(self._connected())

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _connected(self) -> psycopg.Connection[Any]:
        self._connection = psycopg.connect(
            self._dsn, autocommit=True, fallback_application_name=session_name(self._fixture)
        )
        self._connection.execute(f"SET lock_timeout = {round(self._lock_timeout * 1000)}")
        return self._connection

    def _truncate(self, connection: psycopg.Connection[Any]) -> int:
        tables: list[tuple[int, str, str]] | None = None
        restart = sql.SQL(_RESTART)
        try:
            tables = connection.execute(_TABLES).fetchall()  # waits for a table that a session has for itself
            if not tables:
                connection.execute(restart)
                return 0
            names = [sql.SQL("ONLY {}").format(sql.Identifier(schema, name)) for _, schema, name in tables]
            # one message, and so one transaction
            connection.execute(sql.SQL("TRUNCATE {} CASCADE; {}").format(sql.SQL(", ").join(names), restart))
        except (errors.LockNotAvailable, errors.DeadlockDetected) as error:
            oids = None if tables is None else [oid for oid, _, _ in tables]
            found = connection.execute(_IN_THE_WAY, {"tables": oids}).fetchall()
            for pid, *_ in found:
                connection.execute("SELECT pg_catalog.pg_terminate_backend(%s)", [pid])
            raise TruncateBlockedError(_blocked(error, found)) from None
        return len(tables)


def _blocked(error: psycopg.Error, found: list[tuple[Any, ...]]) -> str:
    """Say who is in the way and what to do."""
    lines = [f"{error.diag.message_primary}; tables could not be truncated: another session of the test has them."]
    for pid, application, state, query, age, tables in found[:_MOST_SHOWN]:
        named = f" ({application})" if application else ""
        first = " ".join((query or "").split())[:_LONGEST_QUERY]
        some = ", ".join(tables[:_MOST_SHOWN])
        lines.append(f"  session {pid}{named}, {state or 'state unknown'} for {age or 0:.1f} s, has {some}: {first}")
    if len(found) > _MOST_SHOWN:
        lines.append(f"  and {len(found) - _MOST_SHOWN} more")
    lines.append(
        "It has been ended now. End its transaction in the test (commit, rollback or close), or use pg_reset, which "
        "ends all sessions."
    )
    return "\n".join(lines)
