"""What is sent and what an answer means where templates are concerned, without any I/O."""

import json
from pathlib import Path
from typing import Any

import pytest

import leasedb
from leasedb._exchange import Exchange
from leasedb._protocol import Terms
from leasedb._sql import of_path, of_text
from leasedb._template_calls import Order
from tests.client.test_client_protocol import BROKEN, LEASE, acquire, answer, drive, problem, wire

TEMPLATE = {
    "name": "shop",
    "fingerprint": "sha256:1",
    "parent": "base",
    "state": "sealed",
    "origin": "sql",
    "postgres": None,
    "image": None,
    "bytes": 7_800_000,
    "kept": True,
    "created_at": "2026-11-20T13:00:00.123Z",
    "used_at": "2026-11-20T13:00:00.123Z",
    "leases": 1,
    "ready": 3,
    "progress": "",
    "error": None,
    "notes": ["2 statements left out"],
    "until_lease": None,
    "later": [1],
}
ORDER = Order(name="shop", fingerprint="sha256:1", wait=30)


def building(retry_after: str = "1") -> Any:
    body = {"code": "template-building", "detail": "Not yet.", "hint": "", "progress": "statement 40"}
    return answer(503, body, **{"retry-after": retry_after})


def test_the_terms_of_a_lease_that_are_new():
    terms = {"image": "i", "server": "exclusive", "database": "shop", "user": "ann"}
    [request], _ = drive(acquire(wire(), holder="", **terms), answer(201, LEASE))
    assert request.json == {"template": "base", "holder": ""} | terms
    assert Terms().body().keys() == {"template", "holder"}


def test_a_lease_tells_what_it_is_for():
    news = {"server_kind": "exclusive", "builds": "shop", "image": "i"}
    _, record = drive(wire().get("abc"), answer(200, LEASE | news))
    assert (record.server_kind, record.builds, record.image) == ("exclusive", "shop", "i")
    _, record = drive(wire().get("abc"), answer(200, LEASE))
    assert (record.server_kind, record.builds, record.image) == ("shared", None, None)


def test_templates():
    failed = {"message": "no", "sqlstate": "42703", "statement": 4, "line": 12, "sql": "select x"}
    second = TEMPLATE | {
        "name": "b",
        "state": "failed",
        "bytes": None,
        "parent": None,
        "used_at": None,
        "error": failed,
    }
    [request], found = drive(
        wire().templates(), answer(200, {"templates": [TEMPLATE, second], "bytes": 9, "budget": None})
    )
    assert (request.method, request.path) == ("GET", "/templates")
    assert ([template.name for template in found], found.bytes, found.budget) == (["shop", "b"], 9, None)
    assert (found[0].kept, found[0].leases, found[0].ready, found[0].notes) == (True, 1, 3, ("2 statements left out",))
    assert found[1].error == leasedb.BuildFailure("no", "42703", 4, 12, "select x")
    assert str(found[0]) == f"{found[0]}" == "shop"


@pytest.mark.parametrize("change", [{"name": 5}, {"state": None}, {"created_at": "soon"}, {"bytes": "big"}])
def test_a_template_that_makes_no_sense(change):
    with pytest.raises(leasedb.UnexpectedAnswerError):
        drive(wire().get_template("shop"), answer(200, TEMPLATE | change))


def test_a_template_is_asked_for_with_its_postgres():
    [request], found = drive(wire().get_template("shop", postgres="17", image="i"), answer(200, TEMPLATE))
    assert (request.path, request.params) == ("/templates/shop", (("postgres", "17"), ("image", "i")))
    assert found.name == "shop"


def test_deleting():
    [request], _ = drive(wire().delete_template("shop", postgres=None, image=None), answer(204, b""))
    assert (request.method, request.path, request.params) == ("DELETE", "/templates/shop", ())


def test_deleting_over_a_connection_that_breaks():
    gone = problem(404, "template-not-found")
    requests, _ = drive(wire().delete_template("shop", postgres=None, image=None), BROKEN, gone)
    assert len(requests) == 2
    with pytest.raises(leasedb.TemplateNotFoundError):
        drive(wire().delete_template("shop", postgres=None, image=None), gone)


