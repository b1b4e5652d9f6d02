"""Templates, over real HTTP on real Postgres, the same for every backend."""

import contextlib
import hashlib
import re
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psycopg
import pytest
from psycopg import sql

from leasedb_server.domain.names import new_ident
from tests.contracts.places import Place
from tests.contracts.test_promises import connect, elsewhere, refused
from tests.daemons import RealDaemon
from tests.waiting import until

SCHEMA = """
CREATE TABLE items (id int PRIMARY KEY, embedding vector(3));
INSERT INTO items SELECT i, ARRAY[i, i % 7, i % 11]::vector FROM generate_series(1, 50) i;
CREATE INDEX ON items USING hnsw (embedding vector_l2_ops);
CREATE SCHEMA side;
CREATE VIEW side.few AS SELECT id FROM public.items WHERE id < 4;
CREATE FUNCTION twice(n int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN 2 * n; END $$;
"""


def name() -> str:
    return f"shop-{new_ident()}"


def put(daemon: RealDaemon, template: str, text: str = SCHEMA, **more: Any) -> httpx.Response:
    return daemon.call("PUT", f"/templates/{template}", json={"sql": text, **more})


def built(daemon: RealDaemon, text: str = SCHEMA, **more: Any) -> str:
    template = name()
    answer = put(daemon, template, text, **more)
    assert answer.status_code == 201, answer.text
    return template


def build(daemon: RealDaemon, template: str, **body: Any) -> httpx.Response:
    return daemon.call("POST", f"/templates/{template}/build", json={"fingerprint": "f", **body})


def seal(daemon: RealDaemon, template: str, lease: dict[str, Any], **body: Any) -> httpx.Response:
    return daemon.call("POST", f"/templates/{template}/seal", json={"lease": lease["id"], **body})


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def count(lease: dict[str, Any], table: str = "items") -> int:
    with connect(lease) as connection:
        row = connection.execute(
            sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(*table.split(".")))
        ).fetchone()
    return row[0]


# --- of SQL ---


def test_a_lease_starts_with_what_the_template_has(leasing):
    template = built(leasing)
    lease = leasing.lease(template=template)
    assert lease["template"] == template
    with connect(lease) as connection:
        assert connection.execute("SELECT id FROM items ORDER BY embedding <-> '[42,0,9]' LIMIT 1").fetchone() == (42,)
        assert connection.execute("SELECT count(*), twice(21) FROM side.few").fetchone() == (3, 42)
    leasing.release(lease, sync=True)


def test_a_lease_owns_everything_that_its_template_brought(leasing):
    template = built(leasing)
    lease = leasing.lease(template=template)
    with connect(lease) as connection:
        for statement in (
            "ALTER TABLE items ADD COLUMN price numeric",
            "INSERT INTO items VALUES (51, '[1,2,3]', 4.5)",
            "CREATE INDEX ON items (price)",
            "TRUNCATE items",
            "VACUUM FULL items",
            "DROP VIEW side.few",
            "ALTER TABLE items RENAME TO things",
            "DROP TABLE things",
            "DROP FUNCTION twice(int)",
            "DROP SCHEMA side",
            "CREATE TABLE items (id int)",
        ):
            connection.execute(statement)
    other = leasing.lease(template=template)
    assert count(other) == 50
    for one in (lease, other):
        leasing.release(one, sync=True)


def test_the_same_text_is_not_run_again(leasing):
    template = built(leasing)
    again = put(leasing, template)
    assert (again.status_code, again.json()["state"]) == (200, "sealed")
    other = put(leasing, template, SCHEMA + "CREATE TABLE more (id int);")
    assert code(other) == (409, "template-exists")
    there = leasing.get(f"/templates/{template}")
    assert other.json()["fingerprint"] == there["fingerprint"]
    assert other.json()["requested"] not in {there["fingerprint"], ""}


def test_a_template_is_built_upon_another(leasing):
    parent = built(leasing)
    child = built(leasing, "INSERT INTO items VALUES (99, '[0,0,0]'); CREATE TABLE orders (id int);", parent=parent)
    assert leasing.get(f"/templates/{child}")["parent"] == parent
    lease, plain = leasing.lease(template=child), leasing.lease(template=parent)
    assert (count(lease), count(plain)) == (51, 50)
    with connect(lease) as connection:
        connection.execute("DROP TABLE items, orders CASCADE")
    for one in (lease, plain):
        leasing.release(one, sync=True)


