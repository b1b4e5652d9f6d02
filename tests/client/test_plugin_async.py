"""The async forms of the fixtures, with pytest-asyncio and with anyio."""

import pytest

pytest_plugins = ["pytester"]

TESTS = """
import asyncio, psycopg, pytest
import leasedb

async def names(dsn):
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        cursor = await connection.execute("select tablename from pg_tables where schemaname = 'public'")
        return [name for (name,) in await cursor.fetchall()]

@pytest.mark.parametrize("n", range(2))
async def test_conn(pg_conn_async, pg_lease, n):
    assert isinstance(pg_conn_async, psycopg.AsyncConnection)
    assert pg_conn_async.info.dbname == pg_lease.database
    await pg_conn_async.execute("create table t (x int)")
    await pg_conn_async.commit()

async def test_what_is_asked_for_together_is_one(pg_conn_async, pg_pool_async, pg_lease_async, pg_env):
    async with pg_pool_async.connection() as connection:
        assert connection.info.dbname == pg_conn_async.info.dbname == pg_lease_async.database == pg_env["PGDATABASE"]

async def test_pool(pg_pool_async, pg_reset):
    async def one(number):
        async with pg_pool_async.connection() as connection:
            assert connection.info.dbname == pg_reset.database
            cursor = await connection.execute("select %s + 1 from pg_sleep(0.01)", [number])
            return (await cursor.fetchone())[0]
    assert await asyncio.gather(*map(one, range(30))) == list(range(1, 31))

@pytest.mark.parametrize("n", range(2))
async def test_engine(pg_engine_async, n):
    sqlalchemy = pytest.importorskip("sqlalchemy")
    async with pg_engine_async.begin() as connection:
        await connection.execute(sqlalchemy.text("create table t (x int)"))
    async with pg_engine_async.connect() as connection:
        assert (await connection.execute(sqlalchemy.text("select count(*) from t"))).scalar() == 0

@pytest.mark.parametrize("n", range(2))
async def test_rollback(pg_rollback_async, pg_session_lease_async, n):
    await pg_rollback_async.execute("create table t (x int)")
    await pg_rollback_async.commit()
    cursor = await pg_rollback_async.execute("select count(*) from t")
    assert await cursor.fetchone() == (0,)
    assert await names(pg_session_lease_async.dsn) == []

@pytest.mark.leasedb(mode="rollback")
@pytest.mark.parametrize("n", range(2))
async def test_rolled_back_by_mode(pg_conn_async, pg_engine_async, n):
    sqlalchemy = pytest.importorskip("sqlalchemy")
    async with pg_engine_async.begin() as connection:
        await connection.execute(sqlalchemy.text("create table by_mode (x int)"))
    cursor = await pg_conn_async.execute("select count(*) from by_mode")
    assert await cursor.fetchone() == (0,)

async def test_leases(pg_lease_async, pg_reset_async, pg_session_lease_async):
    assert isinstance(pg_lease_async, leasedb.AsyncLease)
    assert pg_lease_async.id != pg_reset_async.id == pg_session_lease_async.id
    async with await psycopg.AsyncConnection.connect(pg_reset_async.dsn) as connection:
        await connection.execute("create table t (x int)")
    await pg_reset_async.reset()
    assert await names(pg_reset_async.dsn) == []
    await pg_lease_async.renew(60)

async def test_truncate(pg_truncate_async):
    assert await names(pg_truncate_async.dsn) == []

def test_beside_it(pg_conn):
    assert pg_conn.execute("select 1").fetchone() == (1,)
"""
PASSING = 13
IN_STRICT_MODE = f"import pytest\npytestmark = pytest.mark.asyncio\n{TESTS}"
LOOPS = """
import asyncio, pytest
loops = set()

async def use(conn, pool):
    loops.add(asyncio.get_running_loop())
    async with pool.connection() as one, pool.connection() as other:
        cursor = await other.execute("select 1")
        assert await cursor.fetchone() == (1,)
    # takes turns on the connection's lock, which is of one loop
    await asyncio.gather(*(conn.execute("select pg_sleep(0.01)") for _ in range(3)))
"""
WIDER = f"""
{LOOPS}
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("n", range(2))
async def test_module(pg_conn_async, pg_pool_async, pg_rollback_async, n):
    await use(pg_conn_async, pg_pool_async)
@pytest.mark.asyncio(loop_scope="session")
async def test_session(pg_conn_async, pg_pool_async, pg_rollback_async):
    await use(pg_conn_async, pg_pool_async)
@pytest.mark.asyncio
async def test_function(pg_conn_async, pg_pool_async, pg_rollback_async):
    await use(pg_conn_async, pg_pool_async)
def test_three(): assert len(loops) == 3
"""
BY_INI = f"""
{LOOPS}
@pytest.mark.parametrize("n", range(2))
async def test_one(pg_conn_async, pg_pool_async, pg_rollback_async, n):
    await use(pg_conn_async, pg_pool_async)
def test_one_loop(): assert len(loops) == 1
"""


