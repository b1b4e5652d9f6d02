"""A pool that learns, budgets, and sleep: what the planner is told and what comes of it, on fakes."""

import asyncio

import pytest

from leasedb_server.domain.cloning import Strategy
from leasedb_server.domain.database import DatabaseState
from leasedb_server.domain.demand import IDLE
from leasedb_server.domain.errors import PoolExhaustedError, ServerRefusedError, StoreFailedError, UnknownTemplateError
from leasedb_server.domain.pool import Targets
from leasedb_server.domain.room import LEAST
from leasedb_server.ports import Pulse
from tests.usecases.stage import begun, run, waiting

FULL = StoreFailedError("The state file cannot be written: database or disk is full.")
ROOMY = Targets(servers=1, ready=2, most=40)


async def roomy(**settings):
    life = await begun(targets=ROOMY, **settings)
    life.demand._ceiling = 30
    return life


def test_an_announced_suite_finds_its_databases_ready():
    async def work():
        life = await roomy()
        until, target = life.upkeep.expect("base", 12, "suite", 60)
        assert (until, target) == (life.clock.now() + 60, 12)
        await life.settle()
        assert life.count(DatabaseState.READY) == 12
        for _ in range(12):
            await life.acquire("suite", wait=0)
        assert life.upkeep.forecasts()["base"].hinted == 0

    run(work())


def test_an_announcement_can_be_withdrawn_and_ends_by_itself():
    async def work():
        life = await roomy()
        life.upkeep.expect("base", 12, "suite", 60)
        assert life.upkeep.expect("base", 0, "suite", 60)[1] == ROOMY.ready
        life.upkeep.expect("base", 12, "suite", 60)
        life.clock.advance(61)
        await life.settle()
        assert life.count(DatabaseState.READY) == ROOMY.ready

    run(work())


def test_nobody_can_announce_what_there_is_not():
    async def work():
        life = await roomy()
        with pytest.raises(UnknownTemplateError):
            life.upkeep.expect("nope", 3, "suite", 60)

    run(work())


def test_a_pool_that_nobody_asks_for_is_given_up_and_the_next_lease_brings_it_back():
    async def work():
        life = await roomy()
        lease = await life.acquire()
        await life.leasing.release(lease.id, sync=False)
        await life.settle()
        life.clock.advance(IDLE + 1)
        await life.settle()
        assert life.count(DatabaseState.READY) == 0
        (caller,) = await waiting(life, "late")
        await life.settle()
        assert (await caller).active
        assert life.count(DatabaseState.READY) >= ROOMY.ready

    run(work())


def test_surplus_that_could_not_be_written_down_is_given_up_later():
    async def work():
        life = await roomy()
        life.clock.advance(IDLE + 1)
        life.store.faults.errors = {"save_database": [FULL]}
        await life.settle()
        assert life.count(DatabaseState.READY) == 0

    run(work())


# --- sleep ---


def test_servers_stop_when_idle_and_the_first_lease_wakes_one():
    async def work():
        life = await roomy(idle_stop=60.0)
        lease = await life.acquire(ttl=1000)
        life.clock.advance(500)
        await life.settle()
        assert life.inventory.ready_servers(), "it was leased from"
        await life.leasing.release(lease.id, sync=False)
        await life.settle()
        assert life.inventory.ready_servers()
        assert not life.upkeep.asleep
        life.clock.advance(61)
        await life.settle()
        assert not life.world.servers
        assert life.upkeep.asleep
        (caller,) = await waiting(life, "early bird")
        await life.settle()
        assert (await caller).active
        assert not life.upkeep.asleep

    run(work())


def test_an_announcement_wakes_a_server_too():
    async def work():
        life = await roomy(idle_stop=60.0)
        life.clock.advance(61)
        await life.settle()
        assert life.upkeep.asleep
        life.upkeep.expect("base", 5, "suite", 60)
        await life.settle()
        assert life.count(DatabaseState.READY) == 5

    run(work())


def test_without_the_setting_nothing_sleeps():
    async def work():
        life = await roomy()
        life.clock.advance(1e6)
        await life.settle()
        assert life.inventory.ready_servers()

    run(work())


# --- ceilings ---


def test_a_server_without_connections_is_not_leased_from_until_it_has_some():
    async def work():
        life = await roomy()
        life.admin.pulse = Pulse(connections=95, most=100)
        await life.upkeep.check_servers()
        with pytest.raises(PoolExhaustedError):
            await life.acquire(wait=0)
        (caller,) = await waiting(life, "patient")
        life.admin.pulse = Pulse(connections=10, most=100)
        await life.upkeep.check_servers()
        await life.settle()
        assert (await caller).active

    run(work())


def test_databases_go_to_the_disk_when_memory_is_used_up_and_nowhere_when_that_is_full():
    async def work():
        life = await roomy()
        (server,) = life.inventory.servers.values()
        memory = 8 * LEAST
        object.__setattr__(server.endpoint, "memory", memory)
        life.admin.pulse = Pulse(1, 100, memory_free=LEAST - 1, disk_free=10 * memory)
        await life.upkeep.check_servers()
        lease = await life.acquire(wait=0)
        assert life.database(lease).name not in life.admin.overflowed
        await life.settle()
        assert life.admin.overflowed
        life.admin.pulse = Pulse(1, 100, memory_free=LEAST - 1, disk_free=0)
        await life.upkeep.check_servers()
        while life.count(DatabaseState.READY):
            lease = await life.acquire(wait=0)
        await life.settle()
        assert life.count(DatabaseState.READY) == 0
        (caller,) = await waiting(life, "patient")
        await life.settle()
        assert not caller.done()
        # what is released makes room
        await life.leasing.release(lease.id, sync=False)
        life.admin.pulse = Pulse(1, 100, memory_free=memory, disk_free=0)
        await life.upkeep.check_servers()
        await life.settle()
        assert (await caller).active

    run(work())


