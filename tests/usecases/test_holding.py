"""Leases that are held open by readers; on fakes."""

import asyncio
import contextlib

import pytest

from leasedb_server.domain.errors import LeaseNotFoundError, StoreFailedError
from leasedb_server.domain.lease import LeaseState
from leasedb_server.usecases.asking import CallerGoneError
from leasedb_server.usecases.holding import HUNG_UP, PULSE, READ_LIMIT, STOPPING
from tests.doubles import FakeClock, FakeWorld, MemoryStore
from tests.usecases.stage import Life, lives, living, run, stays


class Reader:
    """Somebody who reads what a lease's stream tells.

    Args:
        each: seconds that pass, on the wall clock, with each line.
        most: lines after which it hangs up.
    """

    def __init__(self, life, lease, *, each=0.0, most=None):
        self.life, self.each, self.most = life, each, most
        self.told = []
        self.gone = asyncio.Event()
        self.task = asyncio.ensure_future(life.holding.hold(lease.id, self.tell, self.gone.wait))

    async def tell(self, lease):
        self.told.append(lease)
        self.life.clock.advance(self.each)
        if len(self.told) == self.most:
            self.gone.set()

    async def read(self):
        """Go on, with the reaper at work meanwhile, until the reader has hung up or was told the end."""
        while not self.task.done():
            await self.life.upkeep.reap()
            await asyncio.wait({self.task}, timeout=0.05)
        with contextlib.suppress(CallerGoneError):
            await self.task

    async def hang_up(self):
        self.gone.set()
        with pytest.raises(CallerGoneError):
            await self.task


@lives
async def test_while_somebody_reads_the_lease_lives_and_is_seldom_written(life):
    lease = await life.acquire(ttl=30)
    writes = life.store.commits.count("save_lease")
    reader = Reader(life, lease, each=PULSE, most=60)
    await reader.read()
    assert all(one.active for one in reader.told)
    assert [one.id for one in reader.told] == [lease.id] * 60
    writes = life.store.commits.count("save_lease") - writes
    assert writes <= 60 * PULSE / 10 + 2, "a third of its ttl has to be over"
    ended = life.leasing.get(lease.id)
    assert (ended.state, ended.end_reason) == (LeaseState.RELEASED, HUNG_UP)
    with pytest.raises(PermissionError):
        life.log_in(lease)


@lives
async def test_a_short_ttl_is_renewed_in_time(life):
    lease = await life.acquire(ttl=0.3)
    loop = asyncio.get_running_loop()
    reader = Reader(life, lease, each=0.1, most=20)
    begin = loop.time()
    await reader.read()
    assert all(one.active for one in reader.told)
    assert loop.time() - begin < 20 * 0.11


@lives
async def test_it_is_released_when_the_last_reader_is_gone(life):
    lease = await life.acquire()
    first, second = Reader(life, lease), Reader(life, lease)
    await life.turns(3)
    await first.hang_up()
    assert life.leasing.get(lease.id).active
    session = life.log_in(lease)
    await second.hang_up()
    assert not life.leasing.get(lease.id).active
    assert session.ended


@lives
async def test_its_end_is_told_last(life):
    lease = await life.acquire()
    readers = [Reader(life, lease), Reader(life, lease)]
    await life.turns(3)
    await life.leasing.release(lease.id, sync=False)
    for reader in readers:
        await reader.task
        assert [one.state for one in reader.told] == [LeaseState.ACTIVE, LeaseState.RELEASED]
        assert reader.told[-1].end_reason == "released by its holder"


@living(max_ttl=20.0)
async def test_it_is_not_held_beyond_its_longest_time(life):
    lease = await life.acquire(ttl=10)
    writes = life.store.commits.count("save_lease")
    reader = Reader(life, lease, each=1.0)
    await reader.read()
    assert reader.told[-1].state is LeaseState.EXPIRED
    assert life.clock.now() >= lease.max_expires_at
    assert life.store.commits.count("save_lease") - writes <= 6, "nothing is written when nothing is gained"


