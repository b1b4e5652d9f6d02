"""What a test can do to the fake daemon, and learn from it; what it answers is in test_testing_contract."""

import json
import subprocess
import sys

import httpx
import psycopg
import pytest

import leasedb
from leasedb.testing import FakeDaemon
from tests.client.processes import python
from tests.waiting import until


@pytest.fixture
def fake():
    with FakeDaemon() as daemon:
        yield daemon


@pytest.fixture
def client(fake):
    with leasedb.Client(fake.url) as client:
        yield client


def test_what_was_leased_can_be_looked_at(fake, client):
    with client.lease(labels={"run": "7"}, ttl=60) as lease:
        [active] = fake.active()
        assert (active["id"], active["labels"], active["template"]) == (lease.id, {"run": "7"}, "base")
        assert repr(fake) == f"<FakeDaemon at {fake.url}, 1 leases>"
    assert fake.active() == []
    assert fake.leases[lease.id]["state"] == "released"


def test_what_was_asked_can_be_looked_at(fake, client):
    client.acquire(pid=None, idempotency_key="k", holder="ann").release()
    [request] = fake.sent("POST", "/leases")
    assert request.body == {"template": "base", "holder": "ann"}
    assert request.headers["idempotency-key"] == "k"
    assert [request.method for request in fake.requests] == ["POST", "DELETE"]


def test_an_error_comes_as_often_as_it_is_told_to(fake, client):
    fake.fail("store-failed", 2, hint="Free some space.")
    for _ in range(2):
        with pytest.raises(leasedb.StoreFailedError, match="Free some space"):
            client.pool()
    assert client.pool().leased == 0


def test_an_error_has_what_the_test_wants(fake, client):
    fake.fail("pool-exhausted", headers={"Retry-After": "9"}, position=4)
    with pytest.raises(leasedb.PoolExhaustedError) as caught:
        client.acquire()
    assert (caught.value.retry_after, caught.value.position) == (9, 4)


def test_an_error_that_there_is_not(fake):
    with pytest.raises(ValueError, match="'teapot' is no code of an answer; there are backend-unavailable, "):
        fake.fail("teapot")


@pytest.mark.parametrize(
    ("state", "error"),
    [("expired", leasedb.LeaseEndedError), ("lost", leasedb.LeaseLostError), ("released", leasedb.LeaseEndedError)],
)
def test_a_lease_ends_under_its_holders_feet(fake, client, state, error):
    lease = client.acquire(heartbeat=False)
    fake.end(lease.id, state, "the test wants it so")
    with pytest.raises(error, match="the test wants it so"):
        lease.renew()
    assert (lease.state, lease.lost_reason) == (state, "the test wants it so")


def test_at_capacity_the_next_one_waits():
    with FakeDaemon(most=1) as daemon, leasedb.Client(daemon.url) as client, client.lease():
        with pytest.raises(leasedb.PoolExhaustedError) as caught:
            client.acquire(wait=0)
        assert caught.value.position == 1


def test_a_token_is_asked_for():
    with FakeDaemon(token="sesame") as daemon:
        with leasedb.Client(daemon.url, "wrong") as client, pytest.raises(leasedb.UnauthorizedError):
            client.acquire()
        with leasedb.Client(daemon.url, "sesame") as client, client.lease():
            assert len(daemon.active()) == 1


def test_it_vanishes_and_comes_back(fake, client):
    with client.lease() as lease:
        url = fake.url
        fake.stop()
        fake.stop()
        with pytest.raises(leasedb.DaemonUnreachableError):
            client.get(lease.id)
        fake.start()
        assert fake.url == url
        assert client.get(lease.id).state == "active"


def test_a_held_lease_outlives_the_daemon(fake, client):
    lease = client.acquire(heartbeat=False)
    with httpx.stream("GET", f"{fake.url}/leases/{lease.id}/hold") as answer:
        lines = answer.iter_lines()
        assert json.loads(next(lines))["state"] == "active"
        fake.stop()
        with pytest.raises(httpx.TransportError):
            list(lines)
    fake.start()
    assert client.get(lease.id).state == "active"


def test_the_oldest_kept_lease_of_somebody_else_makes_room():
    with FakeDaemon(keep_max=2) as daemon, leasedb.Client(daemon.url) as client:
        bobs, first, second, third = (client.acquire(holder=name) for name in ("bob", "ann", "ann", "ann"))
        for lease in (bobs, first, second):
            lease.keep()
        assert daemon.leases[bobs.id]["state"] == "released"
        with pytest.raises(leasedb.KeepQuotaError, match="LEASEDB_KEEP_MAX"):
            third.keep()
        first.keep(7200)


def test_nothing_is_kept_where_that_is_not_allowed():
    with FakeDaemon(keep_max=0) as daemon, leasedb.Client(daemon.url) as client:
        lease = client.acquire()
        with pytest.raises(leasedb.KeepQuotaError):
            lease.keep()


def test_the_databases_do_not_exist(client):
    with client.lease() as lease, pytest.raises(psycopg.OperationalError):
        psycopg.connect(lease.dsn)


def test_all_leases_lead_to_one_database_where_there_is_one(daemon):
    there = daemon.lease()
    with FakeDaemon(dsn=there["dsn"]) as fake, leasedb.Client(fake.url) as client, client.lease() as lease:
        assert (lease.dsn, lease.env) == (there["dsn"], there["env"])
        with psycopg.connect(lease.dsn) as connection:
            assert connection.execute("select current_user").fetchone() == (there["user"],)
    daemon.release(there)


@pytest.mark.parametrize("dsn", ["mysql://a@b/c", "postgresql:///c", "postgresql://a@b", "host=b user=a"])
def test_a_dsn_that_leads_nowhere_is_refused(dsn):
    with pytest.raises(ValueError, match="postgresql://user:password@host:port/database"):
        FakeDaemon(dsn=dsn)


def test_special_characters_in_a_dsn():
    dsn = "postgresql://a%40b:it%27s%20%24ecret@[::1]:99/d%20b"
    with FakeDaemon(dsn=dsn) as fake, leasedb.Client(fake.url) as client, client.lease() as lease:
        assert (lease.user, lease.password, lease.host, lease.port, lease.database) == (
            "a@b", "it's $ecret", "::1", 99, "d b",
        )  # fmt: skip
        assert lease.dsn == dsn


def test_a_template_with_sql_that_is_to_fail(client):
    with pytest.raises(leasedb.SqlFailedError) as caught:
        client.template("shop", "create table a ();\nfail here;")
    assert caught.value.line == 2


def test_other_processes_may_ask_it(fake):
    code = "import leasedb; leasedb.Client().acquire(ttl=60, pid=None)"
    environment = {"LEASEDB_URL": fake.url}
    python(f"{code}.release()", environment)
    assert [lease["state"] for lease in fake.leases.values()] == ["released"]


def test_it_needs_nothing_that_the_client_does_not_need():
    code = "import sys, leasedb.testing; print({'psutil', 'psycopg', 'pytest', 'docker'} & set(sys.modules))"
    assert python(code) == "set()\n"


def test_a_reader_that_is_killed_hangs_up(fake, client):
    lease = client.acquire(heartbeat=False, pid=None)
    code = "import sys, urllib.request as r; f = r.urlopen(sys.argv[1]); print(f.readline(), flush=True); f.read()"
    command = [sys.executable, "-c", code, f"{fake.url}/leases/{lease.id}/hold"]
    reader = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert lease.id in reader.stdout.readline()
    reader.kill()
    reader.communicate()
    until(lambda: fake.leases[lease.id]["end_reason"] == "its holder hung up", what="the end to be noticed")
