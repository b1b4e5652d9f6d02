"""Nobody needs the daemon: it stops by itself, in order, and whoever comes then loses nothing."""

import threading

import httpx
import pytest

from tests.daemons import RealDaemon, processes_naming
from tests.waiting import until

REFUSED = (httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError)


@pytest.fixture
def make():
    made = []

    def one(**settings):
        made.append(RealDaemon({"POOL_READY": "1", **settings}))
        return made[-1]

    yield one
    for daemon in made:
        daemon.remove()


def test_it_stops_in_order_and_says_why(make):
    daemon = make(IDLE_EXIT="1").start()
    lease = daemon.lease(ttl=60)
    [server] = daemon.get("/servers")["servers"]
    assert daemon.call("PUT", "/demand", json={"count": 1, "ttl": 2, "holder": "me"}).status_code == 200
    daemon.release(lease)
    # what only watches does not keep it
    until(lambda: gone(daemon, "/healthz"), 30, "the daemon to stop")
    assert daemon.process.wait(30) == 0
    assert "nothing to do for 1 s" in daemon.log
    assert "Traceback" not in daemon.log
    assert processes_naming(server["name"]) == []
    assert daemon.start().get(f"/leases/{lease['id']}")["state"] == "released"


def test_a_lease_and_what_is_kept_keep_it(make):
    daemon = make(IDLE_EXIT="0.5").start()
    lease, kept = daemon.lease(ttl=2), daemon.lease(ttl=600)
    daemon.call("POST", f"/leases/{kept['id']}/keep", json={"ttl": 4}).raise_for_status()
    with httpx.stream("GET", f"{daemon.url}/leases/{lease['id']}/hold", timeout=30) as answer:
        lines = answer.iter_lines()
        for _ in range(6):  # for some four seconds, with nobody asking for anything else
            next(lines)
        assert daemon.process.poll() is None
    daemon.process.wait(60)
    assert daemon.process.returncode == 0


def gone(daemon: RealDaemon, path: str) -> bool:
    try:
        httpx.get(f"{daemon.url}{path}")
    except REFUSED:
        return True
    return False


def test_who_comes_while_it_stops_has_a_lease_that_lasts_or_is_refused(make):
    """Again and again, a caller who asks at about the moment at which the daemon stops."""
    daemon = make(IDLE_EXIT="0.5", POOL_READY="4")
    pause = threading.Event()
    for start in range(3):
        daemon.start()
        last = {}
        with httpx.Client(base_url=daemon.url, timeout=30) as client:
            for number in range(100):
                pause.wait(0.49 + 0.003 * start + 0.01 * number)
                try:
                    answer = client.post("/leases", json={"ttl": 60})
                except REFUSED:
                    break
                if answer.status_code == 503:
                    assert answer.json()["code"] == "shutting-down"
                    break
                last = answer.json()
                assert client.get(f"/leases/{last['id']}").json()["state"] == "active"
                assert client.delete(f"/leases/{last['id']}").status_code == 204
            else:
                raise AssertionError("the daemon never stops")
        assert daemon.process.wait(30) == 0
    assert "Traceback" not in daemon.log


def test_a_signal_while_it_stops_lets_it_end_in_order(make):
    daemon = make(IDLE_EXIT="0.5").start()
    until(lambda: "nothing to do for" in daemon.log, 30)
    daemon.process.terminate()
    assert daemon.process.wait(30) in {0, -15}
    assert "ending at once" not in daemon.log
