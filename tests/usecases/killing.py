"""Daemons that are killed at a step of a scenario, and what holds once the next one has started.

A scenario is run once to count its steps: each effect on a server and each commit counts before it happens and after.
Then it is run again for every one of them, killed there, and a fresh daemon is started on what is left.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from leasedb_server.domain.database import DatabaseState
from leasedb_server.domain.edition import parted
from leasedb_server.domain.lease import Lease
from leasedb_server.domain.names import Kind, Name, daemon_prefix
from leasedb_server.domain.pool import Targets
from leasedb_server.domain.template import TemplateState
from tests.doubles import FakeClock, FakeDatabase, FakeLogin, FakeWorld, Fuse, KilledError, MemoryFiles, MemoryStore
from tests.usecases.stage import Life, run

TARGETS = Targets(servers=2, ready=2, most=9)
FOREIGN = "zzzzzz"
KINDS = {"disposable": {"embedded": True}, "existing": {"existing": False}}


@dataclass
class Told:
    """What callers were told before the daemon died, and what they had asked for and were not answered."""

    leases: dict[str, Lease] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    ending: set[str] = field(default_factory=set)  # asked for, whether answered or not
    logins: dict[str, tuple[str, str, str]] = field(default_factory=dict)  # name, login, password by lease id
    contents: dict[str, set[str]] = field(default_factory=dict)  # what a lease may hold, where it is known
    templates: dict[str, str] = field(default_factory=dict)  # by key: what those hold that are sealed
    dropping: set[str] = field(default_factory=set)  # templates that were to be deleted, or may be evicted


@dataclass
class Stage:
    kinds: dict[str, bool]
    world: FakeWorld = field(default_factory=FakeWorld)
    clock: FakeClock = field(default_factory=FakeClock)
    told: Told = field(default_factory=Told)
    others: dict[str, bool] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    begun_at: int = 0  # steps until the scenario has a full pool

    def __post_init__(self):
        self.store = MemoryStore(self.world)
        self.files = MemoryFiles(self.world)
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
        settings = {"targets": TARGETS, "kinds": self.kinds, "others": self.others, **self.settings, **more}
        return Life(self.world, self.store, self.clock, files=self.files, **settings)

    async def begin(self):
        life = await self.life().begin()
        self.begun_at = len(self.world.fuse.steps)
        return life

    # --- what callers do; each writes down what it was told ---

    async def lease(self, life, holder="suite", **more):
        return self.note(life, await life.acquire(holder, **more))

    async def whole(self, life, **more):
        """Lease a whole server."""
        caller = asyncio.ensure_future(life.acquire_whole(**more))
        await life.turns(3)
        await life.settle()
        return self.note(life, await caller)

    async def building(self, life, name, content, **more):
        """Become the builder of a template and write something."""
        _, lease = await life.build(name, **more)
        self.note(life, lease)
        life.server_of(lease).sessions.clear()
        life.write(lease, content)
        return lease

    def note(self, life, lease):
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

    async def put(self, life, name, text, *, holds=None, **more):
        template, _ = await life.put(name, text, **more)
        self.told.templates[template.key] = holds or text

    async def seal(self, life, lease, holds):
        self.told.ending.add(lease.id)
        await life.templating.seal(lease.builds, lease.id, force=True)
        self.told.ended.add(lease.id)
        self.told.templates[lease.builds] = holds

    async def branch(self, life, lease, holds, name=None):
        template = await life.resetting.branch(lease.id, name, "f" if name else None, force=True)
        self.told.templates[template.key] = holds
        return template

    async def delete(self, life, key):
        self.told.dropping.add(key)
        await life.templating.delete(key)
        assert key not in life.inventory.templates

    async def reset(self, life, lease, template=None, *, holds):
        held = life.content(lease)
        self.told.contents[lease.id] = {held, holds}
        await life.leased_reset(lease, template)
        self.told.contents[lease.id] = {holds}

    def write(self, life, lease, content):
        life.write(lease, content)
        self.told.contents[lease.id] = {life.content(lease)}

    def expire(self):
        """Let time pass until the leases of 10 seconds are over."""
        self.clock.advance(11)
        self.told.ending |= {lease.id for lease in self.told.leases.values() if lease.expires_at <= self.clock.now()}


Scenario = Callable[[Stage], Awaitable[None]]


async def die(*tasks):
    """End what has no process any more."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


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
        await die(*(asyncio.all_tasks() - {asyncio.current_task()}))
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
    await check_nothing_leaks(stage, life)
    await check_templates(stage, life)
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
        if lease is not None and lease.active:
            life.log_in(lease)
            assert life.content(lease) in told.contents.get(lease_id, {life.content(lease)})
        if lease_id in told.ended:
            assert lease is None or not lease.active
            for server in stage.world.servers.values():
                with pytest.raises(PermissionError):
                    server.log_in(*login)
    holders = [lease.database_id for lease in life.inventory.active_leases()]
    assert len(holders) == len(set(holders))


