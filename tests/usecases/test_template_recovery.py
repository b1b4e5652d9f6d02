"""Taking over what an earlier daemon did with templates, when something is wrong with it; on fakes."""

import asyncio

import pytest

from leasedb_server.domain.errors import LeaseLostError, ServerRefusedError, ServerUnreachableError
from leasedb_server.domain.lease import LeaseState
from leasedb_server.domain.template import TemplateState
from tests.usecases.stage import FEW, Life, begun, run

REFUSED = ServerRefusedError("no", sqlstate="55006")
SILENT = ServerUnreachableError("The connection was lost.")


async def loaded(life, **settings):
    """Kill the daemon and have the next one read what it left."""
    settings = {"targets": life.targets, "kinds": life.kinds, "warm": life.warm, **settings}
    return await Life(life.world, life.store, life.clock, files=life.files, **settings).load()


async def brought_up(life):
    await life.serving.choose(lambda _line: None)
    await life.recovering.recover()
    await life.upkeep.bring_up()
    for _ in range(3):
        life.clock.advance(1)
        await life.settle()
    return life


async def sealed_without_an_answer(life, content="tables;"):
    _, lease = await life.build("shop")
    life.write(lease, content)
    life.admin.faults.lost_answers = {"seal": [SILENT]}
    with pytest.raises(ServerUnreachableError):
        await life.templating.seal("shop", lease.id, force=False)
    return lease


def test_a_seal_that_is_refused_now_costs_its_lease_and_no_other():
    async def work():
        life = await begun(targets=FEW)
        other = await life.acquire()
        lease = await sealed_without_an_answer(life)
        again = await loaded(life)
        again.admin.faults.errors = {"seal": [REFUSED]}
        await brought_up(again)
        again.log_in(other)
        with pytest.raises(LeaseLostError):
            await again.leasing.renew(lease.id, 10)
        assert again.inventory.templates == {}
        await again.check()

    run(work())


def test_a_template_that_does_not_fit_any_more_costs_its_lease_and_no_other():
    async def work():
        life = await begun(targets=FEW)
        other = await life.acquire()
        lease = await sealed_without_an_answer(life)
        again = await brought_up(await loaded(life, budget=1_000_000))
        again.log_in(other)
        assert again.leasing.get(lease.id).state is LeaseState.RELEASED
        assert again.templating.get("shop").state is TemplateState.FAILED
        await again.check()

    run(work())


def test_a_login_that_cannot_be_let_in_again_costs_its_lease_and_no_other():
    async def work():
        life = await begun(targets=FEW)
        lease, other = await life.acquire(), await life.acquire()
        life.server_of(lease).logins[life.database(lease).login].may_log_in = False
        again = await loaded(life)
        again.admin.faults.errors = {"reopen": [REFUSED]}
        await brought_up(again)
        again.log_in(other)
        with pytest.raises(LeaseLostError, match="could not be let in again: no"):
            await again.leasing.renew(lease.id, 10)
        await again.check()

    run(work())


def test_a_reset_that_is_refused_now_is_ended_by_the_next():
    async def work():
        life = await begun(targets=FEW)
        lease, other = await life.leased(), await life.leased()
        life.write(lease, "mess;")
        life.admin.faults.errors = {"reset": [SILENT]}
        with pytest.raises(ServerUnreachableError):
            await life.reset(lease)
        again = await loaded(life)
        again.admin.faults.errors = {"reset": [REFUSED]}
        await brought_up(again)
        again.log_in(other)
        assert again.leasing.get(lease.id).active
        await again.leased_reset(lease)
        assert again.content(lease) == ""
        await again.check()

    run(work())


@pytest.mark.parametrize("fault", [REFUSED, SILENT], ids=repr)
def test_a_whole_server_of_which_the_reset_cannot_be_ended_is_lost_with_its_lease(fault):
    async def work():
        life = await begun(targets=FEW, warm=1)
        other = await life.leased()
        lease = await life.acquire_whole()
        life.admin.faults.errors = {"reset_exclusive": [SILENT]}
        with pytest.raises(ServerUnreachableError):
            await life.reset(lease)
        again = await loaded(life)
        again.admin.faults.errors = {"reset_exclusive": [fault]}
        await brought_up(again)
        again.log_in(other)
        with pytest.raises(LeaseLostError):
            await again.leasing.renew(lease.id, 10)
        await again.check()

    run(work())


def test_a_copy_that_an_earlier_builder_left_is_not_the_next_ones():
    """It could not even be written down that the copy was condemned; its database is there, sealed by somebody else."""

    async def work():
        life = await begun(targets=FEW)
        lease = await sealed_without_an_answer(life, "old;")
        (old,) = life.inventory.copies_from("shop")
        life.admin.faults.always = {"drop": SILENT}
        await life.leasing.release(lease.id, sync=False)
        await life.store.save_copy(old)
        await life.built("shop", "new;")
        again = await brought_up(await loaded(life))
        assert [again.content(await again.leased(template="shop")) for _ in range(2)] == ["new;"] * 2
        await again.check()

    run(work())


@pytest.mark.parametrize("origin", ["sql", "build"])
def test_a_build_that_had_failed_when_the_daemon_was_killed_does_not_keep_its_lease(origin):
    async def work():
        life = await begun(targets=FEW)
        life.admin.faults.hanging = {"fence", "run_sql"}
        if origin == "sql":
            caller = asyncio.ensure_future(life.put("shop", "nonsense;"))
            await life.turns(3)
            (lease,) = life.inventory.active_leases()
            await life.store.save_template(
                life.templating.get("shop").to(TemplateState.FAILED)
            )  # and then it was killed
        else:
            _, lease = await life.build("shop")
            caller = asyncio.ensure_future(life.templating.abandon("shop", lease.id, "no more"))
            await life.store.save_template(life.templating.get("shop").to(TemplateState.FAILED))
        again = await brought_up(await loaded(life))
        caller.cancel()
        await asyncio.wait({caller})
        assert not again.leasing.get(lease.id).active
        assert (await again.put("shop", "tables;"))[1]

    run(work())


def test_a_lent_server_that_is_used_no_more_and_does_not_answer_is_left_as_it_is(caplog):
    async def work():
        life = await begun(targets=FEW, kinds={"existing": False})
        await life.put("shop", "tables;")
        life.world.servers["existing"].answers = False
        again = await loaded(life, kinds={"embedded": True}, others={"existing": False})
        await brought_up(again)
        assert again.inventory.copies_from("shop") == []
        await again.check()

    run(work())
    assert "stays there" in caplog.text
