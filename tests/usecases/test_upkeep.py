"""Keeping the pool as planned when making, dropping, starting, stopping and writing down fail; on fakes."""

import asyncio
import contextlib
import itertools
import logging

import pytest

from leasedb_server.domain import pace
from leasedb_server.domain.database import DatabaseState
from leasedb_server.domain.errors import ServerRefusedError, ServerStartError, ServerUnreachableError, StoreFailedError
from leasedb_server.domain.lease import LeaseState
from leasedb_server.domain.pool import CALM, Targets
from leasedb_server.domain.server import ServerState
from leasedb_server.usecases.upkeep import HISTORY
from tests.doubles import FakeClock, FakeWorld, MemoryStore
from tests.usecases.stage import FEW, Life, begun, run

REFUSED = ServerRefusedError("could not create", sqlstate="53100")
FULL = StoreFailedError("The state file cannot be written: database or disk is full.")


def healthy(life):
    """Tell whether the pool is at rest on its targets."""
    states = [server.state for server in life.inventory.servers.values()]
    counts = life.inventory.counts_of_all()
    under_way = counts[DatabaseState.MAKING] + counts[DatabaseState.CONDEMNED] + counts[DatabaseState.DROPPING]
    stocked = counts[DatabaseState.READY] >= len(states) * life.upkeep.targets.ready
    return states == [ServerState.READY] * life.upkeep.targets.servers and stocked and not under_way


async def heal(life, seconds=300):
    """Let pauses run out, one after the other."""
    for _ in range(seconds):
        await life.upkeep.check_servers()
        await life.settle()
        if healthy(life):
            return
        life.clock.advance(1)
    raise AssertionError(f"not healed: {life.upkeep.view()}")


def test_a_full_pool_is_as_the_targets_say():
    async def work():
        life = await begun(targets=Targets(servers=2, ready=3, most=20))
        assert healthy(life)
        assert life.count(DatabaseState.READY) == 6
        assert max(life.admin.most_at_work.values()) == pace.BEGIN

    run(work())


def test_a_make_that_fails_leaves_nothing_and_is_tried_again_after_a_pause(caplog):
    async def work():
        world = FakeWorld()
        life = Life(world, MemoryStore(world), FakeClock(), targets=Targets(servers=1, ready=4, most=6))
        await life.load()
        await life.serving.choose(lambda _line: None)
        life.admin.faults.errors = {"create_database": [REFUSED] * 2}
        await life.upkeep.bring_up()
        await life.settle()
        (server,) = life.inventory.servers.values()
        (real,) = world.servers.values()
        assert life.count(DatabaseState.CONDEMNED) == 2
        made = len([call for call in life.admin.calls if call[0] == "create_database"])
        await life.settle()
        assert len([call for call in life.admin.calls if call[0] == "create_database"]) == made, "no pause"
        for _ in range(2):
            life.clock.advance(1)
            await life.settle()
        assert healthy(life)
        names = {template.database for template in life.inventory.copies_of(server.id)}
        names |= {database.name for database in life.inventory.databases_of(server.id)}
        assert real.databases.keys() == names

    run(work())
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] != []


def test_one_database_that_cannot_be_dropped_does_not_stop_the_others():
    """Somebody's leftovers on the server keep one role alive; callers are served all the same."""

    async def work():
        life = await begun(targets=Targets(servers=1, ready=2, most=20))
        stuck = await life.acquire()
        name = life.database(stuck).name
        life.admin.faults.always = {"drop": REFUSED}
        life.admin.faults.only = lambda *arguments: arguments[-1] == name
        await life.leasing.release(stuck.id, sync=False)
        for _ in range(60):
            life.clock.advance(1)
            await life.settle()
        callers = [asyncio.ensure_future(life.acquire()) for _ in range(6)]
        await life.turns(2)
        for _ in range(2):
            await life.settle()
            life.clock.advance(1)
        assert [caller.done() for caller in callers] == [True] * 6, "they wait out the pause of the one that is stuck"
        await life.leasing.release(callers[0].result().id, sync=False)
        await life.settle()
        assert life.count(DatabaseState.READY) == 2
        assert life.count(DatabaseState.CONDEMNED) == 1
        life.admin.faults.always.clear()
        life.clock.advance(30)
        await life.settle()
        assert healthy(life)

    run(work())


def test_a_server_whose_process_cannot_be_seen_is_not_dead_for_that():
    async def work():
        life = await begun()
        lease = await life.acquire()
        life.backends["embedded"].faults.always = {"alive": ServerUnreachableError("the engine is gone")}
        for _ in range(5):
            await life.upkeep.check_servers()
        assert life.leasing.get(lease.id).active

    run(work())


