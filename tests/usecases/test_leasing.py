"""Handing out and taking back, on fakes."""

import asyncio

import pytest

from leasedb_server.domain.database import DatabaseState
from leasedb_server.domain.errors import (
    HolderNotFoundError,
    IdempotencyInProgressError,
    IdempotencyMismatchError,
    InvalidRequestError,
    LeaseEndedError,
    PoolExhaustedError,
    ShuttingDownError,
    StoreFailedError,
    UnknownTemplateError,
    VersionUnavailableError,
)
from leasedb_server.domain.lease import LeaseState
from leasedb_server.domain.pool import Targets
from leasedb_server.usecases.asking import CallerGoneError
from tests.doubles import FakeProcesses
from tests.usecases.stage import TIGHT, begun, lives, run, taken, waiting

FULL = StoreFailedError("The state file cannot be written: database or disk is full.")


# --- acquiring ---


@lives
async def test_a_warm_lease_says_nothing_to_any_server_and_commits_once(life):
    life.admin.calls.clear()
    life.store.commits.clear()
    lease = await life.acquire(wait=0)
    assert (life.admin.calls, life.store.commits) == ([], ["add_lease"])
    assert lease.active
    assert life.database(lease).state is DatabaseState.LEASED
    assert (lease.expires_at, lease.ttl) == (life.clock.now() + 300, 300)
    life.log_in(lease)


@lives
async def test_no_database_has_two_holders(life):
    first, second = await taken(life)
    assert first.database_id != second.database_id


@lives
async def test_without_patience_the_answer_comes_at_once(life):
    await taken(life)
    before = asyncio.get_running_loop().time()
    with pytest.raises(PoolExhaustedError) as caught:
        await life.acquire(wait=0)
    assert asyncio.get_running_loop().time() == before
    assert (caught.value.position, caught.value.retry_after) == (1, 60)
    assert not life.queue.waiting()


@lives
async def test_patience_ends_with_the_place_in_line(life):
    life.clock.advance(1)
    await life.acquire(ttl=7)
    await life.acquire()
    patient, _ = await waiting(life, "a", "b", wait=600)
    with pytest.raises(PoolExhaustedError, match=r"within 5 s: 2 databases are leased.* number 3 in line") as caught:
        await life.acquire("c", wait=5)
    assert (caught.value.position, caught.value.retry_after) == (3, 8)
    assert life.queue.waiting() == {"base": 2}
    assert not patient.done()


@lives
async def test_waiting_callers_are_served_in_turn_and_holders_take_turns(life):
    leases = await taken(life)
    callers = await waiting(life, "suite", "suite", "suite", "other", wait=3600)
    served = []
    for number in range(4):
        await life.leasing.release(leases[number].id, sync=False)
        await life.settle()
        done = [index for index, caller in enumerate(callers) if caller.done() and index not in served]
        assert len(done) == 1
        served += done
        leases.append(callers[done[0]].result())
    assert served == [0, 3, 1, 2]


@lives
async def test_nobody_passes_those_who_wait(life):
    leases = await taken(life)
    (caller,) = await waiting(life, "a")
    await life.leasing.release(leases[0].id, sync=False)
    await life.upkeep.turn(life.spawn)  # drops
    await asyncio.gather(*life.tasks)
    await life.upkeep.turn(life.spawn)  # makes
    await asyncio.gather(*life.tasks)
    assert life.count(DatabaseState.READY) == 1
    with pytest.raises(PoolExhaustedError):
        await life.acquire("late", wait=0)
    life.queue.serve()
    assert (await caller).active


@lives
async def test_who_hangs_up_while_waiting_leaves_the_line(life):
    await taken(life)
    gone = asyncio.Event()
    (caller,) = await waiting(life, "a", gone=gone.wait)
    gone.set()
    with pytest.raises(CallerGoneError):
        await caller
    assert not life.queue.waiting()


@pytest.mark.parametrize("cancelled", [False, True], ids=["hung up", "cancelled"])
@pytest.mark.parametrize("next_in_line", [False, True])
def test_a_hand_over_that_nobody_accepts_goes_to_the_next(cancelled, next_in_line):
    """The database is put into the caller's hands in the very turn of the loop in which the caller leaves."""

    async def work():
        life = await begun(targets=TIGHT)
        leases = await taken(life)
        gone = asyncio.Event()
        (caller,) = await waiting(life, "a", gone=gone.wait)
        others = await waiting(life, "b") if next_in_line else []
        await life.leasing.release(leases[0].id, sync=False)
        while not life.count(DatabaseState.READY):
            await asyncio.gather(*life.tasks)
            if not life.count(DatabaseState.READY):
                await life.upkeep.turn(life.spawn)
        life.queue.serve()
        assert life.count(DatabaseState.LEASED) == 2
        if cancelled:
            caller.cancel()
        else:
            gone.set()
        with pytest.raises((CallerGoneError, asyncio.CancelledError)):
            await caller
        await life.turns(3)
        assert not life.queue.waiting()
        assert life.count(DatabaseState.READY) == (0 if next_in_line else 1)
        assert len(life.inventory.active_leases()) == (2 if next_in_line else 1)
        for other in others:
            life.log_in(await other)

    run(work())


