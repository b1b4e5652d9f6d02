"""One daemon's life on fakes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from typing import Any

from leasedb_server.domain.database import Database, DatabaseState
from leasedb_server.domain.demand import Demand
from leasedb_server.domain.edition import Editions
from leasedb_server.domain.errors import UnknownTemplateError
from leasedb_server.domain.inventory import Inventory
from leasedb_server.domain.lease import Holder, Lease
from leasedb_server.domain.names import daemon_prefix
from leasedb_server.domain.pool import CALM, Targets
from leasedb_server.domain.server import ServerState
from leasedb_server.domain.setbacks import Setbacks
from leasedb_server.domain.template import CopyState, Origin, Template, is_base
from leasedb_server.usecases.asking import LeaseRequest, TemplateRequest
from leasedb_server.usecases.copies import Copies
from leasedb_server.usecases.exclusive import Exclusives
from leasedb_server.usecases.holding import Holding
from leasedb_server.usecases.idling import Idling
from leasedb_server.usecases.keeping import Keeping
from leasedb_server.usecases.leasing import Leasing
from leasedb_server.usecases.ledger import Ledger
from leasedb_server.usecases.making import Making
from leasedb_server.usecases.queueing import Queue
from leasedb_server.usecases.recovering import Recovering
from leasedb_server.usecases.resetting import Resetting
from leasedb_server.usecases.serving import Serving
from leasedb_server.usecases.templating import Templating
from leasedb_server.usecases.upkeep import Upkeep
from tests.doubles import (
    FakeAdmin,
    FakeBackend,
    FakeClock,
    FakeProcesses,
    FakeServer,
    FakeWorld,
    MemoryFiles,
    MemoryStore,
)
from tests.usecases.jumping import run

FEW = Targets(servers=1, ready=2, most=6)
TIGHT = Targets(servers=1, ready=2, most=2)


async def stays() -> None:
    """The caller that does not hang up."""
    await asyncio.get_running_loop().create_future()


class Life:
    """The use cases of one daemon, wired as the assembly wires them."""

    def __init__(
        self,
        world: FakeWorld,
        store: MemoryStore,
        clock: FakeClock,
        *,
        targets: Targets = FEW,
        kinds: Mapping[str, bool] | None = None,
        others: Mapping[str, bool] | None = None,
        processes: FakeProcesses | None = None,
        max_ttl: float = 86_400.0,
        idle_stop: float | None = None,
        idle_exit: float | None = None,
        keep_max: int = 10,
        warm: int = 0,
        budget: int = 10**9,
        files: MemoryFiles | None = None,
        editions: Editions | None = None,
    ) -> None:
        self.world, self.store, self.clock, self.targets = world, store, clock, targets
        self.kinds = kinds or {"embedded": True}  # disposable or not, in the order in which they are tried
        self.others = others or {}
        self.processes = processes or FakeProcesses()
        self.max_ttl = max_ttl
        self.idle_stop, self.idle_exit = idle_stop, idle_exit
        self.keep_max = keep_max
        self.warm, self.budget = warm, budget
        self.files = files or MemoryFiles(world)
        self.editions = editions
        self.demand = Demand(floor := targets.ready * targets.servers, floor)
        self.inventory, self.wake = Inventory(), asyncio.Event()
        self.admin = FakeAdmin(world)
        self.tasks: set[asyncio.Future[object]] = set()
        self.defects: list[BaseException] = []  # of tasks; each would end the daemon

    async def load(self) -> "Life":
        """Read what the store holds and build the use cases; nothing is done yet."""
        self.ledger = Ledger(self.inventory, self.store)
        self.daemon = await self.ledger.load()
        kinds = {**self.kinds, **self.others}
        self.backends = {
            kind: FakeBackend(self.world, self.daemon, kind=kind, disposable=disposable, editions=self.editions)
            for kind, disposable in kinds.items()
        }
        setbacks = Setbacks()
        wake = self.wake.set
        self.queue = Queue(
            self.inventory,
            self.clock,
            setbacks=setbacks,
            demand=self.demand,
            refill=lambda: self.upkeep.refill(),  # noqa: PLW0108 - it is made below
            wake=wake,
        )
        ports = (self.ledger, self.admin, self.clock)
        self.serving = Serving(
            *ports,
            daemon=self.daemon,
            candidates=[self.backends[kind] for kind in self.kinds],
            others=[self.backends[kind] for kind in self.others],
            start_timeout=60.0,
        )
        self.leasing = Leasing(
            *ports,
            self.processes,
            self.queue,
            editions=lambda: self.serving.editions,
            throw_away=lambda server_id: self.exclusives.throw_away(server_id),  # noqa: PLW0108 - it is made below
            max_ttl=self.max_ttl,
            wake=wake,
            wake_soon=wake,
        )
        self.making = Making(*ports, self.serving, setbacks=setbacks, daemon=self.daemon, wake=wake)
        self.copies = Copies(
            *ports,
            self.serving,
            self.files,
            demand=self.demand,
            waiting=self.queue.waiting_for,
            refuse=lambda key: self.queue.fail(
                lambda want: UnknownTemplateError(f"{key} is gone.") if want.template == key else None
            ),
            setbacks=setbacks,
            daemon=self.daemon,
            budget=self.budget,
            wake=wake,
        )
        self.exclusives = Exclusives(
            *ports,
            serving=self.serving,
            making=self.making,
            copies=self.copies,
            leasing=lambda: self.leasing,
            setbacks=setbacks,
            daemon=self.daemon,
            warm=self.warm,
            secured=False,
            wake=wake,
        )
        self.templating = Templating(*ports, self.leasing, self.copies, daemon=self.daemon, wake=wake)
        self.resetting = Resetting(
            *ports,
            leasing=self.leasing,
            queue=self.queue,
            templating=self.templating,
            making=self.making,
            exclusives=self.exclusives,
            daemon=self.daemon,
            wake_soon=wake,
        )
        self.recovering = Recovering(
            *ports,
            serving=self.serving,
            leasing=self.leasing,
            templating=self.templating,
            resetting=self.resetting,
            exclusives=self.exclusives,
            copies=self.copies,
            daemon=self.daemon,
            start_timeout=60.0,
        )
        self.upkeep = Upkeep(
            self.ledger,
            self.clock,
            queue=self.queue,
            leasing=self.leasing,
            serving=self.serving,
            making=self.making,
            copies=self.copies,
            exclusives=self.exclusives,
            setbacks=setbacks,
            demand=self.demand,
            targets=self.targets,
            wake=self.wake,
            idle_stop=self.idle_stop,
        )
        self.keeping = Keeping(self.ledger, self.clock, self.leasing, most=self.keep_max)
        self.holding = Holding(self.ledger, self.clock, self.leasing)
        self.idling = Idling(self.inventory, self.clock, announced=self.upkeep.announced, after=self.idle_exit)
        return self

    async def begin(self) -> "Life":
        """Do what the supervisor does at the start, up to a full pool."""
        await self.load()
        await self.serving.choose(lambda _line: None)
        await self.recovering.recover()
        await self.upkeep.reap()
        await self.upkeep.bring_up()
        await self.settle()
        return self

    def spawn(self, work: Coroutine[None, None, object]) -> None:
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Future[object]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self.defects.append(error)

    async def settle(self, most: int = 500) -> None:
        """Plan and act until there is nothing to do, not even when it is calm."""
        calm = False
        for _ in range(most):
            await self.upkeep.turn(self.spawn)
            if self.defects:
                raise self.defects[0]
            if self.tasks:
                await asyncio.wait(self.tasks, return_when=asyncio.FIRST_COMPLETED)
                continue
            self.wake.clear()
            await self.turns(3)  # callers who were served go on
            if self.wake.is_set():
                calm = False
            elif calm:
                return
            else:
                self.clock.advance(2 * CALM)  # what can wait for a calm moment is done now
                calm = True
        raise AssertionError(f"never settles: {self.upkeep.view()}")

    async def turns(self, number: int = 20) -> None:
        """Let everything that can go on go on."""
        for _ in range(number):
            await asyncio.wait_for(asyncio.shield(_nothing()), 1)

    async def acquire(
        self,
        holder: str = "",
        *,
        wait: float = 60.0,
        ttl: float = 300.0,
        gone: Callable[[], Awaitable[object]] = stays,
        pid: int | None = None,
        **more: Any,
    ) -> Lease:
        request = LeaseRequest(ttl=ttl, wait=wait, holder=Holder(holder, pid), **more)
        return await self.leasing.acquire(request, gone)

    async def leased(self, holder: str = "", **more: Any) -> Lease:
        """Lease while everything that is due is done."""
        (caller,) = await waiting(self, holder, **more)
        await self.settle()
        return await caller

    async def acquire_whole(
        self,
        holder: str = "",
        *,
        wait: float = 60.0,
        gone: Callable[[], Awaitable[object]] = stays,
        pid: int | None = None,
        **more: Any,
    ) -> Lease:
        """Lease a whole server."""
        request = LeaseRequest(**{"ttl": 300.0, **more}, wait=wait, holder=Holder(holder, pid), exclusive=True)
        return await self.exclusives.acquire(request, gone)

    async def put(
        self, name: str, text: str = "", *, gone: Callable[[], Awaitable[object]] = stays, **more: Any
    ) -> tuple[Template, bool]:
        return await self.templating.put(TemplateRequest(name, origin=Origin.SQL, **more), parts(text), gone)

    async def build(
        self,
        name: str,
        fingerprint: str = "f",
        *,
        gone: Callable[[], Awaitable[object]] = stays,
        wish: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> tuple[Template, Lease | None]:
        """Ask for a template as a builder; ``wish`` is for its lease."""
        request = LeaseRequest(**{"ttl": 300.0, "wait": 60.0, **(wish or {})})
        return await self.templating.build(TemplateRequest(name, fingerprint=fingerprint, **more), request, gone)

    async def built(self, name: str, content: str = "", **more: Any) -> Template:
        """Build a template in a lease and seal it."""
        _, lease = await self.build(name, **more)
        assert lease is not None
        self.write(lease, content)
        return await self.templating.seal(lease.builds or "", lease.id, force=False)

    async def reset(
        self, lease: Lease, template: str | None = None, wait: float = 60.0, **more: Any
    ) -> tuple[Lease, int]:
        return await self.resetting.reset(lease.id, template, wait, more.get("gone", stays))

    async def leased_reset(self, lease: Lease, template: str | None = None) -> tuple[Lease, int]:
        """Reset while everything that is due is done."""
        caller = asyncio.ensure_future(self.reset(lease, template))
        await self.turns(3)
        await self.settle()
        return await caller

    def content(self, lease: Lease) -> str:
        return self.server_of(lease).databases[self.database(lease).name].content

    def write(self, lease: Lease, content: str) -> None:
        self.server_of(lease).databases[self.database(lease).name].content += content

    def database(self, lease: Lease) -> Database:
        return self.inventory.databases[lease.database_id]

    def server_of(self, lease: Lease) -> FakeServer:
        """Return the fake server that the lease's database is on."""
        server = self.inventory.server_of(self.database(lease))
        assert server.endpoint is not None
        found = self.world.at(server.endpoint.port)
        assert found is not None, f"{server} is gone"
        return found

    def log_in(self, lease: Lease) -> object:
        database = self.database(lease)
        return self.server_of(lease).log_in(database.name, database.login, database.password)

    def count(self, state: DatabaseState) -> int:
        return self.inventory.counts_of_all()[state]

    async def check(self, *, store: bool = True) -> None:
        """Assert that nothing is half done, and that inventory, servers, files and, if wanted, store say the same."""
        states, inventory = DatabaseState, self.inventory
        under_way = (states.MAKING, states.SPARE, states.CONDEMNED, states.DROPPING)
        assert {self.count(state) for state in under_way} == {0}, inventory.databases
        assert self.count(states.LEASED) == len(inventory.active_leases())
        for copy in inventory.copies.values():
            assert copy.state is CopyState.SEALED, copy
            assert is_base(copy.template) or inventory.templates[copy.template].sealed, copy
        for server in inventory.servers.values():
            assert server.state is ServerState.READY, server
            assert server.endpoint is not None
            databases = inventory.databases_of(server.id)
            expected = {copy.database for copy in inventory.copies_of(server.id)} | {one.name for one in databases}
            logins, there = {one.login for one in databases}, self.world.at(server.endpoint.port)
            assert there is not None, f"{server} is gone"
            mine = daemon_prefix(self.daemon)
            assert {name for name in there.databases if name.startswith(mine) or name in expected} == expected
            assert {name for name in there.logins if name.startswith(mine) or name in logins} == logins
        assert self.files.kept.keys() == {one.id for one in inventory.templates.values() if one.kept}
        if not store:
            return
        again = Inventory()
        await Ledger(again, self.store).load()
        assert again.templates.keys() == inventory.templates.keys()
        assert again.copies == inventory.copies
        assert {one.id for one in again.active_leases()} == {one.id for one in inventory.active_leases()}
        assert again.counts_of_all() == inventory.counts_of_all()


