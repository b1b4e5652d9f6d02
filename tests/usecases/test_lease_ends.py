"""Taking databases back: renewing, expiring, releasing, losing; on fakes."""

import asyncio

import pytest

from leasedb_server.domain.database import DatabaseState
from leasedb_server.domain.errors import (
    LeaseEndedError,
    LeaseLostError,
    LeaseNotFoundError,
    ServerRefusedError,
    ServerUnreachableError,
    StoreFailedError,
)
from leasedb_server.domain.lease import LeaseState
from leasedb_server.usecases.leasing import FENCE_LIMIT
from tests.usecases.stage import TIGHT, begun, lives, run

FULL = StoreFailedError("The state file cannot be written: database or disk is full.")


@lives
async def test_renewing_counts_from_now_and_is_cut_at_the_longest(life):
    lease = await life.acquire(ttl=10)
    life.clock.advance(5)
    renewed = await life.leasing.renew(lease.id, 300)
    assert (renewed.expires_at, renewed.ttl) == (life.clock.now() + 300, 300)
    renewed = await life.leasing.renew(lease.id, 1e9)
    assert renewed.expires_at == lease.max_expires_at
    assert renewed.ttl == 86_400 - 5
    life.clock.advance(86_395)
    with pytest.raises(LeaseEndedError, match="expired: its time ran out"):
        await life.leasing.renew(lease.id, 300)


@lives
async def test_an_overdue_lease_expires_and_its_login_is_refused(life):
    lease = await life.acquire(ttl=10)
    session = life.log_in(lease)
    life.clock.advance(9.9)
    await life.upkeep.reap()
    assert life.leasing.get(lease.id).active
    life.clock.advance(0.1)
    await life.upkeep.reap()
    ended = life.leasing.get(lease.id)
    assert (ended.state, ended.ended_at) == (LeaseState.EXPIRED, life.clock.now())
    assert session.ended
    with pytest.raises(PermissionError):
        life.log_in(lease)
    with pytest.raises(LeaseEndedError):
        await life.leasing.renew(lease.id, 10)
    await life.settle()
    assert life.database(ended).name not in life.server_of(ended).databases


@lives
async def test_releasing_again_changes_nothing(life):
    lease = await life.acquire()
    await life.leasing.release(lease.id, sync=False)
    released = life.leasing.get(lease.id)
    life.clock.advance(3)
    await life.leasing.release(lease.id, sync=False)
    assert life.leasing.get(lease.id) == released
    with pytest.raises(LeaseNotFoundError):
        await life.leasing.release("nothing", sync=False)


@lives
async def test_a_release_with_sync_returns_when_the_database_is_gone(life):
    lease = await life.acquire()
    server, name = life.server_of(lease), life.database(lease).name
    release = asyncio.ensure_future(life.leasing.release(lease.id, sync=True))
    await life.turns(3)
    assert not release.done()
    await life.settle()
    await release
    assert name not in server.databases
    await life.leasing.release(lease.id, sync=True)  # again: at once


@lives
async def test_a_release_with_sync_has_an_end(life):
    lease = await life.acquire()
    with pytest.raises(ServerUnreachableError, match=r"drop of its database was not done within 30 s"):
        await life.leasing.release(lease.id, sync=True)
    assert not life.leasing.get(lease.id).active


@lives
async def test_who_releases_second_is_told_no_sooner_that_the_login_is_refused(life):
    lease = await life.acquire()
    life.admin.faults.hanging = {"fence"}
    first, second = (asyncio.ensure_future(life.leasing.release(lease.id, sync=False)) for _ in range(2))
    await life.turns(5)
    assert not first.done()
    assert not second.done()
    life.admin.faults.let_go()
    await asyncio.gather(first, second)


@lives
async def test_leases_are_released_by_label(life):
    await life.acquire(labels={"run": "7", "kind": "unit"})
    other = await life.acquire(labels={"run": "8"})
    assert await life.leasing.release_all({"run": "9"}, sync=False) == 0
    assert await life.leasing.release_all({"run": "7"}, sync=False) == 1
    assert life.inventory.active_leases() == [other]


@pytest.mark.parametrize(
    "fault", [ServerRefusedError("no", sqlstate="XX000"), ServerUnreachableError("gone"), None], ids=repr
)
def test_a_fence_that_fails_or_hangs_does_not_keep_a_lease_alive(fault):
    async def work():
        life = await begun(targets=TIGHT)
        lease = await life.acquire()
        if fault is None:
            life.admin.faults.hanging = {"fence"}
        life.admin.faults.errors = {"fence": [fault] if fault else []}
        begin = asyncio.get_running_loop().time()
        await life.leasing.release(lease.id, sync=False)
        assert asyncio.get_running_loop().time() - begin <= FENCE_LIMIT + 0.1
        assert not life.leasing.get(lease.id).active
        await life.settle()
        assert life.database(lease).state is DatabaseState.GONE
        with pytest.raises(PermissionError):
            life.log_in(lease)

    run(work())


@lives
async def test_who_is_cancelled_while_releasing_has_released(life):
    lease = await life.acquire()
    life.admin.faults.hanging = {"fence"}
    release = asyncio.ensure_future(life.leasing.release(lease.id, sync=False))
    await life.turns(2)
    release.cancel()
    await asyncio.wait({release})
    life.admin.faults.hanging.clear()
    await life.settle()
    assert life.database(life.leasing.get(lease.id)).state is DatabaseState.GONE


@lives
async def test_an_end_that_cannot_be_written_down_is_tried_again(life):
    first, second = [await life.acquire(ttl=10) for _ in range(2)]
    life.store.faults.errors = {"save_lease": [FULL]}
    life.clock.advance(11)
    await life.upkeep.reap()
    assert life.leasing.get(first.id).active
    await life.upkeep.reap()
    assert not life.leasing.get(first.id).active
    assert not life.leasing.get(second.id).active


@lives
async def test_a_lost_lease_says_why(life):
    lease = await life.acquire()
    life.server_of(lease).alive = False
    await life.upkeep.check_servers()
    with pytest.raises(LeaseLostError, match=r"is lost: its server \w+ died: Its process has ended"):
        await life.leasing.renew(lease.id, 10)
    await life.leasing.release(lease.id, sync=True)
