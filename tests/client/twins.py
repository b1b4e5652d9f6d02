"""One way to call both clients, so that each test of a client is written once and run twice."""

import asyncio
import inspect
import threading
from collections.abc import Coroutine
from typing import Any, Self

import leasedb


class Twin:
    """Makes clients of one kind. Async ones live on a loop in a thread of its own, where their heartbeat goes on."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._made: list[Any] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="twin")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        for client in self._made:
            client.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def connect(self, url: str | None = None, token: str | None = None, **options: Any) -> Any:
        made = getattr(leasedb, self.kind)(url, token, **options)
        self._made.append(made if self.kind == "Client" else _Awaited(made, self._run))
        return self._made[-1]

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)


class _Awaited:
    """An async object whose methods are awaited elsewhere."""

    def __init__(self, inner: Any, run: Any) -> None:
        self._inner, self._run = inner, run

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not callable(found):
            return found
        return lambda *args, **kwargs: self._wait(found(*map(_inside, args), **kwargs))

    def __repr__(self) -> str:
        return repr(self._inner)

    def __enter__(self) -> Any:
        return self._wait(self._inner.__aenter__())

    def __exit__(self, *error: object) -> None:
        self._run(self._inner.__aexit__(*error))

    def _wait(self, found: Any) -> Any:
        answer = self._run(found) if inspect.iscoroutine(found) else found
        if isinstance(answer, tuple):
            return tuple(map(self._wrapped, answer))
        if isinstance(answer, leasedb.AsyncLeases):
            return _Leases(answer, self._run)
        return self._wrapped(answer)

    def _wrapped(self, answer: Any) -> Any:
        inside = type(answer).__module__ in {"leasedb._async_lease", "contextlib"}
        return _Awaited(answer, self._run) if inside else answer


def _inside(value: Any) -> Any:
    return value._inner if isinstance(value, _Awaited) else value


class _Leases(_Awaited):
    """Several, which can be counted and looked at too."""

    def __iter__(self) -> Any:
        return iter([_Awaited(lease, self._run) for lease in self._inner])

    def __len__(self) -> int:
        return len(self._inner)

    def __enter__(self) -> Any:
        super().__enter__()
        return self
