"""Templates from the first request until they are sealed; on fakes."""

import asyncio

import pytest

from leasedb_server.domain.database import DatabaseState
from leasedb_server.domain.errors import (
    BuildFailedError,
    ParentMissingError,
    PoolExhaustedError,
    ShuttingDownError,
    SqlFailedError,
    StoreFailedError,
    TemplateBuildingError,
    TemplateBuiltinError,
    TemplateCycleError,
    TemplateExistsError,
    TemplateNotFoundError,
    UnknownTemplateError,
    UploadIncompleteError,
)
from leasedb_server.domain.lease import Holder, LeaseState
from leasedb_server.domain.template import Origin, TemplateState
from leasedb_server.usecases.asking import CallerGoneError, TemplateRequest
from tests.doubles import FakeProcesses
from tests.usecases.stage import FEW, Life, begun, lives, living, run, stays, taken

FULL = StoreFailedError("The state file cannot be written: database or disk is full.")
WRONG = SqlFailedError("syntax error", sqlstate="42601", statement=3, line=7, sql="CREATE TABEL")


def asking(life, *holders, **more):
    """Return callers who want to build the same template, in this order."""
    wish = more.pop("wish", {})
    return [asyncio.ensure_future(life.build("shop", wish={"holder": Holder(who), **wish}, **more)) for who in holders]


async def waiters(life, *holders, **more):
    callers = asking(life, *holders, **more)
    await life.turns(3)
    return callers


# --- texts ---


@living(targets=FEW)
async def test_a_text_is_run_once_and_leased_from(life):
    template, built = await life.put("shop", "create table items;\ninsert one;")
    assert (template.state, template.origin, built) == (TemplateState.SEALED, Origin.SQL, True)
    assert (template.parent, template.fingerprint[:4], template.size) == ("base", "sql:", 7_000_030)
    assert await life.put("shop", "create table items;\ninsert one;") == (template, False)
    await life.settle()
    lease = await life.acquire(template="shop", wait=0)
    assert life.content(lease) == "create table items;insert one;"
    life.log_in(lease)
    await life.check()
    assert life.count(DatabaseState.LEASED) == 1
    assert [call[0] for call in life.admin.calls].count("run_sql") == 1


@living(targets=FEW)
async def test_another_text_of_the_same_name_is_refused(life):
    template, _ = await life.put("shop", "one;")
    with pytest.raises(TemplateExistsError) as caught:
        await life.put("shop", "two;")
    assert caught.value.fingerprint == template.fingerprint
    assert caught.value.requested.startswith("sql:")
    with pytest.raises(TemplateExistsError):
        await life.put("shop", "one;", fingerprint="other")
    await life.put("cart", "one;", fingerprint="v1")
    found, built = await life.put("cart", "one, said differently;", fingerprint="v1")
    assert (found.fingerprint, built) == ("v1", False)


@living(targets=FEW)
async def test_the_parents_content_is_part_of_a_fingerprint(life):
    plain, _ = await life.put("plain", "one;")
    await life.put("shop", "tables;")
    await life.settle()
    upon, _ = await life.put("upon", "one;", parent="shop")
    assert upon.fingerprint != plain.fingerprint
    await life.settle()
    assert life.content(await life.acquire(template="upon")) == "tables;one;"


@living(targets=FEW)
async def test_what_can_never_be_built_is_refused_at_once(life):
    for call in (life.put, life.build):
        with pytest.raises(TemplateBuiltinError):
            await call("base")
        with pytest.raises(ParentMissingError, match=r"'nothing' .* is not there"):
            await call("shop", parent="nothing")
        with pytest.raises(TemplateCycleError, match="'shop' would be its own parent"):
            await call("shop", parent="shop")
    await life.put("shop", "tables;")
    await life.settle()
    await life.put("cart", "more;", parent="shop")
    with pytest.raises(TemplateCycleError, match="by way of 'cart'"):
        await life.put("shop", "tables;", parent="cart")
    assert [one.name for one in life.inventory.templates.values()] == ["shop", "cart"]
    await life.settle()
    await life.check()


@living(targets=FEW)
async def test_a_template_that_is_there_needs_no_parent_any_more(life):
    await life.put("shop", "tables;")
    await life.settle()
    seeded, _ = await life.put("seeded", "rows;", parent="shop", fingerprint="v1")
    await life.settle()
    await life.templating.delete("shop")
    found, built = await life.put("seeded", "rows;", parent="shop", fingerprint="v1")
    assert (found.id, built) == (seeded.id, False)
    found, lease = await life.build("seeded", "v1", parent="shop")
    assert (found.id, lease) == (seeded.id, None)
    for call in (life.put("seeded", "others;", parent="shop"), life.build("seeded", "v2", parent="shop")):
        with pytest.raises(ParentMissingError):
            await call
    await life.settle()
    await life.check()


