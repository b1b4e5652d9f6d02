"""When a client starts a daemon, and which daemons it takes for one of its own; by hand, and against a stand-in."""

import threading
from dataclasses import replace

import pytest

import leasedb
from leasedb._discovery import Address, find_daemon
from leasedb._errors import InvalidAddressError
from leasedb._exchange import Answer, Breach, Failure
from leasedb._protocol import Terms, Wire
from leasedb._recipe import sql_source
from leasedb._starting import Starter
from leasedb._template_calls import Order
from tests.client.stand_in import Fault, StandIn
from tests.client.test_client_protocol import BROKEN, LEASE, REFUSED, answer, drive, problem

NOWHERE = Address("http://127.0.0.1:7432", None, loopback=True)
STOPPING = problem(503, "shutting-down")
ORDER = Order(name="shop", fingerprint="f")


STARTING = {
    "acquire": lambda wire: wire.acquire(Terms(pid=None)),
    "acquire, asking who it is first": lambda wire: wire.acquire(Terms()),
    "expect": lambda wire: wire.expect(1, template="base", holder="me", ttl=None),
    "build": lambda wire: wire.build_template(ORDER, None),
    "put": lambda wire: wire.put_template(ORDER, sql_source("select 1")),
    "a parent's fingerprint": lambda wire: wire.fingerprint_of("shop", None, None),
    "reset": lambda wire: wire.reset("x", template=None, wait=None),
    "checkpoint": lambda wire: wire.checkpoint("x", force=True),
    "branch": lambda wire: wire.branch("x", name="shop", fingerprint="1", force=True),
    "start": lambda wire: wire.start(),
}
LOOKING = {
    "health": lambda wire: wire.health(),
    "ready": lambda wire: wire.ready(),
    "leases": lambda wire: wire.leases(state=None, holder=None, labels=None),
    "get": lambda wire: wire.get("x"),
    "renew": lambda wire: wire.renew("x", 1),
    "keep": lambda wire: wire.keep("x", 1),
    "release": lambda wire: wire.release("x", sync=False),
    "templates": lambda wire: wire.templates(),
    "get_template": lambda wire: wire.get_template("shop"),
    "pool": lambda wire: wire.pool(),
}


@pytest.mark.parametrize("name", STARTING)
def test_what_starts_a_daemon(name):
    exchange = STARTING[name](Wire(NOWHERE, starts=True))
    first = next(exchange)
    assert not first.start
    assert exchange.send(REFUSED) == first  # over a new connection
    # with the same key, so that no lease is taken twice
    assert exchange.send(REFUSED) == replace(first, start=True)
    assert exchange.send(BROKEN) == replace(first, start=True)
    with pytest.raises(leasedb.DaemonUnreachableError):
        exchange.send(REFUSED)


@pytest.mark.parametrize("name", [*STARTING, *LOOKING])
def test_what_does_not(name):
    exchange = {**STARTING, **LOOKING}[name](Wire(NOWHERE, starts=name in LOOKING))
    next(exchange)
    exchange.send(REFUSED)
    with pytest.raises(leasedb.DaemonUnreachableError):
        exchange.send(REFUSED)


def test_a_daemon_that_stops_is_asked_until_it_is_gone():
    exchange = Wire(NOWHERE, starts=True).acquire(Terms(pid=None))
    requests, lease = drive(exchange, STOPPING, STOPPING, BROKEN, REFUSED, answer(201, LEASE))
    assert lease.id == "abc"
    assert [request.start for request in requests] == [False, True, True, True, True]
    assert [request.pause for request in requests] == [0, 0.2, 0.2, 0, 0]
    assert len({request.headers["Idempotency-Key"] for request in requests}) == 1


def drive_on(exchange, requests):
    requests.append(next(exchange))
    while True:
        requests.append(exchange.send(STOPPING))


def test_one_that_never_stops_is_not_asked_for_ever():
    exchange = Wire(NOWHERE, starts=True).acquire(Terms(pid=None))
    requests = []
    with pytest.raises(leasedb.ShuttingDownError):
        drive_on(exchange, requests)
    assert sum(request.pause for request in requests) == pytest.approx(10)


def test_what_is_no_lack_of_a_daemon_starts_none():
    for reply, error in [
        (problem(503, "pool-exhausted"), leasedb.PoolExhaustedError),
        (Answer(503, {}, b"<html>"), leasedb.UnexpectedAnswerError),
        (Failure(Breach.TIMED_OUT, "timed out"), leasedb.DaemonUnreachableError),
    ]:
        exchange = Wire(NOWHERE, starts=True).acquire(Terms(pid=None))
        next(exchange)
        with pytest.raises(error):
            exchange.send(reply)


class Reviver(Starter):
    """Starts a stand-in where a daemon would be started."""

    def __init__(self, stand_in: StandIn, state_dir) -> None:
        super().__init__(stand_in.url, state_dir=state_dir)
        self.stand_in = stand_in
        self.threads: list[threading.Thread] = []

    def start(self, given_up: threading.Event | None = None) -> None:  # noqa: ARG002 - it is quick
        self.threads.append(threading.current_thread())
        if self.stand_in._server is None:
            self.stand_in.start()


