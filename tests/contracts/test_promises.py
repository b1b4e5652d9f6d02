"""The promises of the design, over real HTTP on real Postgres, the same for every backend."""

import contextlib
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import httpx
import psycopg
import pytest

from tests.contracts.places import Place
from tests.daemons import RealDaemon
from tests.waiting import until


def connect(lease: dict[str, Any]) -> psycopg.Connection:
    return psycopg.connect(lease["dsn"], autocommit=True, connect_timeout=5)


def refused(dsn: str) -> str:
    """Return why the server refuses this login; empty when it lets it in."""
    try:
        psycopg.connect(dsn, connect_timeout=5).close()
    except psycopg.OperationalError as error:
        return str(error)
    return ""


def elsewhere(lease: dict[str, Any], database: str) -> str:
    """Return the lease's DSN for another database."""
    return f"{lease['dsn'].rpartition('/')[0]}/{database}"


def exists(lease: dict[str, Any], admin: psycopg.Connection) -> bool:
    return bool(admin.execute("SELECT FROM pg_database WHERE datname = %s", [lease["database"]]).fetchall())


# --- fresh ---


def test_a_leased_database_equals_its_template(leasing):
    lease = leasing.lease()
    with connect(lease) as connection:
        tables = connection.execute(
            "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
            " WHERE nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema' AND relkind IN ('r', 'v', 'S')"
        ).fetchone()
        extensions = {row[0] for row in connection.execute("SELECT extname FROM pg_extension")}
        connection.execute("CREATE TABLE traces (id int)")
    assert tables == (0,)
    assert extensions == {"plpgsql", "vector"}
    leasing.release(lease)
    again = leasing.lease()
    with connect(again) as connection:
        assert connection.execute("SELECT to_regclass('traces')").fetchone() == (None,)
    leasing.release(again)


def test_names_and_logins_are_never_used_again(leasing):
    seen: set[str] = set()
    for _ in range(12):
        lease = leasing.lease()
        names = {lease["database"], lease["user"], lease["password"]}
        assert not names & seen
        seen |= names
        leasing.release(lease)


# --- isolated ---


def test_no_lease_reaches_another_database(leasing, place):
    one, other = leasing.lease(), leasing.lease()
    with connect(one) as connection:
        databases = {row[0] for row in connection.execute("SELECT datname FROM pg_database")}
    ours = {name for name in databases if name.startswith("leasedb_")} - {one["database"]}
    assert other["database"] in ours
    assert any("_t_" in name for name in ours), "the template is there"
    closed = ours | ({"postgres", "template1"} if place.ours else set())
    for name in sorted(closed | {"template0"}):
        assert refused(elsewhere(one, name)), f"{name} lets a lease in"
    assert refused(other["dsn"].replace(other["password"], one["password"]))
    if not place.ours:
        [server] = leasing.get("/servers")["servers"]
        assert "PUBLIC may connect to postgres" in server["notes"][0]
    for lease in (one, other):
        leasing.release(lease)


def test_nobody_slips_in_while_a_release_refuses_the_login(leasing):
    """Also who was on the way in when the login was refused: a connection is made in several steps."""
    for _ in range(12):
        lease, held, over = leasing.lease(), [], threading.Event()

        def knock(dsn=lease["dsn"], held=held, over=over) -> None:
            while not over.is_set():
                with contextlib.suppress(psycopg.OperationalError):
                    held.append(psycopg.connect(dsn, autocommit=True, connect_timeout=5))

        callers = [threading.Thread(target=knock) for _ in range(3)]
        for caller in callers:
            caller.start()
        until(lambda held=held: len(held) > 3, 20, "sessions to be there")
        leasing.release(lease)
        answered = list(held)
        over.set()
        for caller in callers:
            caller.join()
        assert len(held) - len(answered) <= len(callers), "those under way, and no further one"
        for session in held:
            until(lambda session=session: dead(session), 5, "a session to be ended")
            session.close()