@lives
async def test_a_machine_that_slept_does_not_end_what_is_held(life):
    held, other = await life.acquire(ttl=30), await life.acquire(ttl=30)
    reader = Reader(life, held)
    await life.turns(3)
    life.clock.advance(3600)
    await life.upkeep.reap()
    assert not life.leasing.get(other.id).active
    assert (await life.leasing.living(held.id)).active
    async with life.leasing.acting(held.id) as lease:
        assert lease.active
    await asyncio.wait({reader.task}, timeout=2 * PULSE)
    assert life.leasing.get(held.id).expires_at == life.clock.now() + 30
    await reader.hang_up()


@lives
async def test_a_kept_lease_stays_when_its_reader_hangs_up(life):
    lease = await life.acquire()
    reader = Reader(life, lease)
    await life.turns(3)
    await life.keeping.keep(lease.id, 3600)
    await reader.hang_up()
    assert life.leasing.get(lease.id).expires_at == life.clock.now() + 3600


@lives
async def test_a_longer_time_that_was_asked_for_stays(life):
    lease = await life.acquire(ttl=30)
    reader = Reader(life, lease, each=PULSE, most=3)
    await life.leasing.renew(lease.id, 3600)
    await reader.read()
    assert {one.expires_at for one in reader.told} == {lease.created_at + 3600}


@lives
async def test_who_takes_nothing_more_counts_as_gone(life):
    lease = await life.acquire()
    begin = asyncio.get_running_loop().time()

    async def stuck(_lease):
        await stays()

    with pytest.raises(CallerGoneError):
        await life.holding.hold(lease.id, stuck, stays)
    assert asyncio.get_running_loop().time() - begin == pytest.approx(READ_LIMIT)
    assert not life.leasing.get(lease.id).active


@lives
async def test_when_the_daemon_stops_the_lease_ends_and_that_is_told(life):
    lease = await life.acquire()
    reader = Reader(life, lease)
    await life.turns(3)
    begin = asyncio.get_running_loop().time()
    life.leasing.close()
    await reader.task
    assert asyncio.get_running_loop().time() == begin, "at once"
    assert [(one.state, one.end_reason) for one in reader.told[1:]] == [(LeaseState.RELEASED, STOPPING)]
    late = Reader(life, lease)
    await late.task
    assert [one.end_reason for one in late.told] == [STOPPING]


@lives
async def test_a_full_disk_does_not_end_what_is_held(life):
    lease = await life.acquire(ttl=30)
    life.store.faults.always = {"save_lease": StoreFailedError("The disk is full.")}
    reader = Reader(life, lease, each=PULSE, most=20)
    await reader.read()
    assert all(one.active for one in reader.told)
    assert not life.leasing.get(lease.id).active
    life.store.faults.always.clear()
    await life.settle()
    await life.check()


@lives
async def test_what_is_cancelled_while_it_is_read_is_released(life):
    lease = await life.acquire()
    reader = Reader(life, lease)
    await life.turns(3)
    reader.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader.task
    assert life.leasing.get(lease.id).end_reason == HUNG_UP


@lives
async def test_there_has_to_be_a_lease(life):
    with pytest.raises(LeaseNotFoundError):
        await life.holding.hold("nothing", stays, stays)


def test_after_a_kill_it_lives_its_ttl():
    async def work():
        world, clock = FakeWorld(), FakeClock()
        store = MemoryStore(world)
        life = await Life(world, store, clock).begin()
        lease = await life.acquire(ttl=30)
        reader = Reader(life, lease)
        await life.turns(3)
        again = await Life(world, store, clock).begin()
        clock.advance(29 - (clock.now() - lease.created_at))
        await again.upkeep.reap()
        assert again.leasing.get(lease.id).active
        clock.advance(1)
        await again.upkeep.reap()
        assert again.leasing.get(lease.id).state is LeaseState.EXPIRED
        await reader.hang_up()

    run(work())
