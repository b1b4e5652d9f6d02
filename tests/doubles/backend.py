"""A backend whose servers are entries in a dictionary."""

import asyncio

from leasedb_server.domain.edition import Editions
from leasedb_server.domain.errors import BackendUnavailableError, LeasedbError, ServerStartError
from leasedb_server.domain.names import Kind, Name
from leasedb_server.domain.server import Endpoint
from leasedb_server.ports import Progress
from tests.doubles.world import FakeServer, FakeWorld, Faults


class FakeBackend:
    """Servers that are entries in a dictionary. With ``disposable=False`` it is one server that is not ours.

    ``started`` keeps the edition of each server by its name, of those too that are gone.
    """

    def __init__(
        self,
        world: FakeWorld,
        daemon: str = "aaaaaa",
        *,
        kind: str = "embedded",
        disposable: bool = True,
        limit: int | None = None,
        editions: Editions | None = None,
    ) -> None:
        self.world = world
        self.faults = Faults()
        self.kind = kind
        self.disposable = disposable
        self.confined = True
        self.limit = limit if disposable else 1
        self.editions = editions or Editions("18" if disposable else None, None)
        self.started: dict[str, str] = {}
        self.closed = False
        self.lacking = ""  # what `check` would have to download
        self._daemon = daemon
        if not disposable and kind not in world.servers:
            world.add(kind)

    async def lacks(self, progress: Progress) -> str:
        del progress
        return self.lacking

    async def check(self, progress: Progress, *, fetch: bool = True) -> str:
        del fetch
        await self.faults.meet("check")
        progress(f"looking for {self.kind}")
        return f"fake {self.kind}"

    async def start(self, name: str, edition: str = "") -> Endpoint:
        if not self.disposable:
            return _endpoint(self.world.servers[self.kind])
        await self.world.step("start")
        if name in self.world.servers:
            raise ServerStartError(f"There is a server named {name} already.")
        if edition not in {"", *self.editions.majors, *self.editions.images}:
            raise ServerStartError(f"There is no edition {edition}.")
        self.started[name] = edition
        server = self.world.add(name)
        server.major = edition if edition in self.editions.majors else None
        try:
            await self.faults.meet("start", name)
            await self.world.step("started")
        except (LeasedbError, asyncio.CancelledError):
            del self.world.servers[name]
            raise
        return _endpoint(server)

    async def alive(self, name: str) -> bool:
        await self.world.step("alive")
        await self.faults.meet("alive", name)
        if not self.disposable:
            return True
        return name in self.world.servers and self.world.servers[name].alive

    async def stop(self, name: str) -> None:
        await self.world.step("stop")
        await self.faults.meet("stop", name)
        if self.disposable:
            self.world.servers.pop(name, None)
        await self.world.step("stopped")

    async def sweep(self, keep: frozenset[str]) -> list[str]:
        await self.world.step("sweep")
        await self.faults.meet("sweep")
        if not self.disposable:
            return []
        names = [name for name in self.world.servers if _is_server_of(self._daemon, name) and name not in keep]
        for name in names:
            del self.world.servers[name]
            await self.world.step("swept")
        return names

    async def logs(self, name: str, lines: int) -> str:
        await self.faults.meet("logs", name)
        return f"LOG:  last words of {name}" if self.disposable and lines else ""

    async def clean(self) -> list[str]:
        return []

    async def close(self) -> None:
        self.closed = True


def _is_server_of(daemon: str, text: str) -> bool:
    name = Name.parse(text)
    return name is not None and name.kind is Kind.SERVER and name.daemon == daemon


def _endpoint(server: FakeServer) -> Endpoint:
    return Endpoint("127.0.0.1", server.port, "postgres", "secret-of-the-administrator")


def unavailable(kind: str) -> BackendUnavailableError:
    return BackendUnavailableError(f"There is no {kind} here.", hint=f"Install {kind}.")
