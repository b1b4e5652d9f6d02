"""Both clients against a daemon on a real port; each test runs with both."""

import asyncio
import http.server
import logging
import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest

import leasedb
from tests.client.stand_in import Fault, StandIn
from tests.waiting import until


def test_a_lease_from_beginning_to_end(client, run_id):
    lease = client.acquire(ttl=60, holder="me", labels={"run": run_id})
    assert (lease.state, lease.template, lease.ttl) == ("active", "base", pytest.approx(60))
    assert (lease.holder.name, lease.labels) == ("me", {"run": run_id})
    assert lease.dsn.startswith("postgresql://")
    assert lease.env["DATABASE_URL"] == lease.dsn
    assert lease.env["PGPASSWORD"] == lease.password
    assert (lease.env["PGHOST"], lease.env["PGPORT"]) == (lease.host, str(lease.port))
    assert (lease.env["PGUSER"], lease.env["PGDATABASE"]) == (lease.user, lease.database)
    assert lease.urls["sqlalchemy"].startswith("postgresql+psycopg://")
    assert {"postgres", "vector"} <= lease.versions.keys()
    assert lease.created_at <= datetime.now(UTC) < lease.expires_at < lease.max_expires_at
    assert lease.server in {server.id for server in client.servers().servers}
    assert lease.backend == client.servers().backend
    assert [found.id for found in client.leases(state="active", holder="me", labels={"run": run_id})] == [lease.id]
    assert client.leases(holder="you", labels={"run": run_id}) == []
    assert client.get(lease.id).dsn == lease.dsn
    assert lease.renew(120) == pytest.approx(120)
    lease.release()
    assert (lease.state, lease.lost_reason) == ("released", None)
    assert client.get(lease.id).state == "released"
    lease.release()
    client.release(lease.id)


def test_no_password_in_repr(client):
    with client.lease() as lease:
        assert lease.password not in repr(lease)
        assert lease.password not in repr(lease.record)
        assert lease.id in repr(lease)


def test_the_block_releases_whatever_happened(client, run_id):
    with pytest.raises(ZeroDivisionError), client.lease(labels={"run": run_id}):
        raise ZeroDivisionError
    assert [lease.state for lease in client.leases(labels={"run": run_id})] == ["released"]


def test_an_acquired_lease_is_a_block_too(client):
    with client.acquire() as lease:
        assert client.get(lease.id).state == "active"
    assert client.get(lease.id).state == "released"


def test_release_by_label(client, run_id):
    leases = [client.acquire(labels={"run": run_id, "n": str(n)}) for n in range(3)]
    assert client.release_all({"run": run_id, "n": "2"}) == 1
    assert client.release_all({"run": run_id}, sync=True) == 2
    assert {client.get(lease.id).state for lease in leases} == {"released"}


def test_release_of_what_never_was(client):
    with pytest.raises(leasedb.LeaseNotFoundError):
        client.release("nosuchlease")


def test_renew_by_id(client):
    with client.lease(ttl=60) as lease:
        assert client.renew(lease.id, 30).ttl == pytest.approx(30)
        assert client.renew(lease.id).ttl > 100


def test_renewing_what_has_ended(client):
    with client.lease() as lease:
        client.release(lease.id)
        with pytest.raises(leasedb.LeaseEndedError):
            lease.renew()
        assert (lease.state, bool(lease.lost_reason)) == ("released", True)


def test_the_same_key_gets_the_same_lease(client, run_id):
    with client.lease(idempotency_key=run_id) as lease, client.lease(idempotency_key=run_id) as again:
        assert lease.id == again.id
        with pytest.raises(leasedb.IdempotencyMismatchError):
            client.acquire(ttl=17, idempotency_key=run_id)


@pytest.mark.parametrize(
    ("terms", "error"),
    [
        ({"ttl": -1}, leasedb.InvalidRequestError),
        ({"ttl": 1e9}, leasedb.InvalidRequestError),
        ({"ttl": "soon"}, TypeError),
        ({"template": "nosuch"}, leasedb.UnknownTemplateError),
        ({"postgres": "99"}, leasedb.VersionUnavailableError),
        ({"pid": 2**22 + 1}, leasedb.HolderNotFoundError),
    ],
)
def test_what_the_daemon_refuses(client, terms, error):
    with pytest.raises(error):
        client.acquire(**terms)


def test_servers_logs_pool_and_health(client):
    [server, *_] = client.servers().servers
    assert server.state == "ready"
    assert server.databases.ready >= 0
    assert isinstance(client.server_logs(server.id, 3), str)
    with pytest.raises(leasedb.ServerNotFoundError):
        client.server_logs("nosuchserver")
    assert client.pool().per
    assert client.health().status == "ok"
    assert client.ready().servers >= 1