def test_a_sealed_template_lets_nobody_in(leasing, place):
    template = built(leasing)
    lease = leasing.lease(template=template)
    with connect(lease) as connection:
        rows = connection.execute(
            "SELECT datname, datallowconn, datistemplate FROM pg_database WHERE datname LIKE 'leasedb\\_%\\_t\\_%'"
        ).fetchall()
    assert len(rows) >= 2  # base too
    for database, allows, marked in rows:
        assert (allows, marked) == (False, True)
        assert refused(elsewhere(lease, database))
    leasing.release(lease, sync=True)
    known = leasing.get(f"/templates/{template}")
    assert known["bytes"] > 5_000_000
    if place.ours:
        until(lambda: leasing.get(f"/templates/{template}")["kept"], 20, "its files to be kept")


def test_a_text_may_come_as_it_is_while_it_is_written(leasing):
    template = name()

    def text():
        yield b"CREATE TABLE words (word text);\nCOPY words FROM stdin;\n"
        for number in range(1000):
            yield f"wörd {number}\n".encode()
        yield b"\\.\nCREATE INDEX ON words (word);\n"

    answer = leasing.call("PUT", f"/templates/{template}", content=text(), headers={"Content-Type": "application/sql"})
    assert answer.status_code == 201, answer.text
    whole = b"".join(text())
    expected = hashlib.sha256(b"base\n" + whole).hexdigest()
    assert answer.json()["fingerprint"] == f"sql:{expected}"
    lease = leasing.lease(template=template)
    assert count(lease, "words") == 1000
    leasing.release(lease, sync=True)
    again = leasing.call("PUT", f"/templates/{template}", content=whole, headers={"Content-Type": "text/plain"})
    assert again.status_code == 200
    other = leasing.call(
        "PUT", f"/templates/{template}", content=whole[:-20], headers={"Content-Type": "application/sql"}
    )
    assert code(other) == (409, "template-exists")


def nothing_half_made(leasing: RealDaemon) -> None:
    """Wait until there is nothing on the servers but what is recorded."""
    until(lambda: leasing.get("/pool")["condemned"] == 0, 20, "everything to be dropped")
    assert not [one for one in leasing.get("/templates")["templates"] if one["state"] == "building"]


def test_sql_that_fails_says_where_and_leaves_nothing(leasing):
    template = name()
    answer = put(leasing, template, "CREATE TABLE a (id int);\n\nINSERT INTO a\nVALUES (1), ('x');\nCREATE TABLE b ();")
    body = answer.json()
    assert code(answer) == (422, "sql-failed")
    assert (body["statement"], body["sqlstate"], body["sql"][:11]) == (2, "22P02", "INSERT INTO")
    assert body["line"] in {3, 4}
    assert "invalid input syntax" in body["detail"]
    failed = leasing.get(f"/templates/{template}")
    assert (failed["state"], failed["error"]["statement"]) == ("failed", 2)
    assert code(leasing.call("POST", "/leases", json={"template": template})) == (422, "unknown-template")
    nothing_half_made(leasing)
    assert put(leasing, template, "CREATE TABLE a (id int);").status_code == 201


def test_an_extension_that_cannot_be_created_says_what_to_do(leasing):
    there = put(leasing, name(), "-- first of all\nCREATE EXTENSION vector;").json()
    assert there["sqlstate"] == "42710"
    assert "write CREATE EXTENSION IF NOT EXISTS vector." in there["hint"]
    missing = put(leasing, name(), "CREATE EXTENSION no_such_extension;").json()
    assert re.search("LEASEDB_PG_BIN|LEASEDB_IMAGE|Have no_such_extension installed", missing["hint"])


def test_a_statement_beyond_a_logins_rights_fails(leasing):
    answer = put(leasing, name(), "CREATE ROLE mighty SUPERUSER")
    assert (code(answer), answer.json()["sqlstate"]) == ((422, "sql-failed"), "42501")


