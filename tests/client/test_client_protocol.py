"""What is sent and what an answer means, without any I/O: an exchange is driven by hand."""

import json
from typing import Any

import pytest

from leasedb import _errors
from leasedb._discovery import Address, default_holder, pid_space
from leasedb._exchange import Answer, Breach, Exchange, Failure, Request
from leasedb._protocol import Terms, Wire

LEASE = {
    "id": "abc",
    "state": "active",
    "dsn": "postgresql://u:p@127.0.0.1:5/d",
    "host": "127.0.0.1",
    "port": 5,
    "database": "d",
    "user": "u",
    "password": "p",
    "urls": {"libpq": "postgresql://u:p@127.0.0.1:5/d"},
    "env": {"PGHOST": "127.0.0.1"},
    "template": "base",
    "server": "s1",
    "backend": "embedded",
    "versions": {"postgres": "18.4", "vector": "0.8.1"},
    "holder": {"name": "me", "pid": None},
    "labels": {"run": "7"},
    "created_at": "2026-11-20T13:00:00.123Z",
    "expires_at": "2026-11-20T13:05:00.123Z",
    "max_expires_at": "2026-11-21T13:00:00.123Z",
    "ttl": 300,
    "ended_at": None,
    "end_reason": "",
    "later": [1],
}
REFUSED = Failure(Breach.NO_CONNECTION, "Connection refused")
BROKEN = Failure(Breach.BROKEN, "Server disconnected")


def wire(url: str = "http://db.lan:7432", *, loopback: bool = False) -> Wire:
    return Wire(Address(url, None, loopback=loopback))


def answer(status: int, body: Any, content_type: str = "application/json", **headers: str) -> Answer:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(status, {"content-type": content_type, **headers}, raw)


def problem(status: int, code: str) -> Answer:
    return answer(status, {"code": code, "detail": f"{code}!", "hint": ""}, "application/problem+json")


def drive(exchange: Exchange[Any], *replies: Answer | Failure) -> tuple[list[Request], Any]:
    """Send the replies in turn; return the requests and the result."""
    requests = [next(exchange)]
    for reply in replies:
        try:
            requests.append(exchange.send(reply))
        except StopIteration as done:
            return requests, done.value
    raise AssertionError(f"wants one reply more, to {requests[-1]}")


def acquire(over: Wire, **terms: Any) -> Exchange[Any]:
    return over.acquire(Terms(**{"pid": None, **terms}))


def test_acquire_sends_what_was_given_and_a_key():
    exchange = acquire(wire(), ttl=5, wait=0, holder="me", labels={"a": "b"}, postgres="18", pid=7)
    [request], record = drive(exchange, answer(201, LEASE))
    assert (request.method, request.path) == ("POST", "/leases")
    terms = {"ttl": 5, "wait": 0, "holder": "me", "labels": {"a": "b"}, "postgres": "18", "pid": 7}
    assert request.json == {"template": "base"} | terms
    assert len(request.headers["Idempotency-Key"]) == 36
    assert request.all_headers()["Content-Type"] == "application/json"
    assert json.loads(request.content() or b"") == request.json
    assert (record.id, record.ttl, record.labels, record.ended_at) == ("abc", 300.0, {"run": "7"}, None)
    assert record.expires_at.isoformat() == "2026-11-20T13:05:00.123000+00:00"
    assert "p@" not in repr(record)


def test_acquire_leaves_out_what_was_not_given():
    [request], _ = drive(acquire(wire(), holder=""), answer(201, LEASE))
    assert request.json == {"template": "base", "holder": ""}


def test_each_acquire_has_its_own_key_unless_given():
    keys = {next(acquire(wire())).headers["Idempotency-Key"] for _ in range(3)}
    assert len(keys) == 3
    assert next(acquire(wire(), idempotency_key="mine")).headers["Idempotency-Key"] == "mine"


@pytest.mark.parametrize("key", ["", "a b", "ä", "x" * 256, "a\n"])
def test_a_bad_key_is_refused_here(key):
    with pytest.raises(_errors.InvalidRequestError, match="idempotency_key"):
        next(acquire(wire(), idempotency_key=key))


@pytest.mark.parametrize("seconds", [float("inf"), float("nan")])
@pytest.mark.parametrize("name", ["ttl", "wait"])
def test_what_json_cannot_say_is_refused_here(name, seconds):
    with pytest.raises(_errors.InvalidRequestError, match=name):
        next(acquire(wire(), **{name: seconds}))


