"""Builds that are waited for, fail, are broken off or take long; each test with both clients, where it is for both."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import leasedb
from tests.client.processes import python
from tests.client.stand_in import Fault, StandIn
from tests.waiting import until


def migrate_nothing(_lease: object) -> None:
    pass


def test_those_who_wait_for_a_failed_build_fail_with_it(connect, stand_in):
    going = threading.Event()

    def migrate(_lease: object) -> None:
        until(lambda: stand_in.waiting_for_builds, what="somebody waits")
        going.set()
        raise OSError("disk full")

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(connect(stand_in.url).template, "shop", migrate)
        until(lambda: stand_in.built, what="building")
        second = threads.submit(connect(stand_in.url).template, "shop", migrate)
        with pytest.raises(OSError, match="disk full"):
            first.result(20)
        with pytest.raises(leasedb.BuildFailedError) as caught:
            second.result(20)
    assert caught.value.error == leasedb.BuildFailure("OSError: disk full")
    assert stand_in.built == 1


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_who_waits_for_an_interrupted_build_builds(connect, stand_in, interruption):
    calls = []

    def migrate(_lease: object) -> None:
        calls.append(1)
        if len(calls) == 1:
            until(lambda: stand_in.waiting_for_builds, what="somebody waits")
            raise interruption

    with leasedb.Client(stand_in.url) as blocking, ThreadPoolExecutor(2) as threads:
        first = threads.submit(blocking.template, "shop", migrate)
        until(lambda: stand_in.built, what="building")
        second = threads.submit(connect(stand_in.url).template, "shop", migrate)
        with pytest.raises(interruption):
            first.result(20)
        assert second.result(20).state == "sealed"
    assert len(calls) == 2
    assert stand_in.active() == []


def test_waiting_has_an_end(connect, stand_in):
    client = connect(stand_in.url)
    template = client.template("shop", migrate_nothing, fingerprint="v1")
    stand_in.evict(template.name)
    client.build_template(template.name, template.fingerprint)
    with pytest.raises(leasedb.TemplateBuildingError):
        connect(stand_in.url).template("shop", migrate_nothing, fingerprint="v1", wait=0.05)


def test_a_builder_that_dies_makes_room_for_the_next(connect, stand_in):
    code = (
        "import leasedb, os, sys\n"
        "with leasedb.Client(sys.argv[1]) as client:\n"
        "    client.template('shop', lambda lease: os._exit(0), fingerprint='v1')"
    )
    python(code, arguments=[stand_in.url])
    assert connect(stand_in.url).template("shop", migrate_nothing, fingerprint="v1").state == "sealed"
    assert stand_in.built == 2


def test_a_long_build_is_renewed(connect, stand_in):
    def migrate(lease: leasedb.Lease | leasedb.AsyncLease) -> None:
        before = lease.expires_at
        until(lambda: lease.expires_at > before, what="renewed")

    connect(stand_in.url).template("shop", migrate, ttl=0.6)


def test_forgotten_sessions_do_not_fail_a_build(connect, stand_in):
    def migrate(_lease: object) -> None:
        stand_in.sessions = [{"pid": 7, "application": "psql", "state": "idle", "query": "select 1", "since": None}]

    assert connect(stand_in.url).template("shop", migrate).state == "sealed"
    client = connect(stand_in.url)
    _, lease = client.build_template("other", "f")
    migrate(lease)
    with pytest.raises(leasedb.SessionsOpenError) as caught:
        client.seal_template("other", lease)
    assert [session.pid for session in caught.value.sessions] == [7]
    assert lease.state == "active"
    assert client.seal_template("other", lease, force=True).state == "sealed"


def test_sessions_and_branches(connect, stand_in):
    session = {"pid": 7, "application": "psql", "state": "idle", "query": "select 1", "since": None}
    with connect(stand_in.url).lease() as lease:
        stand_in.sessions = [session]
        with pytest.raises(leasedb.SessionsOpenError):
            lease.to_template("mine")
        with pytest.raises(leasedb.SessionsOpenError):
            lease.checkpoint(force=False)
        with pytest.raises(leasedb.SessionsOpenError):
            lease.fork(force=False)
        assert lease.reset() == 1
        stand_in.sessions = [session]
        lease.checkpoint()
        stand_in.sessions = [session]
        assert lease.to_template("mine", force=True).name == "mine"


@pytest.mark.parametrize("kind", ["hang-up", "hang-up-after"])
@pytest.mark.parametrize("number", range(5))
def test_connections_that_break(connect, stand_in, kind, number):
    client = connect(stand_in.url)
    client.health()
    stand_in.faults.extend([Fault("none")] * number + [Fault(kind)])
    template = client.template("shop", migrate_nothing)
    with client.lease(template) as lease:
        lease.to_template("mine")
    assert stand_in.built == 1
    assert stand_in.active() == []


def test_a_build_that_cannot_be_given_up_is_told(connect, stand_in, caplog):
    def migrate(_lease: object) -> None:
        stand_in.stop()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        connect(stand_in.url).template("shop", migrate)
    assert "could not be given up and ends by itself: No leasedb daemon answers" in caplog.text


def test_a_lease_that_is_lost_while_it_builds(connect, stand_in):
    def migrate(lease: leasedb.Lease | leasedb.AsyncLease) -> None:
        stand_in.end(lease.id, "lost", "its server died")

    with pytest.raises(leasedb.LeasedbError):
        connect(stand_in.url).template("shop", migrate)


def test_forks_of_which_one_is_refused(connect):
    with StandIn(most=3) as daemon, connect(daemon.url).lease() as lease:
        with pytest.raises(leasedb.PoolExhaustedError):
            lease.fork(3, wait=0)
        assert [active["id"] for active in daemon.active()] == [lease.id]


def test_restoring_the_latest(connect, stand_in):
    with connect(stand_in.url).lease() as lease:
        first, second = lease.checkpoint(), lease.checkpoint()
        lease.fork()
        lease.restore()
        lease.restore(first)
        lease.restore(first.name)
        lease.reset()
    assert stand_in.leases[lease.id]["resets"] == [second.name, first.name, first.name, "base"]


# --- functions that are awaited, or are not ---


async def migrate_later(lease: leasedb.AsyncLease) -> None:
    assert await lease.renew() > 0


class Migration:
    async def __call__(self, lease: leasedb.AsyncLease) -> None:
        await migrate_later(lease)


@pytest.mark.parametrize("build", [migrate_later, lambda lease: migrate_later(lease), Migration()])  # noqa: PLW0108
def test_an_async_function(stand_in, build: Callable[[Any], object]):
    async def main() -> leasedb.Template:
        async with leasedb.AsyncClient(stand_in.url) as client:
            return await client.template("shop", build, fingerprint=["v1"])

    assert asyncio.run(main()).state == "sealed"
    with leasedb.Client(stand_in.url) as client, pytest.raises(TypeError, match="use AsyncClient"):
        client.template("other", build, fingerprint=["v1"])
    assert stand_in.active() == []


def test_a_function_that_blocks_does_not_hold_the_loop_up(stand_in):
    async def main() -> None:
        async with leasedb.AsyncClient(stand_in.url) as client:
            loop, running = asyncio.get_running_loop(), asyncio.Event()

            def migrate(_lease: object) -> None:
                loop.call_soon_threadsafe(running.set)
                assert going_on.wait(20)

            build = asyncio.create_task(client.template("shop", migrate))
            await running.wait()
            assert (await client.health()).status == "ok"
            going_on.set()
            assert (await build).state == "sealed"

    going_on = threading.Event()
    asyncio.run(main())


def test_a_build_that_is_cancelled_is_given_up(stand_in):
    async def main() -> None:
        async with leasedb.AsyncClient(stand_in.url) as client:

            async def migrate(_lease: object) -> None:
                building.set()
                await asyncio.Event().wait()

            building = asyncio.Event()
            task = asyncio.create_task(client.template("shop", migrate))
            await building.wait()
            task.cancel()
            asyncio.get_running_loop().call_soon(task.cancel)
            await asyncio.wait([task])
            assert task.cancelled()

    asyncio.run(main())
    assert stand_in.active() == []
    assert [found for found, _, _ in stand_in.templates] == ["base"]


def test_cancelled_forks_are_released(stand_in):
    async def main() -> None:
        async with leasedb.AsyncClient(stand_in.url) as client, client.lease() as lease:

            async def hold() -> None:
                async with await lease.fork(3):
                    holding.set()
                    await asyncio.Event().wait()

            holding = asyncio.Event()
            task = asyncio.create_task(hold())
            await holding.wait()
            task.cancel()
            asyncio.get_running_loop().call_soon(task.cancel)
            await asyncio.wait([task])

    asyncio.run(main())
    assert stand_in.active() == []