def test_who_waits_for_a_server_on_its_way_up_is_not_told_to_wait_for_a_minute():
    async def work():
        life = await roomy(idle_stop=60.0)
        life.clock.advance(61)
        await life.settle()
        with pytest.raises(PoolExhaustedError, match="no server is ready yet") as caught:
            await life.acquire(wait=0)
        assert caught.value.retry_after == 1

    run(work())


def test_who_waits_in_vain_is_told_what_is_in_the_way():
    async def work():
        life = await roomy()
        life.admin.pulse = Pulse(connections=95, most=100)
        await life.upkeep.check_servers()
        with pytest.raises(PoolExhaustedError, match="nearly all connections are in use"):
            await life.acquire(wait=0)
        life.admin.pulse = Pulse(connections=5, most=100, disk_free=0)
        await life.upkeep.check_servers()
        while life.count(DatabaseState.READY):
            await life.acquire(wait=0)
        with pytest.raises(PoolExhaustedError, match="the disk is nearly full"):
            await life.acquire(wait=0)

    run(work())


def test_a_database_that_found_no_room_sends_the_next_to_the_disk():
    async def work():
        life = await roomy()
        (server,) = life.inventory.servers.values()
        object.__setattr__(server.endpoint, "memory", 8 * LEAST)
        life.admin.pulse = Pulse(1, 100, memory_free=8 * LEAST, disk_free=8 * LEAST)
        await life.upkeep.check_servers()
        life.admin.faults.errors = {"create_database": [ServerRefusedError("disk full", sqlstate="53100")]}
        await life.acquire(wait=0)
        await life.acquire(wait=0)
        await life.settle()
        life.clock.advance(1)
        await life.settle()
        assert life.admin.overflowed
        assert not any(each.refused for each in life.making.learned(server.id).cloning["base"].figures())

    run(work())


def test_ready_databases_leave_a_memory_that_is_used_up_to_the_last():
    async def work():
        life = await roomy()
        (server,) = life.inventory.servers.values()
        object.__setattr__(server.endpoint, "memory", 8 * LEAST)
        before = {database.id for database in life.inventory.ready_of(server.id)}
        life.admin.pulse = Pulse(1, 100, memory_free=0, disk_free=8 * LEAST)
        await life.upkeep.check_servers()
        await life.settle()
        ready = life.inventory.ready_of(server.id)
        assert len(ready) == ROOMY.ready
        assert not before & {database.id for database in ready}
        assert {database.name for database in ready} <= life.admin.overflowed
        await life.upkeep.check_servers()
        assert life.inventory.ready_of(server.id) == ready, "those on the disk stay"

    run(work())


def test_a_release_that_waits_for_the_drop_does_not_wait_for_calm():
    async def work():
        life = await roomy()
        lease = await life.acquire()
        release = asyncio.ensure_future(life.leasing.release(lease.id, sync=True))
        await life.turns(3)
        await life.upkeep.turn(life.spawn)
        await release
        assert life.database(lease).state is DatabaseState.GONE

    run(work())


def test_a_database_that_could_not_be_fenced_is_dropped_at_once():
    async def work():
        life = await roomy()
        lease = await life.acquire()
        life.admin.faults.errors = {"fence": [ServerRefusedError("no", sqlstate="XX000")]}
        await life.leasing.release(lease.id, sync=False)
        await life.upkeep.turn(life.spawn)
        await asyncio.gather(*life.tasks)
        assert life.database(lease).state is DatabaseState.GONE

    run(work())


# --- ways to clone ---


def test_a_way_that_the_server_refuses_is_left_and_nobody_notices():
    async def work():
        life = await roomy()
        life.admin.unsupported = {Strategy.CLONE}
        life.admin.ways = (Strategy.COPY, Strategy.CLONE)
        life.making._workshops.clear()
        leases = [await life.acquire(wait=0) for _ in range(ROOMY.ready)]
        callers = await waiting(life, *"abcdef")
        for _ in range(20):
            await life.settle()
            life.clock.advance(1)
        assert all(lease.active for lease in await asyncio.gather(*callers))
        (server,) = life.inventory.servers
        figures = {each.strategy: each for each in life.making.learned(server).cloning["base"].figures()}
        assert "cannot clone" in figures[Strategy.CLONE].refused
        assert figures[Strategy.COPY].clones > 1
        assert all(lease.active for lease in leases)

    run(work())


def test_every_way_is_tried_on_databases_that_are_needed_anyway():
    async def work():
        life = await begun(targets=Targets(servers=1, ready=6, most=40))
        assert set(life.admin.used) == {Strategy.COPY, Strategy.LOG}
        assert len(life.admin.used) == 6

    run(work())


def test_what_was_learned_about_a_server_goes_with_it():
    async def work():
        life = await roomy()
        (server,) = life.inventory.servers
        assert life.making.learned(server) is not None
        next(iter(life.world.servers.values())).alive = False
        await life.upkeep.check_servers()
        await life.settle()
        await life.upkeep.tidy()
        assert life.making.learned(server) is None

    run(work())


def test_a_refusal_of_the_surest_way_counts_against_the_server():
    async def work():
        life = await roomy()
        (server,) = life.inventory.servers
        life.admin.faults.errors = {"create_database": [ServerRefusedError("disk full", sqlstate="53100")]}
        await life.acquire(wait=0)
        await life.acquire(wait=0)
        await life.settle()
        assert life.upkeep.view().servers[0].retry_at > life.clock.now() or life.count(DatabaseState.READY)
        assert not any(each.refused for each in life.making.learned(server).cloning["base"].figures()[:1])

    run(work())
