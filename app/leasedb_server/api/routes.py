"""The calls. Each translates between wire and use case, and decides nothing."""

import hashlib
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel, Field, TypeAdapter

from leasedb_server.api.bodies import body_of, documented, header_of
from leasedb_server.api.documentation import WITH_BODY, problems
from leasedb_server.api.rendering import counts, instant, lease_summary, lease_whole, server_whole
from leasedb_server.api.schemas import (
    DemandBody,
    DemandOut,
    HealthOut,
    LeaseBody,
    LeaseOut,
    LeasesOut,
    PoolOut,
    ReadyOut,
    ReleasedOut,
    RenewBody,
    ServersOut,
)
from leasedb_server.domain import errors
from leasedb_server.domain.errors import InvalidRequestError, NotReadyError
from leasedb_server.domain.inventory import Inventory, with_labels
from leasedb_server.domain.lease import Holder, LeaseState
from leasedb_server.usecases.asking import CallerGoneError, LeaseRequest
from leasedb_server.usecases.copies import Copies
from leasedb_server.usecases.exclusive import Exclusives
from leasedb_server.usecases.holding import Holding
from leasedb_server.usecases.keeping import Keeping
from leasedb_server.usecases.leasing import Leasing
from leasedb_server.usecases.making import Making
from leasedb_server.usecases.resetting import Resetting
from leasedb_server.usecases.serving import Serving
from leasedb_server.usecases.templating import Templating
from leasedb_server.usecases.upkeep import Upkeep

CLIENT_CLOSED_REQUEST: Final = 499  # nobody reads it; the number is nginx's

Labels = Annotated[list[str] | None, Query(alias="label", description="`key:value`; repeated, all must match")]
Sync = Annotated[bool, Query(description="answer once the database is gone, not only fenced")]
Kept = Annotated[bool | None, Query(description="only those that are kept, or only the others")]
KEY: Final = TypeAdapter(
    Annotated[
        str,
        Field(
            min_length=1,
            max_length=255,
            pattern=r"^[\x21-\x7e]+$",
            description="a repeated request gets the same lease",
        ),
    ]
)
KEY_HEADER: Final = "Idempotency-Key"


@dataclass(frozen=True, slots=True)
class UseCases:
    """What the routes call."""

    inventory: Inventory
    leasing: Leasing
    serving: Serving
    making: Making
    upkeep: Upkeep
    templating: Templating
    resetting: Resetting
    exclusives: Exclusives
    copies: Copies
    keeping: Keeping
    holding: Holding
    default_ttl: float
    version: str
    pid_space: str


def lease_routes(use: UseCases) -> APIRouter:
    router = APIRouter(prefix="/leases", tags=["leases"])

    @router.post(
        "",
        status_code=201,
        responses={
            201: {
                "model": LeaseOut,
                "description": "The lease",
                "headers": {"Location": {"schema": {"type": "string"}, "description": "the lease's path"}},
            },
            **problems(
                *WITH_BODY,
                errors.UnknownTemplateError,
                errors.VersionUnavailableError,
                errors.ExclusiveUnavailableError,
                errors.HolderNotFoundError,
                errors.IdempotencyMismatchError,
                errors.IdempotencyInProgressError,
                errors.LeaseEndedError,
                errors.PoolExhaustedError,
                errors.NotReadyError,
                errors.ShuttingDownError,
                errors.StoreFailedError,
            ),
        },
        openapi_extra=documented(LeaseBody, {KEY_HEADER: KEY}),
    )
    async def acquire(request: Request) -> Response:
        """Lease a fresh database: at once when one is ready, else in turn."""
        body, key = await body_of(request, LeaseBody), header_of(request, KEY_HEADER, KEY)
        wanted = LeaseRequest(
            ttl=use.default_ttl if body.ttl is None else body.ttl,
            wait=body.wait,
            template=body.template,
            holder=Holder(body.holder, body.pid),
            labels=body.labels,
            postgres=body.postgres,
            image=body.image,
            key=key,
            digest=digest_of(body) if key else None,
            exclusive=body.server == "exclusive",
            database=body.database,
            user=body.user,
        )
        acquire = use.exclusives.acquire if wanted.exclusive else use.leasing.acquire
        try:
            lease = await acquire(wanted, hung_up(request))
        except CallerGoneError:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        return JSONResponse(lease_whole(lease, use.inventory), 201, {"Location": f"/leases/{lease.id}"})

    @router.get("", responses={200: {"model": LeasesOut}, **problems()})
    async def listing(
        state: LeaseState | None = None, holder: str | None = None, label: Labels = None, kept: Kept = None
    ) -> Response:
        """List leases, ended ones of the last ten minutes included; without what opens their databases."""
        found = with_labels(list(use.inventory.leases.values()), _labels(label))
        wanted = [
            lease_summary(lease, use.inventory)
            for lease in found
            if state in {None, lease.state} and holder in {None, lease.holder.name} and kept in {None, lease.kept}
        ]
        return JSONResponse({"leases": wanted})

    @router.delete(
        "", responses={200: {"model": ReleasedOut}, **problems(errors.StoreFailedError, errors.ServerUnreachableError)}
    )
    async def release_all(label: Labels = None, sync: Sync = False) -> Response:  # noqa: FBT002
        """Release all active leases with these labels."""
        if not label:
            raise InvalidRequestError(
                "'label' is missing: releasing everybody's leases at once is not offered.",
                hint="Name at least one label, as in DELETE /leases?label=run:7.",
            )
        return JSONResponse({"released": await use.leasing.release_all(_labels(label), sync=sync)})

    @router.get("/{lease_id}", responses={200: {"model": LeaseOut}, **problems(errors.LeaseNotFoundError)})
    async def one(lease_id: str) -> Response:
        """Return a lease, also when it has ended."""
        return JSONResponse(lease_whole(use.leasing.get(lease_id), use.inventory))

    @router.post(
        "/{lease_id}/renew",
        responses={
            200: {"model": LeaseOut},
            **problems(
                *WITH_BODY,
                errors.LeaseNotFoundError,
                errors.LeaseEndedError,
                errors.LeaseLostError,
                errors.StoreFailedError,
            ),
        },
    )
    async def renew(lease_id: str, body: RenewBody | None = None) -> Response:
        """Let a lease live `ttl` seconds from now, cut at its `max_expires_at`."""
        ttl = body.ttl if body and body.ttl is not None else use.default_ttl
        return JSONResponse(lease_whole(await use.leasing.renew(lease_id, ttl), use.inventory))

    @router.delete(
        "/{lease_id}",
        status_code=204,
        responses=problems(errors.LeaseNotFoundError, errors.StoreFailedError, errors.ServerUnreachableError),
    )
    async def release(lease_id: str, sync: Sync = False) -> Response:  # noqa: FBT002
        """Release a lease: its login is refused from now on. Releasing an ended one again changes nothing."""
        await use.leasing.release(lease_id, sync=sync)
        return Response(status_code=204)

    return router


