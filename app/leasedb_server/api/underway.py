"""Requests that are being answered: as long as there are any, the daemon does not stop for want of use."""

from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from leasedb_server.usecases.idling import Idling

PROBES: Final = frozenset({"/healthz", "/readyz"})  # asked again and again by what only watches


class UnderWay:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, *, idling: Idling) -> None:
        self._app = app
        self._idling = idling

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        with self._idling.answering():
            await self._app(scope, receive, send)
