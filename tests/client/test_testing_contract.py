"""What the fake daemon of `leasedb.testing` says is what the real one says: every test here runs against both."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

import leasedb
from leasedb.testing import FakeDaemon
from tests.waiting import until


@pytest.fixture(params=["fake", "real"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "real":
        yield request.getfixturevalue("daemon").url
        return
    with FakeDaemon() as fake:
        yield fake.url


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=30) as client:
        yield client


@pytest.fixture
def client(url: str) -> Iterator[leasedb.Client]:
    with leasedb.Client(url) as client:
        yield client


@pytest.fixture
def taken(http: httpx.Client) -> Iterator[Callable[..., dict[str, Any]]]:
    """Take leases over HTTP, which are given back."""
    run = uuid.uuid4().hex

    def take(**body: Any) -> dict[str, Any]:
        answer = http.post("/leases", json={**body, "labels": {"taken": run, **body.get("labels", {})}})
        assert answer.status_code == 201, answer.text
        return answer.json()

    yield take
    assert http.delete("/leases", params={"label": f"taken:{run}"}).status_code == 200


def shape(value: Any) -> Any:
    """Return what an answer is made of: its members, and of lists the first element."""
    match value:
        case dict():
            return {name: shape(member) for name, member in value.items()}
        case list():
            return [shape(member) for member in value[:1]]
    return None


def refusal(answer: httpx.Response) -> tuple[int, str]:
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert {"type", "title", "status", "detail", "code", "hint"} <= problem.keys()
    assert problem["type"] == f"urn:leasedb:error:{problem['code']}"
    assert (problem["status"], bool(problem["detail"]), bool(problem["hint"])) == (answer.status_code, True, True)
    return answer.status_code, problem["code"]


# --- one lease ---


def test_answers_have_the_same_members(daemon):
    """Compared member by member, here alone, with both daemons at once."""
    with FakeDaemon() as fake:
        for path in ("/healthz", "/readyz", "/leases", "/templates/base", "/servers", "/pool"):
            real, ours = (httpx.get(base + path).json() for base in (daemon.url, fake.url))
            assert real.keys() == ours.keys(), path
        body = {"ttl": 5, "labels": {"a": "b"}, "holder": "ann"}
        real, ours = (httpx.post(f"{base}/leases", json=body).json() for base in (daemon.url, fake.url))
        assert shape(real) == shape(ours)
        listed = [httpx.get(f"{base}/leases?state=active").json()["leases"][0] for base in (daemon.url, fake.url)]
        assert listed[0].keys() == listed[1].keys()
        servers = [httpx.get(f"{base}/servers").json()["servers"][0] for base in (daemon.url, fake.url)]
        assert servers[0].keys() == servers[1].keys()
        daemon.release(real)


def test_the_life_of_a_lease(client):
    lease = client.acquire(ttl=60, holder="ann", labels={"run": "7"})
    assert (lease.state, lease.template, lease.server_kind) == ("active", "base", "shared")
    assert (lease.holder.name, lease.holder.pid, lease.labels) == ("ann", os.getpid(), {"run": "7"})
    assert lease.ttl == pytest.approx(60, abs=1)
    assert lease.dsn == f"postgresql://{lease.user}:{lease.password}@{lease.host}:{lease.port}/{lease.database}"
    assert lease.urls["sqlalchemy"] == lease.dsn.replace("postgresql:", "postgresql+psycopg:")
    assert lease.env["DATABASE_URL"] == lease.dsn
    assert lease.renew(120) == pytest.approx(120, abs=1)
    assert client.get(lease.id).expires_at > lease.created_at
    lease.release()
    ended = client.get(lease.id)
    assert (ended.state, ended.record.end_reason) == ("released", "released by its holder")
    client.release(lease.id)
    with pytest.raises(leasedb.LeaseEndedError):
        client.renew(lease.id)


def test_a_lease_is_cut_at_its_longest(http, taken):
    answer = http.post(f"/leases/{taken()['id']}/renew", json={"ttl": 1e6}).json()
    assert answer["expires_at"] == answer["max_expires_at"]


def test_a_lease_ends_with_its_time(client):
    lease = client.acquire(ttl=0.2, heartbeat=False)
    until(lambda: client.get(lease.id).state == "expired", what="its time to run out")
    assert client.get(lease.id).record.end_reason == "its time ran out"


def test_a_lease_ends_with_its_holders_process(client):
    holder = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    lease = client.acquire(pid=holder.pid, heartbeat=False)
    holder.kill()
    holder.communicate()
    until(lambda: client.get(lease.id).state == "released", what="the end to be noticed")
    assert client.get(lease.id).record.end_reason == f"its holder's process {holder.pid} ended"


def test_the_same_key_is_the_same_lease(http):
    def ask(key: str, **body: Any) -> httpx.Response:
        return http.post("/leases", json=body, headers={"Idempotency-Key": key})

    key = uuid.uuid4().hex
    first, again = ask(key, ttl=30), ask(key, ttl=30)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json()["id"] == again.json()["id"]
    assert first.headers["location"] == f"/leases/{first.json()['id']}"
    assert refusal(ask(key, ttl=31)) == (422, "idempotency-mismatch")
    assert http.delete(f"/leases/{first.json()['id']}").status_code == 204
    assert refusal(ask(key, ttl=30)) == (410, "lease-ended")


# --- several ---


def test_the_list_is_filtered(client):
    run = uuid.uuid4().hex
    first = client.acquire(holder=f"ann {run}", labels={"run": run, "part": "1"})
    second = client.acquire(holder=f"bob {run}", labels={"run": run, "part": "2"})
    first.release()

    def found(**filters: Any) -> list[str]:
        return [lease.id for lease in client.leases(**filters)]

    assert found(labels={"run": run}) == [first.id, second.id]
    assert found(labels={"run": run, "part": "2"}) == [second.id]
    assert found(labels={"run": run}, state="active") == [second.id]
    assert found(labels={"run": run}, state="released") == [first.id]
    assert found(holder=f"ann {run}") == [first.id]
    assert found(labels={"run": run}, kept=True) == []
    assert client.release_all({"run": run, "part": "3"}) == 0
    assert client.release_all({"run": run}) == 1
    assert found(labels={"run": run}, state="active") == []


# --- refusals ---

BODIES = [
    ({"tll": 5}, "tll"),
    ({"ttl": "soon"}, "ttl"),
    ({"ttl": True}, "ttl"),
    ({"ttl": 0}, "ttl"),
    ({"wait": -1}, "wait"),
    ({"wait": 1e9}, "wait"),
    ({"holder": "x" * 201}, "holder"),
    ({"pid": 0}, "pid"),
    ({"pid": "1"}, "pid"),
    ({"labels": {"bad key": "x"}}, "labels"),
    ({"labels": {"key": "x" * 256}}, "labels"),
    ({"labels": {f"k{number}": "" for number in range(33)}}, "labels"),
    ({"postgres": 18}, "postgres"),
    ({"server": "mine"}, "server"),
    ({"server": "exclusive", "database": "postgres"}, "database"),
    ({"server": "exclusive", "user": "pg_me"}, "user"),
    ({"database": "mine"}, "body"),
    ([], "body"),
]


@pytest.mark.parametrize(("body", "field"), BODIES, ids=[json.dumps(body)[:40] for body, _ in BODIES])
def test_a_body_that_is_not_valid_names_the_field(http, body, field):
    answer = http.post("/leases", json=body)
    assert refusal(answer) == (422, "invalid-request")
    assert any(fault["field"].startswith(field) for fault in answer.json()["errors"])


CASES = [
    ("POST", "/leases", {"json": {"template": "nope"}}, 422, "unknown-template"),
    ("POST", "/leases", {"json": {"postgres": "12"}}, 422, "version-unavailable"),
    ("POST", "/leases", {"json": {"pid": 2**22 + 5}}, 422, "holder-not-found"),
    ("POST", "/leases", {"content": b"{", "headers": {"Content-Type": "application/json"}}, 400, "malformed-json"),
    ("POST", "/leases", {"content": b"{}"}, 415, "unsupported-media-type"),
    ("POST", "/leases", {"json": {}, "headers": {"Idempotency-Key": "x" * 256}}, 422, "invalid-request"),
    ("PUT", "/leases", {}, 405, "method-not-allowed"),
    ("POST", "/pool", {}, 405, "method-not-allowed"),
    ("GET", "/nowhere", {}, 404, "not-found"),
    ("GET", "/leases/nobody", {}, 404, "lease-not-found"),
    ("GET", "/leases/nobody/hold", {}, 404, "lease-not-found"),
    ("DELETE", "/leases/nobody", {}, 404, "lease-not-found"),
    ("POST", "/leases/nobody/renew", {}, 404, "lease-not-found"),
    ("POST", "/leases/nobody/keep", {}, 404, "lease-not-found"),
    ("GET", "/leases?state=asleep", {}, 422, "invalid-request"),
    ("GET", "/leases?label=novalue", {}, 422, "invalid-request"),
    ("GET", "/leases?kept=perhaps", {}, 422, "invalid-request"),
    ("DELETE", "/leases", {}, 422, "invalid-request"),
    ("GET", "/servers/nobody/logs", {}, 404, "server-not-found"),
    ("GET", "/servers/nobody/logs?lines=0", {}, 422, "invalid-request"),
    ("GET", "/templates/nope", {}, 404, "template-not-found"),
    ("DELETE", "/templates/base", {}, 422, "template-builtin"),
    ("PUT", "/templates/base", {"json": {"sql": "select 1"}}, 422, "template-builtin"),
    ("PUT", "/templates/bad%20name", {"json": {"sql": "select 1"}}, 422, "invalid-request"),
    ("PUT", "/templates/new", {"json": {"sql": "select 1", "parent": "nope"}}, 422, "parent-missing"),
    ("PUT", "/templates/new", {"json": {"sql": "select 1", "parent": "new"}}, 422, "template-cycle"),
    ("PUT", "/templates/new", {"json": {}}, 422, "invalid-request"),
    ("POST", "/templates/new/build", {"json": {}}, 422, "invalid-request"),
    ("POST", "/templates/nope/seal", {"json": {"lease": "nobody"}}, 404, "lease-not-found"),
    ("PUT", "/demand", {"json": {"count": 10_001}}, 422, "invalid-request"),
    ("PUT", "/demand", {"json": {"count": 1, "template": "nope"}}, 422, "unknown-template"),
]


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "code"), CASES, ids=[f"{case[4]}-{n}" for n, case in enumerate(CASES)]
)
def test_every_refusal_is_a_problem_with_its_code(http, method, path, options, status, code):
    assert refusal(http.request(method, path, **options)) == (status, code)


def test_what_has_ended_is_refused(http, taken):
    ident = taken()["id"]
    assert http.delete(f"/leases/{ident}").status_code == 204
    for method, verb in (("POST", "renew"), ("POST", "keep"), ("POST", "reset"), ("POST", "template"), ("GET", "hold")):
        assert refusal(http.request(method, f"/leases/{ident}/{verb}")) == (410, "lease-ended"), verb


# --- templates, stock, demand ---


def test_a_template_of_sql_is_built_once(client):
    name = f"shop-{uuid.uuid4().hex[:8]}"
    first = client.put_template(name, "create table product (name text)")
    assert client.put_template(name, "create table product (name text)") == first
    with pytest.raises(leasedb.TemplateExistsError):
        client.put_template(name, "create table other (name text)")
    with client.lease(name) as lease:
        assert lease.template == name
        with pytest.raises(leasedb.TemplateInUseError):
            client.delete_template(name)
    client.delete_template(name)
    with pytest.raises(leasedb.UnknownTemplateError):
        client.acquire(name)


def test_a_template_is_built_by_its_caller(http, taken):
    name, body = f"made-{uuid.uuid4().hex[:8]}", {"fingerprint": "one", "wait": 0}
    answer = http.post(f"/templates/{name}/build", json=body)
    assert (answer.status_code, answer.json()["status"]) == (201, "building")
    lease = answer.json()["lease"]["id"]
    assert refusal(http.post(f"/templates/{name}/build", json=body)) == (503, "template-building")
    other = taken()["id"]
    assert refusal(http.post(f"/templates/{name}/seal", json={"lease": other})) == (409, "not-the-builder")
    assert refusal(http.post("/templates/nope/seal", json={"lease": other})) == (404, "template-not-found")
    assert http.post(f"/templates/{name}/seal", json={"lease": lease}).json()["state"] == "sealed"
    assert http.get(f"/leases/{lease}").json()["state"] == "released"
    again = http.post(f"/templates/{name}/build", json=body)
    assert (again.status_code, again.json()["status"], again.json()["lease"]) == (200, "sealed", None)
    assert http.delete(f"/templates/{name}").status_code == 204


def test_a_build_is_given_up(http):
    name, body = f"not-made-{uuid.uuid4().hex[:8]}", {"fingerprint": "one", "wait": 0}
    lease = http.post(f"/templates/{name}/build", json=body).json()["lease"]["id"]
    assert http.post(f"/templates/{name}/abandon", json={"lease": lease}).status_code == 204
    assert refusal(http.get(f"/templates/{name}")) == (404, "template-not-found")


def test_a_lease_is_reset_and_branched(client):
    with client.lease() as lease:
        assert lease.reset() == 0
        name = f"branch-{uuid.uuid4().hex[:8]}"
        lease.to_template(name)
        with client.lease(name) as branch:
            assert branch.template == name
        client.delete_template(name)
        with pytest.raises(leasedb.UnknownTemplateError):
            lease.reset("nope")


def test_what_is_coming_is_counted_down(client):
    holder = f"ann {uuid.uuid4().hex}"
    before = _hinted(client)
    told = client.expect(2, holder=holder)
    assert (told.template, told.holder, told.count) == ("base", holder, 2)
    assert _hinted(client) == before + 2
    with client.lease(holder=holder):
        assert _hinted(client) == before + 1
    client.expect(0, holder=holder)
    assert _hinted(client) == before


def _hinted(client: leasedb.Client) -> int:
    return next((one.hinted for one in client.pool().demand if one.template == "base"), 0)


# --- kept and held ---


def test_a_kept_lease_outlives_its_holders_process(client):
    holder = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    lease = client.acquire(pid=holder.pid, ttl=30, heartbeat=False)
    assert client.get(lease.id).record.kept is False
    lease.keep(600)
    holder.kill()
    holder.communicate()
    record = client.get(lease.id).record
    assert (record.state, record.kept, record.holder.pid) == ("active", True, None)
    assert record.ttl == pytest.approx(600, abs=2)
    assert [kept.id for kept in client.leases(kept=True)] == [lease.id]
    assert client.get(lease.id).renew(5) == pytest.approx(600, abs=2)
    client.release(lease.id)
    assert client.leases(kept=True) == []


def test_keeping_has_a_body_that_may_be_left_out(http, taken):
    ident = taken()["id"]
    answer = http.post(f"/leases/{ident}/keep")
    assert (answer.status_code, answer.json()["kept"]) == (200, True)
    assert answer.json()["ttl"] == pytest.approx(3600, abs=1)
    assert refusal(http.post(f"/leases/{ident}/keep", json={"ttl": -1})) == (422, "invalid-request")


def test_a_lease_lives_while_it_is_held(http, taken):
    lease = taken(ttl=0.5)
    with held(http, lease["id"]) as lines:
        first = next(lines)
        assert (first["id"], first["state"]) == (lease["id"], "active")
        until(lambda: _expires(http, lease) > first["expires_at"], what="it to be renewed")
    until(lambda: http.get(f"/leases/{lease['id']}").json()["state"] == "released", what="the hang-up to be noticed")
    assert http.get(f"/leases/{lease['id']}").json()["end_reason"] == "its holder hung up"


def test_a_lease_is_held_by_the_last_who_reads(http, taken):
    lease = taken()
    with held(http, lease["id"]) as lines:
        next(lines)
        with held(http, lease["id"]) as others:
            next(others)
        assert http.get(f"/leases/{lease['id']}").json()["state"] == "active"
        assert http.delete(f"/leases/{lease['id']}").status_code == 204
        last = list(lines)[-1]
    assert (last["state"], last["reason"]) == ("released", "released by its holder")


@contextmanager
def held(http: httpx.Client, ident: str) -> Iterator[Iterator[dict[str, Any]]]:
    with http.stream("GET", f"/leases/{ident}/hold") as answer:
        assert answer.headers["content-type"].startswith("application/x-ndjson")
        yield map(json.loads, answer.iter_lines())


def _expires(http: httpx.Client, lease: dict[str, Any]) -> str:
    return http.get(f"/leases/{lease['id']}").json()["expires_at"]