def test_a_database_whose_server_dies_during_the_hand_over_is_not_leased():
    """The caller has been handed the database and has not run yet; it waits on, and gets one of the next server."""

    async def work():
        life = await begun(targets=TIGHT)
        leases = await taken(life)
        (caller,) = await waiting(life, "a", wait=600)
        await life.leasing.release(leases[0].id, sync=False)
        while not life.count(DatabaseState.READY):
            await asyncio.gather(*life.tasks)
            if not life.count(DatabaseState.READY):
                await life.upkeep.turn(life.spawn)
        (server,) = life.inventory.servers.values()
        await life.admin.close(server.id)
        life.queue.serve()
        await life.serving.end_leases(server, "its server died")
        await life.turns(3)
        assert not caller.done()
        assert life.inventory.active_leases() == []
        life.world.servers[server.name].alive = False
        for _ in range(3):
            await life.upkeep.check_servers()
        await life.settle()
        life.log_in(await caller)

    run(work())


@lives
async def test_a_lease_that_cannot_be_written_down_gives_its_database_back(life):
    life.store.faults.errors = {"add_lease": [FULL]}
    with pytest.raises(StoreFailedError):
        await life.acquire(wait=0)
    assert life.count(DatabaseState.READY) == 2
    assert len(await taken(life)) == 2


@lives
async def test_a_stopping_daemon_refuses_new_requests_and_those_in_line(life):
    await taken(life)
    (caller,) = await waiting(life, "a")
    life.leasing.close()
    with pytest.raises(ShuttingDownError):
        await caller
    with pytest.raises(ShuttingDownError):
        await life.acquire()


@lives
async def test_what_can_never_be_served_is_refused_at_once(life):
    with pytest.raises(InvalidRequestError, match="LEASEDB_MAX_TTL"):
        await life.acquire(ttl=86_401)
    with pytest.raises(UnknownTemplateError, match=r"'shop'.* base"):
        await life.acquire(template="shop")
    with pytest.raises(VersionUnavailableError, match=r"Postgres 16 .* 18"):
        await life.acquire(postgres="16")
    assert (await life.acquire(postgres="18")).active
    assert life.count(DatabaseState.LEASED) == 1


def test_a_version_that_turns_out_not_to_be_served_is_refused_in_line():
    async def work():
        life = await begun(targets=Targets(servers=1, ready=1, most=2))
        (server,) = life.inventory.servers.values()
        del life.inventory.servers[server.id]
        (caller,) = await waiting(life, "a", postgres="16")
        life.inventory.put_server(server)
        life.queue.serve()
        with pytest.raises(VersionUnavailableError):
            await caller
        assert life.count(DatabaseState.READY) == 1

    run(work())


# --- idempotency ---


@lives
async def test_a_repeated_request_gets_the_same_lease(life):
    first = await life.acquire(key="k", digest="d")
    assert await life.acquire(key="k", digest="d") == first
    assert life.count(DatabaseState.LEASED) == 1


@lives
async def test_a_key_used_for_another_request_is_refused(life):
    await life.acquire(key="k", digest="d")
    with pytest.raises(IdempotencyMismatchError):
        await life.acquire(key="k", digest="other")


@lives
async def test_a_key_is_refused_while_its_request_waits(life):
    leases = await taken(life)
    (caller,) = await waiting(life, "a", key="k", digest="d")
    with pytest.raises(IdempotencyInProgressError):
        await life.acquire(key="k", digest="d")
    await life.leasing.release(leases[0].id, sync=False)
    await life.settle()
    assert await life.acquire(key="k", digest="d") == await caller


@lives
async def test_a_key_is_free_again_when_its_request_failed(life):
    leases = await taken(life)
    with pytest.raises(PoolExhaustedError):
        await life.acquire(key="k", digest="d", wait=0)
    await life.leasing.release(leases[0].id, sync=False)
    await life.settle()
    assert (await life.acquire(key="k", digest="d")).active


@lives
async def test_a_key_whose_lease_has_ended_says_so(life):
    lease = await life.acquire(key="k", digest="d")
    await life.leasing.release(lease.id, sync=False)
    with pytest.raises(LeaseEndedError):
        await life.acquire(key="k", digest="d")


# --- holders ---


def test_a_holder_is_its_process_not_only_its_number():
    async def work():
        processes = FakeProcesses()
        processes.started = {7: 100.0, 8: 200.0, 9: 300.0}
        life = await begun(processes=processes, targets=Targets(servers=1, ready=3, most=9))
        with pytest.raises(HolderNotFoundError, match="no process 6"):
            await life.acquire(pid=6)
        lives_on, dies, number_reused = [await life.acquire(pid=pid) for pid in (7, 8, 9)]
        await life.upkeep.reap()
        assert len(life.inventory.active_leases()) == 3
        processes.started = {7: 100.0, 9: 999.0}
        await life.upkeep.reap()
        assert life.inventory.active_leases() == [lives_on]
        for lease, pid in ((dies, 8), (number_reused, 9)):
            ended = life.leasing.get(lease.id)
            assert (ended.state, ended.end_reason) == (LeaseState.RELEASED, f"its holder's process {pid} ended")
            with pytest.raises(PermissionError):
                life.log_in(lease)

    run(work())


def test_a_start_told_a_little_differently_is_the_same_process():
    """Linux tells starts in ticks since boot, and when that was moves with the wall clock between two daemons."""

    async def work():
        processes = FakeProcesses()
        processes.started = {7: 100.0}
        life = await begun(processes=processes)
        lease = await life.acquire(pid=7)
        processes.started = {7: 101.0}
        await life.upkeep.reap()
        assert life.leasing.get(lease.id).active

    run(work())
