"""Files of templates that are entries in a dictionary."""

from collections.abc import AsyncIterator

from leasedb_server.domain.errors import StoreFailedError
from tests.doubles.world import FakeWorld, Faults


class MemoryFiles:
    """What is kept of templates; it outlives the daemon, as files do."""

    def __init__(self, world: FakeWorld | None = None) -> None:
        self.faults = Faults()
        self.kept: dict[str, bytes] = {}
        self._world = world
        self._writing: set[str] = set()

    async def write(self, template_id: str, content: AsyncIterator[bytes]) -> int:
        assert template_id not in self._writing, "two at once would write to the same file"
        self._writing.add(template_id)
        try:
            await self.faults.meet("write", template_id)
            whole = b"".join([chunk async for chunk in content])
            await self._step("files written")
            self.kept[template_id] = whole
            await self._step("files kept")
        finally:
            self._writing.discard(template_id)
        return len(whole)

    async def read(self, template_id: str) -> AsyncIterator[bytes]:
        await self.faults.meet("read", template_id)
        if template_id not in self.kept:
            raise StoreFailedError(f"The file {template_id} of a template cannot be used: it is gone.")
        for start in range(0, len(self.kept[template_id]), 5):
            yield self.kept[template_id][start : start + 5]

    async def delete(self, template_id: str) -> None:
        await self._step("delete files")
        await self.faults.meet("delete", template_id)
        self.kept.pop(template_id, None)

    async def sweep(self, keep: frozenset[str]) -> None:
        self.kept = {name: content for name, content in self.kept.items() if name in keep}

    async def _step(self, what: str) -> None:
        if self._world is not None:
            await self._world.step(what)
