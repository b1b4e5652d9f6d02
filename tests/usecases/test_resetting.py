"""Resets of leases that go on; on fakes."""

import asyncio

import pytest

from leasedb_server.domain.database import DatabaseState
from leasedb_server.domain.errors import (
    LeaseEndedError,
    LeaseLostError,
    LeaseNotFoundError,
    PoolExhaustedError,
    ServerRefusedError,
    ServerUnreachableError,
    ShuttingDownError,
    StoreFailedError,
    UnknownTemplateError,
)
from leasedb_server.domain.pool import Targets
from leasedb_server.usecases.asking import CallerGoneError
from tests.usecases.stage import FEW, TIGHT, Life, begun, lives, living, run, taken

REFUSED = ServerRefusedError("could not rename", sqlstate="55006")
SILENT = ServerUnreachableError("The connection was lost.")
FULL = StoreFailedError("The state file cannot be written: database or disk is full.")
TWO = Targets(servers=2, ready=2, most=20)


async def dirty(life, **more):
    """Return a lease whose database somebody is at work in."""
    lease = await life.leased(**more)
    life.write(lease, "mess;")
    return lease


def is_clean(life, lease):
    """Tell whether the lease's database is as it was leased, and its holder let in as before."""
    life.log_in(lease)
    life.server_of(lease).sessions.clear()
    return "mess" not in life.content(lease)


async def rested(life):
    for _ in range(3):
        life.clock.advance(1)
        await life.settle()
    await life.check()


async def resetting(life, lease, *arguments, **more):
    caller = asyncio.ensure_future(life.reset(lease, *arguments, **more))
    await life.turns(3)
    return caller


# --- a reset ---


@living(targets=FEW)
async def test_a_reset_brings_the_content_back_and_keeps_everything_else(life):
    lease = await dirty(life)
    session, database = life.log_in(lease), life.database(lease)
    commits = len(life.store.commits)
    after, number = await life.reset(lease, wait=0)
    assert (after, number, session.ended) == (lease, 1, True)
    assert life.database(lease) == database
    assert life.content(lease) == ""
    assert is_clean(life, lease)
    assert life.store.commits[commits:] == ["save_database", "save_database"]
    assert life.count(DatabaseState.CONDEMNED) == 1
    await rested(life)
    assert (life.count(DatabaseState.LEASED), life.count(DatabaseState.READY)) == (1, FEW.ready)


@living(targets=FEW)
async def test_a_lease_can_be_reset_again_and_again(life):
    lease = await dirty(life)
    for _ in range(5):
        life.write(lease, "mess;")
        await life.reset(lease, wait=0)
        assert is_clean(life, lease)
        await life.settle()
    await rested(life)


@living(targets=TWO)
async def test_what_is_ready_on_another_server_is_of_no_use(life):
    lease = await dirty(life)
    here = life.database(lease).server_id
    while life.inventory.count(here, "base", DatabaseState.READY):
        await life.reset(lease, wait=0)
    assert life.count(DatabaseState.READY)
    caller = await resetting(life, lease)
    assert not caller.done()
    life.queue.last_use = life.clock.now() + 1  # it is not calm
    await life.settle()
    await caller
    assert life.database(lease).server_id == here
    assert is_clean(life, lease)
    await rested(life)


@lives
async def test_with_all_leased_a_reset_gets_a_database_beyond_the_ceiling(life):
    leases = await taken(life)
    for lease in leases:
        life.write(lease, "mess;")
    callers = [await resetting(life, lease) for lease in leases]
    await life.settle()
    for caller, lease in zip(callers, leases, strict=True):
        await caller
        assert is_clean(life, lease)
    assert life.count(DatabaseState.LEASED) == TIGHT.most
    await rested(life)
    assert life.inventory.counts_of_all().total() == TIGHT.most


