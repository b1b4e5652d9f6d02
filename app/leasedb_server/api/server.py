"""The HTTP server under the application."""

import contextlib
from collections.abc import Generator
from typing import Final

import uvicorn

from leasedb_server.api.app import create_app
from leasedb_server.api.routes import UseCases

DRAIN_LIMIT: Final = 5  # seconds for answers under way


class HttpServer(uvicorn.Server):
    """uvicorn without signal handlers: its own raise SIGTERM again after serving, and clean-up behind never runs."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def build(use: UseCases, *, host: str, token: str | None) -> HttpServer:
    """Return the server of the application, for `background.supervisor` to run."""
    return HttpServer(
        uvicorn.Config(
            create_app(use, host=host, token=token),
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=DRAIN_LIMIT,
        )
    )
