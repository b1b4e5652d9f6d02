"""What a failed test left in its database: rows, open sessions, locks waited for."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg
from psycopg import sql

from leasedb._plugin.connecting import APPLICATION, session_name

COUNT_WITHIN: Final = 1.0  # seconds, for all tables together
MOST_TABLES: Final = 30
MOST_SESSIONS: Final = 10
_CONNECT_WITHIN: Final = 2  # seconds; libpq's least
_LONGEST_QUERY: Final = 100  # characters
_LOCK_TIMEOUT: Final = 100  # milliseconds: a table that somebody has is not waited for

# Partitions are counted under the table that they are partitions of. Asking for the size of a table that somebody has
# for himself, or waits to have so, would wait too. The planner's number is -1 when it has none.
_TABLES: Final = """
    WITH taken AS MATERIALIZED (
        SELECT l.relation FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_database d ON d.oid = l.database
        WHERE l.mode = 'AccessExclusiveLock' AND l.locktype = 'relation' AND d.datname = pg_catalog.current_database()
    )
    SELECT coalesce(pg_catalog.pg_partition_root(c.oid)::oid, c.oid) AS root, n.nspname, c.relname,
           CASE WHEN c.oid NOT IN (SELECT relation FROM taken) THEN pg_catalog.pg_relation_size(c.oid) END AS size,
           c.reltuples::float8
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND c.relpersistence <> 't'
      AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                      AND d.objid = c.oid AND d.deptype = 'e')
    ORDER BY size
"""
_NAMES: Final = """
    SELECT c.oid, CASE n.nspname WHEN 'public' THEN '' ELSE pg_catalog.quote_ident(n.nspname) || '.' END
                  || pg_catalog.quote_ident(c.relname)
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY(%s)
"""
_SESSIONS: Final = """
    SELECT pid, coalesce(application_name, ''), coalesce(state, 'state unknown'), coalesce(query, ''),
           coalesce(extract(epoch FROM pg_catalog.clock_timestamp() - state_change)::float8, 0)
    FROM pg_catalog.pg_stat_activity
    WHERE datname = pg_catalog.current_database() AND backend_type = 'client backend'
      AND usename = current_user AND pid <> pg_catalog.pg_backend_pid() ORDER BY backend_start
"""
_WAITS: Final = """
    SELECT w.pid, pg_catalog.pg_blocking_pids(w.pid), w.locktype,
           coalesce(w.relation, (SELECT min(t.relation) FROM pg_catalog.pg_locks t
                                 WHERE t.pid = w.pid AND t.locktype = 'tuple'))::pg_catalog.regclass::text,
           coalesce(extract(epoch FROM pg_catalog.clock_timestamp() - a.query_start)::float8, 0), coalesce(a.query, '')
    FROM pg_catalog.pg_locks w JOIN pg_catalog.pg_stat_activity a USING (pid)
    WHERE NOT w.granted AND a.datname = pg_catalog.current_database() ORDER BY a.query_start
"""


@dataclass(frozen=True, slots=True)
class TableRows:
    """A table and its rows.

    Attributes:
        table: as it is written in SQL, without the schema `public`.
        rows: how many were committed; None when counting took too long or a session has the table.
        about: the planner's number then, when it has one.
    """

    table: str
    rows: int | None
    about: int | None = None


@dataclass(frozen=True, slots=True)
class OpenSession:
    pid: int
    application: str
    state: str
    query: str  # the running one, or the last
    age: float  # seconds in this state


@dataclass(frozen=True, slots=True)
class LockWait:
    """A session that waits for others.

    Attributes:
        what: the table, or the kind of lock when it is none of a table's.
        age: seconds since its statement began.
    """

    pid: int
    blockers: tuple[int, ...]
    what: str
    query: str
    age: float


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found; `problem` says why that is not all."""

    tables: tuple[TableRows, ...] = ()
    sessions: tuple[OpenSession, ...] = ()
    waits: tuple[LockWait, ...] = ()
    problem: str | None = None

    def lines(self) -> list[str]:
        """Return it as text for a person."""
        tables = self._table_lines() if self.problem is None else [self.problem]
        return [*tables, *self._session_lines(), *self._wait_lines()]

    def _table_lines(self) -> Iterable[str]:
        if not self.tables:
            return ["no tables"]
        filled = [table for table in self.tables if table.rows != 0]
        width = max((len(table.table) for table in filled[:MOST_TABLES]), default=0)
        lines = [f"  {table.table:<{width}}  {_rows(table)}" for table in filled[:MOST_TABLES]]
        if len(filled) > MOST_TABLES:
            lines.append(f"  and {len(filled) - MOST_TABLES} smaller tables")
        if empty := len(self.tables) - len(filled):
            lines.append(f"  {empty} {'table' if empty == 1 else 'tables'} without rows")
        return ["rows committed:", *lines]

    def _session_lines(self) -> Iterable[str]:
        if not self.sessions:
            return []
        lines = [
            f"  {one.pid} {one.application or '(no name)'}: {one.state} for {one.age:.1f} s"
            + (f": {one.query}" if one.query else "")
            for one in self.sessions[:MOST_SESSIONS]
        ]
        if len(self.sessions) > MOST_SESSIONS:
            lines.append(f"  and {len(self.sessions) - MOST_SESSIONS} more")
        return ["sessions still open:", *lines]

    def _wait_lines(self) -> Iterable[str]:
        if not self.waits:
            return []
        lines = []
        for wait in self.waits[:MOST_SESSIONS]:
            whom = ", ".join(str(pid) for pid in wait.blockers) or "nobody any more"
            lines.append(f"  {wait.pid} waits for {whom} ({wait.what}) since {wait.age:.1f} s: {wait.query}")
        if len(self.waits) > MOST_SESSIONS:
            lines.append(f"  and {len(self.waits) - MOST_SESSIONS} more")
        return ["locks waited for:", *lines]