async def _nothing() -> None:
    pass


async def parts(text: str) -> AsyncIterator[str]:
    """Yield a text line by line, as it arrives."""
    for line in text.splitlines():
        await _nothing()
        yield line


async def ended(*tasks: asyncio.Future[Any]) -> None:
    """Cancel what waits."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def begun(**settings: Any) -> Life:
    """Return a daemon with a full pool, in a world of its own."""
    world = FakeWorld()
    return await Life(world, MemoryStore(world), FakeClock(), **settings).begin()


Test = Callable[[Life], Awaitable[None]]


def living(**settings: Any) -> Callable[[Test], Callable[[], None]]:
    """Run the coroutine function that follows on a daemon with these settings and a full pool."""

    def decorate(test: Test) -> Callable[[], None]:
        def run_it() -> None:
            async def work() -> None:
                await test(await begun(**settings))

            run(work())

        run_it.__name__, run_it.__doc__ = test.__name__, test.__doc__
        return run_it

    return decorate


lives = living(targets=TIGHT)  # room for no more than the two that are ready


async def waiting(life: Life, *holders: str, **more: Any) -> list[asyncio.Task[Lease]]:
    """Return callers that are in line, in this order."""
    callers = [asyncio.ensure_future(life.acquire(holder, **more)) for holder in holders]
    await life.turns(2)
    return callers


async def taken(life: Life) -> list[Lease]:
    """Lease all there is."""
    return [await life.acquire("first", wait=0) for _ in range(TIGHT.most)]
