"""The end of a build: sealed, refused, interrupted, given up, repeated; on fakes."""

import asyncio

import pytest

from leasedb_server.domain.database import DatabaseState
from leasedb_server.domain.errors import (
    BuildFailedError,
    IdempotencyInProgressError,
    IdempotencyMismatchError,
    LeaseEndedError,
    LeaseLostError,
    NotTheBuilderError,
    ServerRefusedError,
    ServerUnreachableError,
    SessionsOpenError,
    TemplateNotFoundError,
    TemplateSealedError,
    TemplateTooLargeError,
)
from leasedb_server.domain.lease import LeaseState
from leasedb_server.domain.template import TemplateState
from tests.usecases.stage import FEW, Life, begun, ended, living, run

REFUSED = ServerRefusedError("objects belong to another role", sqlstate="2BP01")
SILENT = ServerUnreachableError("The connection was lost.")
SMALL = 10_000_000  # bytes of all templates: one that holds hardly anything, and no second


async def building(life, name="shop", **more):
    _, lease = await life.build(name, **more)
    return lease


async def seal(life, lease, *, force=False, name="shop"):
    return await life.templating.seal(name, lease.id, force=force)


async def rested(life):
    for _ in range(3):
        life.clock.advance(1)
        await life.settle()
    await life.check()


# --- who may, and when ---


@living(targets=FEW)
async def test_only_the_builder_seals_and_only_once(life):
    lease, stranger = await building(life), await life.acquire()
    await life.settle()
    other = await building(life, "cart")
    for wrong in (stranger, other):
        with pytest.raises(NotTheBuilderError, match="does not build the template 'shop'"):
            await seal(life, wrong)
        with pytest.raises(NotTheBuilderError):
            await life.templating.abandon("shop", wrong.id, None)
    with pytest.raises(TemplateNotFoundError):
        await life.templating.seal("nothing", stranger.id, force=False)
    await seal(life, lease)
    for late in (lease, stranger):
        with pytest.raises(TemplateSealedError):
            await seal(life, late)
    with pytest.raises(TemplateSealedError):
        await life.templating.abandon("shop", lease.id, "too late")
    assert stranger.active
    await life.templating.abandon("cart", other.id, None)
    await rested(life)


@living(targets=FEW)
async def test_two_who_seal_at_once_seal_it_once(life):
    lease = await building(life)
    first, second = (asyncio.ensure_future(seal(life, lease)) for _ in range(2))
    assert (await first).sealed
    with pytest.raises(TemplateSealedError):
        await second
    assert [call[0] for call in life.admin.calls].count("seal") == 1


@living(targets=FEW)
async def test_a_builder_who_comes_too_late_is_told_that_the_lease_has_ended(life):
    lease = await building(life)
    life.clock.advance(301)
    with pytest.raises(LeaseEndedError, match="expired"):
        await seal(life, lease)
    again = await building(life)
    for call in (seal(life, lease), life.templating.abandon("shop", lease.id, "too late")):
        with pytest.raises(LeaseEndedError):
            await call
    assert (await seal(life, again)).sealed
    with pytest.raises(TemplateSealedError):
        await seal(life, lease)


@living(targets=FEW)
async def test_open_sessions_are_named_and_ended_only_when_that_is_asked_for(life):
    lease = await building(life)
    session = life.log_in(lease)
    with pytest.raises(SessionsOpenError) as caught:
        await seal(life, lease)
    assert [one.pid for one in caught.value.sessions] == [1]
    assert not session.ended
    life.log_in(lease)
    await rested(life)
    assert (await seal(life, lease, force=True)).sealed
    assert session.ended
    await rested(life)


@living(targets=FEW)
async def test_a_lease_that_runs_out_while_it_is_sealed_becomes_the_template(life):
    lease = await building(life)
    life.admin.faults.hanging = {"seal"}
    sealing = asyncio.ensure_future(seal(life, lease))
    await life.turns(3)
    life.clock.advance(301)
    await life.upkeep.reap()
    release = asyncio.ensure_future(life.leasing.release(lease.id, sync=False))
    await life.turns(3)
    assert not release.done()
    life.admin.faults.let_go()
    assert (await sealing).sealed
    await release
    assert life.leasing.get(lease.id).end_reason == "it became the template shop"
    await rested(life)


@living(targets=FEW)
async def test_what_is_done_to_a_lease_is_done_one_after_the_other(life):
    """Also for those who come just when one is done and the next has not begun."""
    lease, at_once, most = await life.acquire(), 0, 0

    async def act():
        nonlocal at_once, most
        async with life.leasing.acting(lease.id):
            at_once += 1
            most = max(most, at_once)
            await life.turns(2)
            at_once -= 1

    acts = [asyncio.ensure_future(act()) for _ in range(3)]
    while not acts[0].done():
        await life.turns(1)
        acts.append(asyncio.ensure_future(act()))
    await asyncio.gather(*acts)
    assert most == 1
    assert lease.id not in life.leasing._acts


# --- what goes wrong ---


@living(targets=FEW)
async def test_a_server_that_refuses_leaves_the_builder_where_it_was(life):
    lease = await building(life)
    life.write(lease, "tables;")
    life.admin.faults.errors = {"seal": [REFUSED] * 2}
    for _ in range(2):
        with pytest.raises(ServerRefusedError):
            await seal(life, lease)
    life.log_in(lease)
    assert life.leasing.get(lease.id).active
    assert life.templating.get("shop").state is TemplateState.BUILDING
    assert (await seal(life, lease, force=True)).sealed
    await rested(life)
    assert life.content(await life.acquire(template="shop", wait=0)) == "tables;"