def look(dsn: str, ours: Collection[int] | str = APPLICATION) -> Findings:
    """Return what is in the database now, within some two seconds; never raise for one that cannot be reached.

    Args:
        dsn: the database.
        ours: the sessions that are no leak: their server processes, or what their names begin with.
    """
    try:
        with psycopg.connect(
            dsn,
            autocommit=True,
            connect_timeout=_CONNECT_WITHIN,
            fallback_application_name=session_name("looking"),
            options=f"-c statement_timeout={round(COUNT_WITHIN * 1000)} -c lock_timeout={_LOCK_TIMEOUT}",
        ) as connection:
            # before counting, which may take a while and is no state to report
            sessions = tuple(one for one in _sessions(connection) if not _is_ours(one, ours))
            waits = tuple(_waits(connection))
            try:
                return Findings(tuple(_tables(connection)), sessions, waits)
            except psycopg.errors.LockNotAvailable as error:
                return Findings((), sessions, waits, f"the tables could not be looked at: {_first_line(str(error))}")
    except psycopg.Error as error:
        return Findings(problem=f"the database could not be looked at: {_first_line(str(error))}")


def _is_ours(session: OpenSession, ours: Collection[int] | str) -> bool:
    return session.application.startswith(ours) if isinstance(ours, str) else session.pid in ours


def _sessions(connection: psycopg.Connection[Any]) -> Iterable[OpenSession]:
    for pid, application, state, query, age in connection.execute(_SESSIONS):
        yield OpenSession(pid, application, state, _first_line(query), age)


def _waits(connection: psycopg.Connection[Any]) -> Iterable[LockWait]:
    for pid, blockers, kind, table, age, query in connection.execute(_WAITS):
        what = f"table {table}" if kind == "relation" else f"a row of {table}" if table else _KINDS.get(kind, kind)
        yield LockWait(pid, tuple(blockers), what, _first_line(query), age)


_KINDS: Final = {"transactionid": "a row", "advisory": "an advisory lock"}


@dataclass(slots=True)
class _Counted:
    """A table while its leaves are counted."""

    rows: int | None = 0
    about: float = 0
    size: int = 0
    leaves: list[sql.Composable] = field(default_factory=list)


def _tables(connection: psycopg.Connection[Any]) -> list[TableRows]:
    """Count, small tables first: a big one shall not take the time of all the others."""
    found: dict[int, _Counted] = {}
    end = time.monotonic() + COUNT_WITHIN
    for root, schema, name, size, about in connection.execute(_TABLES).fetchall():
        table = found.setdefault(root, _Counted())
        table.size += size or 0
        table.about += max(about, 0)
        if size is None:
            table.rows = None
        elif size and table.rows is not None:  # a table without a block has no row
            rows = _count(connection, sql.Identifier(schema, name), end)
            table.rows = None if rows is None else table.rows + rows
    names: dict[int, str] = dict(connection.execute(_NAMES, [list(found)]).fetchall())
    largest = sorted(found.items(), key=lambda one: (-(one[1].rows or one[1].about), -one[1].size))
    return [
        TableRows(names[root], table.rows, round(table.about) or None if table.rows is None else None)
        for root, table in largest
        if root in names  # it may have been dropped meanwhile
    ]


def _count(connection: psycopg.Connection[Any], table: sql.Identifier, end: float) -> int | None:
    left = round((end - time.monotonic()) * 1000)
    if left <= 0:
        return None
    count = sql.SQL("SELECT pg_catalog.count(*) FROM ONLY {}").format(table)
    try:
        with connection.transaction():
            connection.execute(sql.SQL("SET LOCAL statement_timeout = {}").format(sql.Literal(left)))
            row = connection.execute(count).fetchone()
    except psycopg.Error:
        # too long, locked, dropped meanwhile, not ours to read
        if connection.closed:
            raise
        return None
    return row[0] if row else None


def _rows(table: TableRows) -> str:
    if table.rows is not None:
        return f"{table.rows:,}"
    return f"? (about {table.about:,})" if table.about else "?"


def _first_line(text: str) -> str:
    lines = text.strip().splitlines()
    first = " ".join(lines[0].split()) if lines else ""
    return first[: _LONGEST_QUERY - 1] + "…" if len(first) > _LONGEST_QUERY else first