@pytest.mark.parametrize(("wait", "least"), [(None, 60), (0, 1), (600, 600)])
def test_the_client_waits_longer_than_the_daemon(wait, least):
    assert least < next(acquire(wire(), wait=wait)).timeout <= least + 30


def test_a_broken_connection_is_tried_once_more_with_the_same_key():
    requests, record = drive(acquire(wire()), BROKEN, answer(201, LEASE))
    assert requests[0] == requests[1]
    assert record.id == "abc"


def test_a_repeated_request_waits_for_the_first_ones_answer():
    busy = problem(409, "idempotency-in-progress")
    requests, record = drive(acquire(wire()), BROKEN, busy, busy, answer(201, LEASE))
    assert [request.pause > 0 for request in requests] == [False, False, True, True]
    assert record.id == "abc"


def test_it_does_not_wait_for_ever():
    busy = problem(409, "idempotency-in-progress")
    with pytest.raises(_errors.IdempotencyInProgressError):
        drive(acquire(wire(), wait=0), *[busy] * 1000)


@pytest.mark.parametrize("failure", [REFUSED, BROKEN])
@pytest.mark.parametrize("call", ["get", "release", "servers", "renew"])
def test_every_call_is_tried_once_more_and_not_twice(call, failure):
    exchange: Exchange[Any] = {
        "get": lambda: wire().get("abc"),
        "release": lambda: wire().release("abc", sync=False),
        "servers": lambda: wire().servers(),
        "renew": lambda: wire().renew("abc", 5),
    }[call]()
    with pytest.raises(_errors.DaemonUnreachableError, match=r"db\.lan:7432.*leasedb serve") as caught:
        drive(exchange, failure, failure)
    assert failure.reason in str(caught.value)


def test_a_timeout_is_not_tried_again():
    with pytest.raises(_errors.DaemonUnreachableError, match="did not answer GET /leases/abc within 15 s"):
        drive(wire().get("abc"), Failure(Breach.TIMED_OUT, ""))


def test_something_else_answers():
    page = answer(404, b"<html>\n<h1>Not Found</h1>", "text/html; charset=utf-8")
    with pytest.raises(_errors.UnexpectedAnswerError) as caught:
        drive(wire().pool(), page)
    assert "What answers at http://db.lan:7432 is not a leasedb daemon" in str(caught.value)
    assert "GET /pool got HTTP 404, text/html: '<html> <h1>Not Found</h1>'" in str(caught.value)
    assert "LEASEDB_URL" in str(caught.value)


@pytest.mark.parametrize(
    "body", [b"", b"hello", b"[]", b"null", b'{"leases": 3}', {"leases": [{}]}, {"leases": [LEASE | {"ttl": "x"}]}]
)
def test_success_that_makes_no_sense(body):
    with pytest.raises(_errors.UnexpectedAnswerError):
        drive(wire().leases(state=None, holder=None, labels=None), answer(200, body))


def test_a_time_without_a_zone_is_not_taken():
    with pytest.raises(_errors.UnexpectedAnswerError):
        drive(wire().get("abc"), answer(200, LEASE | {"expires_at": "2026-11-20T13:05:00"}))


@pytest.mark.parametrize("body", [b"", b"[1]", {"error": "no"}])
def test_an_error_without_a_code_is_not_the_daemons(body):
    with pytest.raises(_errors.UnexpectedAnswerError):
        drive(wire().get("abc"), answer(502, body))


def test_a_redirect_is_not_followed():
    with pytest.raises(_errors.UnexpectedAnswerError, match="HTTP 302"):
        drive(wire().get("abc"), answer(302, b"", location="http://elsewhere/"))


def test_filters():
    exchange = wire().leases(state="active", holder="me", labels={"a": "b:c", "d": "e"})
    [request], found = drive(exchange, answer(200, {"leases": [LEASE]}))
    assert request.params == (("state", "active"), ("holder", "me"), ("label", "a:b:c"), ("label", "d:e"))
    assert [lease.id for lease in found] == ["abc"]
    assert not hasattr(found[0], "password")


def test_release():
    [request], none = drive(wire().release("abc", sync=True), answer(204, b""))
    assert (request.method, request.path, request.params) == ("DELETE", "/leases/abc", (("sync", "true"),))
    assert request.timeout > 60
    assert none is None


def test_release_all():
    [request], n = drive(wire().release_all({"a": "b"}, sync=True), answer(200, {"released": 3}))
    assert (request.path, request.params, n) == ("/leases", (("label", "a:b"), ("sync", "true")), 3)
    with pytest.raises(_errors.InvalidRequestError, match="at least one label"):
        wire().release_all({}, sync=False)


