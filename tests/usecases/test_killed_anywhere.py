"""Crash-only: a daemon killed between any two steps leaves a world that the next one puts right.

A scenario is run once to count its steps: each effect on a server and each commit counts before it happens and after.
Then it is run again for every one of them, killed there, and a fresh daemon is started on what is left.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leasedb_server.domain.database import DatabaseState
from leasedb_server.domain.errors import ServerRefusedError
from leasedb_server.domain.lease import Lease
from leasedb_server.domain.names import Kind, Name, daemon_prefix
from leasedb_server.domain.pool import Targets
from tests.doubles import FakeClock, FakeDatabase, FakeLogin, FakeWorld, Fuse, KilledError, MemoryStore
from tests.usecases.stage import Life, run

TARGETS = Targets(servers=2, ready=2, most=9)
FOREIGN = "zzzzzz"


@dataclass
class Told:
    """What callers were told before the daemon died, and what they had asked for and were not answered."""

    leases: dict[str, Lease] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    ending: set[str] = field(default_factory=set)  # asked for, whether answered or not
    logins: dict[str, tuple[str, str, str]] = field(default_factory=dict)  # name, login, password by lease id


@dataclass
class Stage:
    kinds: dict[str, bool]
    world: FakeWorld = field(default_factory=FakeWorld)
    clock: FakeClock = field(default_factory=FakeClock)
    told: Told = field(default_factory=Told)
    others: dict[str, bool] = field(default_factory=dict)

    def __post_init__(self):
        self.store = MemoryStore(self.world)
        name = str(Name(FOREIGN, Kind.SERVER, "a" * 13))
        self.foreign = self.world.add(name)
        for kind, disposable in self.kinds.items():
            if not disposable:
                self.add_foreign_things(self.world.add(kind))
        self.add_foreign_things(self.foreign)
        self.before = self.foreign_things()

    @staticmethod
    def add_foreign_things(server):
        for prefix in (daemon_prefix(FOREIGN), "shop_", "leasedb", "leasedb_"):
            server.databases[f"{prefix}d_{'a' * 13}"] = FakeDatabase("somebody")
            server.logins[f"{prefix}r_{'a' * 13}"] = FakeLogin("secret")

    def foreign_things(self):
        mine = daemon_prefix(self.store._daemon) if self.store._daemon else "there is no daemon yet"
        return {
            (server.name, thing)
            for server in self.world.servers.values()
            if not server.name.startswith(mine)
            for thing in (server.name, *server.databases, *server.logins)
            if not thing.startswith(mine)
        }

    def life(self, **more):
        return Life(self.world, self.store, self.clock, targets=TARGETS, kinds=self.kinds, others=self.others, **more)

    # --- what callers do; each writes down what it was told ---

    async def lease(self, life, holder="suite", **more):
        lease = await life.acquire(holder, **more)
        database = life.database(lease)
        self.told.leases[lease.id] = lease
        self.told.logins[lease.id] = (database.name, database.login, database.password)
        life.log_in(lease)
        return lease

    async def leases(self, life, *ttls):
        """Lease one after the other, and let the pool fill up in between."""
        leases = []
        for ttl in ttls:
            leases.append(await self.lease(life, ttl=ttl))
            await life.settle()
        return leases

    async def release(self, life, lease, *, sync=False):
        self.told.ending.add(lease.id)
        await life.leasing.release(lease.id, sync=sync)
        self.told.ended.add(lease.id)

    async def renew(self, life, lease, ttl):
        self.told.leases[lease.id] = await life.leasing.renew(lease.id, ttl)

    def expire(self):
        """Let time pass until the leases of 10 seconds are over."""
        self.clock.advance(11)
        self.told.ending |= {lease.id for lease in self.told.leases.values() if lease.expires_at <= self.clock.now()}


Scenario = Callable[[Stage], Awaitable[None]]


async def leases_and_releases(stage: Stage) -> None:
    life = await stage.life().begin()
    kept, short, other = await stage.leases(life, 300, 10, 300)
    await stage.renew(life, kept, 600)
    sync = asyncio.ensure_future(stage.release(life, other, sync=True))
    await life.turns(3)
    await life.settle()
    await sync
    stage.expire()
    await life.upkeep.reap()
    await life.settle()
    await stage.release(life, short)
    await life.upkeep.tidy()


async def a_crowd_in_line(stage: Stage) -> None:
    life = await stage.life().begin()
    callers = [asyncio.ensure_future(stage.lease(life, holder)) for holder in "aaabbbcccddd"]
    await life.turns(5)
    await life.settle()
    for _ in range(4):
        for lease in [one for one in stage.told.leases.values() if one.id not in stage.told.ended][:3]:
            await stage.release(life, lease)
        await life.settle()
    await asyncio.gather(*callers)


async def a_server_dies(stage: Stage) -> None:
    life = await stage.life().begin()
    leases = await stage.leases(life, 300, 300, 300, 300)
    server = life.server_of(leases[0])
    server.alive = False
    stage.told.ending |= {lease.id for lease in leases if life.server_of(lease) is server}
    await life.upkeep.check_servers()
    await life.settle()


async def servers_and_makes_fail(stage: Stage) -> None:
    life = stage.life()
    await life.load()
    refused = ServerRefusedError("could not create", sqlstate="53100")
    life.admin.faults.errors = {"create_base": [refused], "create_database": [refused] * 2, "drop": [refused]}
    await life.serving.choose(lambda _line: None)
    await life.recovering.recover()
    with contextlib.suppress(ServerRefusedError):  # when it was the only one
        await life.upkeep.bring_up()
    for _ in range(6):
        await life.settle()
        life.clock.advance(40)
    await stage.lease(life)


async def stopped_in_order(stage: Stage) -> None:
    life = await stage.life().begin()
    await stage.leases(life, 300, 300, 300)
    stage.told.ending |= set(stage.told.leases)
    await life.upkeep.shut_down()
    stage.told.ended |= set(stage.told.leases)


async def started_again_and_again(stage: Stage) -> None:
    """The kill may hit a daemon that is putting right what an earlier one left."""
    life = await stage.life().begin()
    await stage.leases(life, 300, 300, 300)
    await stage.release(life, next(iter(stage.told.leases.values())))
    half = asyncio.ensure_future(life.settle())
    await asyncio.wait({half}, timeout=0)
    await _die(half, *life.tasks)
    life = await stage.life().begin()
    await stage.lease(life)


async def _die(*tasks):
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


SCENARIOS = [
    leases_and_releases,
    a_crowd_in_line,
    a_server_dies,
    servers_and_makes_fail,
    stopped_in_order,
    started_again_and_again,
]
KINDS = {"disposable": {"embedded": True}, "existing": {"existing": False}}


def lived(stage: Stage, scenario: Scenario, blows_at: int | None) -> bool:
    """Give the scenario a process of its own, and return whether it was killed before its end.

    Nothing of it is left afterwards but the world, the store and what callers were told.
    """

    async def life():
        asyncio.get_running_loop().set_exception_handler(_unless_killed)
        killed = asyncio.Event()
        stage.world.fuse = Fuse(blows_at, killed.set)
        work, end = asyncio.ensure_future(scenario(stage)), asyncio.ensure_future(killed.wait())
        await asyncio.wait({work, end}, return_when=asyncio.FIRST_COMPLETED)
        if not killed.is_set():
            await work
        await _die(*(asyncio.all_tasks() - {asyncio.current_task()}))
        return killed.is_set()

    return run(life())


def _unless_killed(loop, context):
    if not isinstance(context.get("exception"), KilledError):
        loop.default_exception_handler(context)


def revive_what_is_not_ours(stage: Stage) -> None:
    for kind, disposable in stage.kinds.items():
        if not disposable:
            stage.world.servers[kind].alive = True  # whoever it belongs to has started it again


async def put_right(stage: Stage) -> None:
    stage.world.fuse = Fuse()
    revive_what_is_not_ours(stage)
    life = await stage.life().begin()
    for _ in range(3):  # what failed once is tried again
        stage.clock.advance(0.6)
        await life.settle()
    check_leases(stage, life)
    check_nothing_leaks(stage, life)
    await check_still_serving(stage, life)


def check_leases(stage: Stage, life: Life) -> None:
    told = stage.told
    for lease_id, told_lease in told.leases.items():
        lease, login = life.inventory.leases.get(lease_id), told.logins[lease_id]
        if lease_id not in told.ending:
            assert lease is not None
            assert lease.active, f"{lease} was promised until {told_lease.expires_at}"
            assert lease.expires_at >= told_lease.expires_at
            database = life.database(lease)
            assert (database.name, database.login, database.password) == login
            life.log_in(lease)
        if lease_id in told.ended:
            assert lease is None or not lease.active
            for server in stage.world.servers.values():
                with pytest.raises(PermissionError):
                    server.log_in(*login)
    holders = [lease.database_id for lease in life.inventory.active_leases()]
    assert len(holders) == len(set(holders))


def check_nothing_leaks(stage: Stage, life: Life) -> None:
    states = DatabaseState
    assert {life.count(state) for state in (states.MAKING, states.CONDEMNED, states.DROPPING)} == {0}
    mine = daemon_prefix(life.daemon)
    running = {name for name in stage.world.servers if name.startswith(mine)}
    known = {server.name for server in life.inventory.servers.values() if life.backends[server.backend].disposable}
    assert running == known
    on_servers, on_record = set[str](), set[str]()
    for server in stage.world.servers.values():
        on_servers |= {name for name in (*server.databases, *server.logins) if name.startswith(mine)}
    for database in life.inventory.databases.values():
        if database.state is not states.GONE:
            on_record |= {database.name, database.login}
            assert database.state is states.LEASED or not used(stage, database.name)
    on_record |= {template.database for template in life.inventory.copies.values()}
    assert on_servers == on_record
    assert stage.foreign_things() == stage.before


def used(stage: Stage, name: str) -> bool:
    return any(server.databases[name].used for server in stage.world.servers.values() if name in server.databases)


async def check_still_serving(stage: Stage, life: Life) -> None:
    """The pool is as full as it should be, and what it hands out was never anybody's."""
    wanted = TARGETS.ready * len(life.inventory.servers)
    leased = life.count(DatabaseState.LEASED)
    assert life.count(DatabaseState.READY) >= min(wanted, TARGETS.most - leased)
    taken = {name for name, _, _ in stage.told.logins.values()}
    if leased < TARGETS.most:
        lease = await life.acquire("next", wait=0)
        assert life.database(lease).name not in taken
        life.log_in(lease)