def test_the_lease_ends_with_its_process(client):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    lease = client.acquire(pid=process.pid, heartbeat=False)
    assert lease.holder.pid == process.pid
    process.kill()
    process.communicate()
    until(lambda: client.get(lease.id).state == "released", what="the lease of a dead process ended")
    with pytest.raises(leasedb.HolderNotFoundError):
        client.acquire(pid=process.pid)


# --- what only the stand-in can be made to do ---


def test_only_what_the_daemon_reads_is_sent(connect):
    with StandIn(token="sesame") as daemon:
        connect(daemon.url, "sesame").acquire(idempotency_key="mine").release()
        posted, deleted = daemon.sent("POST", "/leases")[0], daemon.seen[-1]
    common = {"host": daemon.url.removeprefix("http://"), "authorization": "Bearer sesame"}
    common["user-agent"] = f"leasedb/{leasedb.__version__}"
    assert deleted.headers == common
    length = posted.headers.pop("content-length")
    assert int(length) > 0
    assert posted.headers == common | {"content-type": "application/json", "idempotency-key": "mine"}


def test_the_health_is_asked_once(connect, stand_in):
    client = connect(stand_in.url)
    client.health()
    for _ in range(3):
        client.acquire().release()
    assert len(stand_in.sent("GET", "/healthz")) == 1


def test_logs_and_notes(connect, stand_in):
    client = connect(stand_in.url)
    assert client.server_logs("s1", 3) == "line 0\nline 1\nline 2\n"
    assert client.servers().servers[0].notes == ("made of air",)


def test_not_ready(connect, stand_in):
    stand_in.ready_problem = "no server yet"
    with pytest.raises(leasedb.NotReadyError, match="no server yet"):
        connect(stand_in.url).ready()


def test_the_token(connect):
    with StandIn(token="sesame") as daemon:
        assert connect(daemon.url).health().status == "ok"
        with pytest.raises(leasedb.UnauthorizedError):
            connect(daemon.url, "wrong").pool()
        assert connect(daemon.url, "sesame").pool().max == 100


def test_pool_exhausted(connect):
    with StandIn(most=1) as daemon:
        client = connect(daemon.url)
        with client.lease(), pytest.raises(leasedb.PoolExhaustedError) as caught:
            client.acquire(wait=0.05)
        assert (caught.value.retry_after, caught.value.position) == (7.0, 1)


def test_many_wait_and_all_are_served(connect):
    with StandIn(most=3) as daemon, ThreadPoolExecutor(20) as threads:
        client = connect(daemon.url)

        def once(_n: int) -> str:
            with client.lease() as lease:
                return lease.id

        assert len(set(threads.map(once, range(40)))) == 40
        assert daemon.active() == []


@pytest.mark.parametrize("kind", ["hang-up", "hang-up-after"])
def test_a_connection_that_breaks_leaks_no_lease(connect, stand_in, kind):
    client = connect(stand_in.url)
    client.health()
    stand_in.faults.append(Fault(kind))
    with client.lease(pid=None) as lease:
        assert [active["id"] for active in stand_in.active()] == [lease.id]
    assert len(stand_in.leases) == 1
    assert stand_in.active() == []


@pytest.mark.parametrize("kind", ["hang-up", "hang-up-after"])
def test_release_survives_a_broken_connection(connect, stand_in, kind):
    lease = connect(stand_in.url).acquire()
    stand_in.faults.append(Fault(kind))
    lease.release()
    assert stand_in.active() == []


def test_a_daemon_that_came_back_is_found_over_old_connections(connect, stand_in):
    client = connect(stand_in.url)
    lease = client.acquire()
    stand_in.stop()
    with pytest.raises(leasedb.DaemonUnreachableError, match="Connection refused"):
        client.pool()
    stand_in.start()
    assert client.get(lease.id).state == "active"
    lease.release()


def test_a_release_that_fails_at_the_end_of_a_block_is_no_error_but_told(connect, stand_in, caplog):
    client = connect(stand_in.url)
    with caplog.at_level(logging.WARNING, "leasedb"), client.lease() as lease:
        stand_in.stop()
    assert lease.state == "active"
    assert "could not be released and ends by itself" in caplog.text
    with pytest.raises(leasedb.DaemonUnreachableError):
        lease.release()


def test_releasing_what_the_daemon_has_forgotten(connect, stand_in):
    lease = connect(stand_in.url).acquire()
    stand_in.leases.clear()
    lease.release()
    assert lease.state == "released"


