"""Resets, branches and the acts of a lease that goes on, over real HTTP on real Postgres, on every backend."""

import contextlib
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psycopg
import pytest

from tests.contracts.places import Place
from tests.contracts.test_promises import connect, dead, refused
from tests.contracts.test_templates import SCHEMA, built, code, count, name, nothing_half_made
from tests.daemons import RealDaemon
from tests.waiting import until


def reset(daemon: RealDaemon, lease: dict[str, Any], **body: Any) -> httpx.Response:
    return daemon.call("POST", f"/leases/{lease['id']}/reset", json=body)


def branch(daemon: RealDaemon, lease: dict[str, Any], **body: Any) -> httpx.Response:
    return daemon.call("POST", f"/leases/{lease['id']}/template", json=body)


def was_reset(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return answer.json()


# --- reset ---


def test_a_reset_keeps_url_and_login_and_brings_the_template_back(leasing):
    template = built(leasing)
    lease = leasing.lease(template=template)
    for _ in range(3):
        with connect(lease) as connection:
            connection.execute("DROP TABLE items CASCADE")
            connection.execute("CREATE SCHEMA mess CREATE TABLE mess (id int)")
            connection.execute("CREATE TABLE public.traces (id int)")
            connection.execute("SELECT lo_from_bytea(4711, 'large')")
        after = was_reset(reset(leasing, lease))
        assert {key: after[key] for key in ("id", "dsn", "state", "template")} == {
            key: lease[key] for key in ("id", "dsn", "state", "template")
        }
        with connect(lease) as connection:
            assert connection.execute("SELECT to_regclass('traces'), to_regnamespace('mess')").fetchone() == (
                None,
                None,
            )
            assert connection.execute("SELECT count(*) FROM pg_largeobject_metadata").fetchone() == (0,)
            assert connection.execute("SELECT current_user, current_database()").fetchone() == (
                lease["user"],
                lease["database"],
            )
            connection.execute("CREATE TABLE mine (id int)")
        assert count(lease) == 50
    leasing.release(lease, sync=True)
    nothing_half_made(leasing)


def test_a_reset_undoes_settings_of_database_and_login(leasing):
    lease = leasing.lease()
    database, user = lease["database"], lease["user"]
    with connect(lease) as connection:
        connection.execute(f'ALTER DATABASE "{database}" SET work_mem = "7MB"')
        connection.execute(f'ALTER ROLE "{user}" SET statement_timeout = "7s"')
        connection.execute(f'ALTER ROLE "{user}" IN DATABASE "{database}" SET search_path = nowhere')
        connection.execute(f"ALTER ROLE \"{user}\" PASSWORD 'changed'")
        connection.execute(f"COMMENT ON DATABASE \"{database}\" IS 'mine'")
    was_reset(reset(leasing, lease))
    with connect(lease) as connection:  # with the password of the lease
        settings = connection.execute("SELECT current_setting('statement_timeout'), current_setting('search_path')")
        assert settings.fetchone() == ("0", '"$user", public')
        assert connection.execute("SHOW work_mem").fetchone() != ("7MB",)
        comment = connection.execute(
            "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = current_database()"
        )
        assert comment.fetchone() == (None,)
    leasing.release(lease, sync=True)


def test_a_reset_ends_the_sessions_and_says_how_many(leasing):
    lease = leasing.lease()
    with connect(lease) as one, connect(lease) as two, connect(lease) as three:
        one.execute("CREATE TABLE t (id int)")
        two.execute("BEGIN")
        two.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        three.execute("SELECT pg_advisory_lock(1)")
        assert was_reset(reset(leasing, lease))["ended_sessions"] == 3
        for session in (one, two, three):
            assert dead(session)
    with connect(lease) as connection:
        assert connection.execute("SELECT to_regclass('t')").fetchone() == (None,)
    assert was_reset(reset(leasing, lease))["ended_sessions"] == 0
    leasing.release(lease, sync=True)


def test_a_prepared_transaction_does_not_survive_a_reset(leasing, place):
    lease = leasing.lease()
    with connect(lease) as connection:
        if connection.execute("SHOW max_prepared_transactions").fetchone() == ("0",):
            leasing.release(lease, sync=True)
            pytest.skip("the lent server has no prepared transactions")
        connection.execute("BEGIN")
        connection.execute("CREATE TABLE half_done (id int)")
        connection.execute("PREPARE TRANSACTION 'left behind'")
    was_reset(reset(leasing, lease))
    with connect(lease) as connection:
        assert connection.execute("SELECT count(*) FROM pg_prepared_xacts").fetchone() == (0,)
        connection.execute("CREATE TABLE half_done (id int)")
    leasing.release(lease, sync=True)


def test_an_application_that_knows_its_url_once_goes_on_after_resets(leasing):
    """With a pool that connects anew: the login and the address stay what they were."""
    lease = leasing.lease()
    for number in range(5):
        with connect(lease) as connection:
            connection.execute("CREATE TABLE same_name (id int)")
            connection.execute("INSERT INTO same_name VALUES (%s)", [number])
        was_reset(reset(leasing, lease))
    leasing.release(lease, sync=True)


def test_a_lease_that_has_ended_is_not_reset(leasing):
    lease = leasing.lease()
    leasing.release(lease)
    assert code(reset(leasing, lease)) == (410, "lease-ended")
    assert refused(lease["dsn"])
    assert code(reset(leasing, {"id": "nobody"})) == (404, "lease-not-found")
    short = leasing.lease(ttl=0.3)
    until(lambda: leasing.get(f"/leases/{short['id']}")["state"] == "expired", 10)
    assert code(reset(leasing, short)) == (410, "lease-ended")
    assert code(branch(leasing, short)) == (410, "lease-ended")


def test_many_resets_at_once_mix_nothing_up(leasing):
    template = built(leasing, "CREATE TABLE items (id int); INSERT INTO items VALUES (1)")
    leases = [leasing.lease(template=template) for _ in range(3)]

    def use(lease: dict[str, Any]) -> None:
        for _ in range(8):
            with connect(lease) as connection:
                connection.execute("INSERT INTO items VALUES (2), (3)")
                assert connection.execute("SELECT count(*) FROM items").fetchone() == (3,)
                assert connection.execute("SELECT current_database()").fetchone() == (lease["database"],)
            was_reset(reset(leasing, lease))

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(use, leases))
    for lease in leases:
        assert count(lease) == 1
        leasing.release(lease, sync=True)
    nothing_half_made(leasing)


