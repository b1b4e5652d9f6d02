"""Choosing a backend, and taking over what an earlier daemon left; on fakes."""

import logging

import pytest

from leasedb_server.domain.database import DatabaseState
from leasedb_server.domain.errors import (
    BackendUnavailableError,
    NotReadyError,
    ServerNotFoundError,
    ServerRefusedError,
    ServerUnreachableError,
)
from leasedb_server.domain.lease import LeaseState
from leasedb_server.domain.names import daemon_prefix
from leasedb_server.domain.server import ServerState
from tests.doubles import FakeClock, FakeDatabase, FakeLogin, FakeWorld, MemoryStore, unavailable
from tests.usecases.stage import FEW, Life, begun, run


async def started_again(life, **settings):
    """Kill the daemon and start another on what it left."""
    return await Life(life.world, life.store, life.clock, **settings).begin()


# --- choosing ---


def test_a_lent_server_is_touched_once_something_was_going_to_be_made_there():
    """Until then the records speak of nothing that is there, and may go."""

    async def work():
        refused = ServerRefusedError("no", sqlstate="42501")
        assert (await loaded({"embedded": True})).serving.touched
        for method, touched in (("open", False), ("survey", False), ("create_base", True)):
            life = await loaded({"existing": False})
            life.admin.faults.errors = {method: [refused]}
            await life.serving.choose(lambda _line: None)
            with pytest.raises(ServerRefusedError):
                await life.serving.bring_up(await life.serving.begin())
            assert life.serving.touched is touched, method

    run(work())


async def loaded(kinds):
    world = FakeWorld()
    return await Life(world, MemoryStore(world), FakeClock(), kinds=kinds).load()


def test_the_first_backend_that_can_be_used_is_and_the_reason_says_why_not_the_others():
    async def work():
        life = await loaded({"container": True, "embedded": True})
        with pytest.raises(NotReadyError):
            _ = life.serving.backend
        life.backends["container"].faults.errors = {"check": [unavailable("engine")]}
        lines = []
        await life.serving.choose(lines.append)
        assert life.serving.kind == "embedded"
        assert life.serving.reason == "fake embedded; not container: There is no engine here."
        assert lines == ["looking for embedded"]

    run(work())


@pytest.mark.parametrize("embedded", [True, False])
def test_what_has_to_be_fetched_first_comes_last(embedded):
    async def work():
        life = await loaded({"container": True, "embedded": True})
        life.backends["container"].lacking = "There is no image; pull it."
        if not embedded:
            life.backends["embedded"].faults.errors = {"check": [unavailable("wheel")]}
        lines = []
        await life.serving.choose(lines.append)
        if embedded:
            assert life.serving.reason == "fake embedded; not container: There is no image; pull it."
            assert lines == ["looking for embedded"]
        else:
            assert life.serving.reason == "fake container; not embedded: There is no wheel here."
            assert lines == ["looking for container"]

    run(work())


def test_what_cannot_be_fetched_either_says_why():
    async def work():
        life = await loaded({"container": True, "embedded": True})
        life.backends["container"].lacking = "There is no image; pull it."
        for kind, backend in life.backends.items():
            backend.faults.errors = {"check": [unavailable(kind)]}
        with pytest.raises(BackendUnavailableError) as caught:
            await life.serving.choose(lambda _line: None)
        assert "container: There is no container here. Install container." in caught.value.detail
        assert "There is no image" not in caught.value.detail

    run(work())


def test_without_any_backend_every_reason_is_told():
    async def work():
        life = await loaded({"container": True, "embedded": True})
        for kind, backend in life.backends.items():
            backend.faults.errors = {"check": [unavailable(kind)]}
        with pytest.raises(BackendUnavailableError) as caught:
            await life.serving.choose(lambda _line: None)
        assert str(caught.value).splitlines() == [
            "No backend can be used here:",
            "  container: There is no container here. Install container.",
            "  embedded: There is no embedded here. Install embedded.",
            "One of them is enough. 'leasedb doctor' looks again.",
        ]

    run(work())


def test_a_backend_asked_for_by_name_gives_its_own_reason():
    async def work():
        life = await loaded({"embedded": True})
        life.backends["embedded"].faults.errors = {"check": [error := unavailable("embedded")]}
        with pytest.raises(BackendUnavailableError) as caught:
            await life.serving.choose(lambda _line: None)
        assert caught.value is error

    run(work())


# --- taking over ---


