"""Crash-only, too, are builds, resets, branches, files, editions and servers that are leased as a whole."""

import asyncio
import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leasedb_server.domain.edition import Editions
from leasedb_server.domain.errors import ServerRefusedError, ServerUnreachableError, SqlFailedError
from leasedb_server.domain.pool import Targets
from leasedb_server.usecases.copies import RECENT
from tests.usecases.killing import KINDS, Stage, killed_at_every_step, lived, put_right, revive_what_is_not_ours
from tests.usecases.stage import run

STRIDE = 3  # one step of three is tried; all of them take a minute
OURS, LENT = KINDS["disposable"], KINDS["existing"]
ONE = {"targets": Targets(servers=1, ready=2, most=9)}
SIZE = 7_000_000  # bytes of a template that holds next to nothing


async def built_in_leases(stage: Stage) -> None:
    life = await stage.begin()
    lease = await stage.building(life, "shop", "tables;")
    waiter = asyncio.ensure_future(life.build("shop"))
    await life.turns(2)
    await stage.seal(life, lease, "tables;")
    await waiter
    await life.settle()
    child = await stage.building(life, "cart", "more;", parent="shop")
    await stage.lease(life, template="shop")
    await stage.seal(life, child, "tables;more;")
    left = await stage.building(life, "left", "half;")
    next_one = asyncio.ensure_future(life.build("left"))
    await life.turns(2)
    await stage.release(life, left)
    await next_one
    await life.settle()


async def built_of_texts(stage: Stage) -> None:
    life = await stage.begin()
    await stage.put(life, "shop", "one;two;")
    await life.settle()
    await stage.put(life, "cart", "more;", parent="shop", holds="one;two;more;")
    life.admin.faults.errors = {"run_sql": [SqlFailedError("syntax error")]}
    with contextlib.suppress(SqlFailedError):
        await life.put("broken", "nonsense;")
    await life.settle()
    await stage.delete(life, "shop")
    await stage.put(life, "broken", "mended;")
    await life.settle()


async def seals_that_fail(stage: Stage) -> None:
    life = await stage.begin()
    refused = await stage.building(life, "refused", "tables;")
    silent = await stage.building(life, "silent", "more;")
    life.admin.faults.errors = {"seal": [ServerRefusedError("no", sqlstate="2BP01")]}
    with contextlib.suppress(ServerRefusedError):
        await life.templating.seal("refused", refused.id, force=True)
    stage.told.ending.add(silent.id)
    life.admin.faults.lost_answers = {"seal": [ServerUnreachableError("gone")]}
    with contextlib.suppress(ServerUnreachableError):
        await life.templating.seal("silent", silent.id, force=True)
    await stage.seal(life, silent, "more;")
    await stage.seal(life, refused, "tables;")


async def resets(stage: Stage) -> None:
    life = await stage.begin()
    await stage.put(life, "shop", "tables;")
    await life.settle()
    first, second = await stage.lease(life, template="shop"), await stage.lease(life)
    for lease in (first, second):
        stage.write(life, lease, "mess;")
    await stage.reset(life, first, holds="tables;")
    await stage.reset(life, second, "shop", holds="tables;")
    life.admin.faults.errors = {"reset": [ServerUnreachableError("gone")]}
    stage.write(life, first, "mess;")
    with contextlib.suppress(ServerUnreachableError):
        await stage.reset(life, first, holds="tables;")
    await stage.reset(life, first, holds="tables;")
    await stage.release(life, second)
    await life.settle()


async def branches(stage: Stage) -> None:
    life = await stage.begin()
    lease = await stage.lease(life)
    stage.write(life, lease, "rows;")
    branch = await stage.branch(life, lease, "rows;")
    await stage.branch(life, lease, "rows;", "seeded")
    stage.write(life, lease, "mess;")
    await stage.reset(life, lease, branch.name, holds="rows;")
    life.admin.faults.errors = {"branch": [ServerRefusedError("no", sqlstate="53100")]}
    with contextlib.suppress(ServerRefusedError):
        await life.resetting.branch(lease.id, "refused", None, force=True)
    await life.settle()
    stage.told.dropping.add(branch.key)
    await stage.release(life, lease)
    await life.upkeep.reap()
    await life.settle()


async def deleted_and_evicted(stage: Stage) -> None:
    life = await stage.begin()
    for name in ("one", "two", "three", "four"):
        stage.told.dropping |= {"one", "two"}  # there is room for two and a half
        await stage.put(life, name, f"{name};")
        await life.settle()
        stage.clock.advance(RECENT)
    await life.upkeep.reap()
    await life.settle()
    await stage.delete(life, "three")
    await stage.put(life, "three", "three;")
    stage.told.dropping.discard("three")
    await life.settle()
    await life.upkeep.tidy()


