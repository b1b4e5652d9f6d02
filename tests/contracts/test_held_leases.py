"""Leases that live as long as somebody reads, and leases that outlive their holder; the same for every backend."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from tests.contracts.places import Place
from tests.contracts.test_promises import connect, dead, refused
from tests.daemons import RealDaemon
from tests.waiting import until

AT_ONCE = 3.0  # seconds: its holder is gone, and so is the lease


@contextmanager
def reader(daemon: RealDaemon, lease: dict[str, Any]) -> Iterator[subprocess.Popen[str]]:
    """Hold the lease open as anybody can, and yield the process once it has read the first line."""
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    command = ["curl", "-sSN", f"{daemon.url}/leases/{lease['id']}/hold"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["id"] == lease["id"]
            yield process
        finally:
            process.kill()


def state(daemon: RealDaemon, lease: dict[str, Any]) -> str:
    return str(daemon.get(f"/leases/{lease['id']}")["state"])


def test_kill_9_of_whoever_holds_it_releases_a_lease(leasing):
    lease = leasing.lease(ttl=600)
    with reader(leasing, lease) as holder, connect(lease) as connection:
        connection.execute("SELECT 1")
        holder.kill()
        until(lambda: state(leasing, lease) == "released", AT_ONCE)
        assert leasing.get(f"/leases/{lease['id']}")["end_reason"] == "its holder hung up"
        until(lambda: dead(connection), 5, "the session to be ended")
    assert refused(lease["dsn"])


def test_a_held_lease_outlives_its_ttl_with_its_session(leasing):
    lease = leasing.lease(ttl=1)
    with reader(leasing, lease) as holder, connect(lease) as connection:
        told = [json.loads(holder.stdout.readline()) for _ in range(6)]
        assert {line["state"] for line in told} == {"active"}
        assert connection.execute("SELECT clock_timestamp() > %s::timestamptz", [lease["expires_at"]]).fetchone() == (
            True,
        )
        leasing.release(lease)
        last = json.loads(holder.stdout.read().splitlines()[-1])
        assert (last["state"], last["reason"]) == ("released", "released by its holder")
        assert holder.wait(5) == 0
    assert refused(lease["dsn"])


def test_a_held_lease_is_told_of_its_servers_death(leasing, place: Place):
    if not place.ours:
        pytest.skip("a server that is only lent is not killed")
    lease = leasing.lease(ttl=60)
    [server] = leasing.get("/servers")["servers"]
    with reader(leasing, lease) as holder:
        place.kill_server(server)
        last = json.loads(holder.stdout.read().splitlines()[-1])
    assert last["state"] == "lost"
    assert server["id"] in last["reason"]
    leasing.release(leasing.lease(), sync=True)  # another server is there


def test_a_kept_lease_outlives_its_holder_and_kill_9_of_the_daemon(place: Place):
    daemon = RealDaemon({**place.settings, "POOL_READY": "2", "POOL_READY_MAX": "2"}, place.environment)
    try:
        daemon.start()
        holder = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        kept, other = [daemon.lease(pid=holder.pid, ttl=600) for _ in range(2)]
        with connect(kept) as connection:
            connection.execute("CREATE TABLE evidence AS SELECT 42 AS answer")
        daemon.call("POST", f"/leases/{kept['id']}/keep").raise_for_status()
        holder.kill()
        holder.communicate()
        until(lambda: state(daemon, other) == "released", 5)
        assert state(daemon, kept) == "active"
        daemon.kill()
        daemon.start()
        [found] = daemon.get("/leases?kept=true")["leases"]
        assert (found["id"], found["holder"]["pid"]) == (kept["id"], None)
        with connect(kept) as connection:
            assert connection.execute("SELECT answer FROM evidence").fetchone() == (42,)
        assert daemon.call("POST", f"/leases/{kept['id']}/reset").status_code == 200
        with connect(kept) as connection:
            assert connection.execute("SELECT to_regclass('evidence')").fetchone() == (None,)
        daemon.release(kept, sync=True)
        with pytest.raises(psycopg.OperationalError):
            connect(kept)
    finally:
        daemon.remove()


def test_after_kill_9_of_the_daemon_a_held_lease_lives_its_ttl_and_can_be_held_again(place: Place):
    daemon = RealDaemon({**place.settings, "POOL_READY": "2", "POOL_READY_MAX": "2"}, place.environment)
    try:
        daemon.start()
        again, left = [daemon.lease(ttl=20) for _ in range(2)]
        with reader(daemon, again), reader(daemon, left):
            daemon.kill()
        daemon.start()
        assert (state(daemon, again), state(daemon, left)) == ("active", "active")
        with reader(daemon, again) as holder:
            until(lambda: state(daemon, left) == "expired", 30)
            assert state(daemon, again) == "active"
            holder.kill()
            until(lambda: state(daemon, again) == "released", AT_ONCE)
    finally:
        daemon.remove()
