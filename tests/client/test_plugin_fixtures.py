"""What each fixture of the plugin promises, in real pytest processes on real databases."""

from tests.client.plugin_runs import left

pytest_plugins = ["pytester"]

PRODUCTS = """
import pytest
@pytest.fixture(scope="session")
def pg_template():
    return "create table product (id serial primary key, name text); insert into product (name) values ('tea')"
"""


def test_each_kind_of_connection_is_to_a_fresh_database(run, daemon, pytester):
    pytester.makeconftest(PRODUCTS)
    run(
        """
        import pytest
        COUNT = "select count(*) from product"
        FILL = "insert into product (name) values ('nail')"

        @pytest.mark.parametrize("n", range(2))
        def test_conn(pg_conn, pg_lease, n):
            assert pg_conn.autocommit is False
            assert pg_conn.info.dbname == pg_lease.database
            assert pg_conn.execute(COUNT).fetchone() == (1,)
            pg_conn.execute(FILL)
            pg_conn.commit()

        @pytest.mark.parametrize("n", range(2))
        def test_pool(pg_pool, pg_lease, n):
            with pg_pool.connection() as one, pg_pool.connection() as other:
                assert one.info.dbname == other.info.dbname == pg_lease.database
                assert one.info.backend_pid != other.info.backend_pid
                assert one.execute(COUNT).fetchone() == (1,)
                one.execute(FILL)
            assert pg_pool.max_size == 10

        @pytest.mark.parametrize("n", range(2))
        def test_engine(pg_engine, pg_lease, n):
            sqlalchemy = pytest.importorskip("sqlalchemy")
            with pg_engine.begin() as connection:
                assert connection.execute(sqlalchemy.text(COUNT)).scalar() == 1
                connection.execute(sqlalchemy.text(FILL))
            assert pg_engine.url.database == pg_lease.database

        def test_vectors(pg_conn):
            assert pg_conn.execute("select '[1,2,3]'::vector <-> '[3,2,1]'").fetchone()[0] > 2.8
        """,
        url=daemon.url,
    ).assert_outcomes(passed=7)


def test_the_ways_to_share_a_database(run, daemon, pytester):
    """By the same URL all along: what each leaves of the test before, and of the template."""
    pytester.makeconftest(PRODUCTS)
    run(
        """
        import psycopg, pytest
        urls = set()

        def names(dsn):
            with psycopg.connect(dsn) as connection:
                return [name for (name,) in connection.execute("select name from product order by id")]

        def spoil(dsn):
            with psycopg.connect(dsn) as connection:
                connection.execute("insert into product (name) values ('nail')")

        @pytest.mark.parametrize("n", range(2))
        def test_reset(pg_reset, n):
            urls.add(pg_reset.dsn)
            assert names(pg_reset.dsn) == ["tea"]
            spoil(pg_reset.dsn)
            with psycopg.connect(pg_reset.dsn) as connection:
                connection.execute("create table mess (x int)")

        @pytest.mark.parametrize("n", range(2))
        def test_truncate(pg_truncate, n):
            urls.add(pg_truncate.dsn)
            assert names(pg_truncate.dsn) == []
            spoil(pg_truncate.dsn)
            with psycopg.connect(pg_truncate.dsn) as connection:
                assert connection.execute("select id from product").fetchall() == [(1,)]
                connection.execute("create table if not exists mess (x int)")

        @pytest.mark.parametrize("n", range(2))
        def test_rollback(pg_rollback, pg_session_lease, n):
            urls.add(pg_session_lease.dsn)
            count = "select count(*) from product"
            # the first one after others gets what the template has, too
            assert pg_rollback.execute(count).fetchone() == (1,)
            pg_rollback.execute("insert into product (name) values ('nail')")
            pg_rollback.commit()
            assert pg_rollback.execute(count).fetchone() == (2,)
            assert names(pg_session_lease.dsn) == ["tea"]

        @pytest.mark.parametrize("n", range(2))
        def test_session(pg_session_lease, n):
            urls.add(pg_session_lease.dsn)
            assert len(names(pg_session_lease.dsn)) == n + 1
            spoil(pg_session_lease.dsn)

        def test_the_url_was_always_the_same(leasedb_client):
            assert len(urls) == 1
        """,
        url=daemon.url,
    ).assert_outcomes(passed=9)


