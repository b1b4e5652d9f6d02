"""Nothing on the request path that could be done earlier: a warm lease needs no server that answers."""

import contextlib

import psutil
import pytest

from tests.daemons import RealDaemon, processes_naming


@pytest.fixture
def daemon():
    running = RealDaemon({"POOL_READY": "3"})
    try:
        yield running.start()
    finally:
        running.remove()


def test_a_warm_lease_asks_postgres_nothing(daemon):
    daemon.full()
    [server] = daemon.get("/servers")["servers"]
    stopped: list[psutil.Process] = []
    try:
        for process in processes_naming(server["name"]):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
                stopped.append(process)
        leases = [daemon.lease(wait=0) for _ in range(3)]
    finally:
        for process in stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
    assert len({lease["database"] for lease in leases}) == 3
