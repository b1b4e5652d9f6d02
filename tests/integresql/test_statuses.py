"""Each call and each status of IntegreSQL's API, over real HTTP."""

import psycopg
import pytest

from tests.integresql.speaking import Later, config_of, connected, inside, tables
from tests.waiting import until


def test_the_whole_life_of_a_template(integresql, hashed):
    begun = integresql.initialize(hashed)
    assert begun.status_code == 200
    assert set(begun.json()) == {"database"}
    assert begun.json()["database"]["templateHash"] == hashed
    assert set(config_of(begun)) == {"host", "port", "username", "password", "database"}
    with inside(begun) as connection:
        connection.execute("CREATE TABLE person (id serial, name text); INSERT INTO person (name) VALUES ('foo')")
    assert integresql.finalize(hashed).status_code == 204
    assert integresql.finalize(hashed).status_code == 204
    assert integresql.initialize(hashed).status_code == 423
    test = integresql.test(hashed)
    assert set(test.json()) == {"id", "database"}
    assert type(test.json()["id"]) is int
    assert 0 <= test.json()["id"] < 2**31
    with inside(test) as connection:
        connection.execute("INSERT INTO person (name) VALUES ('bar'); ALTER TABLE person ADD COLUMN age int")
        assert connection.execute("SELECT array_agg(name ORDER BY id) FROM person").fetchone() == (["foo", "bar"],)
    assert integresql.unlock(hashed, test).status_code == 204
    assert integresql.discard(hashed).status_code == 204
    assert integresql.test(hashed).status_code == 404


def test_a_template_is_built_by_one(integresql, hashed):
    assert [integresql.initialize(hashed).status_code for _ in range(3)] == [200, 423, 423]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/templates/{hash}/tests/{id}/unlock"),
        ("POST", "/templates/{hash}/tests/{id}/recreate"),
        ("DELETE", "/templates/{hash}/tests/{id}"),
    ],
)
def test_a_database_is_given_back_and_never_given_out_again(integresql, hashed, method, path):
    integresql.build(hashed)
    names = set()
    for _ in range(3):
        test = integresql.test(hashed)
        names.add(config_of(test)["database"])
        with inside(test) as connection:
            connection.execute("DROP TABLE person")
        back = path.format(hash=hashed, id=test.json()["id"])
        assert [integresql.call(method, back).status_code for _ in range(2)] == [204, 204]
        with pytest.raises(psycopg.OperationalError):
            until(lambda test=test: connected(test).close(), 5)
    assert len(names) == 3


def test_who_gives_a_database_back_too_early_is_not_cut_off(integresql, hashed):
    integresql.build(hashed)
    test = integresql.test(hashed)
    with inside(test) as connection:
        assert integresql.unlock(hashed, test).status_code == 204
        assert tables(connection) == ["person"]
        assert integresql.lease_of(test)["state"] == "active"
    until(lambda: integresql.lease_of(test)["state"] == "released", 10, "the lease to end")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("PUT", "/templates/never-seen", 404),
        ("DELETE", "/templates/never-seen", 404),
        ("GET", "/templates/never-seen/tests", 404),
        ("POST", "/templates/never-seen/tests/1/unlock", 404),
        ("POST", "/templates/never-seen/tests/1/recreate", 404),
        ("DELETE", "/templates/never-seen/tests/1", 404),
        ("DELETE", "/templates/never-seen/tests/one", 400),
        ("DELETE", f"/templates/never-seen/tests/{'9' * 5000}", 400),
        ("POST", "/templates/never-seen/tests/-1/unlock", 400),
    ],
)
def test_what_is_not_there(integresql, method, path, status):
    answer = integresql.call(method, path)
    assert answer.status_code == status
    assert answer.json()["message"]


def test_a_number_counts_for_its_template_only(integresql, hashed):
    integresql.build(hashed)
    integresql.build(f"{hashed}-2")
    test = integresql.test(hashed)
    assert integresql.unlock(f"{hashed}-2", test).status_code == 404
    assert integresql.call("DELETE", f"/templates/{hashed}/tests/1").status_code == 404
    with inside(test) as connection:
        assert tables(connection) == ["person"]