@living(targets=FEW)
async def test_an_extension_that_fails_says_what_to_do(life):
    life.admin.faults.errors = {"run_sql": [SqlFailedError("no", sqlstate="42710", sql="create extension vector")]}
    with pytest.raises(SqlFailedError) as caught:
        await life.put("shop", "create extension vector;")
    assert "IF NOT EXISTS vector" in caught.value.hint
    assert life.templating.get("shop").fault.hint == caught.value.hint
    with pytest.raises(UnknownTemplateError, match=r"its build failed: no\. .*IF NOT EXISTS vector"):
        await life.acquire(template="shop")


@living(targets=FEW)
async def test_who_waited_is_told_the_same_remedy(life):
    life.admin.faults.errors = {"run_sql": [SqlFailedError("no", sqlstate="42710", sql="create extension vector")]}
    first, second = (asyncio.ensure_future(life.put("shop", "create extension vector;")) for _ in range(2))
    with pytest.raises(SqlFailedError):
        await first
    with pytest.raises(BuildFailedError) as caught:
        await second
    assert "IF NOT EXISTS vector" in caught.value.hint


@living(targets=FEW)
async def test_a_statement_that_fails_leaves_nothing_but_the_reason(life):
    life.admin.faults.errors = {"run_sql": [WRONG]}
    with pytest.raises(SqlFailedError) as caught:
        await life.put("shop", "create tabel;")
    assert caught.value is WRONG
    failed = life.templating.get("shop")
    assert failed.state is TemplateState.FAILED
    assert (failed.fault.sqlstate, failed.fault.statement, failed.fault.line) == ("42601", 3, 7)
    with pytest.raises(UnknownTemplateError, match=r"its build failed: .*Mend the statement"):
        await life.acquire(template="shop")
    with pytest.raises(ParentMissingError, match="is failed"):
        await life.put("cart", "more;", parent="shop")
    await life.settle()
    assert life.inventory.active_leases() == []
    template, built = await life.put("shop", "create table;")
    assert (template.sealed, built, template.fault) == (True, True, None)
    await life.settle()
    await life.check()


@living(targets=FEW)
async def test_an_upload_that_breaks_off_leaves_nothing(life):
    async def broken():
        yield "create table;"
        raise UploadIncompleteError("The upload broke off after 13 bytes.")

    with pytest.raises(UploadIncompleteError):
        await life.templating.put(TemplateRequest("shop", origin=Origin.SQL), broken(), stays)
    with pytest.raises(TemplateNotFoundError):
        life.templating.get("shop")
    await life.settle()
    await life.check()


@living(targets=FEW)
async def test_progress_says_who_builds_and_how_far(life):
    life.admin.faults.hanging = {"run_sql"}
    (caller,) = [asyncio.ensure_future(life.put("shop", "create table;"))]
    await life.turns(3)
    template = life.templating.get("shop")
    assert life.templating.progress(template).startswith("being built by leasedb: builds template shop since ")
    with pytest.raises(TemplateBuildingError, match=r"not done within 5 s: being built by") as told:
        await life.put("shop", "create table;", wait=5)
    assert told.value.progress == life.templating.progress(template)
    life.admin.faults.let_go()
    await caller
    assert life.templating.progress(life.templating.get("shop")) == ""


@living(targets=FEW)
async def test_two_who_send_the_same_text_build_it_once(life):
    first, second = (asyncio.ensure_future(life.put("shop", "create table;")) for _ in range(2))
    (one, built), (other, found) = await asyncio.gather(first, second)
    assert (one, built, found) == (other, True, False)


@living(targets=FEW)
async def test_a_text_sent_while_another_is_built_is_told_apart_at_the_end(life):
    first, second = (asyncio.ensure_future(life.put("shop", text)) for text in ("one;", "two;"))
    assert (await first)[1]
    with pytest.raises(TemplateExistsError):
        await second
    named = asyncio.ensure_future(life.put("cart", "one;", fingerprint="a"))
    await life.turns(2)
    with pytest.raises(TemplateExistsError):
        await life.put("cart", "two;", fingerprint="b")
    await named


# --- builders ---