@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_scenario_ends_well_when_nobody_is_killed(scenario, kinds):
    stage = Stage(kinds)
    assert not lived(stage, scenario, None)
    run(put_right(stage))


@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_kill_at_any_step_is_put_right_by_the_next_start(scenario, kinds):
    for blows_at in itertools.count(1):
        stage = Stage(kinds)
        killed = lived(stage, scenario, blows_at)
        at = f"killed at step {blows_at}: {stage.world.fuse.steps[-3:]}"
        try:
            run(put_right(stage))
        except Exception as error:
            raise AssertionError(at) from error
        if not killed:
            assert blows_at > 30, "the scenario hardly does anything"
            break


async def only_start(stage: Stage) -> None:
    await stage.life().begin()


@given(
    st.sampled_from(SCENARIOS),
    st.sampled_from([*KINDS.values()]),
    st.lists(st.integers(1, 150), min_size=2, max_size=4),
)
@settings(max_examples=150, deadline=None)
def test_a_daemon_killed_while_it_puts_things_right_is_put_right_too(scenario, kinds, kills):
    stage = Stage(dict(kinds))
    lived(stage, scenario, kills[0])
    for blows_at in kills[1:]:
        revive_what_is_not_ours(stage)
        lived(stage, only_start, blows_at)
    run(put_right(stage))
