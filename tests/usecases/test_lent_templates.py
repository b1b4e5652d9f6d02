"""Templates on a server that is only lent: they stay there over stop and start; on fakes."""

import asyncio

import pytest

from leasedb_server.domain.errors import TemplateNotFoundError
from leasedb_server.domain.names import Kind, Name
from leasedb_server.domain.template import CopyState
from tests.doubles import FakeDatabase, FakeLogin
from tests.usecases.stage import FEW, Life, begun, living, run

LENT = {"existing": False}


async def rested(life):
    for _ in range(3):
        life.clock.advance(1)
        await life.settle()


async def started_again(life, **settings):
    settings = {"kinds": LENT, "targets": FEW, **settings}
    return await Life(life.world, life.store, life.clock, files=life.files, **settings).begin()


def server_of(life):
    return life.world.servers["existing"]


def copy_of(life, name):
    (copy,) = life.inventory.copies_from(name)
    return copy


@living(targets=FEW, kinds=LENT)
async def test_templates_of_a_lent_server_are_not_kept_as_files(life):
    template, _ = await life.put("shop", "tables;")
    await rested(life)
    assert (template.layout, template.kept, life.files.kept) == ("", 0, {})
    assert life.content(await life.acquire(template="shop", wait=0)) == "tables;"
    await life.check()


@pytest.mark.parametrize("in_order", [True, False], ids=["stopped", "killed"])
def test_they_are_there_again_after_a_start(in_order):
    async def work():
        life = await begun(targets=FEW, kinds=LENT)
        server_of(life).logins["somebody"] = FakeLogin("secret")
        await life.put("shop", "tables;")
        await life.put("cart", "more;")
        lease = await life.leased()
        branch = await life.resetting.branch(lease.id, None, None, force=True)
        await life.templating.delete("cart")
        database = copy_of(life, "shop").database
        if in_order:
            await life.upkeep.shut_down()
            assert set(server_of(life).databases) == {database}
            assert set(server_of(life).logins) == {"somebody"}
        again = await started_again(life)
        assert again.content(await again.leased(template="shop")) == "tables;"
        assert copy_of(again, "shop").database == database
        assert [call[0] for call in again.admin.calls].count("run_sql") == 0
        assert (branch.name in again.inventory.templates) is not in_order, "its lease has ended"
        with pytest.raises(TemplateNotFoundError):
            again.templating.get("cart")
        del server_of(life).logins["somebody"]
        await rested(again)
        await again.check()

    run(work())


def test_one_that_somebody_dropped_meanwhile_is_gone():
    async def work():
        life = await begun(targets=FEW, kinds=LENT)
        await life.put("shop", "tables;")
        await life.put("cart", "more;")
        await rested(life)
        await life.upkeep.shut_down()
        del server_of(life).databases[copy_of(life, "shop").database]
        again = await started_again(life)
        await again.upkeep.reap()
        with pytest.raises(TemplateNotFoundError):
            again.templating.get("shop")
        _, built = await again.put("shop", "tables;")
        assert built
        assert again.content(await again.leased(template="cart")) == "more;"
        await rested(again)
        await again.check()

    run(work())


def test_a_deleted_one_that_was_left_on_the_server_goes_when_it_is_used_again():
    async def work():
        life = await begun(targets=FEW, kinds=LENT)
        left = str(Name(life.daemon, Kind.TEMPLATE, "a" * 13))
        await life.put("shop", "tables;")
        await life.upkeep.shut_down()
        server_of(life).databases[left] = FakeDatabase(None, template=True)
        again = await started_again(life)
        await rested(again)
        assert left not in server_of(again).databases
        assert again.templating.get("shop").sealed
        await again.check()

    run(work())


@pytest.mark.parametrize("others", [LENT, {}], ids=["still set", "no longer set"])
@pytest.mark.parametrize("in_order", [True, False], ids=["stopped", "killed"])
def test_a_daemon_that_uses_the_server_no_more_has_no_templates_from_there(in_order, others):
    async def work():
        life = await begun(targets=FEW, kinds=LENT)
        server_of(life).logins["somebody"] = FakeLogin("secret")
        await life.put("shop", "tables;")
        await life.leased(template="shop")
        if in_order:
            await life.upkeep.shut_down()
        again = await started_again(life, kinds={"embedded": True}, others=others)
        with pytest.raises(TemplateNotFoundError):
            again.templating.get("shop")
        assert again.inventory.copies_from("shop") == []
        assert set(server_of(again).databases) == set()
        assert set(server_of(again).logins) == {"somebody"}
        _, built = await again.put("shop", "tables;")
        assert built
        await rested(again)

    run(work())


@living(targets=FEW, kinds=LENT)
async def test_a_lent_server_that_was_away_for_a_while_has_its_templates_still(life):
    await life.put("shop", "tables;")
    lease = await life.leased(template="shop")
    server_of(life).answers = False
    for _ in range(3):
        await life.upkeep.check_servers()
    await life.upkeep.reap()
    assert not life.leasing.get(lease.id).active
    assert life.templating.get("shop").sealed
    caller = asyncio.ensure_future(life.acquire(template="shop", wait=600))
    await life.turns(2)
    await life.upkeep.turn(life.spawn)
    await asyncio.gather(*life.tasks)
    server_of(life).answers = True
    await rested(life)
    assert life.content(await caller) == "tables;"
    assert copy_of(life, "shop").state is CopyState.SEALED
    await life.check()
