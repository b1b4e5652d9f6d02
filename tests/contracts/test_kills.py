"""A daemon that gets kill -9 again and again amid builds, seals, resets and branches loses and leaks nothing."""

import contextlib
import itertools
import threading
from typing import Any

import httpx
import psycopg
import pytest
from psycopg import sql

from leasedb_server.domain.names import Kind, Name, new_ident
from leasedb_server.store import STORE_FILE
from tests.contracts.places import Place
from tests.contracts.test_promises import refused
from tests.daemons import RealDaemon
from tests.waiting import until

KILLS = 20
BROKEN = (httpx.TransportError, psycopg.Error)
ROWS = 500


class Caller(threading.Thread):
    """Builds, seals, resets and branches as long as the daemon answers, with a lease that it keeps over all kills."""

    def __init__(self, daemon: RealDaemon, number: int) -> None:
        super().__init__()
        self.daemon_ = daemon
        self.number = number
        self.stop = threading.Event()
        self.sealed: list[str] = []  # templates whose sealing was answered
        self.acts = 0
        self.steps = 0  # begun ones: a kill that waits for the next falls into it
        self.wrong: list[str] = []
        self.lease = daemon.lease(holder=f"caller {number}", ttl=3600)

    def run(self) -> None:
        with httpx.Client(base_url=self.daemon_.url, timeout=60) as client:
            while not self.stop.is_set():
                try:
                    self.act(client)
                    self.acts += 1
                except BROKEN:
                    self.stop.wait(0.01)

    def step(self, client: httpx.Client, method: str, path: str, **body: Any) -> httpx.Response:
        self.steps += 1
        return client.request(method, path, json=body)

    def act(self, client: httpx.Client) -> None:
        template = f"k{self.number}-{new_ident()}"
        answer = self.step(client, "POST", f"/templates/{template}/build", fingerprint="f", ttl=600, wait=10)
        if answer.status_code != 201:
            return
        build = answer.json()["lease"]
        with psycopg.connect(build["dsn"], autocommit=True) as connection:
            connection.execute(f"CREATE TABLE items AS SELECT generate_series(1, {ROWS}) AS id")
        sealed = self.step(client, "POST", f"/templates/{template}/seal", lease=build["id"], force=True)
        if sealed.status_code == 200:
            self.sealed.append(template)
        with psycopg.connect(self.lease["dsn"], autocommit=True, connect_timeout=5) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS mess (id int)")
        self.step(client, "POST", f"/leases/{self.lease['id']}/template", force=True)
        if self.step(client, "POST", f"/leases/{self.lease['id']}/reset", wait=10).status_code == 200:
            with psycopg.connect(self.lease["dsn"], autocommit=True, connect_timeout=5) as connection:
                found = connection.execute("SELECT to_regclass('mess')").fetchone()
            if found != (None,):
                self.wrong.append("a reset left something")
        self.step(client, "PUT", f"/templates/s{self.number}-{new_ident()}", sql="CREATE TABLE t (id int)", wait=10)


def test_twenty_kills_lose_nothing_and_leave_nothing(place: Place):
    if place.name not in {"embedded-18", "docker", "existing"}:
        pytest.skip("once per kind of backend")
    settings = {"POOL_READY": "3", "POOL_READY_MAX": "3", "TEMPLATE_BUDGET": "300MB", "DEFAULT_TTL": "30"}
    daemon = RealDaemon({**place.settings, **settings}, place.environment)
    callers: list[Caller] = []
    try:
        daemon.start()
        callers = [Caller(daemon, number) for number in range(2)]
        for caller in callers:
            caller.start()
        kills = KILLS if place.name == "embedded-18" else KILLS // 4
        for victim, number in zip(itertools.cycle(callers), range(kills), strict=False):
            before = sum(caller.acts for caller in callers)
            target = victim.steps + 1 + number % 7
            until(lambda victim=victim, target=target: victim.steps >= target, 60, "the next act to begin")
            daemon.kill()
            daemon.start()
            for caller in callers:
                lease = daemon.get(f"/leases/{caller.lease['id']}")
                assert lease["state"] == "active", (lease, daemon.log[-3000:])
            until(lambda before=before: sum(one.acts for one in callers) > before, 60, "work to go on")
        for caller in callers:
            caller.stop.set()
            caller.join()
        assert [caller.wrong for caller in callers] == [[], []]
        for caller in callers:
            until(lambda caller=caller: not refused(caller.lease["dsn"]), 20, "the lease to be let in")
            check_sealed(daemon, caller)
            daemon.release(caller.lease, sync=True)
        ident = check_nothing_too_many(daemon)
    finally:
        for caller in callers:
            caller.stop.set()
        daemon.remove()
    assert place.left(ident) == []


def check_sealed(daemon: RealDaemon, caller: Caller) -> None:
    """See that what was answered as sealed is there, unless it was evicted."""
    known = {one["name"] for one in daemon.get("/templates")["templates"]}
    for template in caller.sealed[-3:]:
        if template not in known:
            continue
        lease = daemon.lease(template=template)
        with psycopg.connect(lease["dsn"]) as connection:
            assert connection.execute("SELECT count(*) FROM items").fetchone() == (ROWS,)
        daemon.release(lease, sync=True)


def check_nothing_too_many(daemon: RealDaemon) -> str:
    """Compare what is on the server with what the daemon says; delete the templates and return the daemon's id."""
    for lease in daemon.get("/leases?state=active")["leases"]:
        daemon.release(lease)
    until(lambda: settled(daemon), 60, "everything to be settled")
    [server] = daemon.get("/servers")["servers"]
    parsed = Name.parse(server["name"])
    assert parsed is not None
    templates = [one for one in daemon.get("/templates")["templates"] if one["state"] == "sealed"]
    lease = daemon.lease()
    with psycopg.connect(lease["dsn"]) as connection:
        mine = sql.Literal(f"leasedb_{parsed.daemon}_")
        names = [
            row[0]
            for row in connection.execute(
                sql.SQL("SELECT datname FROM pg_database WHERE starts_with(datname, {})").format(mine)
            )
        ]
        logins = [
            row[0]
            for row in connection.execute(
                sql.SQL("SELECT rolname FROM pg_roles WHERE starts_with(rolname, {})").format(mine)
            )
        ]
    kinds = [name.kind for name in map(Name.parse, names) if name]
    assert sorted(logins) == sorted(name for name in names if Name.parse(name).kind is Kind.DATABASE)
    assert kinds.count(Kind.TEMPLATE) <= len(templates), (names, templates)
    pool = daemon.get("/pool")
    assert abs(kinds.count(Kind.DATABASE) - sum(pool[key] for key in ("ready", "making", "leased", "condemned"))) <= 1
    with contextlib.suppress(FileNotFoundError):
        kept = [path.name for path in (daemon.state_dir / "templates").iterdir()]
        assert len(kept) <= len(templates)
        assert not [name for name in kept if name.endswith(".part")]
    assert (daemon.state_dir / STORE_FILE).exists()
    daemon.release(lease, sync=True)
    for template in templates:
        if template["origin"] != "builtin":  # on a lent server they would stay when the daemon stops
            assert daemon.call("DELETE", f"/templates/{template['name']}").status_code == 204
    return parsed.daemon


def settled(daemon: RealDaemon) -> bool:
    pool, known = daemon.get("/pool"), daemon.get("/templates")
    building = [one for one in known["templates"] if one["state"] == "building"]
    unkept = [one for one in known["templates"] if not one["kept"]]
    lent = daemon.get("/servers")["backend"] == "existing"
    return not (pool["making"] or pool["condemned"] or pool["leased"] or building or (unkept and not lent))
