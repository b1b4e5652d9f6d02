"""The HTTP server under the application."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine, Generator
from typing import Final

import uvicorn

from leasedb_server.api.app import create_app
from leasedb_server.api.routes import UseCases
from leasedb_server.usecases.idling import Idling
from leasedb_server.usecases.integresql import Integresql

DRAIN_LIMIT: Final = 5  # seconds for answers under way


class HttpServer(uvicorn.Server):
    """uvicorn without signal handlers: its own raise SIGTERM again after serving, and clean-up behind never runs.

    Args:
        config: uvicorn's.
        beside: what runs as long as requests are served; when it fails, so does serving.
    """

    def __init__(self, config: uvicorn.Config, beside: Callable[[], Coroutine[None, None, None]] | None) -> None:
        super().__init__(config)
        self._beside = beside

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        async with asyncio.TaskGroup() as group:
            beside = group.create_task(self._beside()) if self._beside else None
            await super().serve(sockets)
            if beside is not None:
                beside.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def build(
    use: UseCases, *, host: str, token: str | None, upload_max: int, integresql: Integresql | None, idling: Idling
) -> HttpServer:
    """Return the server of the application, for `background.supervisor` to run; the arguments are `create_app`'s."""
    return HttpServer(
        uvicorn.Config(
            create_app(use, host=host, token=token, upload_max=upload_max, integresql=integresql, idling=idling),
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=DRAIN_LIMIT,
        ),
        integresql.run if integresql else None,
    )