def test_servers_databases_and_leases_go_on():
    async def work():
        life = await begun()
        lease = await life.acquire(labels={"run": "7"}, key="k", digest="d")
        session = life.log_in(lease)
        ready = {d.id for d in life.inventory.databases.values() if d.state is DatabaseState.READY}
        again = await started_again(life)
        assert again.leasing.get(lease.id) == lease
        assert again.database(lease).password == life.database(lease).password
        assert not session.ended
        again.log_in(lease)
        assert await again.acquire(key="k", digest="d") == lease
        now_ready = {d.id for d in again.inventory.databases.values() if d.state is DatabaseState.READY}
        assert ready <= now_ready
        assert (await again.leasing.renew(lease.id, 900)).ttl == 900

    run(work())


def test_what_ran_out_while_no_daemon_ran_is_reclaimed():
    async def work():
        life = await begun()
        lease = await life.acquire(ttl=10)
        life.clock.advance(60)
        again = await started_again(life)
        assert again.leasing.get(lease.id).state is LeaseState.EXPIRED
        assert life.database(lease).name not in again.server_of(lease).databases

    run(work())


def test_a_server_that_died_meanwhile_is_replaced_and_its_leases_are_lost():
    async def work():
        life = await begun()
        lease = await life.acquire()
        life.server_of(lease).alive = False
        again = await started_again(life)
        found = again.leasing.get(lease.id)
        assert (found.state, found.end_reason) == (
            LeaseState.LOST,
            "its server was gone when the daemon started again",
        )
        assert len(again.world.servers) == 1

    run(work())


def test_what_is_ours_by_name_and_has_no_record_is_dropped_from_a_server_taken_over():
    async def work():
        life = await begun()
        lease = await life.acquire()
        server, mine = life.server_of(lease), daemon_prefix(life.daemon)
        server.databases[f"{mine}d_{'a' * 13}"] = FakeDatabase(f"{mine}r_{'a' * 13}")
        server.logins[f"{mine}r_{'a' * 13}"] = FakeLogin("p")
        server.logins[f"{mine}r_{'b' * 13}"] = FakeLogin("p")
        foreign = f"{daemon_prefix('zzzzzz')}d_{'a' * 13}"
        server.databases[foreign], server.logins["somebody"] = FakeDatabase("somebody"), FakeLogin("p")
        await started_again(life)
        assert {name for name in (*server.databases, *server.logins) if "aaaaaaaa" in name or "bbbbbbbb" in name} == {
            foreign
        }
        assert "somebody" in server.logins
        life.log_in(lease)

    run(work())


@pytest.mark.parametrize("what", ["database", "login"])
def test_a_leased_database_that_somebody_dropped_meanwhile_is_lost(what):
    async def work():
        life = await begun()
        lease, other = await life.acquire(), await life.acquire()
        server, database = life.server_of(lease), life.database(lease)
        del server.databases[database.name]
        if what == "login":
            server.databases[database.name] = server.databases[life.database(other).name]
            del server.logins[database.login]
        again = await started_again(life)
        assert again.leasing.get(lease.id).end_reason == "its database is no longer on the server"
        assert again.leasing.get(other.id).active
        assert again.database(lease).state is DatabaseState.GONE

    run(work())


def test_a_server_whose_template_somebody_dropped_is_not_taken_over():
    """Nothing could be cloned there any more, for ever."""

    async def work():
        life = await begun()
        (server,) = life.world.servers.values()
        (template,) = life.inventory.copies.values()
        del server.databases[template.database]
        again = await started_again(life)
        await again.acquire()
        await again.settle()
        assert again.count(DatabaseState.READY) == FEW.ready

    run(work())


@pytest.mark.parametrize("state", [ServerState.STOPPING, ServerState.LOST])
def test_a_server_that_was_on_its_way_out_goes(state, caplog):
    async def work():
        life = await begun()
        lease = await life.acquire()
        (server,) = life.inventory.servers.values()
        await life.ledger.put_server(server.to(state, "silent"))
        again = await started_again(life)
        assert server.name not in again.world.servers
        assert again.leasing.get(lease.id).state is LeaseState.LOST

    run(work())
    assert "defect" not in caplog.text


def test_a_server_that_the_earlier_daemon_could_not_take_away_does_not_keep_the_next_from_starting():
    async def work():
        life = await begun()
        (name,) = life.world.servers
        life.world.servers[name].alive = False
        again = await Life(life.world, life.store, life.clock).load()
        again.backends["embedded"].faults.always = {"stop": ServerUnreachableError("it cannot be ended")}
        again.backends["embedded"].faults.errors = {"sweep": [ServerUnreachableError("it cannot be ended")]}
        again.backends["embedded"].faults.only = lambda *arguments: arguments in {(), (name,)}
        await again.serving.choose(lambda _line: None)
        await again.recovering.recover()
        await again.upkeep.bring_up()
        await again.settle()
        assert again.count(DatabaseState.READY) == FEW.ready

    run(work())


