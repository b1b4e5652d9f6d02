"""`pg_truncate`: all tables of the user empty, all sequences at their start, and nothing else touched."""

from contextlib import closing

import psycopg
import pytest

from leasedb._plugin.truncating import TruncateBlockedError, Truncater
from tests.daemons import RealDaemon


@pytest.fixture
def dsn(daemon):
    lease = daemon.lease(ttl=600)
    yield lease["dsn"]
    daemon.release(lease)


@pytest.fixture
def connection(dsn):
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def truncater(dsn):
    opened = Truncater(dsn, lock_timeout=0.5)
    yield opened
    opened.close()


def one(connection, query):
    return connection.execute(query).fetchone()[0]


def test_tables_of_every_kind_are_emptied(connection, truncater):
    connection.execute("""
        CREATE TABLE parent (id serial PRIMARY KEY);
        CREATE TABLE child (id int GENERATED ALWAYS AS IDENTITY, parent int REFERENCES parent);
        CREATE TABLE "My ""odd"" table; DROP" (x int);
        CREATE SCHEMA "Own schema"; CREATE TABLE "Own schema"."select" (x int);
        CREATE UNLOGGED TABLE unlogged (x int);
        CREATE TABLE part (id serial, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
        CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM ('2024-01-01') TO ('2025-01-01') PARTITION BY RANGE (day);
        CREATE TABLE part_1_1 PARTITION OF part_1 FOR VALUES FROM ('2024-01-01') TO ('2024-06-01');
        CREATE TABLE base (x int); CREATE TABLE heir (y int) INHERITS (base);
        CREATE TABLE untouched (x int);
        INSERT INTO parent DEFAULT VALUES; INSERT INTO child (parent) VALUES (1);
        INSERT INTO "My ""odd"" table; DROP" VALUES (1); INSERT INTO "Own schema"."select" VALUES (1);
        INSERT INTO unlogged VALUES (1); INSERT INTO part (day) VALUES ('2024-02-02'); INSERT INTO heir VALUES (1, 2);
    """)
    assert truncater.truncate() == 7
    for table in ("parent", "child", '"My ""odd"" table; DROP"', '"Own schema"."select"', "unlogged", "part", "base"):
        assert one(connection, f"SELECT count(*) FROM {table}") == 0, table
    assert one(connection, "INSERT INTO parent DEFAULT VALUES RETURNING id") == 1
    assert one(connection, "INSERT INTO child (parent) VALUES (1) RETURNING id") == 1
    assert one(connection, "INSERT INTO part (day) VALUES ('2024-02-02') RETURNING id") == 1


def test_a_table_that_only_refers_to_an_emptied_one_is_no_obstacle(connection, truncater):
    connection.execute(
        "CREATE TABLE a (x int PRIMARY KEY); CREATE TABLE b (x int REFERENCES a); INSERT INTO a VALUES (1)"
    )
    assert truncater.truncate() == 1
    assert one(connection, "SELECT count(*) FROM a") == 0


def test_sequences_begin_at_their_start_whoever_owns_them(connection, truncater):
    connection.execute("""
        CREATE SEQUENCE alone START 100 INCREMENT 5; CREATE SEQUENCE moved; CREATE TABLE t (id serial, x int);
        SELECT nextval('alone'), nextval('alone'), setval('moved', 50, false), nextval('t_id_seq')
    """)
    assert truncater.truncate() == 0, "a sequence was used and no row written"
    assert connection.execute("SELECT nextval('alone'), nextval('moved'), nextval('t_id_seq')").fetchone() == (
        100,
        1,
        1,
    )


def test_what_holds_no_rows_is_left_alone_and_found_again_when_it_does(connection, truncater):
    connection.execute("CREATE TABLE a (x int); CREATE TABLE b (x int); INSERT INTO a VALUES (1)")
    assert truncater.truncate() == 1
    assert truncater.truncate() == 0
    connection.execute("INSERT INTO a VALUES (1); INSERT INTO b VALUES (1); DELETE FROM b")
    assert truncater.truncate() == 2
    connection.execute("CREATE TABLE c AS SELECT 1 AS x")
    assert truncater.truncate() == 1


