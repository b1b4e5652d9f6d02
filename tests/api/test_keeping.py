"""Keeping leases and holding them open, over real HTTP: what is asked, answered and refused."""

import json

import httpx
import pytest

from leasedb_server.api import schemas
from tests.daemons import RealDaemon
from tests.waiting import until


def test_a_kept_lease_says_so_and_is_found(daemon):
    lease = daemon.lease(holder="keeps", ttl=60)
    assert not lease["kept"]
    answer = daemon.call("POST", f"/leases/{lease['id']}/keep")
    assert answer.status_code == 200, answer.text
    kept = answer.json()
    schemas.LeaseOut.model_validate(kept)
    assert (kept["kept"], kept["ttl"], kept["dsn"], kept["holder"]["pid"]) == (True, 3600, lease["dsn"], None)
    again = daemon.call("POST", f"/leases/{lease['id']}/keep", json={"ttl": 5}).json()
    assert again["expires_at"] == kept["expires_at"], "it is only prolonged"
    assert daemon.call("POST", f"/leases/{lease['id']}/renew", json={"ttl": 7200}).json()["ttl"] == 7200

    def listed(kept: str) -> list[str]:
        return [one["id"] for one in daemon.get(f"/leases?holder=keeps&kept={kept}")["leases"]]

    assert (listed("true"), listed("false")) == ([lease["id"]], [])
    daemon.release(lease)
    assert (listed("true"), listed("false")) == ([], [lease["id"]])


CASES = [
    ("POST", "/leases/nobody/keep", {}, 404, "lease-not-found"),
    ("POST", "/leases/{ended}/keep", {}, 410, "lease-ended"),
    ("POST", "/leases/{active}/keep", {"json": {"ttl": 0}}, 422, "invalid-request"),
    ("POST", "/leases/{active}/keep", {"json": {"tll": 5}}, 422, "invalid-request"),
    ("GET", "/leases?kept=perhaps", {}, 422, "invalid-request"),
    ("GET", "/leases/nobody/hold", {}, 404, "lease-not-found"),
    ("GET", "/leases/{ended}/hold", {}, 410, "lease-ended"),
    ("HEAD", "/leases/{active}/hold", {}, 405, "method-not-allowed"),
    ("POST", "/leases/{active}/hold", {}, 405, "method-not-allowed"),
]


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "code"), CASES, ids=[f"{case[0]} {case[1]} {case[4]}" for case in CASES]
)
def test_what_cannot_be_is_refused_and_changes_nothing(daemon, method, path, options, status, code):
    active, ended = daemon.lease(), daemon.lease()
    daemon.release(ended)
    answer = daemon.call(method, path.format(active=active["id"], ended=ended["id"]), **options)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    if method != "HEAD":
        assert answer.json()["code"] == code
    assert daemon.get(f"/leases/{active['id']}") == active
    daemon.release(active)


def test_a_build_cannot_be_kept(daemon):
    build = daemon.call("POST", "/templates/unkept/build", json={"fingerprint": "f"}).json()["lease"]
    answer = daemon.call("POST", f"/leases/{build['id']}/keep")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-request")
    assert "'unkept'" in answer.json()["detail"]
    daemon.release(build)


def test_a_held_lease_is_told_of_line_by_line_up_to_its_end(daemon):
    lease = daemon.lease(ttl=0.6)
    with httpx.stream("GET", f"{daemon.url}/leases/{lease['id']}/hold", timeout=30) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/x-ndjson"
        lines = answer.iter_lines()
        told = [json.loads(next(lines)) for _ in range(5)]  # for longer than its ttl
        daemon.release(lease)
        told += [json.loads(line) for line in lines]
    for line in told:
        schemas.HoldLine.model_validate(line)
    *alive, end = told
    assert {(line["id"], line["state"], len(line)) for line in alive} == {(lease["id"], "active", 3)}
    assert alive[4]["expires_at"] > lease["expires_at"]
    assert (end["state"], end["reason"]) == ("released", "released by its holder")


def test_a_lease_is_released_when_its_last_reader_hangs_up(daemon):
    lease = daemon.lease(ttl=3)
    path = f"{daemon.url}/leases/{lease['id']}/hold"
    with httpx.stream("GET", path) as first:
        lines = first.iter_lines()
        next(lines)
        with httpx.stream("GET", path) as second:
            next(second.iter_lines())
        until(lambda: "active" in next(lines), 10, "the next line, after the second reader has left")
        assert daemon.get(f"/leases/{lease['id']}")["state"] == "active"
    until(lambda: daemon.get(f"/leases/{lease['id']}")["state"] == "released", 5, "the lease to be released")
    assert daemon.get(f"/leases/{lease['id']}")["end_reason"] == "its holder hung up"


def test_a_lease_that_is_kept_stays_when_its_reader_hangs_up(daemon):
    lease = daemon.lease()
    with httpx.stream("GET", f"{daemon.url}/leases/{lease['id']}/hold") as answer:
        lines = answer.iter_lines()  # which hangs up when it goes
        next(lines)
        daemon.call("POST", f"/leases/{lease['id']}/keep").raise_for_status()
    daemon.release(other := daemon.lease())
    assert daemon.get(f"/leases/{other['id']}")["state"] == "released"
    assert daemon.get(f"/leases/{lease['id']}")["state"] == "active"
    daemon.release(lease)


def test_the_quota_holds_and_a_daemon_with_held_leases_stops_in_time():
    token = {"Authorization": "Bearer open-sesame"}
    daemon = RealDaemon({"POOL_READY": "3", "KEEP_MAX": "1", "TOKEN": "open-sesame"})
    try:
        daemon.start()
        leases = [
            daemon.call("POST", "/leases", json={"holder": name}, headers=token).json() for name in ("me", "me", "you")
        ]
        mine, more, yours = [f"/leases/{lease['id']}" for lease in leases]
        assert daemon.call("POST", f"{mine}/keep", headers=token).status_code == 200
        refused = daemon.call("POST", f"{more}/keep", headers=token)
        assert (refused.status_code, refused.json()["code"]) == (409, "keep-quota")
        assert "leasedb kept" in refused.json()["hint"]
        assert "LEASEDB_KEEP_MAX" in refused.json()["hint"]
        assert daemon.call("POST", f"{yours}/keep", headers=token).status_code == 200
        assert daemon.call("GET", mine, headers=token).json()["state"] == "released"
        assert daemon.call("GET", f"{more}/hold").status_code == 401
        with httpx.stream("GET", f"{daemon.url}{more}/hold", headers=token, timeout=30) as answer:
            lines = answer.iter_lines()
            next(lines)
            assert daemon.stop() == 0
            [end] = [json.loads(line) for line in lines]
        assert (end["state"], end["reason"]) == ("released", "the daemon is stopping")
        assert "graceful shutdown exceeded" not in daemon.log
        assert "Traceback" not in daemon.log
    finally:
        daemon.remove()
