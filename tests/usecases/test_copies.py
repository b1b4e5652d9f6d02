"""Templates until their end: deleted, evicted, gone with what they were on; on fakes."""

import asyncio

import pytest

from leasedb_server.domain.database import DatabaseState
from leasedb_server.domain.errors import (
    ServerRefusedError,
    SqlFailedError,
    StoreFailedError,
    TemplateBuiltinError,
    TemplateInUseError,
    TemplateNotFoundError,
    UnknownTemplateError,
)
from leasedb_server.domain.pool import Targets
from leasedb_server.domain.template import CopyState
from leasedb_server.usecases.copies import FAILED_KEPT, RECENT
from tests.usecases.stage import FEW, Life, begun, living, run

REFUSED = ServerRefusedError("could not drop", sqlstate="55006")
FULL = StoreFailedError("The state file cannot be written: database or disk is full.")
SIZE = 7_000_000  # bytes of a template that holds next to nothing


async def rested(life, **more):
    for _ in range(3):
        life.clock.advance(1)
        await life.settle()
    await life.check(**more)


async def templates(life, *names):
    """Make templates, the first one the least used."""
    for name in names:
        await life.put(name, f"{name};")
        await life.settle()
        life.clock.advance(1)


def names(life):
    return sorted(life.inventory.templates)


# --- deleted ---


@living(targets=FEW)
async def test_a_template_is_deleted_with_all_that_was_made_of_it(life):
    await templates(life, "shop")
    (kept,) = life.files.kept
    assert life.inventory.count(next(iter(life.inventory.servers)), "shop", DatabaseState.READY) == 2
    await life.templating.delete("shop")
    with pytest.raises(UnknownTemplateError, match="never built, or evicted"):
        await life.acquire(template="shop")
    await rested(life)
    assert kept not in life.files.kept
    assert {one.template for one in life.inventory.copies.values()} == {"base"}
    with pytest.raises(TemplateNotFoundError):
        await life.templating.delete("shop")
    with pytest.raises(TemplateBuiltinError):
        await life.templating.delete("base")


@living(targets=FEW)
async def test_a_template_in_use_is_not_deleted(life):
    await templates(life, "shop")
    lease = await life.acquire(template="shop")
    with pytest.raises(TemplateInUseError, match="1 of its databases are leased"):
        await life.templating.delete("shop")
    await life.leasing.release(lease.id, sync=False)
    _, build = await life.build("cart", parent="shop")
    with pytest.raises(TemplateInUseError, match="'cart' is being built"):
        await life.templating.delete("cart")
    with pytest.raises(TemplateInUseError):
        await life.templating.delete("shop")
    await life.templating.seal("cart", build.id, force=False)
    await life.templating.delete("shop")
    await rested(life)
    assert names(life) == ["cart"]
    assert life.content(await life.acquire(template="cart", wait=0)) == "shop;"


@living(targets=FEW)
async def test_a_parent_is_in_use_before_its_childs_build_has_a_database(life):
    await templates(life, "shop")
    leases = [await life.acquire(template="shop", wait=0) for _ in range(2)]
    await life.settle()
    leases += [await life.acquire(template="shop") for _ in range(2)]
    building = asyncio.ensure_future(life.build("cart", parent="shop", wish={"wait": 600.0}))
    await life.turns(3)
    for lease in leases:
        await life.leasing.release(lease.id, sync=False)
    with pytest.raises(TemplateInUseError, match=r"callers wait|cart is being built upon it"):
        await life.templating.delete("shop")
    await life.settle()
    assert (await building)[1].active


@pytest.mark.parametrize("anew", [False, True])
def test_what_is_being_cloned_of_a_deleted_template_is_leased_by_nobody(anew):
    """Also when there is another template of its name by the time it is done."""

    async def work():
        life = await begun(targets=FEW)
        life.admin.faults.hanging = {"create_database"}
        await life.put("shop", "old;")
        await life.upkeep.turn(life.spawn)
        await life.turns(3)
        assert life.count(DatabaseState.MAKING)
        await life.templating.delete("shop")
        if anew:
            await life.put("shop", "new;")
        life.admin.faults.let_go()
        await rested(life)
        if anew:
            assert [life.content(await life.acquire(template="shop")) for _ in range(2)] == ["new;"] * 2
        else:
            assert names(life) == []

    run(work())


