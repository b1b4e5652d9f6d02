"""Stock, demand and servers over real HTTP: what the answers look like and what they change."""

import pytest

from leasedb_server.api import schemas
from tests.waiting import until


def test_the_pool_has_the_documented_shape(daemon):
    pool = daemon.get("/pool")
    schemas.PoolOut.model_validate(pool)
    assert "base" in [each["template"] for each in pool["demand"]]
    assert not pool["asleep"]


def test_a_server_says_where_its_files_lie_and_how_it_clones(daemon):
    daemon.full()
    until(lambda: daemon.get("/servers")["servers"][0]["connections"], 10, "the first beat to be told")
    [server] = daemon.get("/servers")["servers"]
    schemas.ServerOut.model_validate(server)
    assert 0 <= server["connections"]["used"] < server["connections"]["most"]
    ways = [way for way in server["cloning"] if way["template"] == "base"]  # tests before this one have others
    assert [way["chosen"] for way in ways].count(True) == 1
    assert all(way["milliseconds"] > 0 for way in ways if way["clones"])
    assert sum(way["clones"] for way in ways) >= 5
    assert server["place"] == "main"


def test_what_is_coming_is_made_ready_and_counted_down(daemon):
    said = {"template": "base", "holder": "announced", "count": 8}
    answer = daemon.call("PUT", "/demand", json={**said, "ttl": 60})
    assert answer.status_code == 200, answer.text
    schemas.DemandOut.model_validate(answer.json())
    assert answer.json() == {**said, "expires_at": answer.json()["expires_at"], "target": 8}
    until(lambda: daemon.get("/pool")["ready"] >= 8, 30, "what was announced to be ready")
    lease = daemon.lease(holder="announced")
    [forecast] = [each for each in daemon.get("/pool")["demand"] if each["template"] == "base"]
    assert forecast["hinted"] == 7
    daemon.release(lease)
    withdrawn = daemon.call("PUT", "/demand", json={**said, "count": 0}).json()
    assert withdrawn["target"] < 8
    assert daemon.get("/pool")["demand"][0]["hinted"] == 0


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "invalid-request"),
        ({"count": -1}, "invalid-request"),
        ({"count": 10_001}, "invalid-request"),
        ({"count": "many"}, "invalid-request"),
        ({"count": 1, "ttl": 0}, "invalid-request"),
        ({"count": 1, "ttl": 1e9}, "invalid-request"),
        ({"count": 1, "tll": 5}, "invalid-request"),
        ({"count": 1, "template": "nope"}, "unknown-template"),
    ],
)
def test_a_demand_that_means_nothing_is_refused(daemon, body, code):
    answer = daemon.call("PUT", "/demand", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, code)


def test_a_lease_by_socket_reaches_the_same_database(daemon):
    psycopg = pytest.importorskip("psycopg")
    lease = daemon.lease()
    assert lease["socket"] is not None
    with psycopg.connect(lease["urls"]["socket"]) as connection:
        assert connection.execute("SELECT current_database(), inet_server_addr()").fetchone() == (
            lease["database"],
            None,
        )
    daemon.release(lease)