@pytest.mark.parametrize("body", ["", "{", "{}", "[]", '{"hash": ""}', '{"hash": 7}', '{"hash": null}', '"f00d"'])
def test_a_hash_is_required(integresql, body):
    answer = integresql.call("POST", "/templates", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["message"]


def test_the_hash_may_come_as_a_form(integresql, hashed):
    assert integresql.call("POST", "/templates", data={"hash": hashed}).status_code == 200
    assert integresql.call("POST", "/templates", data={"hash": hashed}).status_code == 423
    assert integresql.call("POST", "/templates", data={"cash": hashed}).status_code == 400


@pytest.mark.parametrize("odd", ["h\u00e9ch\u00e9 :@?#%", "x" * 300, "-dashed", "UPPER", "upper", "..%41"])
def test_a_hash_may_be_any_text(integresql, odd):
    integresql.build(odd)
    assert integresql.test(odd).json()["database"]["templateHash"] == odd
    assert integresql.discard(odd).status_code == 204


def test_a_test_waits_until_its_template_is_finalized(integresql, hashed):
    begun = integresql.initialize(hashed)
    waiting = [Later(lambda: integresql.test(hashed)) for _ in range(3)]
    with inside(begun) as connection:
        connection.execute("CREATE TABLE person (name text)")
        assert all(one.pending for one in waiting)
    assert integresql.finalize(hashed).status_code == 204
    for one in waiting:
        with inside(one.answer()) as connection:
            assert tables(connection) == ["person"]


def test_who_waits_for_a_template_that_is_discarded_is_told(integresql, hashed):
    begun = integresql.initialize(hashed)
    with inside(begun):
        waiting = Later(lambda: integresql.test(hashed))
        until(lambda: waiting.pending)
        assert integresql.test("never-seen").status_code == 404  # by now the other call is in, too
    assert integresql.discard(hashed).status_code == 204
    assert waiting.answer().status_code == 410
    assert integresql.test(hashed).status_code == 404
    assert integresql.finalize(hashed).status_code == 404
    with pytest.raises(psycopg.OperationalError):
        connected(begun)
    integresql.build(hashed)
    assert integresql.test(hashed).status_code == 200


def test_what_is_built_after_a_discard_is_what_tests_get(integresql, hashed):
    integresql.build(hashed, "CREATE TABLE old (id int)")
    integresql.test(hashed)
    until(lambda: integresql.daemon.get(f"/templates/integresql-{hashed}")["ready"], 20, "databases to be ready")
    assert integresql.discard(hashed).status_code == 204
    integresql.build(hashed, "CREATE TABLE new (id int)")
    for _ in range(5):
        with inside(integresql.test(hashed)) as connection:
            assert tables(connection) == ["new"]


def test_a_template_stays_while_a_test_is_connected(integresql, hashed):
    integresql.build(hashed)
    test, unused = integresql.test(hashed), integresql.test(hashed)
    with inside(test) as connection:
        answer = integresql.discard(hashed)
        assert answer.status_code == 423
        assert "1 tests" in answer.json()["message"]
        assert tables(connection) == ["person"]
        assert integresql.lease_of(unused)["state"] == "active"
    assert integresql.discard(hashed).status_code == 204
    assert integresql.lease_of(unused)["state"] == "released"


def test_all_templates_can_be_discarded_and_others_stay(integresql, hashed):
    mine = integresql.daemon.call("PUT", f"/templates/mine-{hashed}", json={"sql": "CREATE TABLE mine (id int)"})
    assert mine.status_code == 201, mine.text
    integresql.build(hashed)
    integresql.build(f"{hashed}-2")
    begun = integresql.initialize(f"{hashed}-3")
    with inside(integresql.test(hashed)):
        answer = integresql.call("DELETE", "/admin/templates")
        assert answer.status_code == 423
        assert hashed in answer.json()["message"]
        assert integresql.test(f"{hashed}-2").status_code == 404
        assert integresql.finalize(f"{hashed}-3").status_code == 404
        assert integresql.test(hashed).status_code == 200
    with pytest.raises(psycopg.OperationalError):
        connected(begun)
    assert integresql.call("DELETE", "/admin/templates").status_code == 204
    assert integresql.test(hashed).status_code == 404
    assert integresql.daemon.get(f"/templates/mine-{hashed}")["state"] == "sealed"


def test_sessions_that_were_forgotten_do_not_keep_a_template_open(integresql, hashed):
    begun = integresql.initialize(hashed)
    with inside(begun) as connection:
        connection.execute("CREATE TABLE person (name text)")
        assert integresql.finalize(hashed).status_code == 204
        with inside(integresql.test(hashed)) as other:
            assert tables(other) == ["person"]


def test_who_finalizes_what_another_builds_does_not_cut_it_short(integresql, hashed):
    begun = integresql.initialize(hashed)
    early = [Later(lambda: integresql.finalize(hashed)) for _ in range(3)]
    with inside(begun) as connection:
        for number in range(10):
            connection.execute(f"CREATE TABLE t{number} (id int); SELECT pg_sleep(0.1)")
    with inside(begun) as connection:
        connection.execute("CREATE TABLE last (id int)")
    assert integresql.finalize(hashed).status_code == 204
    assert [one.answer().status_code for one in early] == [204] * 3
    with inside(integresql.test(hashed)) as connection:
        assert "last" in tables(connection)


def test_pages_of_other_sites_are_refused(integresql, hashed):
    integresql.build(hashed)
    path = f"/templates/{hashed}/tests"
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}):
        assert integresql.call("GET", path, headers=headers).status_code == 403
    assert integresql.call("GET", path, headers={"Host": "evil.example"}).status_code == 403
    form = {"data": {"hash": hashed}, "headers": {"Origin": "https://evil.example"}}
    assert integresql.call("POST", "/templates", **form).status_code == 403


def test_a_form_is_taken_nowhere_else(integresql):
    assert integresql.daemon.call("POST", "/leases", data={"ttl": "5"}).status_code == 415


def test_it_is_off_unless_it_is_asked_for(daemon):
    assert daemon.call("POST", "/api/v1/templates", json={"hash": "f00d"}).json()["code"] == "not-found"
    assert daemon.call("POST", "/api/v1/templates", data={"hash": "f00d"}).status_code == 415


def test_the_document_of_the_api_leaves_it_out(integresql):
    assert not [path for path in integresql.daemon.get("/openapi.json")["paths"] if path.startswith("/api/")]