def test_no_daemon(connect):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(leasedb.DaemonUnreachableError) as caught:
        connect(f"http://127.0.0.1:{port}").acquire()
    assert str(caught.value) == (
        f"No leasedb daemon answers at http://127.0.0.1:{port}: Connection refused. "
        "Start one with: leasedb serve (or set LEASEDB_URL to where one runs)"
    )


def test_no_such_host(connect):
    with pytest.raises(leasedb.DaemonUnreachableError, match=r"http://nosuch\.invalid:1: .*Start one there with"):
        connect("http://nosuch.invalid:1").health()
    with pytest.raises(leasedb.DaemonUnreachableError):
        connect(f"http://{'x' * 70}.invalid:1").health()


def test_no_http_there(connect):
    with socket.create_server(("127.0.0.1", 0)) as other:

        def greet() -> None:
            for _ in range(2):
                connection, _address = other.accept()
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
                connection.close()

        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(leasedb.DaemonUnreachableError, match="broke off GET /healthz"):
            connect(f"http://127.0.0.1:{other.getsockname()[1]}").health()
        thread.join()


def test_another_http_server_there(connect):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_args: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as other:
        thread = threading.Thread(target=other.serve_forever, args=(0.01,))
        thread.start()
        url = f"http://127.0.0.1:{other.server_address[1]}"
        with pytest.raises(leasedb.UnexpectedAnswerError, match="is not a leasedb daemon"):
            connect(url).acquire(pid=None)
        other.shutdown()
        thread.join()


def test_proxies_of_the_environment_are_not_for_loopback(connect, stand_in, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert connect(stand_in.url).health().status == "ok"


def test_other_machines_are_reached_over_the_proxy_of_the_environment(connect, stand_in, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", stand_in.url)
    client = connect("http://db.lan:7432", "sesame")
    with client.lease() as lease:
        assert client.get(lease.id).holder.pid is None
    assert stand_in.active() == []
    assert {seen.headers["host"] for seen in stand_in.seen} == {"db.lan:7432"}
    assert {seen.headers["authorization"] for seen in stand_in.seen} == {"Bearer sesame"}


def test_silence_is_a_timeout():
    def renewal(line: Any) -> Any:
        return line.run(line.wire.renew("abc", 5, 0.1))

    async def main() -> None:
        async with leasedb.AsyncClient(url) as client:
            await renewal(client._line)

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with (
            leasedb.Client(url) as client,
            pytest.raises(leasedb.DaemonUnreachableError, match=r"did not answer POST .*/renew within 0\.1 s"),
        ):
            renewal(client._line)
        with pytest.raises(leasedb.DaemonUnreachableError, match="did not answer"):
            asyncio.run(main())


def test_closing_ends_the_connections(connect, stand_in):
    client = connect(stand_in.url)
    client.health()
    assert len(stand_in._server.connections) == 1
    client.close()
    until(lambda: not stand_in._server.connections, what="hung up")


def test_after_close(connect, stand_in):
    client = connect(stand_in.url)
    lease = client.acquire()
    client.close()
    client.close()
    with pytest.raises(leasedb.ClientClosedError):
        client.pool()
    with pytest.raises(leasedb.ClientClosedError):
        lease.release()
    assert [active["id"] for active in stand_in.active()] == [lease.id]


def test_connections_are_kept(connect, stand_in):
    client = connect(stand_in.url)
    for _ in range(5):
        client.acquire().release()
    assert len(stand_in._server.connections) == 1


def test_a_holder_pid_is_sent_by_itself_and_only_where_it_means_something(connect):
    with StandIn() as daemon:
        assert connect(daemon.url).acquire().holder.pid == os.getpid()
        assert connect(daemon.url).acquire(pid=None).holder.pid is None
    with StandIn(space="another/pid:[1]") as elsewhere:
        assert connect(elsewhere.url).acquire().holder.pid is None


def test_a_cancelled_block_still_releases(stand_in):
    async def main() -> None:
        async with leasedb.AsyncClient(stand_in.url) as client:

            async def hold() -> None:
                async with client.lease():
                    holding.set()
                    await asyncio.Event().wait()

            holding = asyncio.Event()
            task = asyncio.create_task(hold())
            await holding.wait()
            task.cancel()
            # again while it releases, as anyio's cancel scopes do
            asyncio.get_running_loop().call_soon(task.cancel)
            await asyncio.wait([task])
            assert task.cancelled()

    asyncio.run(main())
    assert len(stand_in.leases) == 1
    assert stand_in.active() == []