def test_a_lease_while_the_daemon_is_away(connect, stand_in, tmp_path):
    client = connect(autostart=(reviver := Reviver(stand_in, tmp_path)))
    with client.lease():
        stand_in.stop()
        with client.lease() as lease:
            assert lease.state == "active"
    assert len(reviver.threads) == 1
    assert reviver.threads[0].name != "twin", "it would block the loop"


def test_a_lease_while_the_daemon_stops(connect, stand_in, tmp_path):
    stand_in.faults.append(Fault("none"))  # the health
    stand_in.fail("shutting-down", 2)
    client = connect(autostart=Reviver(stand_in, tmp_path))
    client.acquire(idempotency_key="k")
    assert {seen.headers["idempotency-key"] for seen in stand_in.sent("POST", "/leases")} == {"k"}
    assert len(stand_in.active()) == 1


# --- whether it may ---


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:7432", True),
        ("http://localhost:99", True),
        ("http://[::1]:7432/", True),
        ("https://127.0.0.1:7432", False),
        ("http://127.0.0.1:7432/prefix", False),
        ("http://db.lan:7432", False),
        ("http://0.0.0.0:7432", False),
        ("http://shop.localhost:7432", False),
    ],
)
def test_where_a_daemon_can_be_started(url, here):
    assert find_daemon(None, None, None, {"LEASEDB_URL": url})[1] is here
    assert find_daemon(None, None, None, {"LEASEDB_URL": url, "LEASEDB_AUTOSTART": "0"})[1] is False
    assert find_daemon(None, None, None, {"LEASEDB_URL": url, "LEASEDB_AUTOSTART": "1"})[1] is here
    assert find_daemon(url, None, None, {})[1] is False
    assert find_daemon(url, None, False, {})[1] is False
    if here:
        assert find_daemon(url, None, True, {"LEASEDB_AUTOSTART": "0"})[1] is True
    else:
        with pytest.raises(InvalidAddressError, match="No daemon can be started at"):
            find_daemon(url, None, True, {})


def test_the_default_starts():
    assert find_daemon(None, None, None, {}) == (NOWHERE, True)


def test_somebody_who_starts_brings_the_address(tmp_path):
    starter = Starter("http://127.0.0.1:9", state_dir=tmp_path)
    address, autostart = find_daemon(None, "sesame", starter, {"LEASEDB_URL": "http://127.0.0.1:1"})
    assert (address.url, address.token, autostart) == (starter.url, "sesame", starter)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://127.0.0.1:7432", ["--host", "127.0.0.1", "--port", "7432"]),
        ("http://[::1]:99", ["--host", "::1", "--port", "99"]),
        ("http://localhost:7432", ["--host", "localhost", "--port", "7432"]),
        ("http://127.0.0.1", ["--host", "127.0.0.1", "--port", "80"]),
    ],
)
def test_where_it_is_told_to_listen(url, told, tmp_path):
    assert Starter(url, state_dir=tmp_path)._where() == told


def test_secrets_go_by_the_environment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEASEDB_IDLE_EXIT", "5")
    starter = Starter.at(Address("http://127.0.0.1:9", "sesame", loopback=True))
    its = starter._environment()
    assert (its["LEASEDB_TOKEN"], its["LEASEDB_IDLE_EXIT"]) == ("sesame", "5")
    assert "sesame" not in repr(starter)
    monkeypatch.delenv("LEASEDB_IDLE_EXIT")
    (tmp_path / "leasedb.toml").write_text("idle_exit = 60\n")
    assert "LEASEDB_IDLE_EXIT" not in starter._environment()


# --- which versions understand each other ---

MAJOR, MINOR = (int(number) for number in leasedb.__version__.split(".")[:2])


def test_a_daemon_of_the_same_line(connect):
    with StandIn(version=f"{MAJOR}.{MINOR}.99rc1") as daemon:
        client = connect(daemon.url)
        assert client.start().version == daemon.version
        client.acquire().release()


@pytest.mark.parametrize(
    ("version", "says"),
    [
        (f"{MAJOR + 1}.0.0", ["is newer than this client", "pip install --upgrade leasedb"]),
        (f"{MAJOR}.{MINOR + 1}.0" if MAJOR == 0 else f"{MAJOR + 2}.0.0", ["is newer than this client"]),
        ("0.0.9", ["is older than this client", "'leasedb stop'"]),
    ],
)
def test_a_daemon_of_another_version(connect, version, says):
    with StandIn(version=version) as daemon:
        client = connect(daemon.url)
        for call in (client.start, client.acquire):
            with pytest.raises(leasedb.IncompatibleDaemonError) as caught:
                call()
            text = str(caught.value)
            assert f"The daemon at {daemon.url} is leasedb {version}" in text
            assert leasedb.__version__ in text
            assert [part for part in says if part not in text] == []
        assert client.health().version == version  # who looks may look
        assert daemon.active() == []


def test_a_version_that_says_nothing(connect):
    with StandIn(version="unknown") as daemon:
        assert connect(daemon.url).start().version == "unknown"
