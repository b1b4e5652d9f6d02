"""When a daemon that nobody needs may go; on fakes."""

import asyncio

import pytest

from tests.usecases.stage import ended, living, waiting

AFTER = 600.0
idles = living(idle_exit=AFTER)


@idles
async def test_it_may_go_after_so_long_without_anything_to_do(life):
    life.idling.begin()
    life.clock.advance(AFTER - 1)
    assert not life.idling.over()
    life.clock.advance(1)
    assert life.idling.over()


@living()
async def test_without_the_setting_it_never_goes(life):
    life.clock.advance(1e9)
    assert not life.idling.over()


def at_rest(life):
    """Tell whether it goes when nothing more happens."""
    if life.idling.over():
        return True
    life.clock.advance(AFTER)
    return life.idling.over()


@idles
async def test_a_lease_keeps_it_and_so_does_one_that_is_kept(life):
    lease = await life.acquire(ttl=10_000)
    assert not at_rest(life)
    await life.keeping.keep(lease.id, 10_000)
    assert not at_rest(life)
    await life.leasing.release(lease.id, sync=False)
    assert not life.idling.over(), "the time counts from its end"
    assert at_rest(life)


@idles
async def test_a_request_keeps_it_and_the_time_counts_from_its_end(life):
    with life.idling.answering():
        life.clock.advance(2 * AFTER)
        assert not life.idling.over()
    life.clock.advance(AFTER - 1)
    with life.idling.answering():
        pass  # too short for any look to see it
    life.clock.advance(AFTER - 1)
    assert not life.idling.over()
    life.clock.advance(1)
    assert life.idling.over()


@idles
async def test_a_request_that_fails_is_over_too(life):
    with pytest.raises(RuntimeError), life.idling.answering():
        raise RuntimeError
    assert at_rest(life)


@idles
async def test_what_was_announced_keeps_it_until_it_has_come_or_is_forgotten(life):
    life.upkeep.expect("base", 1, "me", 5 * AFTER)
    assert not at_rest(life)
    lease = await life.acquire("me")
    await life.leasing.release(lease.id, sync=False)
    assert not life.idling.over()
    assert at_rest(life)
    life.upkeep.expect("base", 1, "me", AFTER)
    assert not life.idling.over()
    life.clock.advance(AFTER)
    assert life.idling.over(), "nobody came"


@idles
async def test_a_build_keeps_it(life):
    _, build = await life.build("shop")
    assert not at_rest(life)
    await life.templating.abandon(build.builds, build.id, None)
    life.idling.begin()
    assert at_rest(life)


@idles
async def test_who_comes_when_it_goes_is_refused(life):
    life.clock.advance(AFTER)
    assert life.idling.over()
    life.leasing.close()
    (caller,) = await waiting(life, "late")
    await life.turns(3)
    assert type(caller.exception()).__name__ == "ShuttingDownError"
    await ended(caller)
    assert life.inventory.active_leases() == []
    assert not asyncio.all_tasks() - {asyncio.current_task()}
