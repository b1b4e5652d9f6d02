"""The files of templates: kept, brought to servers, of no use any more; on fakes."""

import asyncio

import pytest

from leasedb_server.domain.database import DatabaseState
from leasedb_server.domain.edition import Editions
from leasedb_server.domain.errors import (
    ServerRefusedError,
    ServerUnreachableError,
    StoreFailedError,
    TemplateNotFoundError,
    UnknownTemplateError,
)
from leasedb_server.domain.pool import Targets
from leasedb_server.domain.template import CopyState
from tests.usecases.stage import FEW, Life, begun, living, run

FULL = StoreFailedError("no space left on device")
REFUSED = ServerRefusedError("could not write", sqlstate="53100")
SILENT = ServerUnreachableError("The connection was lost.")
TWO = Targets(servers=2, ready=1, most=20)


async def rested(life):
    for _ in range(4):
        life.clock.advance(2)
        await life.settle()
    await life.check()


async def started_again(life, **settings):
    """Stop the daemon in order and start another on what it left."""
    await life.upkeep.shut_down()
    return await Life(life.world, life.store, life.clock, files=life.files, targets=life.targets, **settings).begin()


async def replaced(life):
    """Let all servers die, and others take their place."""
    for server in life.world.servers.values():
        server.alive = False
    await life.upkeep.check_servers()
    await life.upkeep.reap()
    await life.settle()


def homes(life, template):
    return {copy.server_id for copy in life.inventory.copies_from(template) if copy.state is CopyState.SEALED}


# --- kept ---


@living(targets=FEW)
async def test_the_files_of_a_template_are_kept_once_it_is_sealed(life):
    template, _ = await life.put("shop", "tables;")
    assert template.kept == 0
    await life.settle()
    assert life.files.kept == {template.id: b"<tables;>"}
    assert life.templating.get("shop").kept == 9
    await rested(life)
    assert [call[0] for call in life.admin.calls].count("export_copy") == 1


@pytest.mark.parametrize("fails", ["write", "export_copy", "save_template"])
def test_files_that_could_not_be_kept_are_kept_later(fails):
    async def work():
        life = await begun(targets=FEW)
        await life.put("shop", "tables;")
        faults = {"write": life.files, "export_copy": life.admin, "save_template": life.store}[fails].faults
        faults.errors = {fails: [FULL, FULL]}
        for _ in range(3):
            await life.settle()
            life.clock.advance(1)
        await rested(life)
        assert life.templating.get("shop").kept
        await replaced(life)
        assert life.content(await life.acquire(template="shop")) == "tables;"

    run(work())


@living(targets=FEW)
async def test_a_template_deleted_while_it_is_exported_leaves_no_files(life):
    await life.put("shop", "old;")
    life.files.faults.hanging = {"write"}
    await life.upkeep.turn(life.spawn)
    await life.turns(3)
    await life.templating.delete("shop")
    await life.put("shop", "new;")
    life.files.faults.let_go()
    await rested(life)
    assert list(life.files.kept.values()) == [b"<new;>"]


def test_a_template_dropped_while_it_is_exported_is_no_trouble(caplog):
    async def work():
        life = await begun(targets=FEW)
        life.admin.faults.hanging = {"export_copy"}
        await life.put("shop", "tables;")
        await life.upkeep.turn(life.spawn)
        await life.turns()
        await life.templating.delete("shop")
        life.admin.faults.only = lambda *arguments: False  # noqa: ARG005 - all others go on
        await life.upkeep.turn(life.spawn)
        await life.turns()
        life.admin.faults.let_go()
        await life.settle()
        assert life.upkeep.trouble() == ""
        await life.check()

    run(work())
    assert "were not kept" not in caplog.text


@living(targets=FEW)
async def test_a_daemon_that_stops_keeps_what_is_not_kept_yet(life):
    life.files.faults.errors = {"write": [FULL]}
    await life.put("shop", "tables;")
    await life.settle()
    await life.put("cart", "more;")
    lease = await life.acquire()
    await life.resetting.branch(lease.id, None, None, force=True)
    again = await started_again(life)
    assert sorted(life.files.kept.values()) == [b"<more;>", b"<tables;>"]
    assert again.templating.get("shop").sealed
    await rested(again)