def test_what_is_asked_for_together_is_one_database(run, daemon, pytester):
    run(
        """
        import os, psycopg
        def same(lease, *others):
            assert {lease.database} == set(others)

        def asked(url):
            with psycopg.connect(url) as connection:
                return connection.info.dbname

        def test_reset(pg_conn, pg_pool, pg_env, pg_reset):
            with pg_pool.connection() as connection:
                pooled = connection.info.dbname
            same(pg_reset, pg_conn.info.dbname, pooled, pg_env["PGDATABASE"], asked(os.environ["DATABASE_URL"]))

        def test_truncate(pg_env, pg_truncate, pg_conn):
            same(pg_truncate, pg_conn.info.dbname, asked(""))

        def test_fresh(pg_conn, pg_env, pg_lease, pg_pool):
            with pg_pool.connection() as connection:
                same(pg_lease, pg_conn.info.dbname, connection.info.dbname, asked(""), asked(pg_env["DATABASE_URL"]))

        def test_two_are_two(pg_lease, pg_session_lease, pg_conn):
            assert pg_conn.info.dbname == pg_lease.database != pg_session_lease.database
        """,
        url=daemon.url,
    ).assert_outcomes(passed=4)
    assert left(daemon, pytester.path) == []


def test_the_environment_is_as_it_was_afterwards(run, daemon):
    run(
        """
        import os
        BEFORE = {}
        def of_postgres():
            return {name: value for name, value in os.environ.items() if name.startswith(("PG", "DATABASE_URL"))}
        def test_before():
            BEFORE.update(of_postgres())
            # not PGSERVICE, which libpq would believe more than any DSN
            assert BEFORE == {"PGHOST": "elsewhere", "DATABASE_URL": "postgresql://elsewhere/prod"}
        def test_during(pg_env, pg_lease):
            assert os.environ["DATABASE_URL"] == pg_env["DATABASE_URL"] == pg_lease.env["DATABASE_URL"]
            assert os.environ["PGHOST"] == pg_lease.host
        def test_after():
            assert of_postgres() == BEFORE
        """,
        url=daemon.url,
        PGHOST="elsewhere",
        PGSERVICE="prod",
        DATABASE_URL="postgresql://elsewhere/prod",
    ).assert_outcomes(passed=3)


def test_what_tests_leave_open(run, daemon, pytester):
    """A connection that is closed, one in a failed transaction, connections that a pool did not get back."""
    result = run(
        """
        import psycopg, pytest, time
        KEPT = []
        def test_closed(pg_conn):
            pg_conn.close()
        def test_in_error(pg_conn):
            with pytest.raises(psycopg.errors.SyntaxError):
                pg_conn.execute("nonsense")
        def test_open_transaction(pg_conn):
            pg_conn.execute("create table t (x int)")
        def test_another_connection(pg_lease):
            KEPT.append(psycopg.connect(pg_lease.dsn))
        def test_its_session_is_ended(pg_lease):
            limit = time.monotonic() + 10  # the lease may be on its way back still
            with pytest.raises(psycopg.OperationalError):
                while time.monotonic() < limit:
                    KEPT[0].execute("select 1")
            KEPT[0].close()
        def test_not_given_back(pg_pool):
            KEPT.extend([pg_pool.getconn(), pg_pool.getconn()])
        def test_closed_all_the_same(pg_lease):
            assert all(connection.closed for connection in KEPT)
        def test_an_engine_s_session(pg_engine):
            KEPT.append(pg_engine.connect())
        """,
        "-W",
        "error",
        url=daemon.url,
    )
    result.assert_outcomes(passed=8, errors=1)
    result.stdout.fnmatch_lines(["leasedb: 2 connections were taken from pg_pool and not given back. Use *"])
    assert "Traceback" not in result.stdout.str()
    assert left(daemon, pytester.path) == []


def test_a_rollback_that_was_not_possible_is_told(run, daemon):
    """And the next test finds the database as it should be."""
    result = run(
        """
        import os, psycopg, signal
        def test_ended_by_somebody(pg_rollback, pg_session_lease):
            pid = pg_rollback.info.backend_pid
            with psycopg.connect(pg_session_lease.dsn, autocommit=True) as other:
                other.execute("create table left_behind (x int)")
                other.execute("select pg_terminate_backend(%s)", [pid])
        def test_the_next(pg_rollback):
            assert pg_rollback.execute("select to_regclass('left_behind')").fetchone() == (None,)
        """,
        url=daemon.url,
    )
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["leasedb: pg_rollback could not take back what the test did: *"])


def test_rollback_with_an_engine(run, daemon):
    run(
        """
        import pytest
        sqlalchemy = pytest.importorskip("sqlalchemy")
        pytestmark = pytest.mark.leasedb(mode="rollback")
        @pytest.mark.parametrize("n", range(2))
        def test_committed(pg_engine, pg_conn, n):
            with pg_engine.begin() as connection:
                connection.execute(sqlalchemy.text("create table t (x int)"))
            with pg_engine.connect() as connection:
                connection.execute(sqlalchemy.text("insert into t values (1)"))
                connection.commit()
            assert pg_conn.execute("select x from t").fetchall() == [(1,)]
        def test_what_is_asked_for_beside_it_is_the_same(pg_conn, pg_rollback):
            assert pg_conn is pg_rollback
        """,
        url=daemon.url,
    ).assert_outcomes(passed=3)