def dead(session: psycopg.Connection) -> bool:
    """Tell whether a session was ended by the server; it is told at once, but asynchronously."""
    try:
        session.execute("SELECT 1")
    except psycopg.OperationalError:
        return True
    return False


def test_a_login_may_do_nothing_outside_its_database(leasing):
    lease = leasing.lease()
    with connect(lease) as connection:
        rights = connection.execute(
            "SELECT rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls"
            " FROM pg_roles WHERE rolname = current_user"
        ).fetchone()
        assert rights == (False, False, False, False, False)
        for statement in ("CREATE DATABASE mine", "CREATE ROLE mine", "ALTER SYSTEM SET work_mem = '1GB'"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)
        owner = connection.execute(
            "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()"
        ).fetchone()
        assert owner == (lease["user"],)
        connection.execute("CREATE SCHEMA inside")
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    leasing.release(lease)


# --- vector ---


def test_vector_works_and_its_version_is_on_the_lease(leasing):
    lease = leasing.lease()
    with connect(lease) as connection:
        assert connection.execute("SELECT '[1,2,3]'::vector <-> '[3,2,1]'::vector").fetchone() == (8**0.5,)
        connection.execute("CREATE TABLE items (id int, embedding vector(3))")
        connection.execute("INSERT INTO items SELECT i, ARRAY[i, i % 7, i % 11]::vector FROM generate_series(1, 500) i")
        connection.execute("CREATE INDEX ON items USING hnsw (embedding vector_l2_ops)")
        nearest = connection.execute("SELECT id FROM items ORDER BY embedding <-> '[42,0,9]' LIMIT 1").fetchone()
        version = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()
        server = connection.execute("SHOW server_version").fetchone()
    assert nearest == (42,)
    assert version == (lease["versions"]["vector"],)
    assert server[0].split()[0] == lease["versions"]["postgres"]
    leasing.release(lease)


