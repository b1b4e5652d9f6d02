"""Templates of what a lease holds; on fakes."""

import asyncio

import pytest

from leasedb_server.domain.errors import (
    LeaseEndedError,
    LeaseLostError,
    ServerRefusedError,
    ServerUnreachableError,
    SessionsOpenError,
    StoreFailedError,
    TemplateBuiltinError,
    TemplateExistsError,
    TemplateTooLargeError,
    UnknownTemplateError,
)
from leasedb_server.domain.pool import Targets
from leasedb_server.domain.template import Origin
from tests.usecases.stage import FEW, Life, begun, living, run

REFUSED = ServerRefusedError("could not clone", sqlstate="53100")
SILENT = ServerUnreachableError("The connection was lost.")
TWO = Targets(servers=2, ready=2, most=20)


async def branched(life, lease, name=None, fingerprint=None, *, force=False):
    return await life.resetting.branch(lease.id, name, fingerprint, force=force)


async def filled(life, content="rows;", **more):
    lease = await life.leased(**more)
    life.write(lease, content)
    return lease


async def rested(life):
    for _ in range(3):
        life.clock.advance(1)
        await life.settle()
    await life.check()


@living(targets=FEW)
async def test_what_there_is_to_lease_from_is_told_without_the_branches_of_single_leases(life):
    lease = await filled(life)
    await branched(life, lease, "seeded", "f")
    await branched(life, lease)
    with pytest.raises(UnknownTemplateError, match=r"There is base, seeded\."):
        await life.acquire(template="shop")


@living(targets=FEW)
async def test_a_branch_holds_what_the_lease_held_and_the_lease_goes_on(life):
    await life.put("shop", "tables;")
    await life.settle()
    lease = await filled(life, template="shop")
    template = await branched(life, lease, "seeded", "f")
    assert (template.origin, template.parent, template.fingerprint) == (Origin.BRANCH, "shop", "f")
    assert (template.sealed, template.until_lease) == (True, None)
    life.log_in(lease)
    life.server_of(lease).sessions.clear()
    life.write(lease, "more;")
    assert life.content(await life.leased(template="seeded")) == "tables;rows;"
    await life.leasing.release(lease.id, sync=False)
    await rested(life)
    assert life.templating.get("seeded").kept


@living(targets=FEW)
async def test_a_lease_is_reset_to_its_branch(life):
    lease = await filled(life)
    template = await branched(life, lease)
    assert template.until_lease == lease.id
    for _ in range(3):
        life.write(lease, "mess;")
        await life.leased_reset(lease, template.name)
        assert life.content(lease) == "rows;"
    await life.leased_reset(lease)
    assert life.content(lease) == ""
    await life.leasing.release(lease.id, sync=False)
    await life.upkeep.reap()
    await rested(life)
    assert life.inventory.templates == {}


@living(targets=FEW)
async def test_a_name_that_is_taken_is_refused(life):
    await life.put("shop", "tables;")
    await life.settle()
    lease = await filled(life)
    with pytest.raises(TemplateBuiltinError):
        await branched(life, lease, "base")
    for fingerprint in (None, "other"):
        with pytest.raises(TemplateExistsError):
            await branched(life, lease, "shop", fingerprint)
    first = await branched(life, lease, "seeded", "f")
    assert await branched(life, lease, "seeded", "f") == first
    _, builder = await life.build("cart")
    with pytest.raises(TemplateExistsError):
        await branched(life, lease, "cart", "f")
    await life.templating.abandon("cart", builder.id, "no more")
    assert (await branched(life, lease, "cart", "g")).sealed
    await rested(life)
    again = await Life(life.world, life.store, life.clock, files=life.files).begin()
    assert again.templating.get("cart").sealed, "the build that failed is forgotten"


@living(targets=FEW)
async def test_open_sessions_are_in_the_way_unless_they_may_be_ended(life):
    lease = await filled(life)
    session = life.log_in(lease)
    with pytest.raises(SessionsOpenError):
        await branched(life, lease, "seeded")
    assert not session.ended
    assert (await branched(life, lease, "seeded", force=True)).sealed
    assert session.ended
    await rested(life)


@living(targets=FEW)
async def test_an_ended_lease_has_nothing_to_branch_from(life):
    lease = await filled(life)
    await life.leasing.release(lease.id, sync=False)
    with pytest.raises(LeaseEndedError):
        await branched(life, lease)
    await rested(life)