@living(targets=FEW)
async def test_a_seal_of_which_the_answer_was_lost_is_repeated(life):
    lease = await building(life)
    life.write(lease, "tables;")
    life.admin.faults.lost_answers = {"seal": [SILENT]}
    with pytest.raises(ServerUnreachableError):
        await seal(life, lease)
    assert (await seal(life, lease)).sealed
    await rested(life)
    assert life.content(await life.acquire(template="shop", wait=0)) == "tables;"


@pytest.mark.parametrize("lost", [False, True], ids=["refused", "answer lost"])
def test_a_builder_that_goes_after_a_seal_that_failed_leaves_nothing(lost):
    async def work():
        life = await begun(targets=FEW)
        lease = await building(life)
        faults = life.admin.faults
        faults.errors, faults.lost_answers = ({}, {"seal": [SILENT]}) if lost else ({"seal": [REFUSED]}, {})
        with pytest.raises((ServerRefusedError, ServerUnreachableError)):
            await seal(life, lease)
        await life.leasing.release(lease.id, sync=False)
        await rested(life)
        assert life.inventory.templates == {}

    run(work())


@pytest.mark.parametrize("lost", [False, True], ids=["refused", "answer lost"])
def test_a_daemon_killed_after_a_seal_that_failed_goes_on_with_what_there_is(lost):
    """A seal that was refused is not made up for: its builder knows, and may be at work again."""

    async def work():
        life = await begun(targets=FEW)
        lease = await building(life)
        faults = life.admin.faults
        faults.errors, faults.lost_answers = ({}, {"seal": [SILENT]}) if lost else ({"seal": [REFUSED]}, {})
        with pytest.raises((ServerRefusedError, ServerUnreachableError)):
            await seal(life, lease)
        again = await Life(life.world, life.store, life.clock, files=life.files).begin()
        template = again.templating.get("shop")
        assert template.sealed is lost
        if not lost:
            again.log_in(lease)
            assert (await seal(again, lease, force=True)).sealed
        await rested(again)

    run(work())


@living(targets=FEW)
async def test_a_server_lost_while_it_seals_takes_the_build_along(life):
    lease = await building(life)
    life.admin.faults.hanging = {"seal"}
    sealing = asyncio.ensure_future(seal(life, lease))
    await life.turns(3)
    (server,) = life.inventory.servers.values()
    await life.serving.end_leases(server, "its server died")
    life.admin.faults.let_go()
    with pytest.raises(LeaseLostError):
        await sealing
    assert life.inventory.templates == {}
    assert not any(copy.template == "shop" for copy in life.inventory.copies.values() if copy.state == "making")


@living(targets=FEW)
async def test_a_build_given_up_while_it_is_sealed_is_given_up(life):
    lease = await building(life)
    (waiter,) = [asyncio.ensure_future(life.build("shop"))]
    life.admin.faults.hanging = {"seal"}
    sealing = asyncio.ensure_future(seal(life, lease))
    await life.turns(3)
    abandoning = asyncio.ensure_future(life.templating.abandon("shop", lease.id, "no more"))
    await life.turns(3)
    life.admin.faults.let_go()
    with pytest.raises(NotTheBuilderError):
        await sealing
    await abandoning
    with pytest.raises(BuildFailedError, match="no more"):
        await waiter
    await rested(life)


@living(targets=FEW, budget=SMALL)
async def test_what_does_not_fit_is_not_kept_and_says_so(life):
    lease = await building(life)
    life.write(lease, "x" * 4_000_000)
    (waiter,) = [asyncio.ensure_future(life.build("shop"))]
    await life.turns(3)
    with pytest.raises(TemplateTooLargeError, match=r"11000000 bytes, and all templates together may have 10000000"):
        await seal(life, lease)
    with pytest.raises(BuildFailedError):
        await waiter
    now = life.leasing.get(lease.id)
    assert (now.state, now.end_reason) == (LeaseState.RELEASED, "it became the template shop")
    assert life.templating.get("shop").state is TemplateState.FAILED
    with pytest.raises(TemplateTooLargeError):
        await life.put("cart", "x" * 4_000_000)
    await rested(life)
    assert life.count(DatabaseState.LEASED) == 0


# --- requests that are repeated ---

KEYED = {"key": "k", "digest": "d"}


@living(targets=FEW)
async def test_a_repeated_build_request_gets_the_same_lease(life):
    template, lease = await life.build("shop", wish=KEYED)
    assert await life.build("shop", wish=KEYED) == (template, lease)
    with pytest.raises(IdempotencyMismatchError):
        await life.build("shop", wish={**KEYED, "digest": "other"})
    with pytest.raises(IdempotencyMismatchError, match="another template"):
        await life.build("cart", wish=KEYED)
    assert life.count(DatabaseState.LEASED) == 1
    assert [one.name for one in life.inventory.templates.values()] == ["shop"]
    await life.leasing.release(lease.id, sync=False)
    with pytest.raises(LeaseEndedError):
        await life.build("shop", wish=KEYED)
    await rested(life)


@living(targets=FEW)
async def test_a_build_request_that_is_still_being_answered_is_not_answered_twice(life):
    lease = await building(life)
    first = asyncio.ensure_future(life.build("shop", wish=KEYED))
    await life.turns(3)
    with pytest.raises(IdempotencyInProgressError):
        await life.build("shop", wish=KEYED)
    await life.leasing.release(lease.id, sync=False)
    template, again = await first
    assert await life.build("shop", wish=KEYED) == (template, again)
    await ended(first)