def test_every_form_of_address_on_the_lease_is_right(leasing):
    lease = leasing.lease()
    with psycopg.connect(lease["urls"]["libpq"]) as connection:
        assert connection.info.dbname == lease["database"]
    env = {"PATH": "/usr/bin:/bin", **lease["env"]}
    query = "import psycopg; print(psycopg.connect().execute('select current_database()').fetchone()[0])"
    said = subprocess.run([sys.executable, "-c", query], env=env, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == lease["database"]
    assert lease["env"]["DATABASE_URL"] == lease["dsn"]
    assert lease["urls"]["sqlalchemy"] == lease["dsn"].replace("postgresql://", "postgresql+psycopg://")
    assert lease["urls"]["jdbc"].startswith(f"jdbc:postgresql://{lease['host']}:{lease['port']}/{lease['database']}?")
    leasing.release(lease)


# --- bounded ---


def test_a_lease_ends_when_its_time_is_over(leasing):
    lease = leasing.lease(ttl=0.5)
    with connect(lease) as connection:
        until(lambda: leasing.get(f"/leases/{lease['id']}")["state"] == "expired", 10)
        until(lambda: refused(lease["dsn"]), 10)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    answer = leasing.call("POST", f"/leases/{lease['id']}/renew", json={"ttl": 60})
    assert (answer.status_code, answer.json()["code"]) == (410, "lease-ended")


def test_a_lease_ends_with_its_holder(leasing):
    holder = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    lease = leasing.lease(pid=holder.pid, ttl=600)
    assert not refused(lease["dsn"])
    holder.kill()
    # not waited for: a dead process whose parent has not looked yet is dead all the same
    until(lambda: leasing.get(f"/leases/{lease['id']}")["state"] == "released", 5)
    holder.communicate()
    ended = leasing.get(f"/leases/{lease['id']}")
    assert str(holder.pid) in ended["end_reason"]
    assert refused(lease["dsn"])


# --- fenced ---


def test_after_release_a_late_client_reaches_nothing(leasing):
    lease = leasing.lease()
    with connect(lease) as connection:
        connection.execute("CREATE TABLE mine (id int)")
        leasing.release(lease)
        # at once, without waiting: that is the promise
        assert refused(lease["dsn"])
        with pytest.raises(psycopg.OperationalError):
            connection.execute("INSERT INTO mine VALUES (1)")


def test_release_with_sync_answers_once_the_database_is_gone(leasing):
    lease, watcher = leasing.lease(), leasing.lease()
    with closing(connect(lease)) as busy, connect(watcher) as admin:
        busy.execute("BEGIN")
        busy.execute("SELECT 1")
        leasing.release(lease, sync=True)
        assert not exists(lease, admin)
        roles = admin.execute("SELECT FROM pg_roles WHERE rolname = %s", [lease["user"]]).fetchall()
        assert roles == []
    leasing.release(watcher, sync=True)


def test_a_prepared_transaction_does_not_keep_a_database(leasing, place):
    if not place.ours:
        with psycopg.connect(place.admin_dsn) as admin:
            if admin.execute("SHOW max_prepared_transactions").fetchone() == ("0",):
                pytest.skip("the lent server has no prepared transactions")
    lease = leasing.lease()
    with connect(lease) as connection:
        connection.execute("BEGIN")
        connection.execute("CREATE TABLE half_done (id int)")
        connection.execute("PREPARE TRANSACTION 'left behind'")
    leasing.release(lease, sync=True)
    watcher = leasing.lease()
    with connect(watcher) as admin:
        assert not exists(lease, admin)
    leasing.release(watcher)


def test_releasing_by_label_releases_no_others(leasing):
    mine = [leasing.lease(labels={"run": "a", "part": str(number)}) for number in range(2)]
    other = leasing.lease(labels={"run": "b"})
    answer = leasing.call("DELETE", "/leases", params={"label": ["run:a"], "sync": True})
    assert answer.json() == {"released": 2}
    assert all(refused(lease["dsn"]) for lease in mine)
    assert not refused(other["dsn"])
    leasing.release(other, sync=True)


# --- wait, don't fail ---


def test_at_capacity_requests_wait_in_turn(leasing):
    leasing.full()
    held = [leasing.lease(holder="first") for _ in range(6)]
    assert leasing.get("/pool")["leased"] == 6
    answer = leasing.call("POST", "/leases", json={"wait": 0.2})
    assert (answer.status_code, answer.json()["code"]) == (503, "pool-exhausted")
    assert int(answer.headers["Retry-After"]) >= 1
    assert answer.json()["position"] == 1
    with ThreadPoolExecutor(3) as threads:
        waiting = []
        for number in range(3):
            waiting.append(threads.submit(leasing.lease, holder="second", labels={"n": str(number)}))
            until(lambda number=number: leasing.get("/pool")["waiting"] == number + 1, 10)
        for lease in held[:3]:
            leasing.release(lease)
        late = [future.result(30) for future in waiting]
    assert [lease["created_at"] for lease in late] == sorted(lease["created_at"] for lease in late)
    for lease in held[3:] + late:
        leasing.release(lease, sync=True)


def test_a_waiter_that_hangs_up_leaks_nothing(leasing):
    leasing.full()
    held = [leasing.lease() for _ in range(6)]
    with socket.create_connection(("127.0.0.1", leasing.port)) as caller:
        caller.sendall(b"POST /leases HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        until(lambda: leasing.get("/pool")["waiting"] == 1, 10)
    until(lambda: leasing.get("/pool")["waiting"] == 0, 10)
    for lease in held:
        leasing.release(lease, sync=True)
    leasing.full()
    assert leasing.get("/leases?state=active")["leases"] == []


def test_many_callers_at_once_never_share_a_database(leasing):
    def use(number: int) -> str:
        with httpx.Client(base_url=leasing.url, timeout=90) as client:
            lease = client.post("/leases", json={"labels": {"n": str(number)}}).json()
            with connect(lease) as connection:
                connection.execute("CREATE TABLE only_once (id int)")
            client.delete(f"/leases/{lease['id']}").raise_for_status()
            return str(lease["database"])

    with ThreadPoolExecutor(12) as threads:
        names = list(threads.map(use, range(40)))
    assert len(set(names)) == 40


# --- repeated requests ---


def test_a_repeated_request_gets_the_same_lease(leasing):
    headers = {"Idempotency-Key": "once"}
    first = leasing.call("POST", "/leases", json={"labels": {"a": "b"}}, headers=headers)
    second = leasing.call("POST", "/leases", json={"labels": {"a": "b"}}, headers=headers)
    other = leasing.call("POST", "/leases", json={"labels": {"a": "c"}}, headers=headers)
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json() == second.json()
    assert (other.status_code, other.json()["code"]) == (422, "idempotency-mismatch")
    leasing.release(first.json())
    late = leasing.call("POST", "/leases", json={"labels": {"a": "b"}}, headers=headers)
    assert (late.status_code, late.json()["code"]) == (410, "lease-ended")


# --- servers that die ---


def test_a_dead_server_is_noticed_and_replaced(leasing, place: Place):
    if not place.ours:
        pytest.skip("a server that is only lent is not killed")
    lease = leasing.lease()
    [server] = leasing.get("/servers")["servers"]
    place.kill_server(server)
    until(lambda: leasing.get(f"/leases/{lease['id']}")["state"] == "lost", 30)
    answer = leasing.call("POST", f"/leases/{lease['id']}/renew")
    assert (answer.status_code, answer.json()["code"]) == (410, "lease-lost")
    assert server["id"] in answer.json()["detail"]
    fresh = leasing.lease()
    assert fresh["server"] != server["id"]
    with connect(fresh) as connection:
        connection.execute("SELECT 1")
    leasing.release(fresh, sync=True)
    known = leasing.get("/servers")["servers"]
    assert [each["state"] for each in known] == ["ready"]


def test_the_servers_log_can_be_read(leasing, place: Place):
    lease = leasing.lease()
    with connect(lease) as connection, pytest.raises(psycopg.errors.UndefinedTable):
        connection.execute("SELECT * FROM not_there")
    said = leasing.call("GET", f"/servers/{lease['server']}/logs")
    assert said.status_code == 200
    assert said.headers["content-type"].startswith("text/plain")
    if place.ours:
        until(lambda: "not_there" in leasing.call("GET", f"/servers/{lease['server']}/logs").text, 10)
        assert lease["password"] not in said.text
    leasing.release(lease)


# --- crash-only, and mine only ---


def test_kill_9_and_start_again(place: Place):
    settings = {"POOL_READY": "2", "POOL_READY_MAX": "2"}  # no more, whatever is learned
    daemon = RealDaemon({**place.settings, **settings}, place.environment)
    try:
        kept = daemon.start().lease(labels={"keep": "me"}, ttl=600)
        short = daemon.lease(ttl=1)
        key = {"Idempotency-Key": "before"}
        before = daemon.call("POST", "/leases", headers=key).json()
        with connect(kept) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
            daemon.kill()
            assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)
            daemon.start()
            assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)
        assert daemon.get(f"/leases/{kept['id']}")["dsn"] == kept["dsn"]
        assert daemon.call("POST", f"/leases/{kept['id']}/renew", json={"ttl": 900}).json()["ttl"] == 900
        assert daemon.call("POST", "/leases", headers=key).json()["dsn"] == before["dsn"]
        until(lambda: daemon.get(f"/leases/{short['id']}")["state"] == "expired", 10)
        until(lambda: refused(short["dsn"]), 10)
        daemon.full()
        # nothing that no record speaks of
        with connect(kept) as connection:
            names = {row[0] for row in connection.execute("SELECT datname FROM pg_database")}
        identity = kept["database"].split("_")[1]
        there = {name for name in names if name.startswith(f"leasedb_{identity}_d_")}
        assert len(there) == 2 + 2, "two ready, two leased"
    finally:
        daemon.remove()
    assert place.left(identity) == []