def test_two_resets_of_one_lease_are_done_one_after_the_other(leasing):
    lease = leasing.lease()
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: reset(leasing, lease).status_code, range(4)))
    assert answers == [200] * 4
    with connect(lease) as connection:
        connection.execute("CREATE TABLE fine (id int)")
    leasing.release(lease, sync=True)


# --- branches ---


def test_what_a_lease_holds_can_be_leased_by_others(leasing):
    lease = leasing.lease()
    with connect(lease) as connection:
        connection.execute(SCHEMA)
        connection.execute("CREATE TABLE orders (id int)")
    template = name()
    answer = branch(leasing, lease, name=template)
    assert answer.status_code == 201, answer.text
    assert (answer.json()["origin"], answer.json()["until_lease"]) == ("branch", None)
    with connect(lease) as connection:  # the lease goes on, with everything
        connection.execute("DROP TABLE orders")
    others = [leasing.lease(template=template) for _ in range(2)]
    for other in others:
        with connect(other) as connection:
            connection.execute("INSERT INTO orders VALUES (1)")
            connection.execute("ALTER TABLE items ADD COLUMN seen bool")
            connection.execute("DROP TABLE orders")
    assert code(branch(leasing, lease, name=template)) == (409, "template-exists")
    for one in (lease, *others):
        leasing.release(one, sync=True)
    again = leasing.lease(template=template)
    assert count(again, "orders") == 0
    leasing.release(again, sync=True)


def test_a_branch_says_which_sessions_are_in_the_way(leasing):
    lease = leasing.lease()
    with psycopg.connect(lease["dsn"], autocommit=True, application_name="the shop") as session:
        session.execute("CREATE TABLE t (id int)")
        answer = branch(leasing, lease)
        assert code(answer) == (409, "sessions-open")
        assert [one["application"] for one in answer.json()["sessions"]] == ["the shop"]
        session.execute("INSERT INTO t VALUES (1)")
        with connect(lease) as second:
            second.execute("SELECT 1")
        forced = branch(leasing, lease, force=True)
        assert forced.status_code == 201, forced.text
        assert dead(session)
    assert count(lease, "t") == 1
    leasing.release(lease, sync=True)
    nothing_half_made(leasing)


