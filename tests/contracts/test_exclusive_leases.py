"""Servers leased as a whole, and servers of several versions on one daemon."""

import contextlib
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psycopg
import pytest

from tests.contracts.places import Place
from tests.contracts.test_promises import connect, elsewhere, refused
from tests.contracts.test_resets import reset, was_reset
from tests.contracts.test_templates import built, code, count
from tests.daemons import RealDaemon
from tests.waiting import until

NEWER = "leasedb-test/pgvector:pg18"


@pytest.fixture(scope="module")
def whole(place: Place):
    """A daemon that keeps one server warm for callers who want a whole one."""
    settings = {"POOL_READY": "1", "POOL_READY_MAX": "1"}
    if place.ours:
        settings["POOL_EXCLUSIVE"] = "1"
    running = RealDaemon({**place.settings, **settings}, place.environment)
    try:
        yield running.start()
    finally:
        running.remove()


@pytest.fixture
def ours(place: Place) -> None:
    if not place.ours:
        pytest.skip("a server that is only lent is nobody's alone")


def exclusive(daemon: RealDaemon, **body: Any) -> dict[str, Any]:
    return daemon.lease(server="exclusive", **body)


def test_a_lent_server_is_not_leased_as_a_whole(whole, place):
    if place.ours:
        pytest.skip("this place has servers of its own")
    answer = whole.call("POST", "/leases", json={"server": "exclusive"})
    assert code(answer) == (422, "exclusive-unavailable")


def test_a_whole_server_has_a_superuser_and_names_of_the_callers_choice(whole, ours):
    shared = whole.lease()
    lease = exclusive(whole, database="app db", user='the "owner"')
    assert (lease["database"], lease["user"], lease["server_kind"]) == ("app db", 'the "owner"', "exclusive")
    assert lease["server"] != shared["server"]
    with connect(lease) as connection:
        assert connection.execute("SELECT current_user, current_database()").fetchone() == ('the "owner"', "app db")
        assert connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone() == (True,)
        assert connection.execute("SELECT '[1,2,3]'::vector <-> '[3,2,1]'::vector").fetchone() == (8**0.5,)
        for statement in (
            "CREATE ROLE reader LOGIN PASSWORD 'r'",
            "CREATE DATABASE second",
            "ALTER SYSTEM SET work_mem = '9MB'",
            "SELECT pg_reload_conf()",
            "CREATE EXTENSION pg_trgm" if _has(connection, "pg_trgm") else "SELECT 1",
        ):
            connection.execute(statement)
    second = elsewhere({**lease, "dsn": lease["dsn"]}, "second")
    assert not refused(second)
    psycopg.connect(second.replace(second.partition("://")[2].partition("@")[0], "reader:r")).close()
    whole.release(lease)
    assert refused(lease["dsn"])
    until(lambda: lease["server"] not in {one["id"] for one in whole.get("/servers")["servers"]}, 20, "it to be gone")
    whole.release(shared, sync=True)
    until(lambda: _idle(whole), 30, "another to be warm")


def _has(connection: psycopg.Connection, extension: str) -> bool:
    found = connection.execute("SELECT FROM pg_available_extensions WHERE name = %s", [extension])
    return found.fetchone() is not None


def _idle(daemon: RealDaemon) -> bool:
    servers = daemon.get("/servers")["servers"]
    return [one["state"] for one in servers] == ["ready", "ready"] and not any(
        one["databases"]["leased"] for one in servers
    )


def test_names_are_refused_that_postgres_has_itself(whole, ours):
    for body in ({"database": "postgres"}, {"user": "pg_monitor"}, {"user": "postgres"}, {"database": "x" * 64}):
        answer = whole.call("POST", "/leases", json={"server": "exclusive", **body})
        assert code(answer) == (422, "invalid-request"), body
    assert code(whole.call("POST", "/leases", json={"database": "mine"})) == (422, "invalid-request")


def test_a_whole_server_starts_with_a_template_too(whole, ours):
    template = built(whole)
    lease = exclusive(whole, template=template)
    assert count(lease) == 50
    with connect(lease) as connection:
        connection.execute("ALTER TABLE items ADD COLUMN more int")
    whole.release(lease)


def test_more_at_once_than_are_warm(whole, ours):
    with ThreadPoolExecutor(3) as threads:
        leases = list(threads.map(lambda _: exclusive(whole), range(3)))
    assert len({lease["server"] for lease in leases}) == 3
    for lease in leases:
        whole.release(lease)
    until(lambda: _idle(whole), 60, "one server to be warm, and no more")


