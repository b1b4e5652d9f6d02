"""Requests that come while the daemon still starts: it listens before it knows what there is; on fakes."""

import asyncio

import pytest

from leasedb_server.domain.edition import Editions
from leasedb_server.domain.errors import (
    ExclusiveUnavailableError,
    NotReadyError,
    ServerUnreachableError,
    ShuttingDownError,
)
from tests.doubles import FakeClock, FakeWorld, MemoryStore
from tests.usecases.stage import FEW, Life, begun, run

SOME = Editions("18", None, ("17",))


async def starting(**settings):
    """Return a daemon that listens and has done nothing else."""
    world = FakeWorld()
    return await Life(world, MemoryStore(world), FakeClock(), targets=FEW, **settings).load()


async def started(life):
    await life.serving.choose(lambda _line: None)
    await life.recovering.recover()
    await life.upkeep.bring_up()
    await life.settle()


async def asking(life, *calls):
    callers = [asyncio.ensure_future(call) for call in calls]
    await life.turns(3)
    return callers


def test_a_template_that_somebody_waits_to_build_is_not_taken_for_a_left_one():
    async def work():
        life = await starting()
        first, second = await asking(life, life.put("shop", "tables;"), life.put("shop", "tables;"))
        await life.serving.choose(lambda _line: None)
        await life.recovering.recover()
        (third,) = await asking(life, life.put("shop", "tables;"))
        await life.upkeep.bring_up()
        await life.settle()
        assert [(await caller)[1] for caller in (first, second, third)] == [True, False, False]
        await life.settle()
        await life.check()

    run(work())


def test_a_version_is_looked_for_once_it_is_known_which_there_are():
    async def work():
        life = await starting(editions=SOME)
        lease, put = await asking(life, life.acquire(postgres="17"), life.put("shop", "tables;", postgres="17"))
        await started(life)
        await life.settle()
        assert life.inventory.server_of(life.database(await lease)).edition == "17"
        assert (await put)[0].key == "shop@17"
        await life.settle()
        await life.check()

    run(work())


def test_a_lent_server_is_not_leased_as_a_whole_however_early_it_is_asked_for():
    async def work():
        life = await starting(kinds={"existing": False})
        (caller,) = await asking(life, life.acquire_whole())
        await started(life)
        with pytest.raises(ExclusiveUnavailableError):
            await caller

    run(work())


def test_what_an_earlier_daemon_began_is_ended_before_a_lease_is_reset_or_branched():
    async def work():
        life = await begun(targets=FEW)
        lease = await life.leased()
        life.write(lease, "mess;")
        life.admin.faults.errors = {"reset": [ServerUnreachableError("gone")]}
        with pytest.raises(ServerUnreachableError):
            await life.reset(lease)
        again = await Life(life.world, life.store, life.clock, files=life.files, targets=FEW).load()
        again.admin.faults.hanging = {"reset"}
        reset, branch = await asking(
            again, again.reset(lease), again.resetting.branch(lease.id, "seeded", None, force=True)
        )
        start = asyncio.ensure_future(started(again))
        await again.turns(50)
        assert [call[0] for call in again.admin.calls].count("reset") == 1, "two at once on the same databases"
        again.admin.faults.let_go()
        await start
        await again.settle()
        assert (await reset)[0].id == lease.id
        assert (await branch).sealed
        assert again.content(lease) == ""
        await again.settle()
        await again.check()

    run(work())


def test_patience_with_a_start_ends():
    async def work():
        life = await starting(editions=SOME)
        before = asyncio.get_running_loop().time()
        for call in (life.acquire(postgres="17", wait=5), life.put("shop", wait=5, postgres="17")):
            with pytest.raises(NotReadyError):
                await call
        with pytest.raises(NotReadyError):
            await life.acquire_whole(wait=0)
        assert asyncio.get_running_loop().time() == before + 10

    run(work())


def test_a_daemon_told_to_stop_while_it_starts_refuses_all_who_wait():
    async def work():
        life = await starting(editions=SOME)
        callers = await asking(
            life, life.acquire(postgres="17"), life.acquire(), life.acquire_whole(), life.put("shop", postgres="17")
        )
        life.leasing.close()
        for caller in callers:
            with pytest.raises(ShuttingDownError):
                await caller

    run(work())