@living(targets=FEW)
async def test_a_builder_gets_a_clone_of_the_parent_and_seals_it(life):
    template, lease = await life.build("shop", wish={"ttl": 60.0})
    assert (template.state, template.origin, template.builder) == (TemplateState.BUILDING, Origin.BUILD, lease.id)
    assert (lease.builds, lease.ttl) == ("shop", 60.0)
    life.log_in(lease)
    life.write(lease, "tables;")
    name = life.database(lease).name
    server = life.server_of(lease)
    server.sessions.clear()
    sealed = await life.templating.seal("shop", lease.id, force=False)
    assert (sealed.state, sealed.size) == (TemplateState.SEALED, 7_000_007)
    now = life.leasing.get(lease.id)
    assert (now.state, now.end_reason) == (LeaseState.RELEASED, "it became the template shop")
    assert name not in server.databases
    assert await life.build("shop") == (sealed, None)
    await life.settle()
    assert life.content(await life.acquire(template="shop", wait=0)) == "tables;"
    await life.check()


@living(targets=FEW)
async def test_who_asks_meanwhile_waits_for_the_same_template(life):
    (builder, *others) = await waiters(life, "a", "b", "c")
    _, lease = await builder
    assert [other.done() for other in others] == [False, False]
    sealed = await life.templating.seal("shop", lease.id, force=False)
    assert [await other for other in others] == [(sealed, None)] * 2


@living(targets=FEW)
async def test_another_fingerprint_is_refused_at_once_while_one_is_built(life):
    (builder,) = await waiters(life, "a")
    with pytest.raises(TemplateExistsError) as caught:
        await life.build("shop", "g")
    assert (caught.value.fingerprint, caught.value.requested) == ("f", "g")
    _, lease = await builder
    await life.templating.abandon("shop", lease.id, None)
    template, _ = await life.build("shop", "g")
    assert template.fingerprint == "g"


async def released(life, lease):
    await life.leasing.release(lease.id, sync=False)


async def abandoned(life, lease):
    await life.templating.abandon("shop", lease.id, None)


async def expired(life, lease):
    life.clock.advance(301)
    await life.upkeep.reap()


async def dead(life, lease):
    life.processes.started.clear()
    await life.upkeep.reap()


async def lost(life, lease):
    life.server_of(lease).alive = False
    await life.upkeep.check_servers()


@pytest.mark.parametrize("end", [released, abandoned, expired, dead, lost])
def test_when_a_builder_is_gone_the_next_who_waits_builds(end):
    async def work():
        processes = FakeProcesses()
        processes.started = {7: 100.0}
        life = await begun(processes=processes, targets=FEW)
        _, lease = await life.build("shop", wish={"holder": Holder("builder", 7)})
        second, third, fourth = await waiters(life, "b", "c", "d", wait=600)
        await end(life, lease)
        await life.settle()
        template, again = await second
        assert again.id != lease.id
        assert template.builder == again.id
        assert [third.done(), fourth.done()] == [False, False]
        await life.leasing.release(again.id, sync=False)
        await life.settle()
        _, at_last = await third
        sealed = await life.templating.seal("shop", at_last.id, force=False)
        assert await fourth == (sealed, None)
        await life.settle()
        await life.check()

    run(work())


@living(targets=FEW)
async def test_a_failure_is_told_to_those_who_waited_and_not_to_the_next(life):
    (builder, *others) = await waiters(life, "a", "b", "c")
    _, lease = await builder
    await life.templating.abandon("shop", lease.id, "the migration failed")
    newcomer = asyncio.ensure_future(life.build("shop"))
    for other in others:
        with pytest.raises(BuildFailedError, match="the migration failed") as caught:
            await other
        assert caught.value.cause.message == "the migration failed"
        assert "build again" in caught.value.hint
    template, again = await newcomer
    assert (template.state, template.fault) == (TemplateState.BUILDING, None)
    assert again.id != lease.id
    assert not life.leasing.get(lease.id).active


@living(targets=FEW)
async def test_a_text_that_fails_is_told_to_those_who_waited(life):
    life.admin.faults.errors = {"run_sql": [WRONG]}
    first, second = (asyncio.ensure_future(life.put("shop", "create tabel;")) for _ in range(2))
    with pytest.raises(SqlFailedError):
        await first
    with pytest.raises(BuildFailedError) as caught:
        await second
    assert (caught.value.cause.statement, caught.value.cause.sql) == (3, "CREATE TABEL")