def test_a_server_that_dies_is_replaced_and_its_leases_say_so():
    async def work():
        life = await begun(targets=Targets(servers=2, ready=2, most=20))
        leases = [await life.acquire() for _ in range(4)]
        dead = life.server_of(leases[0])
        lost = [lease for lease in leases if life.server_of(lease) is dead]
        assert 0 < len(lost) < 4
        dead.alive = False
        await life.upkeep.check_servers()
        for lease in leases:
            now = life.leasing.get(lease.id)
            assert now.active is (lease not in lost)
            if lease in lost:
                assert now.state is LeaseState.LOST
                assert now.end_reason.startswith("its server ")
                assert "Its process has ended" in now.end_reason
                assert life.database(now).state is DatabaseState.GONE
        await heal(life)
        assert dead.name not in life.world.servers
        assert len(life.world.servers) == 2

    run(work())


def test_a_server_that_is_silent_for_three_beats_is_lost():
    async def work():
        life = await begun()
        lease = await life.acquire()
        server = life.server_of(lease)
        server.answers = False
        for beat in (1, 2):
            await life.upkeep.check_servers()
            assert life.leasing.get(lease.id).active, f"given up after {beat}"
        server.answers = True
        await life.upkeep.check_servers()
        server.answers = False
        for _ in range(2):
            await life.upkeep.check_servers()
        assert life.leasing.get(lease.id).active, "a beat in between counts"
        await life.upkeep.check_servers()
        assert life.leasing.get(lease.id).state is LeaseState.LOST
        await heal(life)

    run(work())


def test_a_server_that_answers_with_an_error_is_not_lost():
    async def work():
        life = await begun()
        life.admin.faults.always = {"beat": REFUSED}
        for _ in range(5):
            await life.upkeep.check_servers()
        assert healthy(life)

    run(work())


def test_a_server_lost_while_databases_are_made_and_dropped_takes_them_along():
    async def work():
        life = await begun(targets=Targets(servers=1, ready=3, most=20))
        lease = await life.acquire()
        await life.leasing.release(lease.id, sync=False)
        life.admin.faults.hanging = {"create_database", "drop"}
        life.clock.advance(2 * CALM)
        await life.upkeep.turn(life.spawn)
        await life.turns(3)
        assert (life.count(DatabaseState.MAKING), life.count(DatabaseState.DROPPING)) == (1, 1)
        (server,) = life.world.servers.values()
        server.alive = False
        await life.upkeep.check_servers()
        (lost,) = life.inventory.servers
        assert life.inventory.databases_of(lost) == []
        life.admin.faults.let_go()
        await asyncio.gather(*life.tasks)
        assert life.inventory.databases_of(lost) == [], "they came back with the end of the work on them"
        await heal(life)

    run(work())


def test_callers_in_line_get_a_database_of_the_next_server():
    async def work():
        life = await begun(targets=Targets(servers=1, ready=1, most=1))
        lease = await life.acquire()
        caller = asyncio.ensure_future(life.acquire("patient", wait=600))
        await life.turns(2)
        life.server_of(lease).alive = False
        await life.upkeep.check_servers()
        await life.settle()
        assert (await caller).active

    run(work())


def test_a_start_that_fails_ends_the_daemons_own_start_with_the_reason():
    async def work():
        world = FakeWorld()
        life = await Life(world, MemoryStore(world), FakeClock()).load()
        await life.serving.choose(lambda _line: None)
        life.backends["embedded"].faults.errors = {"start": [ServerStartError("no space left on device")]}
        with pytest.raises(ServerStartError, match="no space left"):
            await life.upkeep.bring_up()
        assert (world.servers, life.inventory.servers) == ({}, {})
        assert life.upkeep.trouble().startswith("no space left")

    run(work())


def test_a_server_that_ends_while_it_starts_shows_its_last_words():
    async def work():
        world = FakeWorld()
        life = await Life(world, MemoryStore(world), FakeClock()).load()
        await life.serving.choose(lambda _line: None)
        life.admin.faults.hanging = {"open"}
        starting = asyncio.ensure_future(life.upkeep.bring_up())
        await life.turns(12)
        (server,) = world.servers.values()
        server.alive = False
        with pytest.raises(ServerStartError, match=r"ended while it started(.|\n)*last words of leasedb_"):
            await starting
        assert world.servers == {}

    run(work())


def test_starts_that_fail_later_are_tried_again_with_growing_pauses():
    async def work():
        life = await begun()
        (server,) = life.world.servers.values()
        life.backends["embedded"].faults.errors = {"start": [ServerStartError("no memory")] * 3}
        server.alive = False
        await life.upkeep.check_servers()
        tried = []
        for _ in range(100):
            before = len(life.backends["embedded"].faults.errors["start"])
            await life.settle()
            if len(life.backends["embedded"].faults.errors["start"]) < before:
                tried.append(life.clock.now())
                assert life.upkeep.trouble().startswith("no memory")
            life.clock.advance(0.25)
        assert [after - first for first, after in itertools.pairwise(tried)] == pytest.approx([0.5, 1.0], abs=4 * CALM)
        assert healthy(life)
        assert life.upkeep.trouble() == ""

    run(work())


