"""The calls that let a lease live on: as long as somebody reads, or for some time after its holder."""

import json
from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from leasedb_server.api.documentation import WITH_BODY, problems
from leasedb_server.api.rendering import hold_line, lease_whole
from leasedb_server.api.routes import UseCases, hung_up
from leasedb_server.api.schemas import KEEP_TTL, KeepBody, LeaseOut
from leasedb_server.domain import errors
from leasedb_server.domain.lease import Lease
from leasedb_server.usecases.asking import CallerGoneError
from leasedb_server.usecases.holding import Holding


class HoldAnswer(StreamingResponse):
    """Lines of JSON for as long as the lease lives. Its own `__call__`: a broken connection has to be acted upon."""

    media_type = "application/x-ndjson"

    def __init__(self, holding: Holding, lease_id: str, caller_gone: Callable[[], Awaitable[object]]) -> None:
        # what stands between has to hand every line on at once
        super().__init__((), headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._holding = holding
        self._lease_id = lease_id
        self._caller_gone = caller_gone

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive  # the request, which is told of a hang-up, has them
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})

        async def tell(lease: Lease) -> None:
            line = json.dumps(hold_line(lease)).encode() + b"\n"
            try:
                await send({"type": "http.response.body", "body": line, "more_body": True})
            except (OSError, RuntimeError) as error:  # uvloop's word for a connection that was reset
                raise CallerGoneError from error

        try:
            await self._holding.hold(self._lease_id, tell, self._caller_gone)
        except CallerGoneError:
            return
        await send({"type": "http.response.body", "body": b""})


def keeping_routes(use: UseCases) -> APIRouter:
    router = APIRouter(prefix="/leases", tags=["leases"])

    @router.get(
        "/{lease_id}/hold",
        status_code=200,  # the framework looks for it in the signature of the class else
        response_class=HoldAnswer,
        responses={
            200: {
                "description": "Lines of JSON, each a `HoldLine`: one at once, then one every five seconds or so,"
                " until the lease has ended"
            },
            **problems(errors.LeaseNotFoundError, errors.LeaseEndedError, errors.LeaseLostError),
        },
    )
    async def hold(request: Request, lease_id: str) -> Response:
        """Hold a lease open: while anybody reads this answer it is renewed; when the last one hangs up it is released.

        The last line tells how the lease ended, with a `reason`. `curl -N` is enough of a client.
        """
        lease = await use.leasing.living(lease_id)
        return HoldAnswer(use.holding, lease.id, hung_up(request))

    @router.post(
        "/{lease_id}/keep",
        responses={
            200: {"model": LeaseOut},
            **problems(
                *WITH_BODY,
                errors.LeaseNotFoundError,
                errors.LeaseEndedError,
                errors.LeaseLostError,
                errors.KeepQuotaError,
                errors.ShuttingDownError,
                errors.StoreFailedError,
            ),
        },
    )
    async def keep(lease_id: str, body: KeepBody | None = None) -> Response:
        """Let a lease outlive its holder's process, `ttl` seconds from now, cut at its `max_expires_at`.

        Under a quota: the oldest one that another holder keeps makes room. Keeping it again only prolongs it.
        """
        ttl = body.ttl if body else KEEP_TTL
        return JSONResponse(lease_whole(await use.keeping.keep(lease_id, ttl), use.inventory))

    return router
