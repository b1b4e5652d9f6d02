"""What IntegreSQL's clients never say: that they are there still, or no longer."""

from datetime import datetime

import psycopg
import pytest

from tests.contracts import places
from tests.integresql.speaking import Later, Speaking, config_of, connected, inside, tables
from tests.waiting import until

TTL = 4.0


@pytest.fixture(scope="module")
def brief():
    """A daemon whose leases live for seconds."""
    with Speaking.started({"DEFAULT_TTL": f"{TTL:g}", "POOL_READY": "2"}) as speaking:
        yield speaking


@pytest.fixture(scope="module")
def small():
    """A daemon with little room, whose leases live for minutes."""
    with Speaking.started({"POOL_MAX": "8", "POOL_READY": "2", "POOL_READY_MAX": "2"}) as speaking:
        yield speaking


def outlives(speaking, answer):
    """Wait until the lease behind a database has got more time than it had at first, and then some."""

    def expiry():
        return datetime.fromisoformat(speaking.lease_of(answer)["expires_at"]).timestamp()

    first = expiry()
    until(lambda: expiry() > first + TTL, 4 * TTL, "the lease to be renewed")


def test_a_dead_builder_is_replaced_and_who_waits_goes_on_waiting(brief, hashed):
    begun = brief.initialize(hashed)
    with inside(begun) as connection:
        connection.execute("CREATE TABLE half (id int)")
    waiting = Later(lambda: brief.test(hashed))
    assert brief.initialize(hashed).status_code == 423
    again = until(lambda: (answer := brief.initialize(hashed)).status_code == 200 and answer, 4 * TTL, "its turn")
    with pytest.raises(psycopg.OperationalError):
        connected(begun)
    assert waiting.pending
    with inside(again) as connection:
        connection.execute("CREATE TABLE whole (id int)")
    assert brief.finalize(hashed).status_code == 204
    with inside(waiting.answer()) as connection:
        assert tables(connection) == ["whole"]


def test_a_builder_who_takes_long_is_not_replaced(brief, hashed):
    begun = brief.initialize(hashed)
    with inside(begun) as connection:
        outlives(brief, begun)
        assert brief.initialize(hashed).status_code == 423
        connection.execute("CREATE TABLE person (name text)")
    assert brief.finalize(hashed).status_code == 204


def test_a_database_stays_as_long_as_a_test_is_connected_and_not_much_longer(brief, hashed):
    brief.build(hashed)
    test = brief.test(hashed)
    with inside(test) as connection:
        outlives(brief, test)
        assert tables(connection) == ["person"]
    until(lambda: brief.lease_of(test)["state"] != "active", 4 * TTL, "the lease to end")


def test_tests_that_never_give_back_do_not_run_out_of_databases(small, hashed):
    small.build(hashed)
    first = small.test(hashed)
    names = set()
    with inside(first) as connection:
        for _ in range(24):
            test = small.test(hashed)
            names.add(config_of(test)["database"])
            with inside(test) as other:
                assert other.execute("SELECT count(*) FROM person").fetchone() == (0,)
                other.execute("INSERT INTO person VALUES ('foo')")
        assert tables(connection) == ["person"]
    assert len(names) == 24


def test_tests_that_never_give_back_leave_room_for_others(small, hashed):
    small.build(hashed)
    for _ in range(8):
        assert small.test(hashed).status_code == 200
    small.daemon.release(small.daemon.lease(wait=20))


def test_what_was_given_out_is_known_after_a_crash(small, hashed):
    small.build(hashed)
    test, other = small.test(hashed), small.test(hashed)
    with inside(test) as connection:
        small.daemon.kill()
        small.daemon.start()
        assert small.initialize(hashed).status_code == 423
        assert small.unlock(hashed, other).status_code == 204
        assert small.lease_of(other)["end_reason"] == "given back"
        assert small.lease_of(test)["state"] == "active"
        assert tables(connection) == ["person"]
        third = small.test(hashed)
        assert third.json()["id"] not in {test.json()["id"], other.json()["id"]}
    assert small.unlock(hashed, test).status_code == 204


def test_a_server_that_is_only_lent_tells_who_is_there(hashed):
    with places.place("existing") as lent, Speaking.started({**lent.settings, "POOL_READY": "2"}) as speaking:
        begun = speaking.initialize(hashed)
        with inside(begun) as connection:
            connection.execute("CREATE TABLE person (name text)")
            assert speaking.finalize(hashed).status_code == 204  # although a session was forgotten
        test = speaking.test(hashed)
        with inside(test) as connection:
            assert tables(connection) == ["person"]
            assert speaking.discard(hashed).status_code == 423
            assert speaking.unlock(hashed, test).status_code == 204
            assert tables(connection) == ["person"]
        until(lambda: speaking.lease_of(test)["state"] == "released", 10, "the lease to end")
        assert speaking.discard(hashed).status_code == 204