@pytest.mark.parametrize("name", ["", ".", "..", "\udcff"])
def test_a_name_that_would_reach_another_route_is_none(name):
    with pytest.raises(leasedb.TemplateNotFoundError):
        next(wire().get_template(name))
    with pytest.raises(leasedb.TemplateNotFoundError):
        next(wire().build_template(Order(name=name, fingerprint="f"), None))


# --- SQL ---


def test_sql_is_streamed():
    order = Order(name="a/b", fingerprint="f:1", parent="shop", postgres="17", image="i", wait=12.5)
    [request], made = drive(wire().put_template(order, of_text("select 1")), answer(201, TEMPLATE))
    assert (request.method, request.path) == ("PUT", "/templates/a%2Fb")
    assert dict(request.params) == {
        "parent": "shop",
        "fingerprint": "f:1",
        "postgres": "17",
        "image": "i",
        "wait": "12.5",
    }
    assert request.all_headers() == {"Content-Type": "application/sql"}
    assert request.text is not None
    assert b"".join(request.text.chunks()) == b"select 1"
    assert request.timeout > 3000
    assert made.fingerprint == "sha256:1"


def test_without_a_fingerprint_none_is_sent():
    [request], _ = drive(wire().put_template(Order(name="shop"), of_text("select 1")), answer(201, TEMPLATE))
    assert request.params == (("wait", "60"),)


def test_who_waits_asks_again_until_it_is_there():
    requests, made = drive(
        wire().put_template(ORDER, of_text("")), building(), building("90"), building(""), answer(200, TEMPLATE)
    )
    assert [request.pause for request in requests] == [0, 0.5, 0.5, 0.5]
    waits = [float(dict(request.params)["wait"]) for request in requests]
    assert waits[0] == 30
    assert sorted(waits, reverse=True) == waits
    assert made.name == "shop"


def test_who_does_not_want_to_wait_is_told():
    order = Order(name="shop", fingerprint="f", wait=0)
    with pytest.raises(leasedb.TemplateBuildingError) as caught:
        drive(wire().put_template(order, of_text("")), building())
    assert (caught.value.progress, caught.value.retry_after) == ("statement 40", 1.0)


@pytest.mark.parametrize("wait", [-1, float("nan"), float("inf")])
def test_a_wait_that_is_none(wait):
    with pytest.raises(leasedb.InvalidRequestError, match="wait"):
        next(wire().put_template(Order(name="shop", wait=wait), of_text("")))


def test_the_daemon_waits_an_hour_at_most():
    order = Order(name="shop", fingerprint="f", wait=100_000)
    assert dict(next(wire().put_template(order, of_text(""))).params)["wait"] == "3600"
    assert (next(wire().build_template(order, None)).json or {})["wait"] == 3600


@pytest.fixture
def dump(tmp_path):
    (tmp_path / "dump.sql").write_text("select 1;\nselect x;")
    return of_path(tmp_path / "dump.sql")


def test_a_file_is_not_sent_when_the_template_is_there(dump):
    [request], found = drive(wire().put_template(ORDER, dump), answer(200, TEMPLATE))
    assert (request.method, request.path) == ("GET", "/templates/shop")
    assert found.name == "shop"


@pytest.mark.parametrize(
    "reply",
    [
        problem(404, "template-not-found"),
        answer(200, TEMPLATE | {"state": "failed"}),
        answer(200, TEMPLATE | {"fingerprint": "other"}),
    ],
)
def test_a_file_is_sent_when_it_is_not(dump, reply):
    requests, _ = drive(wire().put_template(ORDER, dump), reply, answer(201, TEMPLATE))
    assert [request.method for request in requests] == ["GET", "PUT"]


def test_a_file_is_not_sent_while_somebody_else_builds_the_same(dump):
    busy = answer(200, TEMPLATE | {"state": "building"})
    requests, _ = drive(wire().put_template(ORDER, dump), busy, busy, answer(200, TEMPLATE))
    assert [(request.method, request.pause) for request in requests] == [("GET", 0), ("GET", 0.5), ("GET", 0.5)]


