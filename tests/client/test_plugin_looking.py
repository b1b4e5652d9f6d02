"""What is shown of a failed test's database."""

import contextlib
import re
import threading
import time

import psycopg
import pytest

from leasedb._plugin.looking import MOST_TABLES, Findings, LockWait, OpenSession, TableRows, look
from tests.daemons import free_port
from tests.waiting import until


@pytest.fixture
def dsn(daemon):
    lease = daemon.lease(ttl=600)
    yield lease["dsn"]
    daemon.release(lease)


@pytest.fixture
def connection(dsn):
    with psycopg.connect(dsn, autocommit=True, application_name="leasedb pg_conn") as connection:
        yield connection


def test_rows_are_counted_most_first_and_empty_tables_summed_up(dsn, connection):
    connection.execute("""
        CREATE TABLE few AS SELECT 1 AS x; CREATE TABLE many AS SELECT generate_series(1, 12345) AS x;
        CREATE SCHEMA shop; CREATE TABLE shop."Order" AS SELECT generate_series(1, 7) AS x;
        CREATE TABLE part (x int) PARTITION BY LIST (x);
        CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1);
        CREATE TABLE part_2 PARTITION OF part FOR VALUES IN (2);
        INSERT INTO part VALUES (1), (2), (2);
        CREATE TABLE empty (x int); CREATE TABLE deleted AS SELECT 1 AS x; DELETE FROM deleted;
        CREATE TEMP TABLE mine AS SELECT 1 AS x
    """)
    found = look(dsn)
    assert found.lines() == [
        "rows committed:",
        "  many          12,345",
        '  shop."Order"  7',
        "  part          3",
        "  few           1",
        "  2 tables without rows",
    ]


def test_a_database_without_anything(dsn, connection):
    assert look(dsn) == Findings()
    assert Findings().lines() == ["no tables"]


def test_sessions_that_are_not_the_fixtures_are_shown_with_their_last_statement(dsn, connection):
    connection.execute("CREATE TABLE t (x int)")
    with psycopg.connect(dsn, application_name="app under test") as left, psycopg.connect(dsn) as idle:
        left.execute("INSERT INTO t\nVALUES (1)")
        lines = look(dsn).lines()
        assert lines[:2] == ["rows committed:", "  1 table without rows"], "what was not committed is not seen"
        assert lines[2] == "sessions still open:"
        pid = left.info.backend_pid
        assert re.fullmatch(rf"  {pid} app under test: idle in transaction for \d\.\d s: INSERT INTO t", lines[3])
        assert re.fullmatch(rf"  {idle.info.backend_pid} \(no name\): idle for \d\.\d s", lines[4])
        assert len(lines) == 5
        assert [one.pid for one in look(dsn, [pid, connection.info.backend_pid]).sessions] == [idle.info.backend_pid]
        assert {one.application for one in look(dsn, "app").sessions} == {"leasedb pg_conn", ""}


@pytest.fixture
def waiting(dsn, connection):
    """Start statements that wait for a lock; they are ended after the test."""
    threads, connections = [], []

    def start(statement: str) -> int:
        session = psycopg.connect(dsn, autocommit=True)
        connections.append(session)

        def run() -> None:
            with contextlib.suppress(psycopg.Error):
                session.execute(statement)

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        query = "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = %s AND NOT granted)"
        until(lambda: connection.execute(query, [session.info.backend_pid]).fetchone()[0])
        return session.info.backend_pid

    yield start
    for session in connections:
        connection.execute("SELECT pg_terminate_backend(%s, 5000)", [session.info.backend_pid])
    for thread in threads:
        thread.join(10)
    for session in connections:
        session.close()


def test_locks_waited_for_name_both_sides_and_the_table(dsn, connection, waiting):
    connection.execute("CREATE TABLE wanted (x int PRIMARY KEY); INSERT INTO wanted VALUES (1), (2)")
    with psycopg.connect(dsn) as holder:
        holder.execute("UPDATE wanted SET x = 3 WHERE x = 1; SELECT pg_advisory_xact_lock(5)")
        pid = holder.info.backend_pid
        for_row = waiting("UPDATE wanted SET x = 4 WHERE x = 1")
        for_key = waiting("INSERT INTO wanted VALUES (3)")
        for_advice = waiting("SELECT pg_advisory_lock(5)")
        for_table = waiting("ALTER TABLE wanted ADD COLUMN y int")
        found = look(dsn)
        assert [(wait.pid, wait.what) for wait in found.waits] == [
            (for_row, "a row of wanted"),
            (for_key, "a row"),
            (for_advice, "an advisory lock"),
            (for_table, "table wanted"),
        ]
        assert all(pid in wait.blockers for wait in found.waits)
        assert found.tables == (TableRows("wanted", None),)
        lines = found.lines()
        assert lines[1].startswith("  wanted  ?")
        begin = lines.index("locks waited for:")
        assert re.fullmatch(
            rf"  {for_row} waits for {pid} \(a row of wanted\) since \d\.\d s: UPDATE wanted SET x = 4 WHERE x = 1",
            lines[begin + 1],
        )


def test_counting_ends_in_time_and_small_tables_come_first(dsn, connection):
    connection.execute("""
        CREATE TABLE small AS SELECT generate_series(1, 3) AS x;
        CREATE TABLE big AS SELECT generate_series(1, 1000) AS x, repeat('x', 100) AS y;
        ANALYZE big; ALTER TABLE big RENAME TO big_really
    """)
    with psycopg.connect(dsn) as holder:
        holder.execute("LOCK TABLE big_really")
        begin = time.monotonic()
        lines = look(dsn).lines()
        assert time.monotonic() - begin < 5
    assert lines[:3] == ["rows committed:", "  big_really  ? (about 1,000)", "  small       3"]


def test_many_tables_are_cut_short(dsn, connection):
    connection.execute("".join(f"CREATE TABLE t{n} AS SELECT generate_series(1, {n}) AS x;" for n in range(1, 41)))
    lines = look(dsn).lines()
    assert lines[1] == "  t40  40"
    assert len(lines) == 1 + MOST_TABLES + 1
    assert lines[-1] == "  and 10 smaller tables"


def test_a_database_that_is_gone_is_one_line(daemon, dsn):
    lease = daemon.lease()
    daemon.release(lease, sync=True)
    for gone in (lease["dsn"], f"postgresql://u:p@127.0.0.1:{free_port()}/x", "not a dsn"):
        (line,) = look(gone).lines()
        assert line.startswith("the database could not be looked at: ")
        assert "\n" not in line


def test_long_lists_and_statements_are_cut():
    sessions = tuple(OpenSession(pid, "app", "idle", "", 0) for pid in range(12))
    waits = tuple(LockWait(pid, (), "table t", "SELECT", 0) for pid in range(12))
    lines = Findings((TableRows("t", 1), TableRows("u", None)), sessions, waits).lines()
    assert lines.count("  and 2 more") == 2
    assert "  u  ?" in lines
    assert "  0 waits for nobody any more (table t) since 0.0 s: SELECT" in lines


def test_a_long_statement_is_cut(dsn):
    with psycopg.connect(dsn) as left:
        left.execute("SELECT '" + "x" * 500 + "'")
        (session,) = look(dsn).sessions
    assert len(session.query) == 100
    assert session.query.endswith("…")