def test_what_is_not_the_users_stays(connection, truncater):
    connection.execute("""
        CREATE TEMP TABLE mine AS SELECT 1 AS x; CREATE TABLE t AS SELECT 1 AS x;
        CREATE MATERIALIZED VIEW seen AS SELECT * FROM t; CREATE TABLE public.member AS SELECT 1 AS x
    """)
    assert truncater.truncate() == 2
    assert one(connection, "SELECT count(*) FROM mine") == 1
    assert one(connection, "SELECT count(*) FROM seen") == 1, "as it was last refreshed"
    assert one(connection, "SELECT count(*) FROM pg_extension WHERE extname = 'vector'") == 1


@pytest.fixture
def superuser():
    """The DSN of a whole server's lease, whose login may make extensions own tables, and foreign tables."""
    daemon = RealDaemon({"BACKEND": "embedded", "POOL_READY": "1", "POOL_EXCLUSIVE": "1"})
    try:
        yield daemon.start().lease(server="exclusive", wait=60)["dsn"]
    finally:
        daemon.remove()


def test_tables_of_extensions_and_foreign_ones_stay(superuser):
    with psycopg.connect(superuser, autocommit=True) as connection, closing(Truncater(superuser)) as truncater:
        connection.execute("""
            CREATE TABLE config AS SELECT 1 AS x; CREATE SEQUENCE config_seq; SELECT nextval('config_seq');
            ALTER EXTENSION vector ADD TABLE config; ALTER EXTENSION vector ADD SEQUENCE config_seq;
            CREATE FOREIGN DATA WRAPPER nobody; CREATE SERVER nowhere FOREIGN DATA WRAPPER nobody;
            CREATE TABLE part (x int) PARTITION BY LIST (x);
            CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1);
            CREATE FOREIGN TABLE part_2 PARTITION OF part FOR VALUES IN (2) SERVER nowhere;
            INSERT INTO part VALUES (1)
        """)
        assert truncater.truncate() == 1
        assert one(connection, "SELECT count(*) FROM part_1") == 0
        assert one(connection, "SELECT count(*) FROM config") == 1
        assert one(connection, "SELECT nextval('config_seq')") == 2


def test_a_session_in_the_way_is_named(dsn, connection, truncater):
    connection.execute("CREATE TABLE wanted (x int); CREATE TABLE other (x int); INSERT INTO wanted VALUES (1)")
    left = psycopg.connect(dsn, application_name="forgetful")
    with closing(left):
        left.execute("SELECT x\n FROM wanted")
        with pytest.raises(TruncateBlockedError) as caught:
            truncater.truncate()
        message = str(caught.value)
        assert f"session {left.info.backend_pid} (forgetful), idle in transaction for " in message
        assert "has wanted: SELECT x FROM wanted" in message
        assert "pg_reset" in message
    with closing(psycopg.connect(dsn, application_name="forgetful")) as left:
        left.execute("ALTER TABLE other ADD COLUMN y int")
        with pytest.raises(TruncateBlockedError, match=r"\(forgetful\).* has other: ALTER TABLE other"):
            truncater.truncate()
        # told of once: the tests that follow are not to suffer
        assert truncater.truncate() == 1
        with pytest.raises(psycopg.OperationalError):
            left.execute("SELECT 1")


def test_a_session_that_does_not_mind_is_not_ended(dsn, connection, truncater):
    with psycopg.connect(dsn) as idle:
        idle.execute("SELECT 1")
        connection.execute("CREATE TABLE t AS SELECT 1 AS x")
        assert truncater.truncate() == 1
        assert idle.execute("SELECT 2").fetchone() == (2,)


def test_it_connects_anew_when_its_session_was_ended(connection, truncater):
    assert truncater.pid is None
    assert truncater.truncate() == 0
    before = truncater.pid
    connection.execute("SELECT pg_terminate_backend(%s, 5000)", [before])
    assert truncater.truncate() == 0
    assert truncater.pid != before
    assert one(connection, f"SELECT application_name FROM pg_stat_activity WHERE pid = {truncater.pid}") == (
        "leasedb pg_truncate"
    )
    truncater.close()
    assert truncater.pid is None
    assert truncater.truncate() == 0, "it may be used after close"


def test_many_tables_are_not_all_truncated(connection, truncater):
    connection.execute("".join(f"CREATE TABLE t{number} (id serial PRIMARY KEY, x text);" for number in range(300)))
    connection.execute("INSERT INTO t7 (x) VALUES ('a')")
    assert truncater.truncate() == 1
    assert one(connection, "INSERT INTO t7 (x) VALUES ('a') RETURNING id") == 1