def test_a_lease_goes_back_to_what_it_was_at_a_branch(leasing):
    lease = leasing.lease()
    with connect(lease) as connection:
        connection.execute("CREATE TABLE steps (n int)")
    points = []
    for number in range(2):
        with connect(lease) as connection:
            connection.execute("INSERT INTO steps VALUES (%s)", [number])
        answer = branch(leasing, lease)
        assert answer.status_code == 201, answer.text
        assert answer.json()["until_lease"] == lease["id"]
        points.append(answer.json()["name"])
    with connect(lease) as connection:
        connection.execute("DROP TABLE steps")
    for point, number in ((points[1], 2), (points[0], 1), (points[1], 2)):
        was_reset(reset(leasing, lease, template=point))
        assert count(lease, "steps") == number
        with connect(lease) as connection:
            connection.execute("ALTER TABLE steps ADD COLUMN x int")
    was_reset(reset(leasing, lease))
    with connect(lease) as connection:
        assert connection.execute("SELECT to_regclass('steps')").fetchone() == (None,)
    fork = leasing.lease(template=points[0])
    leasing.release(lease, sync=True)
    # used by the fork, so it stays until that is gone
    assert leasing.get(f"/templates/{points[0]}")["leases"] == 1
    until(lambda: leasing.call("GET", f"/templates/{points[1]}").status_code == 404, 10, "the branch to go")
    leasing.release(fork, sync=True)
    until(lambda: leasing.call("GET", f"/templates/{points[0]}").status_code == 404, 10, "the branch to go")
    nothing_half_made(leasing)


def test_a_branch_is_of_the_lease_and_not_of_its_template(leasing):
    template = built(leasing)
    lease = leasing.lease(template=template)
    with connect(lease) as connection:
        connection.execute("DELETE FROM items WHERE id > 3")
    point = branch(leasing, lease).json()
    assert point["parent"] == template
    other = leasing.lease(template=point["name"])
    assert (count(other), count(lease)) == (3, 3)
    for one in (lease, other):
        leasing.release(one, sync=True)


def test_what_cannot_be_branched_is_refused(leasing):
    lease = leasing.lease()
    assert code(branch(leasing, lease, name="base")) == (422, "template-builtin")
    assert code(branch(leasing, {"id": "nobody"})) == (404, "lease-not-found")
    assert code(reset(leasing, lease, template="not-there")) == (422, "unknown-template")
    leasing.release(lease, sync=True)


# --- killed ---


def test_a_daemon_that_is_killed_while_it_resets_ends_it_when_it_is_started_again(place: Place):
    daemon = RealDaemon({**place.settings, "POOL_READY": "2", "POOL_READY_MAX": "2"}, place.environment)
    try:
        daemon.start()
        template = built(daemon, "CREATE TABLE items (id int); INSERT INTO items VALUES (1)")
        lease = daemon.lease(template=template, ttl=3600)
        for _ in range(4):
            with connect(lease) as connection:
                connection.execute("CREATE TABLE mess (id int)")
            with ThreadPoolExecutor(2) as threads:
                acts = [threads.submit(reset, daemon, lease), threads.submit(branch, daemon, lease, force=True)]
                until(lambda acts=acts: any(act.done() for act in acts) or refused(lease["dsn"]), 10)
                daemon.process.send_signal(signal.SIGKILL)
                daemon.process.wait()
                for act in acts:
                    with contextlib.suppress(httpx.TransportError):
                        act.result()
            daemon.start()
            assert daemon.get(f"/leases/{lease['id']}")["state"] == "active"
            until(lambda: not refused(lease["dsn"]), 10, "the lease to be let in again")
            was_reset(reset(daemon, lease))
            assert count(lease) == 1
            with connect(lease) as connection:
                assert connection.execute("SELECT to_regclass('mess')").fetchone() == (None,)
            nothing_half_made(daemon)
        daemon.release(lease, sync=True)
    finally:
        daemon.remove()