@pytest.mark.parametrize(("source", "mode"), [(IN_STRICT_MODE, "strict"), (TESTS, "auto")], ids=["strict", "auto"])
def test_with_pytest_asyncio(run, daemon, source, mode):
    run(source, f"--asyncio-mode={mode}", url=daemon.url, plugins=["asyncio"]).assert_outcomes(passed=PASSING)


def test_with_pytest_asyncio_in_wider_loops(run, daemon):
    run(WIDER, url=daemon.url, plugins=["asyncio"]).assert_outcomes(passed=5)


@pytest.mark.parametrize("fixtures", ["function", "session"])
def test_with_pytest_asyncio_where_the_ini_file_says_which_loop(run, daemon, pytester, fixtures):
    pytester.makeini(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_test_loop_scope = session\n"
        f"asyncio_default_fixture_loop_scope = {fixtures}\n"
    )
    run(BY_INI, "-W", "error", url=daemon.url, plugins=["asyncio"]).assert_outcomes(passed=3)


@pytest.mark.parametrize("plugins", [["anyio"], ["anyio", "asyncio"]], ids=["alone", "beside-pytest-asyncio"])
def test_with_anyio(run, daemon, pytester, plugins):
    pytester.makeconftest("import pytest\n@pytest.fixture\ndef anyio_backend(): return 'asyncio'")
    source = f"import pytest\npytestmark = pytest.mark.anyio\n{TESTS}"
    run(source, url=daemon.url, plugins=plugins).assert_outcomes(passed=PASSING)


def test_with_anyio_on_trio(run, stand_in, pytester):
    pytester.makeconftest("import pytest\n@pytest.fixture\ndef anyio_backend(): return ('trio', {})")
    result = run(
        """
        import pytest
        pytestmark = pytest.mark.anyio
        async def test_one(pg_conn_async): pass
        async def test_two(pg_lease_async): pass
        """,
        plugins=["anyio"],
    )
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(
        ["leasedb: pg_conn_async works on asyncio, and this test runs on trio: *anyio_backend*"]
    )
    assert stand_in.active() == []


def test_where_nobody_runs_an_event_loop(run, stand_in):
    result = run("def test_one(pg_conn_async): pass\ndef test_two(pg_rollback_async): pass")
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["leasedb: pg_conn_async is for async tests: pip install pytest-asyncio, or *"])
    assert "Traceback" not in result.stdout.str()
    assert stand_in.active() == []


def test_a_transaction_that_could_not_be_taken_back(run, daemon):
    result = run(
        """
        import psycopg, pytest
        pytestmark = pytest.mark.asyncio
        async def test_ended_by_somebody(pg_rollback_async, pg_session_lease):
            pid = pg_rollback_async.info.backend_pid
            with psycopg.connect(pg_session_lease.dsn, autocommit=True) as other:
                other.execute("create table left_behind (x int)")
                other.execute("select pg_terminate_backend(%s)", [pid])
        async def test_the_next(pg_rollback_async):
            cursor = await pg_rollback_async.execute("select to_regclass('left_behind')")
            assert await cursor.fetchone() == (None,)
        """,
        url=daemon.url,
        plugins=["asyncio"],
    )
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["leasedb: pg_rollback_async could not take back what the test did: *"])


def test_a_typing_error_lists_no_hidden_fixtures(run, stand_in):
    source = """
        import pytest
        pytestmark = pytest.mark.asyncio
        async def test_one(pg_lease_async, pg_session_lease_async): pass
        def test_two(pg_leese): pass
        """
    result = run(source, plugins=["anyio", "asyncio"])
    result.assert_outcomes(passed=1, errors=1)
    [listed] = [line for line in result.outlines if "available fixtures:" in line]
    assert "pg_lease_async" in listed
    assert listed.count("_leasedb_") <= 2
    result = run("def test_two(pg_leese): pass\ndef test_three(pg_lease): pass", plugins=["anyio", "asyncio"])
    assert "_leasedb_" not in result.stdout.str()
