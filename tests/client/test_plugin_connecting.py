"""Connections, pools and engines of the fixtures: named, open when given, closed after."""

import asyncio
import subprocess
import sys
from types import SimpleNamespace

import psycopg
import pytest

from leasedb._plugin import connecting
from leasedb._plugin.connecting import ConnectionsLeftError, MissingLibraryError
from tests.daemons import free_port
from tests.waiting import until

NAME = "SELECT current_setting('application_name')"


@pytest.fixture(scope="module")
def lease(daemon):
    lease = daemon.lease(ttl=3600)
    yield lease
    daemon.release(lease)


@pytest.fixture
def dsn(lease):
    yield lease["dsn"]
    with psycopg.connect(lease["dsn"]) as looking:  # nothing stays open, whatever the test did
        query = "SELECT count(*) FROM pg_stat_activity WHERE usename = current_user AND pid <> pg_backend_pid()"
        until(lambda: looking.execute(query).fetchone() == (0,) or looking.rollback())


def test_no_shortcut_where_there_is_no_socket_within_reach(tmp_path):
    def shortcut(directory):
        return connecting.shortcut(SimpleNamespace(socket=directory, port=54321))

    assert shortcut(None) == {}  # the server has none
    assert shortcut(str(tmp_path)) == {}  # it is in a container, say, and we are not
    (tmp_path / ".s.PGSQL.54321").touch()
    assert shortcut(str(tmp_path)) == {"host": str(tmp_path)}


def test_a_connection_says_whose_it_is(dsn):
    with connecting.connect(dsn, autocommit=True) as connection:
        assert connection.autocommit
        assert connection.execute(NAME).fetchone() == ("leasedb pg_conn",)
    with connecting.connect(f"{dsn}?application_name=mine", "pg_other") as connection:
        assert connection.execute(NAME).fetchone() == ("mine",)


def test_an_async_connection(dsn):
    async def test():
        async with await connecting.connect_async(dsn) as connection:
            assert await (await connection.execute(NAME)).fetchone() == ("leasedb pg_conn_async",)

    asyncio.run(test())


def test_a_pool_is_filled_and_closed_after(dsn):
    with connecting.pool(dsn, max_size=3, autocommit=True) as pool:
        assert (pool.min_size, pool.max_size) == (1, 3)
        with pool.connection() as one, pool.connection() as other:
            assert one.execute(NAME).fetchone() == other.execute(NAME).fetchone() == ("leasedb pg_pool",)
            assert one.autocommit
    assert pool.closed


def test_connections_left_out_of_a_pool_are_told_and_closed(dsn):
    left = []
    said = r"2 connections were taken from pg_pool and not given back.* `with"
    with pytest.raises(ConnectionsLeftError, match=said), connecting.pool(dsn) as pool:
        left += [pool.getconn(), pool.getconn()]
    assert all(connection.closed for connection in left)
    with pytest.raises(ConnectionsLeftError, match="1 connection was"), connecting.pool(dsn) as pool:
        left.append(pool.getconn())


def test_the_tests_own_error_is_the_one_that_is_told(dsn):
    left = []
    with pytest.raises(ZeroDivisionError), connecting.pool(dsn) as pool:
        left.append(pool.getconn()) or 1 / 0
    assert left[0].closed


def test_an_async_pool(dsn):
    async def test():
        async with connecting.pool_async(dsn) as pool, pool.connection() as connection:
            assert await (await connection.execute(NAME)).fetchone() == ("leasedb pg_pool_async",)
        with pytest.raises(ConnectionsLeftError, match="pg_pool_async"):
            async with connecting.pool_async(dsn) as pool:
                left = await pool.getconn()
        assert left.closed

    asyncio.run(test())


def test_a_pool_without_a_server_says_why():
    dsn = f"postgresql://user:secret@127.0.0.1:{free_port()}/nothing"
    with pytest.raises(psycopg.OperationalError, match="refused"), connecting.pool(dsn, open_within=0.2):
        pass

    async def test():
        with pytest.raises(psycopg.OperationalError, match="refused"):
            async with connecting.pool_async(dsn, open_within=0.2):
                pass

    asyncio.run(test())


def test_an_engine_is_disposed_of_with_what_a_session_still_has(dsn, lease):
    sqlalchemy = pytest.importorskip("sqlalchemy")
    with connecting.engine(lease["urls"]["sqlalchemy"]) as engine:
        with engine.connect() as link:
            assert link.execute(sqlalchemy.text(NAME)).scalar() == "leasedb pg_engine"
        left = engine.connect()
        raw = left.connection.driver_connection
    assert raw.closed
    left.invalidate()
    left.close()


def test_an_async_engine(dsn, lease):
    sqlalchemy = pytest.importorskip("sqlalchemy")
    pytest.importorskip("greenlet")

    async def test():
        async with connecting.engine_async(lease["urls"]["sqlalchemy"]) as engine:
            async with engine.connect() as link:
                assert (await link.execute(sqlalchemy.text(NAME))).scalar() == "leasedb pg_engine_async"
            left = await engine.connect()
            raw = (await left.get_raw_connection()).driver_connection
        assert raw.closed
        await left.invalidate()
        await left.close()

    asyncio.run(test())


@pytest.mark.parametrize(
    ("library", "call", "message"),
    [
        ("psycopg", "connecting.connect('')", "pg_conn needs psycopg: pip install 'psycopg[binary]'"),
        ("psycopg_pool", "connecting.pool('').__enter__()",
         "pg_pool needs psycopg_pool: pip install 'psycopg[binary,pool]'"),
        ("sqlalchemy", "connecting.engine('').__enter__()",
         "pg_engine needs sqlalchemy: pip install sqlalchemy 'psycopg[binary]'"),
        ("psycopg", "connecting.engine('').__enter__()", "pg_engine needs psycopg: pip install 'psycopg[binary]'"),
        ("greenlet", "connecting.engine_async('').__aenter__().send(None)",
         "pg_engine_async needs greenlet: pip install 'sqlalchemy[asyncio]'"),
    ],
)  # fmt: skip
def test_a_missing_library_is_named_with_what_to_install(library, call, message):
    code = f"""
import sys
sys.modules[{library!r}] = None
from leasedb._plugin import connecting
try:
    {call}
except connecting.MissingLibraryError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == message


def test_a_missing_library_keeps_what_is_to_be_said():
    error = MissingLibraryError("pg_pool", "psycopg_pool", "'psycopg[pool]'")
    assert (error.fixture, error.library, error.install) == ("pg_pool", "psycopg_pool", "'psycopg[pool]'")