def test_what_cannot_be_built_is_refused_with_a_code_of_its_own(leasing):
    parent = built(leasing, "CREATE TABLE a (id int);")
    assert code(put(leasing, "base")) == (422, "template-builtin")
    assert code(put(leasing, name(), parent="not-there")) == (422, "parent-missing")
    mine = name()
    assert code(put(leasing, mine, parent=mine)) == (422, "template-cycle")
    assert code(put(leasing, name(), postgres="99")) == (422, "version-unavailable")
    assert put(leasing, "no@such").status_code == 422
    assert code(leasing.call("GET", "/templates/not-there")) == (404, "template-not-found")
    assert leasing.get(f"/templates/{parent}")["state"] == "sealed"


def test_a_cycle_over_two_names_is_refused(leasing):
    one = built(leasing, "CREATE TABLE a (id int);")
    two = built(leasing, "CREATE TABLE b (id int);", parent=one)
    assert leasing.call("DELETE", f"/templates/{one}").status_code == 204
    answer = put(leasing, one, "CREATE TABLE c (id int);", parent=two)
    assert code(answer) == (422, "template-cycle")


def test_an_upload_that_breaks_off_leaves_nothing(leasing):
    template = name()
    with socket.create_connection(("127.0.0.1", leasing.port)) as caller:
        head = (
            f"PUT /templates/{template} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/sql\r\n"
            "Content-Length: 10000\r\n\r\n"
        )
        caller.sendall(head.encode() + b"CREATE TABLE a (id int);\nCREATE TABLE b (id int);\nCREATE")
        until(lambda: leasing.call("GET", f"/templates/{template}").status_code == 200, 10, "the build to begin")
    until(lambda: leasing.call("GET", f"/templates/{template}").status_code == 404, 10, "the build to be given up")
    nothing_half_made(leasing)


def test_a_text_whose_sender_hung_up_is_not_run_to_its_end(leasing):
    for media_type, text in (
        ("application/sql", b"SELECT pg_sleep(60)"),
        ("application/json", b'{"sql":"SELECT pg_sleep(60)"}'),
    ):
        template = name()
        with socket.create_connection(("127.0.0.1", leasing.port)) as caller:
            head = (
                f"PUT /templates/{template} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {media_type}\r\n"
                f"Content-Length: {len(text)}\r\n\r\n"
            )
            caller.sendall(head.encode() + text)
            until(lambda at=template: leasing.call("GET", f"/templates/{at}").status_code == 200, 10, "it to begin")
        until(lambda at=template: leasing.call("GET", f"/templates/{at}").status_code == 404, 10, "it to be given up")
    nothing_half_made(leasing)


# --- built by the caller ---


def test_whoever_asks_first_builds_and_the_others_wait(leasing):
    template = name()
    first = build(leasing, template, holder="one")
    assert (first.status_code, first.json()["status"]) == (201, "building")
    lease = first.json()["lease"]
    assert lease["builds"] == template
    late = build(leasing, template, wait=0)
    assert code(late) == (503, "template-building")
    assert "being built by one" in late.json()["progress"]
    assert int(late.headers["Retry-After"]) >= 1
    with ThreadPoolExecutor(3) as threads:
        others = [threads.submit(build, leasing, template, wait=30) for _ in range(3)]
        with connect(lease) as connection:
            connection.execute("CREATE TABLE items AS SELECT generate_series(1, 7) AS id")
        sealed = seal(leasing, template, lease)
        assert (sealed.status_code, sealed.json()["state"]) == (200, "sealed"), sealed.text
        answers = [other.result(30) for other in others]
    assert [(one.status_code, one.json()["status"], one.json()["lease"]) for one in answers] == [
        (200, "sealed", None)
    ] * 3
    assert refused(lease["dsn"])
    assert leasing.get(f"/leases/{lease['id']}")["state"] == "released"
    user = leasing.lease(template=template)
    assert count(user) == 7
    leasing.release(user, sync=True)
    assert code(build(leasing, template, fingerprint="other")) == (409, "template-exists")
    assert code(seal(leasing, template, lease)) == (409, "template-sealed")


