"""The loops that run as long as the daemon: warmer, reaper, health. Each does one thing, again and again."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from leasedb_server.usecases.idling import Idling
from leasedb_server.usecases.upkeep import Spawn, Upkeep

REPLAN: Final = 0.5  # seconds after which the warmer plans without having been woken: pauses after failures run out
REAP: Final = 0.25  # seconds between looks at expiries and holders' processes
BEAT: Final = 1.0  # seconds between beats of each server
TIDY: Final = 60.0
IDLE: Final = 1.0  # seconds between looks at whether there is anything to do
SOON: Final = 0.005


class Soon:
    """Sets an event a moment from now, once however often it is called until then.

    Leases and releases come in bursts. Planning after each would take a fifth of the time in which they are answered.
    """

    def __init__(self, event: asyncio.Event) -> None:
        self._event = event
        self._scheduled = False

    def __call__(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_later(SOON, self._set)

    def _set(self) -> None:
        self._scheduled = False
        self._event.set()


async def warm(upkeep: Upkeep, wake: asyncio.Event, spawn: Spawn) -> None:
    """Plan and act whenever something happened."""
    while True:
        wake.clear()
        until_calm = await upkeep.turn(spawn)
        try:
            async with asyncio.timeout(until_calm or REPLAN):
                await wake.wait()
        except TimeoutError:
            pass


async def every(pause: float, work: Callable[[], Awaitable[None]]) -> None:
    while True:
        await work()
        await asyncio.sleep(pause)


async def idle(idling: Idling, after: float, stop: Callable[[], None]) -> None:
    """Stop the daemon once there has been nothing to do for ``after`` seconds."""
    idling.begin()
    while True:
        await asyncio.sleep(min(IDLE, after / 4))
        if idling.over():
            stop()
            return