@pytest.mark.parametrize("fault", [REFUSED, SILENT, "answer lost"], ids=str)
def test_a_branch_that_fails_leaves_the_lease_as_it_was(fault):
    async def work():
        life = await begun(targets=FEW)
        lease = await filled(life)
        faults = life.admin.faults
        if fault == "answer lost":
            faults.lost_answers = {"branch": [SILENT]}
        else:
            faults.errors = {"branch": [fault]}
        caller = asyncio.ensure_future(branched(life, lease, "seeded", "f"))
        await life.turns(1)
        waiter = asyncio.ensure_future(life.build("seeded"))
        with pytest.raises((ServerRefusedError, ServerUnreachableError)):
            await caller
        life.log_in(lease)
        life.server_of(lease).sessions.clear()
        template, builder = await waiter
        assert template.builder == builder.id, "nobody waits for a branch that did not come about"
        await life.templating.abandon("seeded", builder.id, None)
        assert (await branched(life, lease, "seeded", "f")).sealed
        await rested(life)

    run(work())


@pytest.mark.parametrize("commit", range(1, 6))
def test_a_store_that_fails_during_a_branch_leaves_all_or_nothing(commit):
    async def work():
        life = await begun(targets=FEW)
        lease = await filled(life)
        life.store.fails = frozenset({life.store.tried + commit})
        try:
            await branched(life, lease, "seeded", "f")
        except StoreFailedError:
            assert life.inventory.templates == {}
        life.log_in(lease)
        life.server_of(lease).sessions.clear()
        assert (await branched(life, lease, "seeded", "f")).sealed
        for _ in range(3):
            life.clock.advance(1)
            await life.settle()
        await life.check(store=False)
        again = await Life(life.world, life.store, life.clock, files=life.files).begin()
        again.log_in(lease)
        assert again.content(await again.leased(template="seeded")) == "rows;"
        await again.check(store=False)

    run(work())


@living(targets=FEW, budget=10_000_000)
async def test_a_branch_that_does_not_fit_is_not_kept(life):
    lease = await filled(life, "x" * 4_000_000)
    with pytest.raises(TemplateTooLargeError):
        await branched(life, lease, "seeded")
    life.log_in(lease)
    life.server_of(lease).sessions.clear()
    await rested(life)
    assert [copy.template for copy in life.inventory.copies.values()] == ["base"]


@living(targets=TWO)
async def test_a_server_lost_while_it_branches_takes_the_branch_along(life):
    lease = await filled(life)
    life.admin.faults.hanging = {"branch"}
    caller = asyncio.ensure_future(branched(life, lease, "seeded"))
    await life.turns(3)
    server = life.inventory.server_of(life.database(lease))
    await life.serving.end_leases(server, "its server died")
    life.admin.faults.let_go()
    with pytest.raises(LeaseLostError):
        await caller
    life.world.servers[server.name].alive = False
    await life.upkeep.check_servers()
    await rested(life)
    assert life.inventory.templates == {}


@living(targets=TWO)
async def test_a_branch_without_a_name_is_for_leases_of_its_server(life):
    lease = await filled(life)
    other = await life.leased()
    while life.database(other).server_id == life.database(lease).server_id:
        other = await life.leased()
    template = await branched(life, lease)
    before = asyncio.get_running_loop().time()
    with pytest.raises(UnknownTemplateError, match="on another server"):
        await life.reset(other, template.name)
    assert asyncio.get_running_loop().time() == before
    named = await branched(life, lease, "seeded")
    await life.leased_reset(other, named.name)
    assert life.content(other) == "rows;"
    await rested(life)


@living(targets=FEW, warm=1)
async def test_a_named_branch_of_a_whole_server_outlives_it(life):
    """The server goes with its lease, so its answer waits until the files are kept."""
    lease = await life.acquire_whole()
    life.write(lease, "rows;")
    template = await branched(life, lease, "seeded")
    assert life.files.kept == {template.id: b"<rows;>"}
    await life.leasing.release(lease.id, sync=True)
    assert life.content(await life.leased(template="seeded")) == "rows;"
    await rested(life)


@living(targets=FEW, warm=1)
async def test_a_whole_server_is_reset_to_its_branch(life):
    lease = await life.acquire_whole()
    life.write(lease, "rows;")
    template = await branched(life, lease)
    life.write(lease, "mess;")
    await life.reset(lease, template.name)
    assert life.content(lease) == "rows;"
    await life.leasing.release(lease.id, sync=True)
    await life.upkeep.reap()
    await rested(life)
    assert life.inventory.templates == {}