@living(targets=FEW)
async def test_a_template_built_anew_has_nothing_of_the_one_before(life):
    await templates(life, "shop")
    await life.templating.delete("shop")
    await life.put("shop", "new;")
    waiting = [asyncio.ensure_future(life.acquire(template="shop")) for _ in range(3)]
    await life.settle()
    assert [life.content(await caller) for caller in waiting] == ["new;"] * 3
    await rested(life)


@living(targets=FEW)
async def test_a_copy_that_cannot_be_dropped_now_is_dropped_later(life):
    await templates(life, "shop")
    life.admin.faults.errors = {"drop": [REFUSED] * 3}
    await life.templating.delete("shop")
    for _ in range(10):
        life.clock.advance(1)
        await life.settle()
    await life.check()


@pytest.mark.parametrize("commit", range(1, 8))
def test_a_store_that_fails_during_a_deletion_leaves_all_or_nothing(commit):
    async def work():
        life = await begun(targets=FEW)
        await templates(life, "shop")
        life.store.fails = frozenset({life.store.tried + commit})
        try:
            await life.templating.delete("shop")
        except StoreFailedError:
            assert names(life) == ["shop"]
            assert life.content(await life.acquire(template="shop", wait=0)) == "shop;"
            return
        await rested(life, store=False)
        assert names(life) == []
        again = await Life(life.world, life.store, life.clock, files=life.files).begin()
        assert names(again) == []
        await rested(again, store=False)

    run(work())


@living(targets=FEW)
async def test_files_that_cannot_be_deleted_now_are_at_the_next_start(life):
    await templates(life, "shop")
    life.files.faults.errors = {"delete": [FULL]}
    await life.templating.delete("shop")
    assert names(life) == []
    assert len(life.files.kept) == 1
    again = await Life(life.world, life.store, life.clock, files=life.files).begin()
    await rested(again)


# --- evicted ---


@living(targets=FEW, budget=3 * SIZE + 1000)
async def test_beyond_the_budget_the_least_used_goes_first(life):
    await templates(life, "one", "two", "three")
    await life.leasing.release((await life.acquire(template="one")).id, sync=False)
    life.clock.advance(RECENT)
    await templates(life, "four")
    assert names(life) == ["four", "one", "three"]
    assert life.copies.taken() <= life.budget
    await rested(life)


@living(targets=Targets(servers=1, ready=1, most=20), budget=2 * SIZE + 1000)
async def test_what_is_in_use_is_never_evicted(life):
    await templates(life, "leased", "parent")
    lease = await life.acquire(template="leased")
    _, build = await life.build("child", parent="parent")
    await templates(life, "more")
    life.clock.advance(RECENT)
    await life.upkeep.reap()
    assert names(life) == ["child", "leased", "parent"], "what was made last had to go"
    assert life.leasing.get(lease.id).active
    await life.templating.seal("child", build.id, force=False)
    life.clock.advance(RECENT)
    await life.upkeep.reap()
    assert names(life) == ["child", "leased"]
    await rested(life)


@living(targets=FEW, budget=3 * SIZE + 1000)
async def test_what_a_suite_leases_in_turns_is_not_evicted_for_the_files_of_the_other(life):
    await templates(life, "one", "two")
    life.clock.advance(RECENT)
    for _ in range(3):
        for name in ("one", "two"):
            await life.leasing.release((await life.acquire(template=name)).id, sync=False)
            await life.upkeep.reap()
            await life.settle()
            life.clock.advance(1)
    assert names(life) == ["one", "two"]
    assert life.copies.taken() <= life.budget
    await rested(life)