def stock_routes(use: UseCases) -> APIRouter:
    router = APIRouter(tags=["stock"])

    @router.get("/servers", responses={200: {"model": ServersOut}, **problems()})
    async def servers() -> Response:
        """List the servers and tell why this backend was chosen."""
        serving = use.serving
        known = [
            server_whole(
                server,
                use.inventory,
                serving.notes.get(server.id, ()),
                serving.pulses,
                use.making.learned(server.id),
            )
            for server in use.inventory.servers.values()
        ]
        return JSONResponse({"backend": serving.kind, "reason": serving.reason, "servers": known})

    @router.get(
        "/servers/{server_id}/logs",
        response_class=PlainTextResponse,
        responses=problems(errors.ServerNotFoundError, errors.ServerUnreachableError),
    )
    async def logs(server_id: str, lines: Annotated[int, Query(ge=1, le=10_000)] = 200) -> PlainTextResponse:
        """Return the last lines that a server logged."""
        return PlainTextResponse(await use.serving.logs(server_id, lines))

    @router.get("/pool", responses={200: {"model": PoolOut}, **problems()})
    async def pool() -> Response:
        """Return the stock of databases and the line of waiting requests."""
        view, targets = use.upkeep.view(), use.upkeep.targets
        total = use.inventory.counts_of_all()
        per = [
            {
                "server": server.id,
                "template": template,
                "ready": stock.ready,
                "making": stock.making,
                "leased": stock.leased,
                "target": -(-view.wanted.get(template, 0) // len(view.servers)),  # rounded up
            }
            for server in view.servers
            for template, stock in server.stock.items()
        ]
        return JSONResponse(
            {
                **counts(total),
                "waiting": sum(view.waiting.values()),
                "max": targets.most,
                "asleep": use.upkeep.asleep,
                "demand": [
                    {
                        "template": template,
                        "target": forecast.target,
                        "rate": round(forecast.rate, 2),
                        "peak": round(forecast.peak, 1),
                        "hinted": forecast.hinted,
                    }
                    for template, forecast in use.upkeep.forecasts().items()
                ],
                "per": per,
            }
        )

    @router.put(
        "/demand",
        responses={
            200: {"model": DemandOut},
            **problems(*WITH_BODY, errors.UnknownTemplateError, errors.ShuttingDownError),
        },
    )
    async def demand(body: DemandBody) -> Response:
        """Say what is coming: so many leases of a template, by a holder, within `ttl`. Each lease counts one down."""
        ttl = use.default_ttl if body.ttl is None else body.ttl
        until, target = use.upkeep.expect(body.template, body.count, body.holder, ttl)
        said = {"template": body.template, "holder": body.holder, "count": body.count}
        return JSONResponse({**said, "expires_at": instant(until), "target": target})

    return router


def operation_routes(use: UseCases) -> APIRouter:
    router = APIRouter(tags=["operation"])

    @router.get("/healthz", response_model=HealthOut, responses=problems())
    async def healthz() -> Mapping[str, Any]:
        """Answer while the process lives."""
        return {"status": "ok", "version": use.version, "pid": os.getpid(), "pid_space": use.pid_space}

    @router.get("/readyz", response_model=ReadyOut, responses=problems(NotReadyError))
    async def readyz() -> Mapping[str, Any]:
        """Answer 200 when a server is ready to lease from, or asleep and started by the next lease."""
        ready = use.inventory.ready_servers()
        asleep = use.upkeep.asleep
        if not ready and not asleep:
            trouble = use.upkeep.trouble()
            raise NotReadyError(f"No server is ready yet{': ' + trouble if trouble else '; one is being started'}.")
        stock = counts(use.inventory.counts_of_all())
        status = "asleep" if asleep else "ready"
        return {"status": status, "backend": use.serving.kind, "servers": len(ready), "ready": stock["ready"]}

    return router


def _labels(texts: list[str] | None) -> dict[str, str]:
    labels: dict[str, str] = {}
    for text in texts or []:
        key, colon, value = text.partition(":")
        if not key or not colon:
            raise InvalidRequestError(f"label {text!r} is not of the form key:value.", hint="As in ?label=run:7.")
        labels[key] = value
    return labels


def hung_up(request: Request) -> Callable[[], Awaitable[object]]:
    """Return what returns when the caller has hung up. The body has to be read before."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    return gone


def digest_of(body: BaseModel) -> str:
    """Return what tells a repeated request from another one."""
    return hashlib.sha256(json.dumps(body.model_dump(), sort_keys=True).encode()).hexdigest()