def test_somebody_elses_failure_says_which_line_of_the_file(dump):
    error = {"message": "no such column", "sqlstate": "42703", "statement": 2, "line": 2, "sql": "select x"}
    error["hint"] = "Add the column."
    busy, failed = (answer(200, TEMPLATE | {"state": state, "error": error}) for state in ("building", "failed"))
    with pytest.raises(
        leasedb.BuildFailedError, match=r"dump\.sql:2: no such column \(SQLSTATE 42703\) in: select x"
    ) as e:
        drive(wire().put_template(ORDER, dump), busy, failed)
    assert e.value.error == leasedb.BuildFailure(**error)
    assert e.value.hint == e.value.error.hint == "Add the column."


def test_sql_that_fails_says_which_line(dump):
    told = {"code": "sql-failed", "detail": "d", "hint": "Mend it.", "message": "no such column", "sqlstate": "42703"}
    told |= {"statement": 2, "line": 2, "sql": "select x"}
    with pytest.raises(leasedb.SqlFailedError, match=r"dump\.sql:2: no such column") as caught:
        drive(wire().put_template(Order(name="shop"), dump), answer(422, told))
    error = caught.value
    assert Path(error.file or "").name == "dump.sql"
    assert (error.line, error.statement, error.sqlstate, error.sql) == (2, 2, "42703", "select x")
    assert (error.message, error.hint) == ("no such column", "Mend it.")


# --- builds ---

BUILDING = {"status": "building", "template": TEMPLATE | {"state": "building"}, "lease": LEASE}


def test_becoming_the_builder():
    order = Order(name="shop", fingerprint="f", ttl=60, holder="me", labels={"a": "b"}, wait=5, postgres="17")
    [request], (template, lease) = drive(wire().build_template(order, 7), answer(201, BUILDING))
    assert (request.method, request.path) == ("POST", "/templates/shop/build")
    wanted = {
        "fingerprint": "f",
        "wait": 5,
        "ttl": 60,
        "holder": "me",
        "labels": {"a": "b"},
        "postgres": "17",
        "pid": 7,
    }
    assert request.json == wanted
    assert len(request.headers["Idempotency-Key"]) == 36
    assert (template.state, lease.id) == ("building", "abc")


def test_finding_it_built():
    there = {"status": "sealed", "template": TEMPLATE, "lease": None}
    requests, (template, lease) = drive(wire().build_template(ORDER, None), building(), answer(200, there))
    assert (template.name, lease) == ("shop", None)
    assert requests[0].headers != requests[1].headers


def test_a_build_whose_answer_is_lost_is_asked_for_with_the_same_key():
    requests, (_, lease) = drive(wire().build_template(ORDER, None), BROKEN, answer(201, BUILDING))
    assert requests[0].headers == requests[1].headers
    assert lease.id == "abc"


def test_a_build_needs_a_fingerprint():
    with pytest.raises(leasedb.InvalidRequestError, match="fingerprint"):
        next(wire().build_template(Order(name="shop"), None))


def test_sealing():
    [request], sealed = drive(wire().seal_template("shop", "abc", force=True), answer(200, TEMPLATE))
    assert (request.path, request.json) == ("/templates/shop/seal", {"lease": "abc", "force": True})
    assert request.timeout > 600
    assert sealed.state == "sealed"


@pytest.mark.parametrize(("fingerprint", "ours"), [("sha256:1", True), ("sha256:2", False)])
def test_that_it_is_sealed_already_with_our_content_is_success(fingerprint, ours):
    over = wire()
    drive(over.build_template(ORDER, None), answer(201, BUILDING))
    there = answer(200, {"templates": [TEMPLATE | {"fingerprint": fingerprint}]})
    exchange = over.seal_template("shop", "abc", force=False)
    if ours:
        requests, sealed = drive(exchange, BROKEN, problem(409, "template-sealed"), there)
        assert [request.path for request in requests] == [*["/templates/shop/seal"] * 2, "/templates"]
        assert sealed.fingerprint == fingerprint
    else:
        with pytest.raises(leasedb.TemplateSealedError):
            drive(exchange, BROKEN, problem(409, "template-sealed"), there)


def test_sessions_in_the_way():
    session = {"pid": 7, "application": "psql", "state": "idle", "query": "select 1", "since": "2026-11-20T13:00:00Z"}
    told = {"code": "sessions-open", "detail": "d", "hint": "h", "sessions": [session, {"pid": 8}, {}, 5]}
    with pytest.raises(leasedb.SessionsOpenError) as caught:
        drive(wire().seal_template("shop", "abc", force=False), answer(409, told))
    first, second = caught.value.sessions
    assert (first.pid, first.application, first.state, first.query) == (7, "psql", "idle", "select 1")
    assert first.since is not None
    assert second == leasedb.OpenSession(8)


