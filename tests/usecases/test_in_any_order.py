"""Callers who do everything at once while servers, store and files fail and daemons are killed; on fakes.

Whatever happened: who got a lease got its template's content, nobody waits for ever, no task failed with anything but
an error for people, and in the end nothing is left over.
"""

import asyncio
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from leasedb_server.domain.edition import Editions
from leasedb_server.domain.errors import (
    IllegalTransitionError,
    LeasedbError,
    ServerRefusedError,
    ServerUnreachableError,
    StoreFailedError,
)
from leasedb_server.domain.pool import Targets
from leasedb_server.domain.template import TemplateState, is_base
from leasedb_server.usecases.asking import CallerGoneError
from tests.doubles import FakeClock, FakeWorld, Fuse, KilledError, MemoryFiles, MemoryStore
from tests.usecases.killing import die
from tests.usecases.stage import Life, run, stays

NAMES, TEXTS = ("shop", "cart"), ("a;", "b;")
WAITS = (0, 5, 60)  # seconds
STATEMENTS = ("seal", "reset", "branch", "import_copy", "export_copy", "create_database", "drop")
REPEATED = ("seal", "reset", "branch", "import_copy")  # of which an answer may be lost
MISHAPS = ("server", "refused", "silent", "lost", "hangs", "goes on", "goes on", "store", "files", "time")
ACTS = (*["lease", "use", "mishap"] * 4, "whole", "put", "put", "build", "build", "delete")