async def check_nothing_leaks(stage: Stage, life: Life) -> None:
    await life.check()
    mine = daemon_prefix(life.daemon)
    running = {name for name in stage.world.servers if name.startswith(mine)}
    known = {server.name for server in life.inventory.servers.values() if life.backends[server.backend].disposable}
    assert running == known
    on_servers, on_record = set[str](), set[str]()
    for server in stage.world.servers.values():
        on_servers |= {name for name in (*server.databases, *server.logins) if name.startswith(mine)}
    for database in life.inventory.databases.values():
        if database.state is not DatabaseState.GONE:
            on_record |= {name for name in (database.name, database.login) if name.startswith(mine)}
            assert database.state is DatabaseState.LEASED or not used(stage, database.name)
    on_record |= {template.database for template in life.inventory.copies.values()}
    assert on_servers == on_record
    assert stage.foreign_things() == stage.before


def used(stage: Stage, name: str) -> bool:
    return any(server.databases[name].used for server in stage.world.servers.values() if name in server.databases)


async def check_templates(stage: Stage, life: Life) -> None:
    """What was sealed is there, whatever is there can be leased from, and nobody waits for a builder that is gone."""
    for template in life.inventory.templates.values():
        builder = life.inventory.leases.get(template.builder or "")
        assert template.state is not TemplateState.BUILDING or (builder is not None and builder.active)
    for key, holds in stage.told.templates.items():
        name, edition = parted(key)
        found = life.inventory.templates.get(key)
        assert key in stage.told.dropping or (found is not None and found.sealed), f"{key} was sealed"
        if found is not None and found.sealed:
            lease = await life.leased("templates", template=name, postgres=edition or None)
            assert life.content(lease) == holds
            await life.leasing.release(lease.id, sync=False)
            await life.settle()


async def check_still_serving(stage: Stage, life: Life) -> None:
    """The pool is as full as it should be, and what it hands out was never anybody's."""
    wanted = TARGETS.ready * sum(not server.exclusive for server in life.inventory.servers.values())
    leased = life.count(DatabaseState.LEASED)
    assert life.count(DatabaseState.READY) >= min(wanted, TARGETS.most - leased)
    taken = {name for name, _, _ in stage.told.logins.values()}
    if leased < TARGETS.most:
        lease = await (life.leased("next") if stage.settings else life.acquire("next", wait=0))
        assert life.database(lease).name not in taken
        life.log_in(lease)


def killed_at_every_step(stage_of: Callable[[], Stage], scenario: Scenario, *, stride: int = 1) -> int:
    """Kill a daemon at every step, or every so many steps, once its pool is full; return how many steps there were."""
    whole = stage_of()
    assert not lived(whole, scenario, None)
    for blows_at in itertools.count(max(1, whole.begun_at), stride):
        stage = stage_of()
        killed = lived(stage, scenario, blows_at)
        at = f"killed at step {blows_at}: {stage.world.fuse.steps[-3:]}"
        try:
            run(put_right(stage))
        except Exception as error:
            raise AssertionError(at) from error
        if not killed:
            return blows_at
    raise AssertionError("steps without an end")