def test_where_tests_are_rolled_back_other_connections_leave_nothing_either(run, daemon):
    """They commit, as anybody may; and the next test finds the database as it was at first."""
    run(
        """
        import psycopg, pytest
        pytestmark = pytest.mark.leasedb(mode="rollback")
        MADE = "select to_regclass('made')"
        @pytest.mark.parametrize("n", range(2))
        def test_pool(pg_pool, n):
            with pg_pool.connection() as connection:
                assert connection.execute(MADE).fetchone() == (None,)
                connection.execute("create table made (x int)")
        def test_rolled_back(pg_conn):
            assert pg_conn.execute(MADE).fetchone() == (None,)
        def test_environment(pg_env):
            with psycopg.connect("") as connection:
                connection.execute("create table made (x int)")
        def test_lease(pg_lease, pg_conn):
            assert pg_conn.execute(MADE).fetchone() == (None,)
        """,
        url=daemon.url,
    ).assert_outcomes(passed=5)


def test_a_wider_fixture_is_told_what_to_take(run, stand_in):
    source = """
        import pytest
        @pytest.fixture(scope="module")
        def schema(pg_lease): return pg_lease.id
        @pytest.fixture(scope="session")
        def connection(pg_conn): pass
        def test_one(schema): pass
        def test_two(connection): pass
        """
    result = run(source)
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["ScopeMismatch*", "* For a wider fixture take pg_session_lease *leasedb_scope*"])
    result.stdout.fnmatch_lines(
        ["ScopeMismatch*", "pg_conn lasts as long as one test, whatever leasedb_scope is. *: to pg_session_lease.dsn *"]
    )
    result = run(None, "--leasedb-scope=module")
    result.assert_outcomes(passed=1, errors=1)
    result = run("""
        import pytest
        @pytest.fixture
        def pg_template(): return "base"
        def test_one(pg_lease): pass
        def test_two(pg_session_lease): pass
        """)
    result.assert_outcomes(passed=1, errors=1)
    assert "whatever leasedb_scope is" not in result.stdout.str()
    result.stdout.fnmatch_lines(["ScopeMismatch*", 'Give your pg_template scope="session": *'])


def test_the_scope_of_a_run(run, daemon):
    run(
        """
        import psycopg, pytest
        seen = []
        class TestOne:
            def test_one(self, pg_lease, pg_conn):
                seen.append(pg_lease.id)
                pg_conn.execute("create table t (x int)")
                pg_conn.commit()
            def test_two(self, pg_lease, pg_conn):
                seen.append(pg_lease.id)
                assert pg_conn.execute("select count(*) from t").fetchone() == (0,)
        class TestTwo:
            def test_three(self, pg_lease):
                seen.append(pg_lease.id)
        def test_outside(pg_lease):
            seen.append(pg_lease.id)
        def test_all(): assert [seen.index(ident) for ident in seen] == [0, 0, 2, 3]
        """,
        "--leasedb-scope=class",
        url=daemon.url,
    ).assert_outcomes(passed=5)


def test_the_fixtures_say_what_they_cost(run):
    out = run("", "--fixtures").stdout.str()
    for name in ("pg_lease", "pg_session_lease", "pg_reset", "pg_truncate", "pg_rollback"):
        [line] = [line for line in out.splitlines() if line.startswith((f"{name} ", f"{name} ["))]
        assert "pytest_plugin.py" in line
    assert "Costs" in out


def test_the_fixtures_connections_take_the_shortcut(run, daemon):
    """All but the URLs, which are for whatever the test does with them."""
    run(
        """
        import pytest, sqlalchemy
        HOW = "select inet_client_addr()::text"

        def test_them(pg_conn, pg_pool, pg_engine, pg_lease):
            assert pg_conn.info.host == pg_lease.socket
            assert pg_conn.execute(HOW).fetchone() == (None,)
            with pg_pool.connection() as connection:
                assert connection.execute(HOW).fetchone() == (None,)
            with pg_engine.connect() as connection:
                assert connection.execute(sqlalchemy.text(HOW)).fetchone() == (None,)
            assert pg_engine.url.host == pg_lease.host

        @pytest.mark.asyncio
        async def test_the_async_forms(pg_conn_async, pg_pool_async, pg_engine_async):
            cursor = await pg_conn_async.execute(HOW)
            assert await cursor.fetchone() == (None,)
            async with pg_pool_async.connection() as connection:
                cursor = await connection.execute(HOW)
                assert await cursor.fetchone() == (None,)
            async with pg_engine_async.connect() as connection:
                assert (await connection.execute(sqlalchemy.text(HOW))).fetchone() == (None,)
        """,
        "-pasyncio",
        url=daemon.url,
    ).assert_outcomes(passed=2)