def test_killed_over_and_over_nothing_is_left(place: Place):
    """Kill it while it makes, leases and drops databases, at a different moment each time."""
    settings = {"POOL_READY": "4", "POOL_READY_MAX": "4"}  # no more, whatever is learned
    daemon = RealDaemon({**place.settings, **settings}, place.environment)
    identity = ""
    try:
        daemon.start()
        for leases in range(1, 7):
            taken = [daemon.lease() for _ in range(leases)]
            identity = taken[0]["database"].split("_")[1]
            for lease in taken[1:]:
                daemon.release(lease)
            daemon.kill()
            assert not refused(taken[0]["dsn"])
            daemon.start()
            assert not refused(taken[0]["dsn"])
            assert all(refused(lease["dsn"]) for lease in taken[1:])
            daemon.release(taken[0], sync=True)
        daemon.full()
        lease = daemon.lease()
        with connect(lease) as connection:
            names = {row[0] for row in connection.execute("SELECT datname FROM pg_database")}
            logins = {row[0] for row in connection.execute("SELECT rolname FROM pg_roles")}
        records = daemon.get("/pool")
        assert (
            len([name for name in names if f"leasedb_{identity}_d_" in name])
            <= records["ready"] + records["making"] + records["leased"]
        )
        assert len([name for name in names if f"leasedb_{identity}_t_" in name]) == 1
        assert len([name for name in logins if f"leasedb_{identity}_d_" in name]) <= 6
    finally:
        daemon.remove()
    assert place.left(identity) == []