async def brought_to_other_servers(stage: Stage) -> None:
    life = await stage.begin()
    await stage.put(life, "shop", "tables;")
    await life.settle()
    lease = await stage.lease(life, template="shop")
    stage.told.ending.add(lease.id)
    for name in list(life.world.servers):
        if name != stage.foreign.name:
            life.world.servers[name].alive = False
    await life.upkeep.check_servers()
    await life.upkeep.reap()
    caller = asyncio.ensure_future(stage.lease(life, template="shop"))
    await life.turns(3)
    await life.settle()
    await caller


async def stopped_in_order(stage: Stage) -> None:
    life = await stage.begin()
    await stage.put(life, "shop", "tables;")
    await life.settle()
    await stage.put(life, "cart", "more;")
    lease = await stage.lease(life, template="shop")
    stage.told.ending.add(lease.id)
    await life.upkeep.shut_down()
    stage.told.ended.add(lease.id)
    life = await stage.life().begin()
    await life.leased(template="cart")


async def whole_servers(stage: Stage) -> None:
    life = await stage.begin()
    await stage.put(life, "shop", "tables;")
    await life.settle()
    lease = await stage.whole(life, template="shop", database="app", user="owner")
    await life.settle()
    stage.write(life, lease, "mess;")
    await stage.reset(life, lease, holds="tables;")
    stage.write(life, lease, "rows;")
    await stage.branch(life, lease, "tables;rows;", "seeded")
    other = await stage.whole(life)
    await stage.release(life, other)
    await life.settle()


async def two_editions(stage: Stage) -> None:
    life = await stage.begin()
    put = asyncio.ensure_future(stage.put(life, "shop", "old;", postgres="17"))
    await life.turns(3)
    await life.settle()
    await put
    await stage.put(life, "shop", "new;")
    await life.settle()
    lease = await stage.lease(life, template="shop", postgres="17")
    stage.write(life, lease, "mess;")
    await stage.reset(life, lease, holds="old;")
    await life.settle()
    await stage.release(life, lease)
    await life.settle()


SCENARIOS = {
    "built in leases": (built_in_leases, OURS, {}),
    "built in leases on a lent server": (built_in_leases, LENT, {}),
    "built of texts": (built_of_texts, OURS, ONE),
    "built of texts on a lent server": (built_of_texts, LENT, {}),
    "seals that fail": (seals_that_fail, OURS, ONE),
    "resets": (resets, OURS, ONE),
    "resets on a lent server": (resets, LENT, {}),
    "branches": (branches, OURS, ONE),
    "branches on a lent server": (branches, LENT, {}),
    "deleted and evicted": (deleted_and_evicted, OURS, {**ONE, "budget": 5 * SIZE // 2}),
    "brought to other servers": (brought_to_other_servers, OURS, {}),
    "stopped in order": (stopped_in_order, OURS, ONE),
    "stopped in order on a lent server": (stopped_in_order, LENT, {}),
    "whole servers": (whole_servers, OURS, {**ONE, "warm": 1}),
    "two editions": (two_editions, OURS, {**ONE, "editions": Editions("18", None, ("17",))}),
}


@pytest.mark.parametrize(("scenario", "kinds", "more"), SCENARIOS.values(), ids=SCENARIOS)
def test_the_scenario_ends_well_when_nobody_is_killed(scenario, kinds, more):
    stage = Stage(kinds, settings=more)
    assert not lived(stage, scenario, None)
    run(put_right(stage))


@pytest.mark.parametrize(("scenario", "kinds", "more"), SCENARIOS.values(), ids=SCENARIOS)
def test_a_kill_at_any_step_is_put_right_by_the_next_start(scenario, kinds, more):
    assert killed_at_every_step(lambda: Stage(kinds, settings=more), scenario, stride=STRIDE) > 60


async def only_start(stage: Stage) -> None:
    await stage.life().begin()


@given(
    st.sampled_from([*SCENARIOS.values()]),
    st.lists(st.integers(40, 300), min_size=1, max_size=1),
    st.lists(st.integers(1, 80), min_size=1, max_size=3),
)
@settings(max_examples=100, deadline=None)
def test_a_daemon_killed_while_it_puts_things_right_is_put_right_too(what, kills, more_kills):
    scenario, kinds, more = what
    stage = Stage(dict(kinds), settings=more)
    lived(stage, scenario, kills[0])
    for blows_at in more_kills:
        revive_what_is_not_ours(stage)
        lived(stage, only_start, blows_at)
    run(put_right(stage))
