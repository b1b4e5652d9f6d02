"""One daemon's life on fakes, in an event loop whose time jumps instead of passing."""

import asyncio
import selectors
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from leasedb_server.domain.database import Database, DatabaseState
from leasedb_server.domain.demand import Demand
from leasedb_server.domain.inventory import Inventory
from leasedb_server.domain.lease import Holder, Lease
from leasedb_server.domain.pool import CALM, Targets
from leasedb_server.domain.setbacks import Setbacks
from leasedb_server.usecases.asking import LeaseRequest
from leasedb_server.usecases.leasing import Leasing
from leasedb_server.usecases.ledger import Ledger
from leasedb_server.usecases.making import Making
from leasedb_server.usecases.serving import Serving
from leasedb_server.usecases.upkeep import Upkeep
from tests.doubles import FakeAdmin, FakeBackend, FakeClock, FakeProcesses, FakeServer, FakeWorld, MemoryStore

T = TypeVar("T")
FEW = Targets(servers=1, ready=2, most=6)
TIGHT = Targets(servers=1, ready=2, most=2)


class _JumpingSelector(selectors.DefaultSelector):  # type: ignore[misc,valid-type] # it is chosen at run time
    """Does not wait for a timer: tells how long it would have waited."""

    def __init__(self) -> None:
        super().__init__()
        self.jumped = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise AssertionError("everything waits, and nothing is going to happen")
        if events := super().select(0):
            return events
        self.jumped += timeout
        return []


class JumpingLoop(asyncio.SelectorEventLoop):
    """When nothing is left to do until a timer runs out, it runs out; when there is no timer, that is an error."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.jumped


def run(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(work)


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
    ) -> None:
        self.world, self.store, self.clock, self.targets = world, store, clock, targets
        self.kinds = kinds or {"embedded": True}  # disposable or not, in the order in which they are tried
        self.others = others or {}
        self.processes = processes or FakeProcesses()
        self.max_ttl = max_ttl
        self.idle_stop = idle_stop
        self.demand = Demand(floor := targets.ready * targets.servers, floor)
        self.inventory, self.wake = Inventory(), asyncio.Event()
        self.admin = FakeAdmin(world)
        self.tasks: set[asyncio.Task[object]] = set()

    async def load(self) -> "Life":
        """Read what the store holds and build the use cases; nothing is done yet."""
        self.ledger = Ledger(self.inventory, self.store)
        self.daemon = await self.ledger.load()
        kinds = {**self.kinds, **self.others}
        self.backends = {
            kind: FakeBackend(self.world, self.daemon, kind=kind, disposable=disposable)
            for kind, disposable in kinds.items()
        }
        setbacks = Setbacks()
        self.leasing = Leasing(
            self.ledger,
            self.admin,
            self.clock,
            self.processes,
            setbacks=setbacks,
            demand=self.demand,
            refill=lambda: self.upkeep.refill(),  # noqa: PLW0108 - it is made below
            max_ttl=self.max_ttl,
            wake=self.wake.set,
            wake_soon=self.wake.set,
        )
        self.serving = Serving(
            self.ledger,
            self.admin,
            self.clock,
            daemon=self.daemon,
            candidates=[self.backends[kind] for kind in self.kinds],
            others=[self.backends[kind] for kind in self.others],
            start_timeout=60.0,
        )
        self.making = Making(
            self.ledger,
            self.admin,
            self.clock,
            self.serving,
            setbacks=setbacks,
            daemon=self.daemon,
            wake=self.wake.set,
        )
        self.upkeep = Upkeep(
            self.ledger,
            self.clock,
            self.leasing,
            self.serving,
            self.making,
            setbacks=setbacks,
            demand=self.demand,
            targets=self.targets,
            wake=self.wake,
            idle_stop=self.idle_stop,
        )
        return self

    async def begin(self) -> "Life":
        """Do what the supervisor does at the start, up to a full pool."""
        await self.load()
        await self.serving.choose(lambda _line: None)
        await self.serving.recover()
        await self.upkeep.reap()
        await self.upkeep.bring_up()
        await self.settle()
        return self

    def spawn(self, work: Coroutine[None, None, object]) -> None:
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def settle(self, most: int = 500) -> None:
        """Plan and act until there is nothing to do, not even when it is calm."""
        calm = False
        for _ in range(most):
            await self.upkeep.turn(self.spawn)
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


async def _nothing() -> None:
    pass


async def begun(**settings: Any) -> Life:
    """Return a daemon with a full pool, in a world of its own."""
    world = FakeWorld()
    return await Life(world, MemoryStore(world), FakeClock(), **settings).begin()


def lives(test: Callable[[Life], Awaitable[None]]) -> Callable[[], None]:
    """Run the coroutine function that follows on a daemon with a full pool of two and room for no more."""

    def run_it() -> None:
        async def work() -> None:
            await test(await begun(targets=TIGHT))

        run(work())

    run_it.__name__, run_it.__doc__ = test.__name__, test.__doc__
    return run_it


async def waiting(life: Life, *holders: str, **more: Any) -> list[asyncio.Task[Lease]]:
    """Return callers that are in line, in this order."""
    callers = [asyncio.ensure_future(life.acquire(holder, **more)) for holder in holders]
    await life.turns(2)
    return callers


async def taken(life: Life) -> list[Lease]:
    """Lease all there is."""
    return [await life.acquire("first", wait=0) for _ in range(TIGHT.most)]