@lives
async def test_who_waits_for_a_reset_is_served_before_those_without_a_lease(life):
    first, second = await taken(life)
    newcomer = asyncio.ensure_future(life.acquire("other"))
    await life.turns(2)
    caller = await resetting(life, first)
    await life.leasing.release(second.id, sync=False)
    await life.settle()
    await caller
    assert (await newcomer).active
    await rested(life)


@living(targets=FEW)
async def test_to_another_template_and_back(life):
    await life.put("shop", "tables;")
    await life.settle()
    lease = await dirty(life)
    await life.reset(lease, "shop", wait=0)
    assert life.content(lease) == "tables;"
    assert life.database(lease).template == "base"
    await life.settle()
    await life.reset(lease, wait=0)
    assert life.content(lease) == ""
    with pytest.raises(UnknownTemplateError):
        await life.reset(lease, "nothing")
    await rested(life)


@living(targets=FEW)
async def test_a_template_in_the_middle_of_a_reset_is_not_deleted(life):
    await life.put("shop", "tables;")
    await life.settle()
    lease = await dirty(life)
    life.admin.faults.hanging = {"reset"}
    caller = await resetting(life, lease, "shop")
    await life.upkeep.reap()
    await life.templating.delete("shop")
    life.admin.faults.let_go()
    await caller
    assert life.content(lease) == "tables;"
    await rested(life)


# --- in line ---


@lives
async def test_patience_ends_and_the_lease_is_as_it_was(life):
    lease, _ = await taken(life)
    life.write(lease, "mess;")
    with pytest.raises(PoolExhaustedError):
        await life.reset(lease, wait=5)
    assert not is_clean(life, lease)
    assert not life.queue.pinned()


@lives
async def test_who_hangs_up_while_waiting_is_not_reset(life):
    (lease, _), gone = await taken(life), asyncio.Event()
    life.write(lease, "mess;")
    caller = await resetting(life, lease, gone=gone.wait)
    gone.set()
    with pytest.raises(CallerGoneError):
        await caller
    assert not is_clean(life, lease)
    assert not life.queue.pinned()
    await rested(life)


@pytest.mark.parametrize("end", ["released", "expired", "lost"])
def test_nobody_waits_to_reset_a_lease_that_has_ended(end):
    async def work():
        life = await begun(targets=TIGHT)
        lease, _ = await taken(life)
        caller = await resetting(life, lease, wait=3600.0)
        match end:
            case "released":
                await life.leasing.release(lease.id, sync=False)
            case "expired":
                life.clock.advance(301)
                await life.upkeep.reap()
            case "lost":
                life.server_of(lease).alive = False
                await life.upkeep.check_servers()
        before = asyncio.get_running_loop().time()
        with pytest.raises(LeaseLostError if end == "lost" else LeaseEndedError):
            await caller
        assert asyncio.get_running_loop().time() == before
        await rested(life)

    run(work())


@living(targets=FEW)
async def test_an_ended_lease_or_none_cannot_be_reset(life):
    lease = await dirty(life)
    await life.leasing.release(lease.id, sync=False)
    with pytest.raises(LeaseEndedError):
        await life.reset(lease)
    other = await life.leased()
    life.clock.advance(301)
    with pytest.raises(LeaseEndedError):
        await life.reset(other)
    with pytest.raises(LeaseNotFoundError):
        await life.resetting.reset("nothing", None, 0, asyncio.Event().wait)
    await rested(life)


@lives
async def test_a_stopping_daemon_refuses_those_who_wait_for_a_reset(life):
    lease, _ = await taken(life)
    caller = await resetting(life, lease)
    life.leasing.close()
    with pytest.raises(ShuttingDownError):
        await caller


@living(targets=FEW)
async def test_two_resets_at_once_are_done_one_after_the_other(life):
    lease = await dirty(life)
    await life.settle()
    life.admin.faults.hanging = {"reset"}
    first, second = [await resetting(life, lease) for _ in range(2)]
    assert [call[0] for call in life.admin.calls].count("reset") == 1
    life.admin.faults.let_go()
    await asyncio.gather(first, second)
    assert is_clean(life, lease)
    await rested(life)