def test_a_server_that_cannot_be_taken_away_is_tried_again():
    async def work():
        life = await begun()
        (server,) = life.world.servers.values()
        life.backends["embedded"].faults.errors = {"stop": [ServerUnreachableError("engine gone")] * 2}
        server.alive = False
        await life.upkeep.check_servers()
        await heal(life)
        assert server.name not in life.world.servers

    run(work())


# --- when nothing can be written down ---

STORE = ["save_server", "save_template", "add_database", "save_database", "save_lease", "add_lease"]


@pytest.mark.parametrize("failures", [1, 2, 3, 5])
@pytest.mark.parametrize("method", STORE)
def test_a_store_that_fails_for_a_while_is_got_over(method, failures):
    """A disk is full for a while, at the worst moments there are; afterwards the pool is whole again."""

    async def work():
        life = await begun(targets=Targets(servers=2, ready=2, most=8))
        lease = await life.acquire()
        others = [await life.acquire() for _ in range(3)]
        kept = next(one for one in others if life.server_of(one) is not life.server_of(lease))
        life.server_of(lease).alive = False
        life.store.faults.errors = {method: [FULL] * failures}
        with contextlib.suppress(StoreFailedError):
            await life.leasing.release(kept.id, sync=False)
        await life.upkeep.check_servers()
        await heal(life)
        assert not life.leasing.get(lease.id).active
        assert {server.name for server in life.inventory.servers.values()} == life.world.servers.keys()

    run(work())


@pytest.mark.parametrize("failures", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("method", STORE[:4])
def test_a_store_that_fails_while_a_server_starts_is_got_over(method, failures):
    async def work():
        life = await begun()
        (server,) = life.world.servers.values()
        server.alive = False
        await life.upkeep.check_servers()
        await life.upkeep.turn(life.spawn)  # stops the dead one
        await asyncio.gather(*life.tasks)
        await life.upkeep.turn(life.spawn)  # and writes down that there is going to be another
        life.store.faults.errors = {method: [FULL] * failures}
        await heal(life)
        assert len(life.world.servers) == 1

    run(work())


# --- memory ---


def test_what_is_gone_and_forgotten_takes_no_memory():
    async def work():
        life = await begun()
        for _ in range(3):
            lease = await life.acquire()
            await life.leasing.release(lease.id, sync=False)
            await life.settle()
        life.clock.advance(HISTORY + 1)
        await life.upkeep.tidy()
        assert life.inventory.leases == {}
        assert len(life.inventory.databases) == FEW.ready
        snapshot = await life.store.load()
        assert (len(snapshot.leases), len(snapshot.databases)) == (0, FEW.ready)

    run(work())


def test_databases_that_were_never_leased_are_forgotten_when_they_are_gone():
    async def work():
        life = await begun()
        life.admin.faults.errors = {"create_database": [REFUSED] * 5}
        lease = await life.acquire()
        await heal(life)
        life.server_of(lease).alive = False
        await life.upkeep.check_servers()
        await heal(life)
        await life.upkeep.tidy()
        gone = [d for d in life.inventory.databases.values() if d.state is DatabaseState.GONE]
        assert gone == [life.database(lease)]

    run(work())


def test_a_lease_of_a_server_that_is_gone_can_still_be_asked_about():
    async def work():
        life = await begun()
        lease = await life.acquire()
        life.server_of(lease).alive = False
        await life.upkeep.check_servers()
        await heal(life)
        await life.upkeep.tidy()
        again = await Life(life.world, life.store, life.clock).begin()
        for one in (life, again):
            assert one.inventory.server_of(one.database(one.leasing.get(lease.id))).state is ServerState.GONE

    run(work())


# --- the end ---


def test_a_shut_down_leaves_nothing_behind():
    async def work():
        life = await begun(targets=Targets(servers=2, ready=2, most=20))
        leases = [await life.acquire() for _ in range(2)]
        await life.upkeep.shut_down()
        assert life.world.servers == {}
        assert {life.leasing.get(lease.id).end_reason for lease in leases} == {"its server was stopped"}

    run(work())


def test_what_a_shut_down_cannot_take_away_the_next_start_does():
    async def work():
        life = await begun()
        (server,) = life.world.servers
        life.backends["embedded"].faults.errors = {"stop": [ServerUnreachableError("engine gone")]}
        await life.upkeep.shut_down()
        assert set(life.world.servers) == {server}
        again = await Life(life.world, life.store, life.clock).begin()
        assert server not in life.world.servers
        assert healthy(again)

    run(work())
