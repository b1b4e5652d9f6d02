"""Bad input over real HTTP: the right status, a stable code, a hint, and nothing changed."""

import gzip
import json
import socket

import pytest

BODIES = [
    ({"tll": 5}, "tll"),
    ({"ttl": "soon"}, "ttl"),
    ({"ttl": True}, "ttl"),
    ({"ttl": -1}, "ttl"),
    ({"ttl": 0}, "ttl"),
    ({"wait": -1}, "wait"),
    ({"wait": 1e9}, "wait"),
    ({"holder": "x" * 201}, "holder"),
    ({"holder": 7}, "holder"),
    ({"pid": 0}, "pid"),
    ({"pid": "1"}, "pid"),
    ({"pid": 2**40}, "pid"),
    ({"labels": ["a"]}, "labels"),
    ({"labels": {"": "x"}}, "labels"),
    ({"labels": {"bad key": "x"}}, "labels"),
    ({"labels": {"key": "x" * 256}}, "labels"),
    ({"labels": {f"k{number}": "" for number in range(33)}}, "labels"),
    ({"labels": {"key": None}}, "labels"),
    ({"postgres": "eighteen"}, "postgres"),
    ({"postgres": 18}, "postgres"),
    ({"template": 1}, "template"),
    ([], "body"),
    ("text", "body"),
]


@pytest.mark.parametrize(("body", "field"), BODIES, ids=[json.dumps(body)[:40] for body, _ in BODIES])
def test_a_body_that_is_not_valid_names_the_field(daemon, body, field):
    answer = daemon.call("POST", "/leases", json=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["code"] == "invalid-request"
    assert any(fault["field"].startswith(field) for fault in problem["errors"])
    assert problem["hint"]
    assert problem["status"] == 422


JSON = {"Content-Type": "application/json"}
CASES = [
    ("POST", "/leases", {"json": {"ttl": 1e7}}, 422, "invalid-request"),
    ("POST", "/leases", {"json": {"template": "nope"}}, 422, "unknown-template"),
    ("POST", "/leases", {"json": {"postgres": "12"}}, 422, "version-unavailable"),
    ("POST", "/leases", {"json": {"pid": 2**22 + 5}}, 422, "holder-not-found"),
    ("POST", "/leases", {"content": b"{", "headers": {"Content-Type": "application/json"}}, 400, "malformed-json"),
    ("POST", "/leases", {"content": b"\xff", "headers": {"Content-Type": "application/json"}}, 400, "malformed-json"),
    ("POST", "/leases", {"content": b"{}", "headers": {"Content-Type": "text/plain"}}, 415, "unsupported-media-type"),
    ("POST", "/leases", {"content": b"{}"}, 415, "unsupported-media-type"),
    ("POST", "/leases", {"data": {"ttl": "5"}}, 415, "unsupported-media-type"),
    ("POST", "/leases", {"json": {"holder": "x" * 70_000}}, 413, "body-too-large"),
    ("POST", "/leases", {"json": {}, "headers": {"Idempotency-Key": "x" * 256}}, 422, "invalid-request"),
    ("PUT", "/templates/new", {}, 422, "invalid-request"),
    ("PUT", "/templates/new", {"content": b"null", "headers": JSON}, 422, "invalid-request"),
    ("POST", "/templates/new/build", {}, 422, "invalid-request"),
    ("POST", "/templates/new/seal", {}, 422, "invalid-request"),
    ("PUT", "/leases", {}, 405, "method-not-allowed"),
    ("GET", "/nowhere", {}, 404, "not-found"),
    ("GET", "/leases/nobody", {}, 404, "lease-not-found"),
    ("DELETE", "/leases/nobody", {}, 404, "lease-not-found"),
    ("POST", "/leases/nobody/renew", {}, 404, "lease-not-found"),
    ("GET", "/leases?state=asleep", {}, 422, "invalid-request"),
    ("GET", "/leases?label=novalue", {}, 422, "invalid-request"),
    ("DELETE", "/leases", {}, 422, "invalid-request"),
    ("DELETE", "/leases?label=:x", {}, 422, "invalid-request"),
    ("GET", "/servers/nobody/logs", {}, 404, "server-not-found"),
    ("GET", "/servers/nobody/logs?lines=0", {}, 422, "invalid-request"),
    ("GET", "/pool", {"headers": {"Host": "evil.example"}}, 403, "host-not-allowed"),
    ("GET", "/pool", {"headers": {"Host": "127.0.0.1.evil.example"}}, 403, "host-not-allowed"),
    ("GET", "/pool", {"headers": {"Host": "localhost:7432:evil.example"}}, 403, "host-not-allowed"),
    ("GET", "/pool", {"headers": {"Host": "[::1].evil.example"}}, 403, "host-not-allowed"),
    ("POST", "/leases", {"headers": {"Origin": "https://evil.example"}}, 403, "origin-not-allowed"),
    ("POST", "/leases", {"headers": {"Origin": "null"}}, 403, "origin-not-allowed"),
]


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "code"), CASES, ids=[f"{case[4]}-{n}" for n, case in enumerate(CASES)]
)
def test_every_refusal_is_a_problem_with_its_code(daemon, method, path, options, status, code):
    before = daemon.get("/leases?state=active")
    answer = daemon.call(method, path, **options)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["hint"]
    assert answer.json()["detail"]
    assert daemon.get("/leases?state=active") == before