@living(targets=FEW)
async def test_a_lease_that_is_released_while_it_is_reset_ends_afterwards(life):
    lease = await dirty(life)
    life.admin.faults.hanging = {"reset"}
    caller = await resetting(life, lease)
    release = asyncio.ensure_future(life.leasing.release(lease.id, sync=False))
    renewal = await life.leasing.renew(lease.id, 600)
    assert renewal.ttl == 600
    life.clock.advance(601)
    await life.upkeep.reap()
    assert life.leasing.get(lease.id).active
    life.admin.faults.let_go()
    await release
    assert caller.done()
    await asyncio.wait({caller})
    await rested(life)


@pytest.mark.parametrize("first", ["content", "database", "both"])
def test_a_login_goes_with_the_last_of_what_it_owns(first, caplog):
    async def work():
        life = await begun(targets=FEW)
        lease = await dirty(life)
        await life.reset(lease)
        database = life.database(lease)
        (used,) = [one for one in life.inventory.databases.values() if one.partner == database.id]
        later = {"content": database.name, "database": used.name}.get(first)
        life.admin.faults.only = lambda *arguments: arguments[-1] == later
        life.admin.faults.hanging = {"drop"}
        release = asyncio.ensure_future(life.leasing.release(lease.id, sync=True))
        await life.turns(5)
        life.clock.advance(1)
        await life.upkeep.turn(life.spawn)
        await life.turns(5)
        life.admin.faults.let_go()
        await life.settle()
        await release
        await life.check()

    run(work())
    assert "was not dropped" not in caplog.text


@living(targets=FEW)
async def test_the_login_of_a_template_goes_with_what_a_reset_took_from_it(life):
    _, lease = await life.build("shop")
    life.write(lease, "mess;")
    await life.reset(lease)
    life.admin.faults.hanging = {"drop"}
    life.wake.set()
    await life.templating.seal("shop", lease.id, force=True)
    life.admin.faults.let_go()
    await rested(life)


# --- what fails ---

FAULTS = {"refused": REFUSED, "silent": SILENT}


@pytest.mark.parametrize("failures", [1, 2, 3])
@pytest.mark.parametrize("fault", [*FAULTS, "answer lost"])
def test_a_reset_that_failed_is_repeated(fault, failures):
    async def work():
        life = await begun(targets=FEW)
        lease = await dirty(life)
        faults = life.admin.faults
        (faults.errors if fault in FAULTS else faults.lost_answers)["reset"] = [FAULTS.get(fault, SILENT)] * failures
        done = 0
        while not done:
            try:
                await life.leased_reset(lease)
                done += 1
            except (ServerRefusedError, ServerUnreachableError):
                assert life.leasing.get(lease.id).active
        assert is_clean(life, lease)
        await rested(life)

    run(work())


@pytest.mark.parametrize("fault", [*FAULTS, "answer lost"])
def test_a_release_after_a_reset_that_failed_leaves_nothing(fault):
    async def work():
        life = await begun(targets=FEW)
        lease = await dirty(life)
        faults = life.admin.faults
        (faults.errors if fault in FAULTS else faults.lost_answers)["reset"] = [FAULTS.get(fault, SILENT)]
        with pytest.raises((ServerRefusedError, ServerUnreachableError)):
            await life.reset(lease)
        assert life.count(DatabaseState.SPARE) == 1
        await life.leasing.release(lease.id, sync=False)
        assert life.count(DatabaseState.SPARE) == 0
        await rested(life)

    run(work())


@pytest.mark.parametrize("fault", [*FAULTS, "answer lost"])
def test_a_daemon_killed_after_a_reset_that_failed_ends_it(fault):
    async def work():
        life = await begun(targets=FEW)
        lease = await dirty(life)
        faults = life.admin.faults
        (faults.errors if fault in FAULTS else faults.lost_answers)["reset"] = [FAULTS.get(fault, SILENT)]
        with pytest.raises((ServerRefusedError, ServerUnreachableError)):
            await life.reset(lease)
        again = await Life(life.world, life.store, life.clock, files=life.files).begin()
        assert is_clean(again, lease)
        await rested(again)

    run(work())