@pytest.mark.parametrize("fails", ["write", "save_template"])
def test_files_that_cannot_be_kept_do_not_keep_a_daemon_from_stopping(fails):
    async def work():
        life = await begun(targets=FEW)
        await life.put("shop", "tables;")
        (life.files if fails == "write" else life.store).faults.always = {fails: FULL}
        await life.upkeep.shut_down()
        assert life.world.servers == {}
        (life.files if fails == "write" else life.store).faults.always = {}
        again = await Life(life.world, life.store, life.clock, files=life.files).begin()
        with pytest.raises(TemplateNotFoundError):
            again.templating.get("shop")
        await rested(again)

    run(work())


# --- brought ---


@living(targets=FEW)
async def test_a_server_in_the_place_of_another_gets_the_templates_in_use(life):
    await life.put("shop", "tables;")
    await life.settle()
    await replaced(life)
    assert life.inventory.count(*_place(life), DatabaseState.READY) == 2
    assert life.content(await life.acquire(template="shop", wait=0)) == "tables;"
    await rested(life)


def _place(life):
    (server,) = life.inventory.servers
    return server, "shop"


@living(targets=FEW)
async def test_after_a_start_a_template_is_brought_when_somebody_asks_for_it(life):
    await life.put("shop", "tables;")
    await life.put("cart", "more;")
    again = await started_again(life)
    assert homes(again, "shop") == set()
    callers = [asyncio.ensure_future(again.acquire(template="shop", wait=600)) for _ in range(3)]
    await again.turns(2)
    await again.settle()
    assert [again.content(await caller) for caller in callers] == ["tables;"] * 3
    assert homes(again, "cart") == set()
    await rested(again)
    found, built = await again.put("cart", "more;")
    assert (found.sealed, built) == (True, False)


@living(targets=TWO)
async def test_further_servers_get_the_templates_in_use_too(life):
    await life.put("shop", "tables;")
    await life.settle()
    assert homes(life, "shop") == set(life.inventory.servers)
    assert [life.content(await life.acquire(template="shop", wait=0)) for _ in range(2)] == ["tables;"] * 2
    await rested(life)


@living(targets=FEW, editions=Editions("18", None, ("17",)))
async def test_a_template_is_of_one_edition(life):
    await life.put("shop", "new;")
    with pytest.raises(UnknownTemplateError):
        await life.acquire(template="shop", postgres="17")
    old = asyncio.ensure_future(life.put("shop", "old;", postgres="17"))
    await life.turns(3)
    await life.settle()
    template, built = await old
    assert (template.name, template.edition, template.key, built) == ("shop", "17", "shop@17", True)
    callers = [asyncio.ensure_future(life.acquire(template="shop", postgres=major)) for major in ("17", "18", None)]
    await life.turns(2)
    await life.settle()
    assert [life.content(await caller) for caller in callers] == ["old;", "new;", "new;"]
    await rested(life)
    assert life.inventory.server_of(life.database(callers[0].result())).edition == "17"
    with pytest.raises(UnknownTemplateError):
        await life.acquire(template="shop@17")


@living(targets=FEW)
async def test_a_template_deleted_while_it_is_brought_is_not_there_afterwards(life):
    await life.put("shop", "old;")
    await life.settle()
    again = await started_again(life)
    again.admin.faults.hanging = {"import_copy"}
    caller = asyncio.ensure_future(again.acquire(template="shop", wait=600))
    await again.turns(2)
    await again.upkeep.turn(again.spawn)
    await again.turns(3)
    caller.cancel()
    await again.turns(3)
    await again.templating.delete("shop")
    await again.put("shop", "new;")
    again.admin.faults.let_go()
    await rested(again)
    assert again.content(await again.acquire(template="shop")) == "new;"