@living(targets=FEW)
async def test_patience_for_somebody_elses_build_ends(life):
    await life.build("shop")
    with pytest.raises(TemplateBuildingError):
        await life.build("shop", wait=0)
    before = asyncio.get_running_loop().time()
    with pytest.raises(TemplateBuildingError, match="not done within 5 s"):
        await life.build("shop", wait=5)
    assert asyncio.get_running_loop().time() == before + 5


@living(targets=FEW)
async def test_who_hangs_up_while_waiting_does_not_become_the_builder(life):
    _, lease = await life.build("shop")
    gone = asyncio.Event()
    (left,) = await waiters(life, "a", gone=gone.wait)
    (stays,) = await waiters(life, "b")
    gone.set()
    await life.leasing.release(lease.id, sync=False)
    with pytest.raises(CallerGoneError):
        await left
    template, again = await stays
    assert template.builder == again.id
    assert life.inventory.active_leases() == [again]


@living(targets=FEW)
async def test_a_stopping_daemon_refuses_those_who_wait_for_a_build(life):
    await life.build("shop")
    build, put = await waiters(life, "a") + [asyncio.ensure_future(life.put("shop", "one;"))]
    await life.turns(2)
    life.leasing.close()
    before = asyncio.get_running_loop().time()
    for caller in (build, put):
        with pytest.raises(ShuttingDownError):
            await caller
    with pytest.raises(ShuttingDownError):
        await life.build("shop", wait=5)
    assert asyncio.get_running_loop().time() == before


# --- the lease to build in ---


@lives
async def test_without_a_database_to_build_in_the_claim_is_given_up(life):
    leases = await taken(life)
    (caller,) = asking(life, "a", wish={"wait": 5.0})
    (other,) = await waiters(life, "b", wish={"wait": 600.0}, wait=600.0)
    with pytest.raises(PoolExhaustedError):
        await caller
    await life.turns(3)
    assert life.templating.get("shop").state is TemplateState.BUILDING, "the next who waits builds"
    await life.leasing.release(leases[0].id, sync=False)
    await life.settle()
    _, lease = await other
    assert lease.active


@lives
async def test_patience_is_for_the_build_of_somebody_else_and_a_database_together(life):
    await taken(life)
    before = asyncio.get_running_loop().time()
    (first,) = asking(life, "a", wish={"wait": 40.0})
    (caller,) = await waiters(life, "b", wish={"wait": 60.0}, wait=60.0)
    for who in (first, caller):
        with pytest.raises(PoolExhaustedError):
            await who
    assert asyncio.get_running_loop().time() - before == pytest.approx(60, abs=0.1)
    assert life.inventory.templates == {}


@lives
async def test_who_hangs_up_in_line_gives_the_claim_up(life):
    await taken(life)
    gone = asyncio.Event()
    (caller,) = await waiters(life, "a", gone=gone.wait)
    gone.set()
    with pytest.raises(CallerGoneError):
        await caller
    assert life.inventory.templates == {}


@pytest.mark.parametrize("commit", range(1, 12))
@pytest.mark.parametrize("how", ["put", "build"])
def test_a_store_that_fails_once_during_a_build_leaves_nothing_half_built(how, commit):
    """Whichever commit fails: the call says so or has done it, the same call again succeeds, and so does a start."""

    async def once(life):
        if how == "put":
            return (await life.put("shop", "tables;"))[0]
        template, lease = await life.build("shop")
        return await life.templating.seal("shop", lease.id, force=False) if lease else template

    async def work():
        life = await begun(targets=FEW)
        life.store.fails = frozenset({life.store.tried + commit})
        try:
            await once(life)
        except StoreFailedError:
            for lease in life.inventory.active_leases():
                assert how == "build", "nobody else could end it"
                await life.leasing.release(lease.id, sync=False)
        await paused(life)
        assert (await once(life)).sealed
        await paused(life)
        await leased_once(life, "tables;" if how == "put" else "")
        again = await Life(life.world, life.store, life.clock, files=life.files).begin()
        await leased_once(again, "tables;" if how == "put" else "")

    run(work())


async def leased_once(life, content):
    await life.check(store=False)
    lease = await life.acquire(template="shop", wait=0)
    assert life.content(lease) == content
    await life.leasing.release(lease.id, sync=False)
    await life.settle()
    assert life.inventory.active_leases() == []
    await life.check(store=False)


async def paused(life):
    """Let what failed be tried again."""
    for _ in range(3):
        life.clock.advance(1)
        await life.settle()