def test_when_the_builder_goes_the_next_one_builds(leasing):
    template = name()
    builder = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    dead = build(leasing, template, pid=builder.pid).json()["lease"]
    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(build, leasing, template, wait=30) for _ in range(2)]
        builder.kill()
        until(lambda: any(one.done() for one in waiting), 20, "somebody else to be the builder")
        [second] = [one.result() for one in waiting if one.done()]
        assert (second.status_code, second.json()["status"]) == (201, "building")
        lease = second.json()["lease"]
        assert code(seal(leasing, template, dead)) in {(409, "not-the-builder"), (410, "lease-ended")}
        answer = leasing.call("POST", f"/templates/{template}/abandon", json={"lease": lease["id"]})
        assert answer.status_code == 204
        [third] = [one.result(20) for one in waiting if one.result(20) is not second]
    assert (third.status_code, third.json()["status"]) == (201, "building")
    assert seal(leasing, template, third.json()["lease"]).status_code == 200
    builder.communicate()
    nothing_half_made(leasing)


def test_a_build_that_fails_is_told_to_those_who_wait(leasing):
    template = name()
    lease = build(leasing, template).json()["lease"]
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(build, leasing, template, wait=30)
        until(lambda: leasing.get(f"/templates/{template}")["state"] == "building", 10)
        # the waiter has to be in line before the build fails
        until(waiting.running, 10)
        until(lambda: _waits(leasing, template), 10)
        body = {"lease": lease["id"], "error": "migration 7: no such column"}
        assert leasing.call("POST", f"/templates/{template}/abandon", json=body).status_code == 204
        told = waiting.result(30)
    if told.status_code != 201:  # else it came after the failure, and builds itself
        assert code(told) == (422, "build-failed")
        assert told.json()["error"]["message"] == "migration 7: no such column"
        retried = build(leasing, template)
    else:
        retried = told
    assert (retried.status_code, retried.json()["status"]) == (201, "building")
    leasing.release(retried.json()["lease"], sync=True)
    assert code(leasing.call("GET", f"/templates/{template}")) == (404, "template-not-found")


def _waits(leasing: RealDaemon, template: str) -> bool:
    """Give a request that was sent the time of another one."""
    return all(leasing.get(f"/templates/{template}")["state"] == "building" for _ in range(20))


def test_sessions_that_are_open_keep_a_template_from_being_sealed(leasing):
    template = name()
    lease = build(leasing, template).json()["lease"]
    with psycopg.connect(lease["dsn"], autocommit=True, application_name="migrations") as session:
        session.execute("CREATE TABLE items (id int)")
        answer = seal(leasing, template, lease)
        assert code(answer) == (409, "sessions-open")
        [in_the_way] = answer.json()["sessions"]
        assert (in_the_way["application"], in_the_way["state"]) == ("migrations", "idle")
        assert "CREATE TABLE items" in in_the_way["query"]
        session.execute("INSERT INTO items VALUES (1)")  # nothing was done to it
        assert seal(leasing, template, lease, force=True).status_code == 200
    user = leasing.lease(template=template)
    assert count(user) == 1
    leasing.release(user, sync=True)


def test_only_its_builder_may_seal(leasing):
    template = name()
    lease = build(leasing, template).json()["lease"]
    stranger = leasing.lease()
    assert code(seal(leasing, template, stranger)) == (409, "not-the-builder")
    assert code(seal(leasing, template, {"id": "nobody"})) == (404, "lease-not-found")
    assert code(seal(leasing, name(), lease)) == (404, "template-not-found")
    for one in (stranger, lease):
        leasing.release(one, sync=True)
    assert code(seal(leasing, template, lease)) in {(404, "template-not-found"), (410, "lease-ended")}


def test_a_template_that_eight_ask_for_at_once_is_built_once(leasing):
    template, builders = name(), []

    def ask(number: int) -> str:
        with httpx.Client(base_url=leasing.url, timeout=60) as client:
            answer = client.post(f"/templates/{template}/build", json={"fingerprint": "f", "holder": str(number)})
            if answer.status_code == 201:
                lease = answer.json()["lease"]
                builders.append(number)
                with connect(lease) as connection:
                    connection.execute("CREATE TABLE items AS SELECT generate_series(1, 3) AS id")
                client.post(f"/templates/{template}/seal", json={"lease": lease["id"]}).raise_for_status()
            return str(client.get(f"/templates/{template}").json()["state"])

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(ask, range(8))) == {"sealed"}
    assert len(builders) == 1