class Crowd:
    """What callers and mishaps do, as a random number generator decides."""

    def __init__(self, seed):
        self.random = random = Random(seed)
        self.lent = random.random() < 0.2
        self.calls = set[asyncio.Future[None]]()
        self.leases = []
        world = FakeWorld()
        self.files = MemoryFiles(world)
        self.settings = {
            "targets": Targets(1 if self.lent else random.choice([1, 2]), random.choice([1, 2]), random.choice([4, 8])),
            "kinds": {"existing": False} if self.lent else {"embedded": True},
            "warm": 0 if self.lent else random.choice([0, 1]),
            "budget": random.choice([10**9, 22_000_000]),
            "editions": None if self.lent else Editions("18", None, ("17",)),
            "files": self.files,
        }
        self.life = Life(world, MemoryStore(world), FakeClock(), **self.settings)

    def contents(self, key):
        """Return what the copies of a template hold, and its kept files; a set of one."""
        inventory, found = self.life.inventory, set()
        for server in inventory.ready_servers():
            there, copy = self.life.world.at(server.endpoint.port), inventory.sealed_on(server.id, key)
            if copy is not None and there is not None:
                found.add(there.databases[copy.database].content)
        template = inventory.templates.get(key)
        if template is not None and template.kept:
            found.add(self.files.kept[template.id].decode()[1:-1])
        return found

    # --- callers ---

    def call(self, work, *arguments):
        async def answered():
            try:
                await work(*arguments)
            except IllegalTransitionError:
                raise
            except (LeasedbError, CallerGoneError, KilledError):
                pass

        self.calls.add(asyncio.ensure_future(answered()))

    def gone(self):
        if self.random.random() > 0.15:
            return stays
        turns = self.random.randrange(30)

        async def soon():
            await self.life.turns(turns)

        return soon

    def edition(self):
        return {"postgres": "17"} if not self.lent and self.random.random() < 0.15 else {}

    async def lease(self, acquire):
        name = self.random.choice([*NAMES, "base", "base"])
        edition = self.edition()
        lease = await acquire(template=name, wait=self.random.choice(WAITS), gone=self.gone(), **edition)
        self.leases.append(lease)
        life, key = self.life, f"{name}@17" if edition else name
        template = life.inventory.templates.get(key)
        assert is_base(key) or (template is not None and template.sealed)
        if life.server_of(lease).alive and life.server_of(lease).answers:
            assert {life.content(lease)} == self.contents(key)
            life.log_in(lease)
            life.write(lease, "mess;")
            if self.random.random() < 0.7:
                life.server_of(lease).sessions.clear()

    async def put(self):
        parent = self.random.choice(["base", "base", *NAMES])
        more = {"wait": self.random.choice(WAITS), "gone": self.gone(), **self.edition()}
        await self.life.put(self.random.choice(NAMES), self.random.choice(TEXTS), parent=parent, **more)

    async def build(self):
        life, fingerprint = self.life, self.random.choice(TEXTS)
        more = {"wait": self.random.choice(WAITS), "gone": self.gone(), **self.edition()}
        _, lease = await life.build(self.random.choice(NAMES), fingerprint, **more)
        if lease is None:
            return
        await life.turns(self.random.randrange(20))
        match self.random.choice(["seal", "seal", "seal", "abandon", "fail", "release", "forget"]):
            case "seal":
                await life.templating.seal(lease.builds, lease.id, force=self.random.random() < 0.5)
            case "abandon":
                await life.templating.abandon(lease.builds, lease.id, None)
            case "fail":
                await life.templating.abandon(lease.builds, lease.id, "no more")
            case "release":
                await life.leasing.release(lease.id, sync=False)

    async def use(self):
        active = [lease for lease in self.leases if lease.id in {one.id for one in self.life.inventory.active_leases()}]
        if not active:
            return
        lease, life = self.random.choice(active), self.life
        match self.random.choice(["release", "reset", "reset", "branch"]):
            case "release":
                await life.leasing.release(lease.id, sync=False)
            case "reset":
                template = self.random.choice([None, None, *NAMES])
                await life.reset(lease, template, self.random.choice(WAITS), gone=self.gone())
            case "branch":
                name, fingerprint = self.random.choice([None, *NAMES]), self.random.choice([None, *TEXTS])
                await life.resetting.branch(lease.id, name, fingerprint, force=self.random.random() < 0.5)

    # --- mishaps ---

    def mishap(self):
        life, random = self.life, self.random
        # What a lent server refuses to drop while it is emptied stays there until the next start.
        statement = random.choice(STATEMENTS[:-1] if self.lent else STATEMENTS)
        match random.choice(
            ["server", "refused", "silent", "lost", "hangs", "goes on", "goes on", "store", "files", "time"]
        ):
            case "server" if life.world.servers:
                server = random.choice([*life.world.servers.values()])
                server.answers = not server.answers
                server.alive = server.alive and (self.lent or random.random() < 0.5)
            case "refused":
                life.admin.faults.errors.setdefault(statement, []).append(ServerRefusedError("no", sqlstate="XX000"))
            case "silent":
                life.admin.faults.errors.setdefault(statement, []).append(ServerUnreachableError("gone"))
            case "lost":
                lost = life.admin.faults.lost_answers.setdefault(random.choice(REPEATED), [])
                lost.append(ServerUnreachableError("gone"))
            case "hangs":
                life.admin.faults.hanging.add(statement)
            case "goes on":
                life.admin.faults.let_go()
            case "store":
                life.store.fails = frozenset({life.store.tried + random.randrange(1, 15)})
            case "files":
                self.files.faults.errors[random.choice(["write", "read"])] = [StoreFailedError("full")]
            case "time":
                life.clock.advance(random.choice([1, 5, 400]))

    async def be_killed(self):
        life = self.life
        life.world.fuse = Fuse(0)
        self.heal()
        await die(*(asyncio.all_tasks() - {asyncio.current_task()}))
        self.calls.clear()
        life.world.fuse = Fuse()
        self.life = Life(life.world, life.store, life.clock, **self.settings)
        await self.life.begin()
        for lease in self.life.inventory.active_leases():
            self.life.log_in(lease)
            self.life.server_of(lease).sessions.clear()

    def heal(self):
        for faults in (self.life.admin.faults, self.files.faults):
            faults.errors.clear()
            faults.lost_answers.clear()
            faults.let_go()
        self.life.store.fails = frozenset()
        if self.lent:
            self.life.world.servers["existing"].answers = True

    # --- the course of things ---

    async def go_on(self):
        life = self.life
        match self.random.choice(["wait", "wait", "turn", "turn", "turn", "reap", "check", "tidy"]):
            case "wait":
                await life.turns(self.random.randrange(1, 8))
            case "turn":
                await life.upkeep.turn(life.spawn)
            case "reap":
                await life.upkeep.reap()
            case "check":
                self.call(life.upkeep.check_servers)
            case "tidy":
                self.call(life.upkeep.tidy)
        assert life.defects == []
        for call in [call for call in self.calls if call.done()]:
            self.calls.discard(call)
            call.result()

    def act(self):
        life = self.life
        match self.random.choice(ACTS):
            case "lease":
                self.call(self.lease, life.acquire)
            case "whole":
                self.call(self.lease, life.acquire_whole)
            case "put":
                self.call(self.put)
            case "build":
                self.call(self.build)
            case "delete":
                self.call(life.templating.delete, self.random.choice([*NAMES, "shop@17"]))
            case "use":
                self.call(self.use)
            case "mishap":
                self.mishap()

    async def end(self):
        """Let everything heal, nobody have a lease any more, and the last daemon be followed by another."""
        self.heal()
        for server in self.life.world.servers.values():
            server.answers = True
        await self.rest(14)
        if self.calls:
            await asyncio.wait(self.calls, timeout=61)
        await self.rest(3)
        assert all(call.done() for call in self.calls), "somebody waits for ever"
        for call in self.calls:
            call.result()
        life = self.life
        for lease in life.inventory.active_leases():
            await life.leasing.release(lease.id, sync=False)
        await self.rest(2)
        await life.check()
        for template in list(life.inventory.templates.values()):
            assert template.state is not TemplateState.BUILDING
            if template.sealed:
                lease = await life.leased(template=template.name, postgres=template.edition or None)
                assert {life.content(lease)} == self.contents(template.key)
                await life.leasing.release(lease.id, sync=False)
                await life.settle()
        self.life = Life(life.world, life.store, life.clock, **self.settings)
        await self.life.begin()
        await self.rest(4)
        await self.life.check()

    async def rest(self, times):
        for _ in range(times):
            await self.life.upkeep.check_servers()
            await self.life.upkeep.reap()
            await self.life.settle()
            self.life.clock.advance(7)


@given(st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_whatever_happens_everything_is_put_right_in_the_end(seed):
    async def work():
        crowd = Crowd(seed)
        await crowd.life.begin()
        for _ in range(60):
            crowd.act()
            for _ in range(crowd.random.randrange(1, 6)):
                await crowd.go_on()
            if crowd.random.random() < 0.02:
                await crowd.be_killed()
        await crowd.end()

    run(work())
