"""Crash-only: a daemon killed between any two steps leaves a world that the next one puts right."""

import asyncio
import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leasedb_server.domain.errors import ServerRefusedError
from tests.usecases.killing import KINDS, Stage, die, killed_at_every_step, lived, put_right, revive_what_is_not_ours
from tests.usecases.stage import run


async def leases_and_releases(stage: Stage) -> None:
    life = await stage.life().begin()
    kept, short, other = await stage.leases(life, 300, 10, 300)
    await stage.renew(life, kept, 600)
    sync = asyncio.ensure_future(stage.release(life, other, sync=True))
    await life.turns(3)
    await life.settle()
    await sync
    stage.expire()
    await life.upkeep.reap()
    await life.settle()
    await stage.release(life, short)
    await life.upkeep.tidy()


async def a_crowd_in_line(stage: Stage) -> None:
    life = await stage.life().begin()
    callers = [asyncio.ensure_future(stage.lease(life, holder)) for holder in "aaabbbcccddd"]
    await life.turns(5)
    await life.settle()
    for _ in range(4):
        for lease in [one for one in stage.told.leases.values() if one.id not in stage.told.ended][:3]:
            await stage.release(life, lease)
        await life.settle()
    await asyncio.gather(*callers)


async def a_server_dies(stage: Stage) -> None:
    life = await stage.life().begin()
    leases = await stage.leases(life, 300, 300, 300, 300)
    server = life.server_of(leases[0])
    server.alive = False
    stage.told.ending |= {lease.id for lease in leases if life.server_of(lease) is server}
    await life.upkeep.check_servers()
    await life.settle()


async def servers_and_makes_fail(stage: Stage) -> None:
    life = stage.life()
    await life.load()
    refused = ServerRefusedError("could not create", sqlstate="53100")
    life.admin.faults.errors = {"create_base": [refused], "create_database": [refused] * 2, "drop": [refused]}
    await life.serving.choose(lambda _line: None)
    await life.recovering.recover()
    with contextlib.suppress(ServerRefusedError):  # when it was the only one
        await life.upkeep.bring_up()
    for _ in range(6):
        await life.settle()
        life.clock.advance(40)
    await stage.lease(life)


async def stopped_in_order(stage: Stage) -> None:
    life = await stage.life().begin()
    await stage.leases(life, 300, 300, 300)
    stage.told.ending |= set(stage.told.leases)
    await life.upkeep.shut_down()
    stage.told.ended |= set(stage.told.leases)


async def started_again_and_again(stage: Stage) -> None:
    """The kill may hit a daemon that is putting right what an earlier one left."""
    life = await stage.life().begin()
    await stage.leases(life, 300, 300, 300)
    await stage.release(life, next(iter(stage.told.leases.values())))
    half = asyncio.ensure_future(life.settle())
    await asyncio.wait({half}, timeout=0)
    await die(half, *life.tasks)
    life = await stage.life().begin()
    await stage.lease(life)


SCENARIOS = [
    leases_and_releases,
    a_crowd_in_line,
    a_server_dies,
    servers_and_makes_fail,
    stopped_in_order,
    started_again_and_again,
]


@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_scenario_ends_well_when_nobody_is_killed(scenario, kinds):
    stage = Stage(kinds)
    assert not lived(stage, scenario, None)
    run(put_right(stage))


@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_kill_at_any_step_is_put_right_by_the_next_start(scenario, kinds):
    assert killed_at_every_step(lambda: Stage(kinds), scenario) > 30, "the scenario hardly does anything"


async def only_start(stage: Stage) -> None:
    await stage.life().begin()


@given(
    st.sampled_from(SCENARIOS),
    st.sampled_from([*KINDS.values()]),
    st.lists(st.integers(1, 150), min_size=2, max_size=4),
)
@settings(max_examples=150, deadline=None)
def test_a_daemon_killed_while_it_puts_things_right_is_put_right_too(scenario, kinds, kills):
    stage = Stage(dict(kinds))
    lived(stage, scenario, kills[0])
    for blows_at in kills[1:]:
        revive_what_is_not_ours(stage)
        lived(stage, only_start, blows_at)
    run(put_right(stage))