def test_servers_without_a_record_are_swept(caplog):
    caplog.set_level(logging.INFO)

    async def work():
        life = await begun()
        stray = f"{daemon_prefix(life.daemon)}s_{'a' * 13}"
        foreign = f"{daemon_prefix('zzzzzz')}s_{'a' * 13}"
        for name in (stray, foreign):
            life.world.add(name)
        again = await started_again(life)
        assert stray not in again.world.servers
        assert foreign in again.world.servers
        return stray

    stray = run(work())
    assert f"took away {stray}, which no record speaks of" in caplog.text


def test_another_backend_than_before_takes_the_old_servers_away():
    async def work():
        life = await begun(kinds={"container": True})
        lease = await life.acquire()
        again = await started_again(life, kinds={"embedded": True}, others={"container": True})
        assert again.leasing.get(lease.id).state is LeaseState.LOST
        assert [server.backend for server in again.inventory.servers.values()] == ["embedded"]
        assert len(again.world.servers) == 1

    run(work())


@pytest.mark.parametrize("lacking", ["", "the image"])
def test_the_backend_with_leases_comes_first_when_there_is_a_choice(lacking):
    """An engine that was not there before, or an image that was removed meanwhile, is no reason to lose them."""

    async def work():
        life = await begun(kinds={"embedded": True})
        lease = await life.acquire()
        again = await Life(life.world, life.store, life.clock, kinds={"container": True, "embedded": True}).load()
        again.backends["embedded"].lacking = lacking
        await again.serving.choose(lambda _line: None)
        await again.recovering.recover()
        assert again.serving.kind == "embedded"
        assert again.leasing.get(lease.id).active
        await again.leasing.release(lease.id, sync=False)
        once_more = await Life(life.world, life.store, life.clock, kinds=again.kinds).load()
        await once_more.serving.choose(lambda _line: None)
        assert once_more.serving.kind == "container"  # nothing would be lost any more

    run(work())


@pytest.mark.parametrize("others", [{"existing": False}, {}], ids=["still set", "no longer set"])
def test_another_backend_than_an_existing_server_leaves_nothing_on_that(others):
    async def work():
        life = await begun(kinds={"existing": False})
        existing = life.world.servers["existing"]
        existing.logins["somebody"] = FakeLogin("secret")
        await life.acquire()
        await started_again(life, others=others)
        assert (set(existing.databases), set(existing.logins)) == (set(), {"somebody"})

    run(work())


# --- a server that is not ours ---


def test_an_existing_server_is_emptied_of_ours_when_the_daemon_stops():
    async def work():
        life = await begun(kinds={"existing": False})
        existing = life.world.servers["existing"]
        existing.logins["somebody"] = FakeLogin("secret")
        await life.acquire()
        await life.upkeep.shut_down()
        assert (set(existing.databases), set(existing.logins)) == (set(), {"somebody"})

    run(work())


def test_a_start_that_fails_leaves_nothing_on_an_existing_server():
    async def work():
        world = FakeWorld()
        life = await Life(world, MemoryStore(world), FakeClock(), kinds={"existing": False}).load()
        await life.serving.choose(lambda _line: None)
        life.admin.vector_fails = True
        with pytest.raises(ServerRefusedError):
            await life.upkeep.bring_up()
        assert world.servers["existing"].databases == {}

    run(work())


def test_an_existing_server_says_what_it_cannot_promise():
    async def work():
        world = FakeWorld()
        life = await Life(world, MemoryStore(world), FakeClock(), kinds={"existing": False}).load()
        life.admin.notes = ("PUBLIC may connect to postgres",)
        await life.serving.choose(lambda _line: None)
        await life.upkeep.bring_up()
        (server,) = life.inventory.servers
        assert life.serving.notes == {server: ("PUBLIC may connect to postgres",)}
        assert life.upkeep.targets.servers == 1
        again = await Life(world, life.store, life.clock, kinds={"existing": False}).load()
        again.admin.notes = life.admin.notes
        await again.serving.choose(lambda _line: None)
        await again.recovering.recover()
        assert again.serving.notes == life.serving.notes

    run(work())


# --- logs ---


def test_the_logs_of_a_server_are_its_backends():
    async def work():
        life = await begun()
        (server,) = life.inventory.servers.values()
        assert await life.serving.logs(server.id, 10) == f"LOG:  last words of {server.name}"
        with pytest.raises(ServerNotFoundError):
            await life.serving.logs("nothing", 10)

    run(work())