# --- the end ---


def test_a_template_in_use_is_not_deleted(leasing):
    template = built(leasing)
    lease = leasing.lease(template=template)
    assert code(leasing.call("DELETE", f"/templates/{template}")) == (409, "template-in-use")
    assert count(lease) == 50
    with connect(lease) as connection:
        before = connection.execute("SELECT count(*) FROM pg_database WHERE datistemplate").fetchone()[0]
    leasing.release(lease, sync=True)
    assert leasing.call("DELETE", f"/templates/{template}").status_code == 204
    assert code(leasing.call("GET", f"/templates/{template}")) == (404, "template-not-found")
    assert code(leasing.call("POST", "/leases", json={"template": template})) == (422, "unknown-template")
    other = leasing.lease()
    with connect(other) as connection:
        count_now = "SELECT count(*) FROM pg_database WHERE datistemplate"
        until(lambda: connection.execute(count_now).fetchone()[0] == before - 1, 20, "its copy to be dropped")
    leasing.release(other, sync=True)
    assert code(leasing.call("DELETE", "/templates/base")) == (422, "template-builtin")


def test_a_template_outlives_the_daemon(place: Place):
    """Stopped and started again there is another server, and the template is there without having been built again."""
    daemon = RealDaemon({**place.settings, "POOL_READY": "1", "POOL_READY_MAX": "1"}, place.environment)
    try:
        daemon.start()
        template = built(daemon)
        child = built(daemon, "INSERT INTO items VALUES (99, '[0,0,0]');", parent=template)
        before = daemon.get(f"/templates/{template}")
        assert daemon.stop() == 0
        daemon.start()
        after = daemon.get(f"/templates/{template}")
        assert {key: after[key] for key in ("fingerprint", "state", "bytes")} == {
            key: before[key] for key in ("fingerprint", "state", "bytes")
        }
        assert put(daemon, template).status_code == 200
        for wanted, number in ((child, 51), (template, 50)):
            lease = daemon.lease(template=wanted)
            assert count(lease) == number
            with connect(lease) as connection:
                nearest = connection.execute("SELECT id FROM items ORDER BY embedding <-> '[42,0,9]' LIMIT 1")
                assert nearest.fetchone() == (42,)
                connection.execute("INSERT INTO items SELECT i, '[1,1,1]' FROM generate_series(1000, 3000) i")
                connection.execute("VACUUM (FULL, ANALYZE) items")
                connection.execute("DROP TABLE items CASCADE")
            daemon.release(lease, sync=True)
        for one in (child, template):
            assert daemon.call("DELETE", f"/templates/{one}").status_code == 204
        until(lambda: not _kept(daemon), 20, "the files to be deleted")
    finally:
        daemon.remove()


def _kept(daemon: RealDaemon) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return [path.name for path in (daemon.state_dir / "templates").iterdir()]
    return []


RICH = f"""{SCHEMA}
CREATE TABLE booking (room int, during tsrange, EXCLUDE USING gist (during WITH &&));
CREATE VIEW busy AS SELECT count(*) AS number FROM booking;
"""
USE_NUMBERS = "DO $$ BEGIN FOR i IN 1..300 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$"


def test_a_template_comes_to_a_server_that_takes_a_dead_ones_place(place: Place):
    if not place.ours:
        pytest.skip("a server that is only lent is not killed")
    daemon = RealDaemon({**place.settings, "POOL_READY": "1", "POOL_READY_MAX": "1"}, place.environment)
    try:
        daemon.start()
        # Somebody always has a transaction open; what VACUUM FULL writes is frozen up to that one only.
        with psycopg.connect(daemon.lease()["dsn"]) as busy, connect(daemon.lease()) as other:
            busy.execute("CREATE TABLE not_committed (id int)")
            other.execute(USE_NUMBERS)
            template = built(daemon, RICH)
        until(lambda: daemon.get(f"/templates/{template}")["kept"], 20, "its files to be kept")
        [server] = daemon.get("/servers")["servers"]
        place.kill_server(server)
        until(lambda: [one["id"] for one in daemon.get("/servers")["servers"]] != [server["id"]], 30)
        lease = daemon.lease(template=template)
        assert lease["server"] != server["id"]
        assert count(lease) == 50
        with connect(lease) as connection:
            connection.execute("INSERT INTO booking VALUES (1, '[2026-01-01, 2026-02-01)')")
            assert connection.execute("SELECT number, twice(21) FROM busy").fetchone() == (1, 42)
            connection.execute("ALTER TABLE booking ADD COLUMN price numeric")
            connection.execute("VACUUM (FULL, FREEZE)  booking")
        daemon.release(lease, sync=True)
    finally:
        daemon.remove()