def test_what_is_not_ours_is_not_touched(place: Place):
    if place.ours:
        pytest.skip("only a lent server holds what is not ours")
    with psycopg.connect(place.admin_dsn, autocommit=True) as admin:
        admin.execute("CREATE ROLE leasedb_aaaaaa_d_aaaaaaaaaaaaa")
        admin.execute("CREATE DATABASE leasedb_aaaaaa_d_aaaaaaaaaaaaa")
        before = admin.execute("SELECT datname, datacl::text FROM pg_database ORDER BY 1").fetchall()
        daemon = RealDaemon({**place.settings, "POOL_READY": "2"}, place.environment)
        try:
            daemon.start().lease()
            daemon.kill()
            daemon.start()
        finally:
            daemon.remove()
        after = admin.execute("SELECT datname, datacl::text FROM pg_database ORDER BY 1").fetchall()
        admin.execute("DROP DATABASE leasedb_aaaaaa_d_aaaaaaaaaaaaa")
        admin.execute("DROP ROLE leasedb_aaaaaa_d_aaaaaaaaaaaaa")
    assert [row for row in after if "leasing" not in row[0]] == before


def test_what_a_lease_left_in_the_lenders_database_does_not_stay(leasing, place: Place):
    if place.ours:
        pytest.skip("on our servers a lease comes into no other database")
    lease = leasing.lease()
    with psycopg.connect(elsewhere(lease, "postgres")) as outside:
        outside.execute("SELECT lo_create(0)")
    leasing.release(lease, sync=True)
    with psycopg.connect(place.admin_dsn) as admin:
        assert admin.execute("SELECT FROM pg_roles WHERE rolname = %s", [lease["user"]]).fetchall() == []
        assert admin.execute("SELECT FROM pg_largeobject_metadata").fetchall() == []


def test_servers_without_a_daemon_stop_by_themselves(place: Place):
    if not place.ours:
        pytest.skip("a server that is only lent goes on")
    daemon = RealDaemon({**place.settings, "POOL_READY": "1", "ORPHAN_TIMEOUT": "2"}, place.environment)
    try:
        identity = daemon.start().lease()["database"].split("_")[1]
        daemon.kill()
        assert place.left(identity)
        until(lambda: place.left(identity) == [], 30, "the orphaned server to stop")
        # and a daemon that comes back after all starts anew
        assert not refused(daemon.start().lease()["dsn"])
    finally:
        daemon.remove()
    assert place.left(identity) == []


def test_ctrl_c_leaves_nothing(place: Place):
    daemon = RealDaemon({**place.settings, "POOL_READY": "2"}, place.environment)
    try:
        lease = daemon.start().lease()
        identity = lease["database"].split("_")[1]
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(30) == 0
        assert place.left(identity) == []
        assert refused(lease["dsn"])
    finally:
        daemon.remove()
