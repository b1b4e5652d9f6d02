"""One task group owns the HTTP server, the loops and everything they start; signals end it in order.

The web framework's lifespan owns nothing: a loop started there that crashes leaves a process that answers for ever.
Here a task that fails takes the process with it, and the next start recovers.
"""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import Final

import uvicorn
from fastapi import FastAPI

from leasedb_server.background import loops
from leasedb_server.domain.errors import LeasedbError
from leasedb_server.usecases.leasing import Leasing
from leasedb_server.usecases.serving import Serving
from leasedb_server.usecases.upkeep import Upkeep

log = logging.getLogger(__name__)

DRAIN_LIMIT: Final = 5  # seconds for answers under way
CLEAN_UP_LIMIT: Final = 20.0  # seconds for taking servers away; what is left is taken away at the next start


class _HttpServer(uvicorn.Server):
    """uvicorn without signal handlers: its own raise SIGTERM again after serving, and clean-up behind never runs."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


@dataclass(frozen=True, slots=True)
class Daemon:
    """What the supervisor runs.

    Args:
        progress: takes lines for the person who started the daemon.
        ready: called once, when the first server can be leased from.
    """

    app: FastAPI
    listener: socket.socket
    leasing: Leasing
    serving: Serving
    upkeep: Upkeep
    wake: asyncio.Event
    progress: Callable[[str], None]
    ready: Callable[[], None]


async def run(daemon: Daemon) -> None:
    """Run until SIGINT or SIGTERM.

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
    http = _HttpServer(
        uvicorn.Config(
            daemon.app,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=DRAIN_LIMIT,
        )
    )
    failures: list[LeasedbError] = []
    async with asyncio.TaskGroup() as group:
        tasks: set[asyncio.Task[object]] = set()

        def spawn(work: Coroutine[None, None, object]) -> None:
            task = group.create_task(work)
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        async def begin() -> None:
            try:
                await _bring_up(daemon, spawn)
            except LeasedbError as error:
                failures.append(error)
                stop.set()  # in order: whoever waits in line gets an answer first

        answering = group.create_task(http.serve([daemon.listener]), name="http")
        spawn(begin())
        await stop.wait()
        daemon.leasing.close()
        http.should_exit = True
        await answering
        for task in tasks:
            task.cancel()
    if failures:
        raise failures[0]


async def _bring_up(daemon: Daemon, spawn: Callable[[Coroutine[None, None, object]], None]) -> None:
    """Choose a backend, take over what is there, bring up what is missing, then keep it so."""
    await daemon.serving.choose(daemon.progress)
    await daemon.serving.recover()
    spawn(loops.every(loops.REAP, daemon.upkeep.reap))
    await daemon.upkeep.bring_up()
    daemon.ready()
    spawn(loops.warm(daemon.upkeep, daemon.wake, spawn))
    spawn(loops.every(loops.BEAT, daemon.upkeep.check_servers))
    spawn(loops.every(loops.TIDY, daemon.upkeep.tidy))


@contextlib.contextmanager
def _signals(stop: asyncio.Event) -> Generator[None, None, None]:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
