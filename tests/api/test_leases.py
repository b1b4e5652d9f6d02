"""The wire, over real HTTP: what the answers look like."""

from datetime import UTC, datetime, timedelta

import pytest

from leasedb_server.api import schemas


def test_a_lease_has_the_documented_shape_and_its_location(daemon):
    answer = daemon.call("POST", "/leases", json={"ttl": 120, "holder": "me", "labels": {"a": "b"}})
    lease = answer.json()
    assert answer.headers["Location"] == f"/leases/{lease['id']}"
    schemas.LeaseOut.model_validate(lease)
    assert daemon.get(answer.headers["Location"]) == lease
    assert (lease["state"], lease["ttl"], lease["holder"], lease["labels"]) == (
        "active",
        120,
        {"name": "me", "pid": None},
        {"a": "b"},
    )
    created, expires, last = (
        datetime.fromisoformat(lease[name]) for name in ("created_at", "expires_at", "max_expires_at")
    )
    assert created.tzinfo == UTC
    assert expires - created == timedelta(seconds=120)
    assert last - created == timedelta(days=1)
    daemon.release(lease)


def test_everything_may_be_left_out(daemon):
    for options in ({}, {"json": {}}, {"json": None, "headers": {"Content-Type": "application/json"}}):
        answer = daemon.call("POST", "/leases", **options)
        assert answer.status_code == 201, answer.text
        assert answer.json()["ttl"] == 300
        daemon.release(answer.json())


def test_renewing_counts_from_now_and_is_cut_at_the_maximum(daemon):
    lease = daemon.lease(ttl=5)
    longer = daemon.call("POST", f"/leases/{lease['id']}/renew", json={"ttl": 600}).json()
    assert longer["ttl"] == 600
    assert longer["dsn"] == lease["dsn"]
    longest = daemon.call("POST", f"/leases/{lease['id']}/renew", json={"ttl": 1e6}).json()
    assert longest["expires_at"] == longest["max_expires_at"] == lease["max_expires_at"]
    assert longest["ttl"] < 86_400
    default = daemon.call("POST", f"/leases/{lease['id']}/renew").json()
    assert default["ttl"] == 300
    daemon.release(lease)


def test_listings_find_by_state_holder_and_labels_and_show_no_passwords(daemon):
    wanted = daemon.lease(holder="someone", labels={"run": "7", "part": "x:y"})
    other = daemon.lease(holder="someone else", labels={"run": "8"})

    def found(query: str) -> list[str]:
        return [lease["id"] for lease in daemon.get(f"/leases?{query}")["leases"]]

    assert found("holder=someone") == [wanted["id"]]
    assert found("label=run:7&label=part:x:y") == [wanted["id"]]
    assert found("label=run:7&label=part:z") == []
    assert {wanted["id"], other["id"]} <= set(found("state=active"))
    daemon.release(wanted)
    assert wanted["id"] in found("state=released")
    assert wanted["id"] not in found("state=active")
    listing = daemon.call("GET", "/leases")
    schemas.LeasesOut.model_validate(listing.json())
    assert wanted["password"] not in listing.text
    assert other["password"] not in listing.text
    daemon.release(other)


def test_releasing_twice_is_no_error(daemon):
    lease = daemon.lease()
    daemon.release(lease)
    daemon.release(lease, sync=True)
    ended = daemon.get(f"/leases/{lease['id']}")
    assert (ended["state"], ended["end_reason"]) == ("released", "released by its holder")
    assert ended["ended_at"] is not None


def test_servers_and_pool_have_the_documented_shape(daemon):
    servers = daemon.get("/servers")
    schemas.ServersOut.model_validate(servers)
    assert servers["backend"] == "embedded"
    assert "Postgres 18" in servers["reason"]
    schemas.PoolOut.model_validate(daemon.get("/pool"))
    schemas.HealthOut.model_validate(daemon.get("/healthz"))
    schemas.ReadyOut.model_validate(daemon.get("/readyz"))


@pytest.fixture(scope="module")
def document(daemon):
    return daemon.get("/openapi.json")


def calls(document):
    return [(path, method, call) for path, methods in document["paths"].items() for method, call in methods.items()]


def test_the_openapi_document_has_examples_that_fit_their_schemas(document):
    schemas_there = document["components"]["schemas"]
    for model in (schemas.LeaseBody, schemas.RenewBody, schemas.LeaseOut):
        for example in schemas_there[model.__name__]["examples"]:
            model.model_validate(example)
    for _path, _method, call in calls(document):
        for status, answer in call["responses"].items():
            if int(status) >= 400:
                for code, example in answer["content"]["application/problem+json"]["examples"].items():
                    problem = schemas.Problem.model_validate(example["value"])
                    assert (problem.code, problem.status) == (code, int(status))


def test_the_openapi_document_tells_of_every_error_of_every_call(document):
    for path, method, call in calls(document):
        refusals = {status: answer for status, answer in call["responses"].items() if int(status) >= 400}
        assert {"401", "403", "405", "422", "500"} <= set(refusals), (path, method)
        assert all(list(answer["content"]) == ["application/problem+json"] for answer in refusals.values())
        if "requestBody" in call:
            assert {"400", "413", "415"} <= set(refusals)
    assert "HTTPValidationError" not in str(document)
    acquire = document["paths"]["/leases"]["post"]["responses"]
    assert {"409", "410", "503"} <= set(acquire)
    assert "Retry-After" in acquire["503"]["headers"]
    assert "Location" in acquire["201"]["headers"]


def test_the_page_for_people_is_there(daemon):
    assert daemon.call("GET", "/docs").status_code == 200