def test_the_least_used_templates_go_when_there_are_too_many(place: Place):
    budget = {"TEMPLATE_BUDGET": "40MB", "POOL_READY": "1", "POOL_READY_MAX": "1"}
    daemon = RealDaemon({**place.settings, **budget}, place.environment)
    try:
        daemon.start()
        oldest = built(daemon, "CREATE TABLE a (id int);")
        used = built(daemon, "CREATE TABLE b (id int);")
        lease = daemon.lease(template=used)
        others = [built(daemon, f"CREATE TABLE c{number} (id int);") for number in range(5)]
        until(lambda: daemon.get("/templates")["bytes"] <= 40_000_000, 60, "the budget to be kept")
        there = {one["name"] for one in daemon.get("/templates")["templates"]}
        assert oldest not in there
        assert {used, others[-1]} <= there
        assert count(lease, "b") == 0
        daemon.release(lease)
        large = put(daemon, name(), "CREATE TABLE l AS SELECT repeat('x', 1000) FROM generate_series(1, 60000);")
        assert code(large) == (507, "template-too-large")
    finally:
        daemon.remove()


def test_a_text_that_is_too_long_is_refused(place: Place):
    if place.name != "embedded-18":
        pytest.skip("the same for all: nothing reaches a server")
    daemon = RealDaemon({**place.settings, "TEMPLATE_UPLOAD_MAX": "1MB"}, place.environment)
    try:
        daemon.start()
        sent = {"headers": {"Content-Type": "application/sql"}}
        whole = daemon.call("PUT", f"/templates/{name()}", content=b"-" * 1_000_001, **sent)
        assert code(whole) == (413, "body-too-large")
        assert "LEASEDB_TEMPLATE_UPLOAD_MAX" in whole.json()["hint"]
        template = name()
        parts = (b"SELECT 1; -- " + b"x" * 100_000 + b"\n" for _ in range(20))
        assert code(daemon.call("PUT", f"/templates/{template}", content=parts, **sent)) == (413, "body-too-large")
        assert code(daemon.call("GET", f"/templates/{template}")) == (404, "template-not-found")
        assert code(daemon.call("POST", f"/templates/{template}/seal", json={"lease": "x" * 70_000}))[0] == 413
    finally:
        daemon.remove()


def test_a_daemon_that_is_killed_while_it_seals_ends_it_when_it_is_started_again(place: Place):
    daemon = RealDaemon({**place.settings, "POOL_READY": "1", "POOL_READY_MAX": "1"}, place.environment)
    try:
        daemon.start()
        for round_ in range(3):
            template = name()
            lease = build(daemon, template).json()["lease"]
            with connect(lease) as connection:
                connection.execute("CREATE TABLE items AS SELECT generate_series(1, 20000) AS id")
            with ThreadPoolExecutor(1) as threads:
                sealing = threads.submit(seal, daemon, template, lease)
                until(lambda lease=lease, at_once=round_ == 0: at_once or refused(lease["dsn"]), 10)
                daemon.process.send_signal(signal.SIGKILL)
                daemon.process.wait()
                with contextlib.suppress(httpx.TransportError):
                    sealing.result()
            daemon.start()
            state = daemon.call("GET", f"/templates/{template}").json()
            if state.get("state") == "building":
                assert seal(daemon, template, lease).status_code == 200
            elif state.get("state") != "sealed":
                assert put(daemon, template, "CREATE TABLE items AS SELECT generate_series(1, 20000) AS id",
                           fingerprint="f").status_code == 201  # fmt: skip
            user = daemon.lease(template=template)
            assert count(user) == 20000
            daemon.release(user, sync=True)
            nothing_half_made(daemon)
    finally:
        daemon.remove()
