"""When work ends that others wait for: after some time, or when nobody wants it any more."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from leasedb_server.domain.errors import ServerUnreachableError
from leasedb_server.usecases.asking import CallerGone, CallerGoneError

T = TypeVar("T")


class Patience:
    """So many seconds, from now on, for several waits one after the other."""

    def __init__(self, seconds: float) -> None:
        self._end = asyncio.get_running_loop().time() + seconds

    def __repr__(self) -> str:
        return f"Patience({self.left:g})"

    @property
    def left(self) -> float:
        return max(0.0, self._end - asyncio.get_running_loop().time())


async def within(seconds: float, work: Coroutine[Any, Any, T], what: str, *, hint: str = "See what it runs.") -> T:
    """Return what the work returns; it is cancelled after so many seconds.

    Raises:
        ServerUnreachableError: naming ``what`` took too long.
    """
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError:
        raise ServerUnreachableError(f"{what} was not done within {seconds:g} s.", hint=hint) from None


async def attended(work: Coroutine[Any, Any, T], caller_gone: CallerGone) -> T:
    """Return what the work returns; it is cancelled when the caller hangs up.

    Raises:
        CallerGoneError: when that came first.
    """
    running, gone = asyncio.ensure_future(work), asyncio.ensure_future(caller_gone())
    try:
        await asyncio.wait([running, gone], return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            raise CallerGoneError
        return running.result()
    finally:
        for task in (running, gone):
            task.cancel()
        await asyncio.gather(running, gone, return_exceptions=True)