def test_abandoning():
    [request], _ = drive(wire().abandon_template("shop", "abc", "no\udcff" + "x" * 5000), answer(204, b""))
    assert request.path == "/templates/shop/abandon"
    assert json.loads(request.content() or b"")["error"].startswith("no?xxx")
    assert len((request.json or {})["error"]) == 2000
    [request], _ = drive(wire().abandon_template("shop", "abc", None), answer(204, b""))
    assert request.json == {"lease": "abc"}


@pytest.mark.parametrize("code", ["not-the-builder", "lease-ended", "lease-lost", "template-not-found"])
def test_abandoning_over_a_connection_that_breaks(code):
    status = {"not-the-builder": 409, "template-not-found": 404}.get(code, 410)
    drive(wire().abandon_template("shop", "abc", None), BROKEN, problem(status, code))
    with pytest.raises(leasedb.LeasedbError):
        drive(wire().abandon_template("shop", "abc", None), problem(status, code))


def test_a_parent_stands_for_itself_in_a_fingerprint():
    assert drive_at_once(wire().fingerprint_of("base", None, None)) == "base"
    shop = leasedb.Template(name="shop", fingerprint="f")
    assert drive_at_once(wire().fingerprint_of(shop, None, None)) == "f"
    [request], found = drive(wire().fingerprint_of("shop", "17", None), answer(200, TEMPLATE))
    assert (request.path, request.params, found) == ("/templates/shop", (("postgres", "17"),), "sha256:1")
    with pytest.raises(leasedb.ParentMissingError, match="template-not-found!"):
        drive(wire().fingerprint_of("shop", None, None), problem(404, "template-not-found"))


def drive_at_once(exchange: Exchange[Any]) -> Any:
    """Run an exchange that asks nobody."""
    with pytest.raises(StopIteration) as done:
        next(exchange)
    return done.value.value


# --- what a lease's database holds ---


def test_reset():
    reply = answer(200, LEASE | {"ended_sessions": 3})
    [request], (record, ended) = drive(wire().reset("abc", template="branch-1", wait=100), reply)
    assert (request.path, request.json) == ("/leases/abc/reset", {"template": "branch-1", "wait": 100})
    assert request.timeout > 100
    assert (record.id, ended) == ("abc", 3)
    [request], _ = drive(wire().reset("abc", template=None, wait=None), reply)
    assert request.json == {}


def test_branching():
    exchange = wire().branch("abc", name="shop", fingerprint="sha256:1", force=False)
    [request], made = drive(exchange, answer(201, TEMPLATE))
    assert request.path == "/leases/abc/template"
    assert request.json == {"name": "shop", "fingerprint": "sha256:1", "force": False}
    assert made.name == "shop"


@pytest.mark.parametrize("fingerprint", ["sha256:1", "sha256:2"])
def test_branching_over_a_connection_that_breaks(fingerprint):
    exists = problem(409, "template-exists")
    there = answer(200, {"templates": [TEMPLATE]})
    exchange = wire().branch("abc", name="shop", fingerprint=fingerprint, force=False)
    if fingerprint == TEMPLATE["fingerprint"]:
        assert drive(exchange, BROKEN, exists, there)[1].name == "shop"
    else:
        with pytest.raises(leasedb.TemplateExistsError):
            drive(exchange, BROKEN, exists, there)


def test_the_latest_checkpoint_is_found_again():
    branches = [
        TEMPLATE | {"name": name, "until_lease": lease, "created_at": f"2026-11-20T13:00:0{second}Z"}
        for name, lease, second in [("a", "abc", 1), ("b", "abc", 3), ("c", "abc", 2), ("d", "other", 4)]
    ]
    listed = answer(200, {"templates": [TEMPLATE, *branches]})
    assert drive(wire().latest_checkpoint("abc"), listed)[1] == "b"
    with pytest.raises(leasedb.TemplateNotFoundError, match="no checkpoint of lease xyz"):
        drive(wire().latest_checkpoint("xyz"), listed)
