"""An HTTP client that costs next to nothing, so that many at once measure the other side and not themselves."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar
from urllib.parse import urlsplit

import uvloop

from benchmarks.machine import BenchmarkError

T = TypeVar("T")


class Raw:
    """One kept connection; one request at a time."""

    def __init__(self, url: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._host = urlsplit(url).netloc
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, url: str) -> "Raw":
        parts = urlsplit(url)
        return cls(url, *await asyncio.open_connection(parts.hostname, parts.port))

    async def call(self, method: str, path: str, body: bytes = b"") -> bytes:
        """Return the answer's body.

        Raises:
            BenchmarkError: when the answer is an error.
        """
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Length: {len(body)}\r\n"
        kind = "Content-Type: application/json\r\n" if body else ""
        self._writer.write(f"{head}{kind}\r\n".encode() + body)
        lines = (await self._reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        length = next((int(line[15:]) for line in lines if line[:15].lower() == b"content-length:"), 0)
        answer = await self._reader.readexactly(length) if length else b""
        if int(lines[0][9:12]) >= 400:
            raise BenchmarkError(f"{method} {path}: {lines[0].decode()}: {answer[:500].decode(errors='replace')}")
        return answer

    async def post(self, path: str, body: bytes) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(await self.call("POST", path, body))
        return answer

    def close(self) -> None:
        self._writer.close()


def run(work: Coroutine[Any, Any, T]) -> T:
    return uvloop.run(work)


async def all_at_once(url: str, clients: int, work: Callable[[Raw], Awaitable[None]]) -> None:
    """Run ``work`` once for each of so many clients, all of them connected before the first begins."""
    connections = [await Raw.open(url) for _ in range(clients)]
    try:
        async with asyncio.TaskGroup() as group:
            for connection in connections:
                group.create_task(_awaited(work(connection)))
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    finally:
        for connection in connections:
            connection.close()


async def _awaited(work: Awaitable[None]) -> None:
    await work
