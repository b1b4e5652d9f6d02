"""One task group owns the HTTP server, the loops and everything they start; signals end it in order.

The web framework's lifespan owns nothing: a loop started there that crashes leaves a process that answers for ever.
Here a task that fails takes the process with it, and the next start recovers.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import Final, Protocol

from leasedb_server.background import loops
from leasedb_server.domain.errors import LeasedbError
from leasedb_server.usecases.idling import Idling
from leasedb_server.usecases.leasing import Leasing
from leasedb_server.usecases.recovering import Recovering
from leasedb_server.usecases.serving import Serving
from leasedb_server.usecases.upkeep import Upkeep

log = logging.getLogger(__name__)

CLEAN_UP_LIMIT: Final = 20.0  # seconds for taking servers away; what is left is taken away at the next start


class Http(Protocol):
    """An HTTP server as uvicorn has it: once told to exit, it drains and `serve` returns."""

    should_exit: bool

    async def serve(self, sockets: list[socket.socket] | None = None) -> None: ...


@dataclass(frozen=True, slots=True)
class Daemon:
    """What the supervisor runs.

    Args:
        http: builds the HTTP server; called in a thread, for it takes as long as finding out what can be leased.
        progress: takes lines for the person who started the daemon.
        ready: called once, when the first server can be leased from.
    """

    http: Callable[[], Http]
    listener: socket.socket
    leasing: Leasing
    serving: Serving
    recovering: Recovering
    upkeep: Upkeep
    idling: Idling
    wake: asyncio.Event
    progress: Callable[[str], None]
    ready: Callable[[], None]


async def run(daemon: Daemon) -> None:
    """Run until SIGINT, SIGTERM or, where it is not ignored, SIGHUP; or until there was nothing to do for long enough.

    Raises:
        LeasedbError: when no server could be brought up.
    """
    stop = asyncio.Event()
    with _signals(stop):
        await _run_until(stop, daemon)
        log.info("stopping: ending leases and taking servers away")
        try:
            async with asyncio.timeout(CLEAN_UP_LIMIT):
                await daemon.upkeep.shut_down()
        except TimeoutError:
            log.warning("not done within %g s; the next start takes away what is left", CLEAN_UP_LIMIT)


async def _run_until(stop: asyncio.Event, daemon: Daemon) -> None:
    failures: list[LeasedbError] = []
    async with asyncio.TaskGroup() as group:
        tasks: set[asyncio.Task[object]] = set()
        answering = asyncio.Event()

        def spawn(work: Coroutine[None, None, object]) -> None:
            task = group.create_task(work)
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        def gone_idle(after: float) -> None:
            daemon.leasing.close()  # in one go with the look: whoever asks from now on is refused, and loses nothing
            log.info("there was nothing to do for %g s, the setting idle_exit", after)
            stop.set()

        async def begin() -> None:
            try:
                await _bring_up(daemon, spawn)
                await answering.wait()  # before that nobody could ask for anything
                daemon.ready()
                if (after := daemon.idling.after) is not None:
                    spawn(loops.idle(daemon.idling, after, lambda: gone_idle(after)))
            except LeasedbError as error:
                failures.append(error)
                stop.set()  # in order: whoever waits in line gets an answer first

        spawn(begin())
        await _answer(stop, daemon, answering)
        for task in tasks:
            task.cancel()
    if failures:
        raise failures[0]


async def _answer(stop: asyncio.Event, daemon: Daemon, answering: asyncio.Event) -> None:
    """Answer requests until told to stop; then refuse new leases and return when no answer is under way."""
    http = await asyncio.to_thread(daemon.http)
    answering.set()
    async with asyncio.TaskGroup() as group:
        group.create_task(http.serve([daemon.listener]), name="http")
        await stop.wait()
        daemon.leasing.close()
        http.should_exit = True


async def _bring_up(daemon: Daemon, spawn: Callable[[Coroutine[None, None, object]], None]) -> None:
    """Choose a backend, take over what is there, bring up what is missing, then keep it so."""
    await daemon.serving.choose(daemon.progress)
    await daemon.recovering.recover()
    for pause, work in ((loops.REAP, daemon.upkeep.reap), (loops.BEAT, daemon.upkeep.check_servers)):
        spawn(loops.every(pause, work))
    spawn(loops.every(loops.TIDY, daemon.upkeep.tidy))
    # Already now: what was taken over is leased from while other servers still start.
    spawn(loops.warm(daemon.upkeep, daemon.wake, spawn))
    await daemon.upkeep.bring_up()


@contextlib.contextmanager
def _signals(stop: asyncio.Event) -> Generator[None, None, None]:
    heard: list[int] = []

    def told(number: int) -> None:
        if heard:  # not when it stops for want of use: that goes on in order
            log.warning("told twice: ending at once; servers that are left are taken away at the next start")
            os._exit(128 + number)
        heard.append(number)
        stop.set()

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup sets it
        numbers.append(signal.SIGHUP)  # the terminal was closed
    loop = asyncio.get_running_loop()
    for number in numbers:
        loop.add_signal_handler(number, told, number)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
