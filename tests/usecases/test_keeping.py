"""Keeping a lease for somebody to look at; on fakes."""

import asyncio

import pytest

from leasedb_server.domain.errors import (
    InvalidRequestError,
    KeepQuotaError,
    LeaseEndedError,
    LeaseNotFoundError,
    ShuttingDownError,
    StoreFailedError,
)
from leasedb_server.domain.lease import LeaseState
from leasedb_server.domain.pool import Targets
from tests.doubles import FakeClock, FakeProcesses, FakeWorld, MemoryStore
from tests.usecases.stage import Life, lives, living, run

ROOM = Targets(servers=1, ready=4, most=8)


@living(targets=ROOM)
async def test_a_kept_lease_outlives_its_holders_process_and_its_ttl(life):
    life.processes.started[7] = 1.0
    kept, other = [await life.acquire("me", pid=7, ttl=10) for _ in range(2)]
    answer = await life.keeping.keep(kept.id, 3600)
    assert (answer.kept, answer.holder.pid, answer.ttl) == (True, None, 3600)
    del life.processes.started[7]
    await life.upkeep.reap()
    assert not life.leasing.get(other.id).active
    life.clock.advance(3599)
    await life.upkeep.reap()
    assert life.leasing.get(kept.id).active
    life.log_in(kept)
    life.clock.advance(1)
    await life.upkeep.reap()
    assert life.leasing.get(kept.id).state is LeaseState.EXPIRED
    with pytest.raises(LeaseEndedError):
        await life.keeping.keep(kept.id, 60)


@living(targets=ROOM, keep_max=2)
async def test_beyond_the_quota_the_oldest_of_another_holder_makes_room(life):
    mine, first, second, more = [await life.acquire(name) for name in ("me", "other", "other", "me")]
    for lease in (mine, first, second):
        life.clock.advance(1)
        await life.keeping.keep(lease.id, 60)
    # the second of the other's took the place of the oldest, which was not its own
    assert not life.leasing.get(mine.id).active
    session = life.log_in(first)
    await life.keeping.keep(more.id, 60)
    ended = life.leasing.get(first.id)
    assert (ended.state, ended.end_reason) == (LeaseState.RELEASED, f"it was kept, and made room for lease {more.id}")
    assert session.ended
    assert [lease.id for lease in life.inventory.active_leases() if lease.kept] == [second.id, more.id]


@living(targets=ROOM, keep_max=2)
async def test_what_a_holder_keeps_itself_does_not_make_room(life):
    leases = [await life.acquire("me") for _ in range(3)]
    for lease in leases[:2]:
        await life.keeping.keep(lease.id, 60)
    with pytest.raises(KeepQuotaError, match=r"2 leases may be kept at once, and holder 'me' keeps all") as caught:
        await life.keeping.keep(leases[2].id, 60)
    for told in ("leasedb kept", "--drop ID", "leasedb stop", "LEASEDB_KEEP_MAX", "LEASEDB_POOL_MAX"):
        assert told in caught.value.hint
    assert life.leasing.get(leases[2].id) == leases[2]
    await life.keeping.keep(leases[0].id, 120)  # again: counts once
    await life.leasing.release(leases[0].id, sync=False)
    await life.keeping.keep(leases[2].id, 60)


@living(targets=ROOM, keep_max=1)
async def test_two_that_ask_at_once_both_keep_within_the_quota(life):
    first, *both = [await life.acquire(name) for name in ("other", "me", "you")]
    await life.keeping.keep(first.id, 60)
    life.admin.faults.hanging = {"fence"}
    asking = [asyncio.ensure_future(life.keeping.keep(lease.id, 60)) for lease in both]
    await life.turns(5)
    life.admin.faults.let_go()
    await asyncio.gather(*asking)
    assert sum(lease.kept for lease in life.inventory.active_leases()) == 1


@living(keep_max=0)
async def test_nothing_is_kept_where_that_is_turned_off(life):
    lease = await life.acquire()
    with pytest.raises(KeepQuotaError, match="No lease may be kept") as caught:
        await life.keeping.keep(lease.id, 60)
    assert "--drop" not in caught.value.hint  # there is nothing to drop
    assert "leasedb stop" in caught.value.hint


@lives
async def test_a_build_cannot_be_kept_and_neither_can_what_is_not_there(life):
    _, build = await life.build("shop")
    with pytest.raises(InvalidRequestError, match="builds the template 'shop'"):
        await life.keeping.keep(build.id, 60)
    with pytest.raises(LeaseNotFoundError):
        await life.keeping.keep("nothing", 60)


@lives
async def test_a_lease_whose_time_has_just_run_out_is_not_kept(life):
    lease = await life.acquire(ttl=10)
    life.clock.advance(10)
    with pytest.raises(LeaseEndedError, match="its time ran out"):
        await life.keeping.keep(lease.id, 60)


@lives
async def test_what_cannot_be_written_down_is_not_kept(life):
    lease = await life.acquire("me")
    life.store.faults.errors = {"save_lease": [StoreFailedError("The disk is full.")]}
    with pytest.raises(StoreFailedError):
        await life.keeping.keep(lease.id, 60)
    assert life.leasing.get(lease.id) == lease


@lives
async def test_a_daemon_that_is_about_to_stop_keeps_nothing_and_takes_no_announcement(life):
    lease = await life.acquire()
    life.leasing.close()
    with pytest.raises(ShuttingDownError):
        await life.keeping.keep(lease.id, 60)
    with pytest.raises(ShuttingDownError):
        life.upkeep.expect("base", 5, "me", 60)


@living(targets=ROOM)
async def test_a_kept_lease_is_reset_like_any_other(life):
    lease = await life.acquire("me")
    life.write(lease, "left behind")
    await life.keeping.keep(lease.id, 60)
    again, _ = await life.leased_reset(lease)
    assert (again.kept, life.content(again)) == (True, "")


@living(targets=ROOM)
async def test_a_process_that_is_seen_dead_while_its_lease_is_being_kept_does_not_end_it(life):
    life.processes.started[7] = 1.0
    lease = await life.acquire("me", pid=7)
    del life.processes.started[7]
    keeping = asyncio.ensure_future(life.keeping.keep(lease.id, 60))  # is looked at in between
    await life.upkeep.reap()
    await keeping
    assert life.leasing.get(lease.id).active


def test_the_next_daemon_knows_what_is_kept():
    async def work():
        world, clock, processes = FakeWorld(), FakeClock(), FakeProcesses()
        store = MemoryStore(world)
        processes.started[7] = 1.0
        life = await Life(world, store, clock, processes=processes).begin()
        lease = await life.acquire("me", pid=7)
        kept = await life.keeping.keep(lease.id, 3600)
        del processes.started[7]
        again = await Life(world, store, clock, processes=processes).begin()
        await again.upkeep.reap()
        assert again.leasing.get(lease.id) == kept
        again.log_in(kept)

    run(work())