def test_a_reset_of_a_whole_server_undoes_what_was_done_to_it(whole, ours):
    lease = exclusive(whole, database="app", user="owner")
    with connect(lease) as connection:
        before = _state(connection)
        for statement in (
            "CREATE TABLE t (id int)",
            "CREATE ROLE somebody LOGIN",
            "CREATE DATABASE other OWNER somebody",
            "ALTER ROLE owner SET work_mem = '3MB'",
            "ALTER DATABASE app SET work_mem = '4MB'",
            "ALTER SYSTEM SET work_mem = '5MB'",
            "SELECT pg_reload_conf()",
        ):
            connection.execute(statement)
    after = was_reset(reset(whole, lease))
    assert after["dsn"] == lease["dsn"]
    with connect(lease) as connection:
        assert connection.execute("SELECT to_regclass('t')").fetchone() == (None,)
        assert _state(connection) == before
    whole.release(lease)


def _state(connection: psycopg.Connection) -> list[Any]:
    return [
        connection.execute(query).fetchall()
        for query in (
            "SELECT datname FROM pg_database ORDER BY 1",
            "SELECT rolname, rolsuper, rolconfig FROM pg_roles ORDER BY 1",
            "SELECT setconfig FROM pg_db_role_setting ORDER BY 1",
            "SELECT name, setting FROM pg_file_settings WHERE sourcefile LIKE '%auto.conf' ORDER BY 1",
            "SHOW work_mem",
        )
    ]


def test_a_killed_daemon_finds_its_whole_servers_again(place: Place):
    if not place.ours:
        pytest.skip("a server that is only lent is nobody's alone")
    settings = {"POOL_READY": "1", "POOL_READY_MAX": "1", "POOL_EXCLUSIVE": "1"}
    daemon = RealDaemon({**place.settings, **settings}, place.environment)
    try:
        daemon.start()
        lease = exclusive(daemon, database="app", user="owner", ttl=3600)
        with connect(lease) as connection:
            connection.execute("CREATE TABLE t (id int)")
        for kill_in_reset in (False, True):
            with ThreadPoolExecutor(1) as threads:
                act = threads.submit(reset, daemon, lease) if kill_in_reset else None
                until(lambda act=act: act is None or act.done() or refused(lease["dsn"]), 20)
                daemon.process.send_signal(signal.SIGKILL)
                daemon.process.wait()
                with contextlib.suppress(httpx.TransportError):
                    _ = act and act.result()
            daemon.start()
            assert daemon.get(f"/leases/{lease['id']}")["state"] == "active"
            until(lambda: not refused(lease["dsn"]), 20, "the reset to be ended")
            with connect(lease) as connection:
                connection.execute("CREATE TABLE IF NOT EXISTS t (id int)")
        daemon.release(lease)
        assert refused(lease["dsn"])
    finally:
        daemon.remove()


# --- versions ---


def test_one_daemon_serves_several_versions(place: Place):
    if place.name not in {"embedded-18", "docker"}:
        pytest.skip("once per kind of backend")
    other: dict[str, Any] = {"postgres": "16"}
    settings = {}  # embedded offers what is installed
    if place.name == "docker":
        other, settings = {"image": NEWER}, {"IMAGES": NEWER}
    daemon = RealDaemon({**place.settings, **settings, "POOL_READY": "1", "POOL_READY_MAX": "1"}, place.environment)
    try:
        daemon.start()
        usual, old = daemon.lease(), daemon.lease(**other)
        majors = [lease["versions"]["postgres"].partition(".")[0] for lease in (usual, old)]
        assert majors == (["17", "18"] if place.name == "docker" else ["18", "16"])
        assert usual["server"] != old["server"]
        for lease in (usual, old):
            with connect(lease) as connection:
                said = connection.execute("SHOW server_version").fetchone()[0].split()[0]
            assert said == lease["versions"]["postgres"]
        template = built(daemon, "CREATE TABLE items (id int)", **other)
        assert code(daemon.call("POST", "/leases", json={"template": template})) == (422, "unknown-template")
        there = daemon.lease(template=template, **other)
        assert there["template"] == template
        assert count(there) == 0
        was_reset(reset(daemon, there))
        refusal = daemon.call("POST", "/leases", json={"postgres": "99"})
        assert code(refusal) == (422, "version-unavailable")
        assert f"versions served: {majors[0]}" in refusal.json()["detail"]
        assert "LEASEDB_VERSIONS" in refusal.json()["hint"]
        for lease in (usual, old, there):
            daemon.release(lease, sync=True)
    finally:
        daemon.remove()
