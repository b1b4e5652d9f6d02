"""Announcing leases, and what a daemon tells of its stock, its servers and sockets; each test with both clients."""

from datetime import UTC, datetime

import pytest

import leasedb
from tests.client.stand_in import StandIn


def test_announcing_leases(client, daemon_url, run_id):
    expected = client.expect(30, holder=run_id, ttl=60)
    assert (expected.template, expected.holder, expected.count) == ("base", run_id, 30)
    assert 50 < (expected.expires_at - datetime.now(UTC)).total_seconds() <= 60
    assert expected.target >= 30
    with client.lease(holder=run_id):
        [base] = [demand for demand in client.pool().demand if demand.template == "base"]
        assert base.hinted == 29
    assert client.expect(0, holder=run_id).count == 0
    assert [demand.hinted for demand in client.pool().demand if demand.template == "base"] == [0]


def test_announcing_what_cannot_be(client):
    with pytest.raises(leasedb.UnknownTemplateError):
        client.expect(3, "nosuch")
    for count in (-1, 10_001):
        with pytest.raises(leasedb.InvalidRequestError):
            client.expect(count)


def test_what_a_daemon_tells_of_its_servers_and_its_stock(connect, stand_in):
    client = connect(stand_in.url)
    [server] = client.servers().servers
    [chosen] = [way for way in server.cloning if way.chosen]
    assert (chosen.template, chosen.strategy, chosen.milliseconds, chosen.clones) == ("base", "file_copy", 9.14, 30)
    assert [(way.milliseconds, way.refused) for way in server.cloning if way.refused] == [(None, "not here")]
    assert (server.workers, server.memory, server.place) == (3, 2**30, "main")
    assert server.connections == leasedb.Connections(14, 97)
    pool = client.pool()
    assert pool.demand == (leasedb.TemplateDemand(template="base", target=12, rate=0.52, hinted=0, peak=9.4),)
    assert pool.asleep is False


def test_a_daemon_that_sleeps_is_ready(connect, stand_in):
    stand_in.asleep = True
    client = connect(stand_in.url)
    assert (client.ready().status, client.ready().servers) == ("asleep", 0)
    assert client.pool().asleep is True


def test_the_socket_of_a_lease(connect, stand_in):
    with connect(stand_in.url).lease() as lease:
        assert lease.socket == "/run/x"
        assert lease.urls["socket"].endswith("?host=%2Frun%2Fx&port=1")
        assert lease.password not in repr(lease.record)


def test_an_older_daemon(connect):
    with StandIn(old=True) as daemon:
        client = connect(daemon.url)
        with pytest.raises(leasedb.NotFoundError):
            client.expect(3)
        with client.lease() as lease:
            assert lease.socket is None
            assert "socket" not in lease.urls
        [server] = client.servers().servers
        assert (server.cloning, server.workers, server.memory, server.connections) == ((), None, None, None)
        assert (client.pool().demand, client.pool().asleep) == ((), False)


def test_who_announces_is_who_leases(connect, stand_in):
    client = connect(stand_in.url)
    expected = client.expect(2)
    with client.lease() as lease:
        assert lease.holder.name == expected.holder
    assert stand_in.to_come == {(expected.holder, "base"): 1}
