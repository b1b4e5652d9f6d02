"""Servers that fall silent, and several of them."""

import contextlib
import signal
import subprocess
from collections.abc import Iterator

import psutil
import pytest

from tests.daemons import RealDaemon, processes_naming, signal_postgres
from tests.waiting import until


@contextlib.contextmanager
def running(**settings: str) -> Iterator[RealDaemon]:
    daemon = RealDaemon(settings)
    try:
        yield daemon.start()
    finally:
        daemon.remove()


@contextlib.contextmanager
def suspended(name: str) -> Iterator[None]:
    """Stop all processes of a server, as a machine that swaps or a debugger does."""
    stopped: list[psutil.Process] = []
    try:
        for process in processes_naming(name):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
                stopped.append(process)
        yield
    finally:
        for process in stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


def test_a_server_that_falls_silent_is_replaced():
    with running(POOL_READY="2") as daemon:
        lease = daemon.lease(ttl=600)
        [server] = daemon.get("/servers")["servers"]
        with suspended(server["name"]):
            until(lambda: daemon.get(f"/leases/{lease['id']}")["state"] == "lost", 60)
            fresh = daemon.lease()
        assert fresh["server"] != server["id"]
        assert "did not answer" in daemon.get(f"/leases/{lease['id']}")["end_reason"]
        assert daemon.stop() == 0
    assert processes_naming(server["name"]) == []


def test_several_servers_share_the_leases():
    with running(POOL_SERVERS="3", POOL_READY="6", POOL_MAX="30") as daemon:
        daemon.full()
        servers = {server["id"] for server in daemon.get("/servers")["servers"]}
        assert len(servers) == 3
        # what is made anew goes to the server that has least, so that one which came up last catches up
        leases = [daemon.lease() for _ in range(15)]
        assert {lease["server"] for lease in leases} == servers


def test_one_server_that_dies_takes_only_its_own_leases():
    with running(POOL_SERVERS="2", POOL_READY="4") as daemon:
        daemon.full()
        leases = [daemon.lease() for _ in range(4)]

        def on_both() -> bool:
            """One that came up first may have had them all; what is made anew goes to the other."""
            leases.append(daemon.lease())
            return len({lease["server"] for lease in leases}) == 2

        until(on_both, 60, "leases on both servers")
        victim = leases[0]["server"]
        [name] = [server["name"] for server in daemon.get("/servers")["servers"] if server["id"] == victim]
        signal_postgres(name, signal.SIGKILL)
        mine = [lease for lease in leases if lease["server"] == victim]
        until(lambda: all(daemon.get(f"/leases/{lease['id']}")["state"] == "lost" for lease in mine), 30)
        others = [daemon.get(f"/leases/{lease['id']}")["state"] for lease in leases if lease["server"] != victim]
        assert others
        assert set(others) == {"active"}
        until(lambda: len(daemon.get("/servers")["servers"]) == 2, 30)
        daemon.full()


@pytest.mark.parametrize("times", [1, 2])
def test_a_daemon_told_to_stop_at_any_moment_of_its_start_ends(times):
    """Also twice, for the impatient; what is left then is taken away by the next one."""
    daemon = RealDaemon({"POOL_READY": "1"})
    try:
        for delay in (0.0, 0.2, 0.5, 0.8, 1.1):
            process = daemon.spawn()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(delay)
            for _ in range(times):
                process.terminate()
            assert process.wait(20) in {0, 130, 143, -15}
            assert "Traceback" not in daemon.log
        daemon.start()
    finally:
        daemon.remove()
    assert processes_naming(str(daemon.directory)) == []


def test_a_server_that_shuts_down_politely_is_replaced_though_it_still_answers_old_sessions():
    with running(POOL_READY="2") as daemon:
        lease = daemon.lease(ttl=600)
        [server] = daemon.get("/servers")["servers"]
        # a smart shutdown: nobody new is let in, the daemon's own sessions go on
        signal_postgres(server["name"], signal.SIGTERM)
        until(lambda: daemon.get(f"/leases/{lease['id']}")["state"] == "lost", 60)
        assert daemon.lease()["server"] != server["id"]