@pytest.mark.parametrize("headers", [{}, {"Content-Type": "application/x-www-form-urlencoded"}], ids=["-T", "-d"])
def test_who_sends_a_file_with_curl_is_told_how_it_is_taken_as_sql(daemon, headers):
    answer = daemon.call("PUT", "/templates/new", content=b"SELECT 1;", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported-media-type")
    assert "application/sql" in answer.json()["hint"]
    assert "must be JSON" not in answer.text


def test_who_sends_a_compressed_dump_is_told_to_unpack_it(daemon):
    packed, sql = gzip.compress(b"SELECT 1;"), {"Content-Type": "application/sql"}
    answer = daemon.call("PUT", "/templates/new", content=packed, headers=sql)
    assert (answer.status_code, answer.json()["code"]) == (422, "sql-failed")
    assert "gzip" in answer.json()["detail"]
    assert "gunzip" in answer.json()["hint"]


def test_a_whole_server_is_leased_where_that_was_allowed_only(daemon):
    """Embedded servers run as one user: a superuser of one reaches the others."""
    answer = daemon.call("POST", "/leases", json={"server": "exclusive"})
    assert (answer.status_code, answer.json()["code"]) == (422, "exclusive-unavailable")
    assert "LEASEDB_POOL_EXCLUSIVE" in answer.json()["hint"]


def test_the_versions_served_are_listed_when_one_is_not(daemon):
    answer = daemon.call("POST", "/leases", json={"postgres": "12"})
    assert "versions served: 18" in answer.json()["detail"]


def test_a_body_without_its_length_is_limited_too(daemon):
    def pieces():
        for _ in range(100):
            yield b" " * 1024

    answer = daemon.call("POST", "/leases", content=pieces(), headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (413, "body-too-large")


def test_a_request_may_be_cut_off_anywhere(daemon):
    head = b"POST /leases HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    request = head + b'Content-Length: 9\r\n\r\n{"ttl":5}'
    before = daemon.get("/leases?state=active")
    for length in range(0, len(request) - 1, 7):
        with socket.create_connection(("127.0.0.1", daemon.port)) as caller:
            caller.sendall(request[:length])
    assert daemon.get("/leases?state=active") == before
    assert daemon.get("/healthz")["status"] == "ok"


def test_what_was_sent_is_not_sent_back(daemon):
    answer = daemon.call("POST", "/leases", json={"password": "hunter2", "labels": {"a": ["hunter2"]}})
    assert answer.status_code == 422
    assert "hunter2" not in answer.text
    assert "hunter2" not in daemon.log


def test_nothing_secret_is_logged(daemon):
    lease = daemon.lease()
    daemon.release(lease, sync=True)
    assert lease["password"] not in daemon.log
