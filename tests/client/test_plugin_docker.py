"""The plugin on a daemon whose servers are containers: a representative of what is tested on embedded elsewhere."""

from collections.abc import Iterator

import pytest

from tests.client.plugin_runs import left
from tests.contracts import places
from tests.daemons import RealDaemon

pytest_plugins = ["pytester"]

TESTS = """
import os, psycopg, pytest

@pytest.fixture(scope="session")
def pg_template():
    def build(lease):
        with psycopg.connect(lease.dsn) as connection:
            connection.execute("create table product (id serial primary key, embedding vector(3))")
            connection.execute("insert into product (embedding) values ('[1,2,3]')")
    return build

COUNT = "select count(*) from product"
FILL = "insert into product (embedding) values ('[3,2,1]')"

@pytest.mark.parametrize("n", range(3))
def test_fresh(pg_conn, pg_lease, pg_env, n):
    assert pg_lease.backend == "container"
    assert pg_conn.execute(COUNT).fetchone() == (1,)
    pg_conn.execute(FILL)
    pg_conn.commit()
    with psycopg.connect(os.environ["DATABASE_URL"]) as other:
        assert other.execute(COUNT).fetchone() == (2,)

@pytest.mark.parametrize("n", range(3))
def test_reset(pg_reset, pg_pool, n):
    with pg_pool.connection() as connection:
        assert connection.execute(COUNT).fetchone() == (1,)
        connection.execute(FILL)

@pytest.mark.parametrize("n", range(3))
def test_truncate(pg_truncate, pg_conn, n):
    assert pg_conn.execute(COUNT).fetchone() == (0,)
    pg_conn.execute(FILL)
    pg_conn.commit()

@pytest.mark.parametrize("n", range(3))
def test_rollback(pg_rollback, n):
    assert pg_rollback.execute(COUNT).fetchone() == (1,)
    pg_rollback.execute(FILL)
    pg_rollback.commit()
    assert pg_rollback.execute(COUNT).fetchone() == (2,)

@pytest.mark.asyncio
async def test_async(pg_conn_async, pg_lease_async):
    cursor = await pg_conn_async.execute(COUNT)
    assert await cursor.fetchone() == (1,)
"""
EXCLUSIVE = """
import pytest
@pytest.mark.leasedb(server="exclusive", database="shop", user="owner")
def test_mine(pg_lease, pg_conn, pg_env):
    assert (pg_conn.info.dbname, pg_conn.info.user) == ("shop", "owner")
    assert pg_env["PGDATABASE"] == "shop"
    assert pg_lease.server_kind == "exclusive"
    pg_conn.rollback()
    pg_conn.autocommit = True
    pg_conn.execute("alter system set work_mem = '1MB'")
def test_shared(pg_lease, pg_conn):
    assert pg_lease.server_kind == "shared"
    assert pg_conn.execute("show work_mem").fetchone() != ("1MB",)
"""


@pytest.fixture(scope="module")
def container_daemon() -> Iterator[RealDaemon]:
    with places.place("docker") as docker:
        running = RealDaemon({**docker.settings, "POOL_READY": "3"}, docker.environment)
        try:
            yield running.start()
        finally:
            running.remove()


def test_every_way_to_keep_tests_apart(run, container_daemon, pytester):
    result = run(TESTS, "-n2", url=container_daemon.url, plugins=["asyncio"])
    result.assert_outcomes(passed=13)
    result.stdout.fnmatch_lines([f"leasedb: 0.1.0 at {container_daemon.url}, container, Postgres *"])
    assert left(container_daemon, pytester.path) == []


def test_a_whole_server_through_the_marker(run, container_daemon):
    run(EXCLUSIVE, url=container_daemon.url).assert_outcomes(passed=2)


def test_a_failed_test_can_be_looked_at(run, container_daemon, cli):
    result = run(
        """
        def test_fails(pg_conn):
            pg_conn.execute("create table left_behind as select 1 as x")
            pg_conn.commit()
            assert 0
        """,
        "--leasedb-keep=failed",
        url=container_daemon.url,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["  left_behind  1", "kept      for an hour, see the end of the run"])
    assert "::test_fails" in cli(container_daemon.url, "kept").stdout
    assert cli(container_daemon.url, "kept", "--drop-all").returncode == 0