@pytest.mark.parametrize("ident", ["", ".", "..", "\udcff"])
def test_an_id_that_would_reach_another_route_is_none(ident):
    with pytest.raises(_errors.LeaseNotFoundError, match="leasedb status"):
        next(wire().get(ident))
    with pytest.raises(_errors.ServerNotFoundError):
        next(wire().server_logs(ident, 5))


def test_an_id_is_one_segment():
    assert next(wire().get("a/../b?c#d")).path == "/leases/a%2F..%2Fb%3Fc%23d"


def test_renewing_what_has_ended_tells_how():
    ended = LEASE | {"state": "released", "end_reason": "somebody released it"}
    with pytest.raises(_errors.LeaseEndedError) as caught:
        drive(wire().renew("abc", 5), problem(410, "lease-ended"), answer(200, ended))
    assert caught.value.lease is not None
    assert caught.value.lease.end_reason == "somebody released it"


def test_renewing_what_has_ended_and_is_forgotten():
    with pytest.raises(_errors.LeaseLostError) as caught:
        drive(wire().renew("abc", 5), problem(410, "lease-lost"), problem(404, "lease-not-found"))
    assert caught.value.lease is None


# --- what is to come ---

EXPECTED = {"template": "base", "holder": "me", "count": 7, "expires_at": "2026-11-20T13:05:00.123Z", "target": 12}


def test_expect():
    exchange = wire().expect(7, template="base", holder="me", ttl=600)
    [request], expected = drive(exchange, answer(200, EXPECTED | {"later": 1}))
    assert (request.method, request.path) == ("PUT", "/demand")
    assert request.json == {"template": "base", "count": 7, "holder": "me", "ttl": 600}
    assert (expected.count, expected.target, expected.expires_at.minute) == (7, 12, 5)


def test_expect_is_for_who_leases():
    [request], _ = drive(wire().expect(0, template="base", holder=None, ttl=None), answer(200, EXPECTED))
    assert request.json == {"template": "base", "count": 0, "holder": default_holder()}
    with pytest.raises(_errors.InvalidRequestError, match="ttl"):
        next(wire().expect(1, template="base", holder=None, ttl=float("nan")))


@pytest.mark.parametrize("news", [{}, {"socket": None, "urls": LEASE["urls"] | {"socket": None}}])
def test_a_lease_without_a_socket(news):
    _, record = drive(wire().get("abc"), answer(200, LEASE | news))
    assert record.socket is None
    assert "socket" not in record.urls


def test_a_socket_that_is_no_text():
    with pytest.raises(_errors.UnexpectedAnswerError):
        drive(wire().get("abc"), answer(200, LEASE | {"socket": 5}))


# --- does our pid mean anything to the daemon? ---

HEALTH = {"status": "ok", "version": "9", "pid": 1, "pid_space": pid_space()}
needs_proc = pytest.mark.skipif(not pid_space(), reason="needs /proc")


def test_no_pid_for_another_machine():
    [request], _ = drive(acquire(wire(), pid="auto"), answer(201, LEASE))
    assert "pid" not in (request.json or {})


@needs_proc
@pytest.mark.parametrize(("space", "sent"), [(pid_space(), True), ("another/pid:[1]", False)])
def test_pid_for_a_daemon_among_the_same_processes_only(space, sent):
    over = wire("http://127.0.0.1:7432", loopback=True)
    requests, _ = drive(acquire(over, pid="auto"), answer(200, HEALTH | {"pid_space": space}), answer(201, LEASE))
    assert [request.path for request in requests] == ["/healthz", "/leases"]
    assert ("pid" in (requests[1].json or {})) is sent
    # asked once only
    [request], _ = drive(acquire(over, pid="auto"), answer(201, LEASE))
    assert ("pid" in (request.json or {})) is sent


def test_an_automatic_pid_the_daemon_does_not_know_is_left_out():
    over = wire("http://127.0.0.1:7432", loopback=True)
    over._sends_pid = True
    requests, _ = drive(acquire(over, pid="auto"), problem(422, "holder-not-found"), answer(201, LEASE))
    assert ["pid" in (request.json or {}) for request in requests] == [True, False]
    [request], _ = drive(acquire(over, pid="auto"), answer(201, LEASE))
    assert "pid" not in (request.json or {})


def test_a_pid_given_by_hand_is_meant():
    with pytest.raises(_errors.HolderNotFoundError):
        drive(acquire(wire(), pid=99), problem(422, "holder-not-found"))