@living(targets=FEW)
async def test_a_spare_one_that_somebody_dropped_does_not_stand_in_the_way(life):
    lease = await dirty(life)
    life.admin.faults.errors = {"reset": [SILENT]}
    with pytest.raises(ServerUnreachableError):
        await life.reset(lease)
    spare = life.inventory.spare_for(lease.database_id)
    del life.server_of(lease).databases[spare.name]
    await life.reset(lease)
    assert is_clean(life, lease)
    await rested(life)


@pytest.mark.parametrize("commit", [1, 2])
def test_a_store_that_fails_during_a_reset_loses_nothing(commit):
    async def work():
        life = await begun(targets=FEW)
        lease = await dirty(life)
        life.store.fails = frozenset({life.store.tried + commit})
        try:
            await life.reset(lease, wait=0)
        except StoreFailedError:
            assert (life.count(DatabaseState.LEASED), life.count(DatabaseState.READY)) == (1, FEW.ready)
            await life.reset(lease, wait=0)
        assert is_clean(life, lease)
        again = await Life(life.world, life.store, life.clock, files=life.files).begin()
        assert is_clean(again, lease)
        await rested(again)

    run(work())


@living(targets=TWO)
async def test_a_server_lost_while_it_resets_takes_both_databases_along(life):
    lease = await dirty(life)
    life.admin.faults.hanging = {"reset"}
    caller = await resetting(life, lease)
    server = life.inventory.server_of(life.database(lease))
    await life.serving.end_leases(server, "its server died")
    life.admin.faults.let_go()
    with pytest.raises(LeaseLostError):
        await caller
    assert life.inventory.databases_of(server.id) == []
    life.world.servers[server.name].alive = False
    await life.upkeep.check_servers()
    await rested(life)


# --- a server that is leased as a whole ---


@living(targets=FEW, warm=1)
async def test_a_whole_server_is_reset_too(life):
    await life.put("shop", "tables;")
    await life.settle()
    lease = await life.acquire_whole(database="app", user="owner")
    life.write(lease, "mess;")
    life.server_of(lease).databases["second"] = life.server_of(lease).databases["app"]
    assert (await life.reset(lease))[0] == lease
    assert is_clean(life, lease)
    assert "second" not in life.server_of(lease).databases
    await life.reset(lease, "shop")
    assert life.content(lease) == "tables;"
    await rested(life)


@pytest.mark.parametrize("fault", [REFUSED, SILENT], ids=repr)
def test_a_reset_of_a_whole_server_that_failed_is_repeated_or_ended_by_the_next_daemon(fault):
    async def work():
        life = await begun(targets=FEW, warm=1)
        lease = await life.acquire_whole()
        life.write(lease, "mess;")
        life.admin.faults.errors = {"reset_exclusive": [fault] * 2}
        for _ in range(2):
            with pytest.raises(type(fault)):
                await life.reset(lease)
        again = await Life(life.world, life.store, life.clock, files=life.files, targets=FEW, warm=1).begin()
        assert is_clean(again, lease)
        again.write(lease, "mess;")
        await again.reset(lease)
        assert is_clean(again, lease)
        await rested(again)

    run(work())


@living(targets=FEW, warm=1)
async def test_a_whole_server_lost_while_it_is_reset_is_lost(life):
    lease = await life.acquire_whole()
    server = life.inventory.server_of(life.database(lease))
    life.admin.faults.hanging = {"reset_exclusive"}
    caller = await resetting(life, lease)
    await life.serving.end_leases(server, "its server died")
    life.admin.faults.let_go()
    with pytest.raises((LeaseLostError, ServerUnreachableError)):
        await caller
    assert life.inventory.databases_of(server.id) == []
    life.world.servers[server.name].alive = False
    await life.upkeep.check_servers()
    await rested(life)