@living(targets=FEW, budget=SIZE + 1000)
async def test_a_template_that_was_just_made_can_be_leased_beyond_the_budget_too(life):
    await templates(life, "leased")
    lease = await life.acquire(template="leased")
    await templates(life, "more")
    await life.upkeep.reap()
    await life.leasing.release((await life.acquire(template="more", wait=0)).id, sync=False)
    await life.upkeep.reap()
    assert names(life) == ["leased", "more"]
    life.clock.advance(RECENT)
    await life.upkeep.reap()
    assert names(life) == ["leased"]
    assert life.leasing.get(lease.id).active


@living(targets=FEW, budget=2 * SIZE + 1000)
async def test_a_branch_without_a_name_stays_as_long_as_its_lease(life):
    lease = await life.acquire()
    branch = await life.resetting.branch(lease.id, None, None, force=False)
    life.clock.advance(1)
    await templates(life, "one")
    life.clock.advance(RECENT)
    await templates(life, "two")
    await life.upkeep.reap()
    assert names(life) == [branch.name, "two"]
    await life.leasing.release(lease.id, sync=False)
    await life.upkeep.reap()
    assert names(life) == ["two"]
    await rested(life)


@living(targets=FEW)
async def test_a_branch_outlives_its_lease_while_somebody_uses_it(life):
    lease = await life.acquire()
    branch = await life.resetting.branch(lease.id, None, None, force=False)
    await life.settle()
    user = await life.acquire(template=branch.name)
    await life.leasing.release(lease.id, sync=False)
    await life.upkeep.reap()
    assert names(life) == [branch.name]
    await life.leasing.release(user.id, sync=False)
    await life.upkeep.reap()
    assert names(life) == []
    await rested(life)


@living(targets=Targets(servers=2, ready=1, most=20), budget=2 * SIZE + SIZE // 2)
async def test_a_template_is_not_evicted_for_its_own_files_and_copies(life):
    await life.put("shop", "x" * (SIZE // 2))
    for _ in range(3):
        await life.upkeep.reap()
        await rested(life)
    assert names(life) == ["shop"]
    assert life.copies.taken() <= life.budget
    assert life.content(await life.acquire(template="shop", wait=0)) == "x" * (SIZE // 2)


# --- gone with its server ---


@living(targets=FEW)
async def test_a_template_of_which_nothing_is_kept_goes_with_its_server(life):
    life.files.faults.always = {"write": FULL}
    await templates(life, "shop")
    lease = await life.acquire()
    waiting = [asyncio.ensure_future(life.acquire(template="shop", wait=600)) for _ in range(9)]
    await life.turns(2)
    life.server_of(lease).alive = False
    await life.upkeep.check_servers()
    await life.upkeep.reap()
    for caller in waiting[2:]:
        with pytest.raises(UnknownTemplateError):
            await caller
    with pytest.raises(UnknownTemplateError):
        await life.acquire(template="shop")
    life.files.faults.always = {}
    await life.settle()
    _, built = await life.put("shop", "shop;")
    assert built
    await rested(life)


@living(targets=FEW)
async def test_a_build_that_failed_is_forgotten_in_the_end(life):
    life.admin.faults.errors = {"run_sql": [SqlFailedError("syntax error")]}
    with pytest.raises(SqlFailedError):
        await life.put("shop", "nonsense;")
    life.clock.advance(FAILED_KEPT - 10)
    await life.upkeep.reap()
    assert names(life) == ["shop"]
    life.clock.advance(11)
    await life.upkeep.reap()
    assert names(life) == []
    await rested(life)


@living(targets=FEW)
async def test_uses_are_written_down_now_and_then(life):
    await templates(life, "shop")
    commits = len(life.store.commits)
    life.clock.advance(5)
    await life.acquire(template="shop", wait=0)
    assert life.store.commits[commits:] == ["add_lease"]
    await life.upkeep.tidy()
    used = life.clock.now()
    again = await Life(life.world, life.store, life.clock, files=life.files).begin()
    assert again.templating.get("shop").used_at == used
    assert all(copy.state is CopyState.SEALED for copy in again.inventory.copies.values())
