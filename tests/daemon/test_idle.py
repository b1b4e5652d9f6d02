"""Nobody leases: servers stop, and the first lease starts one."""

from tests.daemons import RealDaemon, processes_naming
from tests.waiting import until


def test_a_daemon_that_nobody_uses_has_no_servers_until_somebody_does():
    daemon = RealDaemon({"IDLE_STOP": "1.5", "POOL_READY": "2", "BACKEND": "embedded"})
    try:
        daemon.start()
        lease = daemon.lease(ttl=60)
        [server] = daemon.get("/servers")["servers"]
        daemon.release(lease)
        until(lambda: daemon.get("/servers")["servers"] == [], 30, "the server to stop")
        assert processes_naming(server["name"]) == []
        assert daemon.get("/pool")["asleep"]
        assert daemon.get("/readyz")["status"] == "asleep"
        again = daemon.lease(ttl=60)
        assert again["server"] != server["id"]
        assert not daemon.get("/pool")["asleep"]
        assert daemon.get(f"/leases/{lease['id']}")["state"] == "released"
    finally:
        daemon.remove()