@living(targets=TWO)
async def test_a_server_lost_while_a_template_is_brought_to_it_takes_the_copy_along(life):
    await life.put("shop", "tables;")
    life.admin.faults.hanging = {"import_copy"}
    for _ in range(3):
        await life.upkeep.turn(life.spawn)
        await life.turns(10)
    (copy,) = [copy for copy in life.inventory.copies.values() if copy.state is CopyState.MAKING]
    lost = life.inventory.servers[copy.server_id]
    life.world.servers[lost.name].alive = False
    await life.upkeep.check_servers()
    await life.upkeep.turn(life.spawn)
    await life.turns(10)
    assert lost.id not in life.inventory.servers
    life.admin.faults.let_go()
    await rested(life)
    assert homes(life, "shop") == set(life.inventory.servers)


# --- of no use ---


@living(targets=FEW)
async def test_files_of_another_kind_of_server_are_of_no_use(life):
    await life.put("shop", "tables;")
    await life.settle()
    again = await Life(life.world, life.store, life.clock, files=life.files).load()
    life.world.servers.clear()
    again.admin.versions = again.admin.versions.__class__("19.1", "0.9.0")
    await again.serving.choose(lambda _line: None)
    await again.recovering.recover()
    await again.upkeep.bring_up()
    await again.settle()
    assert again.templating.get("shop").sealed, "nobody has asked for it"
    caller = asyncio.ensure_future(again.acquire(template="shop", wait=600))
    await again.turns(2)
    await again.settle()
    with pytest.raises(UnknownTemplateError):
        await caller
    _, built = await again.put("shop", "tables;")
    assert built
    await rested(again)


@living(targets=TWO)
async def test_a_template_that_fits_one_server_stays_there(life):
    fitting, other = life.inventory.servers
    life.admin.layouts[other] = "pages of another"
    life.admin.layouts[fitting] = "pages"
    lease = await life.acquire()
    while life.database(lease).server_id != fitting:
        lease = await life.acquire()
    await life.resetting.branch(lease.id, "shop", None, force=True)
    await rested(life)
    assert homes(life, "shop") == {fitting}
    assert life.content(await life.acquire(template="shop", wait=0)) == ""


@pytest.mark.parametrize("how", ["gone", "broken", "unreadable"])
def test_files_that_are_of_no_use_hold_nobody_up_for_long(how):
    """Everything else goes on meanwhile, and in the end the template counts as never built."""

    async def work():
        life = await begun(targets=FEW)
        template, _ = await life.put("shop", "tables;")
        await life.settle()
        again = await started_again(life)
        if how == "gone":
            again.files.kept.clear()
        elif how == "broken":
            again.files.kept[template.id] = b"<tab"
        else:
            again.files.faults.always = {"read": FULL}
        caller = asyncio.ensure_future(again.acquire(template="shop", wait=600))
        await again.turns(2)
        others = []
        for _ in range(8):
            await again.settle()
            others.append(await again.acquire(wait=0))
            await again.leasing.release(others[-1].id, sync=False)
            again.clock.advance(1)
        with pytest.raises(UnknownTemplateError):
            await caller
        again.files.faults.always = {}
        _, built = await again.put("shop", "tables;")
        assert built
        await rested(again)

    run(work())


@pytest.mark.parametrize("failures", [1, 2])
@pytest.mark.parametrize("fault", [REFUSED, SILENT, FULL], ids=repr)
def test_a_template_that_could_not_be_brought_is_brought_later(fault, failures):
    async def work():
        life = await begun(targets=FEW)
        await life.put("shop", "tables;")
        await life.settle()
        again = await started_again(life)
        again.admin.faults.errors = {"import_copy": [fault] * failures}
        caller = asyncio.ensure_future(again.acquire(template="shop", wait=600))
        await again.turns(2)
        for _ in range(4):
            await again.settle()
            again.clock.advance(2)
        assert again.content(await caller) == "tables;"
        await rested(again)

    run(work())


@living(targets=FEW)
async def test_an_import_of_which_the_answer_was_lost_leaves_nothing_behind(life):
    await life.put("shop", "tables;")
    await life.settle()
    again = await started_again(life)
    again.admin.faults.lost_answers = {"import_copy": [SILENT]}
    caller = asyncio.ensure_future(again.acquire(template="shop", wait=600))
    await again.turns(2)
    for _ in range(4):
        await again.settle()
        again.clock.advance(2)
    assert again.content(await caller) == "tables;"
    await rested(again)
