"""Servers of other versions beside the default; on fakes."""

import asyncio

import pytest

from leasedb_server.domain.database import DatabaseState
from leasedb_server.domain.edition import Editions
from leasedb_server.domain.errors import PoolExhaustedError, ServerStartError, StoreFailedError, VersionUnavailableError
from leasedb_server.domain.server import ServerState
from leasedb_server.usecases.upkeep import EDITION_IDLE
from tests.usecases.stage import FEW, living

SOME = Editions("18", "postgres:18", ("17",), ("acme:1",))
NO_MEMORY = ServerStartError("no memory")


def editions(life):
    return sorted(server.edition for server in life.inventory.servers.values())


async def rested(life):
    for _ in range(3):
        life.clock.advance(1)
        await life.settle()
    await life.check()


@living(targets=FEW, editions=SOME)
async def test_a_server_of_an_edition_is_started_when_it_is_asked_for(life):
    assert editions(life) == [""]
    old = await life.leased(postgres="17")
    assert life.inventory.server_of(life.database(old)).versions.major == "17"
    assert (await life.acquire(postgres="17", wait=0)).active, "some are kept ready now"
    other = await life.leased(image="acme:1")
    assert editions(life) == ["", "17", "acme:1"]
    for default in ({}, {"postgres": "18"}, {"image": "postgres:18"}):
        lease = await life.leased(**default)
        assert life.inventory.server_of(life.database(lease)).edition == ""
    with pytest.raises(VersionUnavailableError):
        await life.acquire(postgres="16")
    life.log_in(other)
    await rested(life)


@living(targets=FEW, editions=SOME)
async def test_an_edition_that_does_not_start_is_its_callers_trouble_only(life):
    life.backends["embedded"].faults.errors = {"start": [NO_MEMORY] * 2}
    caller = asyncio.ensure_future(life.acquire(postgres="17", wait=5))
    await life.turns(2)
    await life.settle()
    assert len(life.backends["embedded"].faults.errors["start"]) == 1, "no pause"
    with pytest.raises(PoolExhaustedError, match=r"of template 'base' came free.* no memory"):
        await caller
    life.log_in(await life.acquire(wait=0))
    patient = asyncio.ensure_future(life.acquire(postgres="17", wait=600))
    await life.turns(2)
    await rested(life)
    assert (await patient).active
    await rested(life)


@living(targets=FEW, editions=SOME)
async def test_a_server_of_an_edition_goes_when_nobody_has_used_it_for_long(life):
    for _ in range(3):
        lease = await life.leased(postgres="17", wait=0 if "17" in editions(life) else 60)
        life.clock.advance(EDITION_IDLE - 100)
        await life.leasing.release(lease.id, sync=False)
        await life.settle()
        assert editions(life) == ["", "17"], "it is in use, though nobody waits"
    life.clock.advance(101)
    await life.settle()
    assert editions(life) == [""]
    await rested(life)


@living(targets=FEW, editions=SOME)
async def test_a_server_does_not_go_before_the_files_of_its_templates_are_kept(life):
    life.files.faults.errors = {"write": [StoreFailedError("no space left on device")]}
    put = asyncio.ensure_future(life.put("shop", "tables;", postgres="17"))
    await life.turns(3)
    await life.settle()
    await put
    life.files.faults.hanging = {"write"}
    life.clock.advance(EDITION_IDLE + 1)
    await life.upkeep.turn(life.spawn)
    await life.upkeep.turn(life.spawn)
    assert editions(life) == ["", "17"]
    life.files.faults.let_go()
    await rested(life)
    assert editions(life) == [""]
    assert life.content(await life.leased(template="shop", postgres="17")) == "tables;"
    await rested(life)


@living(targets=FEW, editions=SOME)
async def test_files_that_are_not_to_be_had_do_not_keep_a_server_for_ever(life):
    life.files.faults.always = {"write": StoreFailedError("no space left on device")}
    put = asyncio.ensure_future(life.put("shop", "tables;", postgres="17"))
    await life.turns(3)
    await life.settle()
    await put
    for _ in range(5):
        life.clock.advance(EDITION_IDLE + 1)
        await life.settle()
    assert editions(life) == [""]


@living(targets=FEW, editions=SOME, idle_stop=100.0)
async def test_servers_of_all_editions_go_when_nobody_has_needed_one_for_long(life):
    life.clock.advance(101)
    await life.settle()
    assert life.upkeep.asleep
    lease = await life.leased(postgres="17")
    assert not life.upkeep.asleep
    await life.leasing.release(lease.id, sync=False)
    life.clock.advance(101)
    await life.settle()
    assert editions(life) == []


@living(targets=FEW, editions=SOME)
async def test_a_lost_server_of_an_edition_in_use_is_replaced(life):
    lease = await life.leased(postgres="17")
    life.server_of(lease).alive = False
    await life.upkeep.check_servers()
    assert life.inventory.server_of(life.database(lease)).state is ServerState.LOST
    await life.settle()
    assert life.inventory.counts_of_all()[DatabaseState.READY] == 2 * FEW.ready
    assert (await life.acquire(postgres="17", wait=0)).active
    await rested(life)
