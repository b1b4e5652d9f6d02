"""The calls about templates, and those that put a lease's database into another state."""

import asyncio
import codecs
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import TypeAdapter
from starlette.requests import ClientDisconnect

from leasedb_server.api.bodies import body_of, documented, header_of
from leasedb_server.api.documentation import WITH_BODY, problems
from leasedb_server.api.rendering import lease_whole, template_whole
from leasedb_server.api.routes import CLIENT_CLOSED_REQUEST, KEY, KEY_HEADER, UseCases, digest_of, hung_up
from leasedb_server.api.schemas import Image, Major, Wait
from leasedb_server.api.template_schemas import (
    AbandonBody,
    BranchBody,
    BuildBody,
    BuiltOut,
    Fingerprint,
    ResetBody,
    ResetOut,
    SealBody,
    SqlBody,
    TemplateName,
    TemplateOut,
    TemplatesOut,
)
from leasedb_server.domain import edition as editions
from leasedb_server.domain import errors
from leasedb_server.domain.errors import SqlFailedError, UploadIncompleteError
from leasedb_server.domain.lease import Holder
from leasedb_server.domain.template import BASE, Origin
from leasedb_server.usecases.asking import CallerGoneError, LeaseRequest, TemplateRequest

UPLOAD_PAUSE: Final = 60.0  # seconds without a byte after which an upload counts as broken off
RAW: Final = ("application/sql", "text/plain")
GZIP: Final = b"\x1f\x8b"  # how a file of it begins (RFC 1952)
Name = Annotated[TemplateName, Query()]
Postgres = Annotated[Major | None, Query(description="major version of the servers it is for")]
Of = Annotated[Image | None, Query(description="image of the servers it is for")]
_NAME: Final[TypeAdapter[str]] = TypeAdapter(TemplateName)
BUILDING: Final = (
    errors.TemplateBuiltinError,
    errors.TemplateExistsError,
    errors.ParentMissingError,
    errors.TemplateCycleError,
    errors.VersionUnavailableError,
    errors.TemplatesUnavailableError,
    errors.TemplateBuildingError,
    errors.BuildFailedError,
    errors.PoolExhaustedError,
    errors.NotReadyError,
    errors.ShuttingDownError,
    errors.StoreFailedError,
)
ON_SERVERS: Final = (errors.NotReadyError, errors.ServerUnreachableError, errors.ServerRefusedError)


def template_routes(use: UseCases) -> APIRouter:
    router = APIRouter(prefix="/templates", tags=["templates"])

    def key(name: str, postgres: str | None, image: str | None) -> str:
        return editions.key(name, use.leasing.edition(postgres, image))

    def shown(found: Any) -> dict[str, Any]:
        return template_whole(found, use.inventory, use.templating.progress(found))

    @router.get("", responses={200: {"model": TemplatesOut}, **problems()})
    async def listing() -> Response:
        """List the templates."""
        known = [use.templating.get(BASE), *use.inventory.templates.values()]
        body = {"templates": [shown(one) for one in known], "bytes": use.copies.taken(), "budget": use.copies.budget}
        return JSONResponse(body)

    @router.get(
        "/{name}",
        responses={
            200: {"model": TemplateOut},
            **problems(errors.TemplateNotFoundError, errors.VersionUnavailableError),
        },
    )
    async def one(name: TemplateName, postgres: Postgres = None, image: Of = None) -> Response:
        """Return a template."""
        return JSONResponse(shown(use.templating.get(key(name, postgres, image))))

    @router.put(
        "/{name}",
        responses={
            200: {"model": TemplateOut, "description": "It was there already"},
            201: {"model": TemplateOut, "description": "It was built now"},
            **problems(
                *WITH_BODY,
                *BUILDING,
                errors.SqlFailedError,
                errors.UploadIncompleteError,
                errors.TemplateTooLargeError,
                *ON_SERVERS,
            ),
        },
        openapi_extra=documented(SqlBody, {}, *RAW),
    )
    async def put(  # noqa: PLR0917 - what the framework fills in by name
        request: Request,
        name: TemplateName,
        parent: Name = BASE,
        fingerprint: Annotated[Fingerprint | None, Query()] = None,
        postgres: Postgres = None,
        image: Of = None,
        wait: Annotated[Wait, Query()] = 60.0,
    ) -> Response:
        """Build a template of SQL text, or of a plain pg_dump file, unless it is there with the same content.

        As JSON, or as `application/sql` with everything else in the query string; that is run while it arrives.
        """
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() in RAW:
            wanted = TemplateRequest(name, parent, fingerprint, Origin.SQL, wait, postgres, image)
            text, gone = _text(request, read := asyncio.Event()), _gone_afterwards(request, read)
        else:
            body = await body_of(request, SqlBody)
            wanted = TemplateRequest(
                name, body.parent, body.fingerprint, Origin.SQL, body.wait, body.postgres, body.image
            )
            text, gone = _whole(body.sql), hung_up(request)
        try:
            found, built = await use.templating.put(wanted, text, gone)
        except CallerGoneError:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        return JSONResponse(shown(found), 201 if built else 200)

    @router.post(
        "/{name}/build",
        status_code=201,
        responses={
            200: {"model": BuiltOut, "description": "It is there"},
            201: {"model": BuiltOut, "description": "The caller is its builder"},
            **problems(
                *WITH_BODY,
                *BUILDING,
                errors.HolderNotFoundError,
                errors.LeaseEndedError,
                errors.IdempotencyMismatchError,
                errors.IdempotencyInProgressError,
            ),
        },
        openapi_extra=documented(BuildBody, {KEY_HEADER: KEY}),
    )
    async def build(request: Request, name: TemplateName) -> Response:
        """Become the builder of a template, in a lease on a fresh clone of its parent, unless it is there.

        While somebody else builds it, this waits; when that one gives up or dies, the next who waits is the builder.
        """
        body, idempotency = await body_of(request, BuildBody), header_of(request, KEY_HEADER, KEY)
        wanted = TemplateRequest(
            name, body.parent, body.fingerprint, Origin.BUILD, body.wait, body.postgres, body.image
        )
        wish = LeaseRequest(
            ttl=use.default_ttl if body.ttl is None else body.ttl,
            wait=body.wait,
            holder=Holder(body.holder, body.pid),
            labels=body.labels,
            key=idempotency,
            digest=digest_of(body) if idempotency else None,
        )
        try:
            found, lease = await use.templating.build(wanted, wish, hung_up(request))
        except CallerGoneError:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        if lease is None:
            return JSONResponse({"status": "sealed", "template": shown(found), "lease": None})
        leased = lease_whole(lease, use.inventory)
        return JSONResponse({"status": "building", "template": shown(found), "lease": leased}, 201)

    @router.post(
        "/{name}/seal",
        responses={
            200: {"model": TemplateOut},
            **problems(
                *WITH_BODY,
                errors.TemplateNotFoundError,
                errors.TemplateSealedError,
                errors.NotTheBuilderError,
                errors.SessionsOpenError,
                errors.LeaseNotFoundError,
                errors.LeaseEndedError,
                errors.TemplateTooLargeError,
                errors.TemplatesUnavailableError,
                *ON_SERVERS,
                errors.StoreFailedError,
            ),
        },
    )
    async def seal(name: TemplateName, body: SealBody) -> Response:
        """Make what was built the template. The build lease ends with that."""
        at = _key_of(use, name, body.lease)
        return JSONResponse(shown(await use.templating.seal(at, body.lease, force=body.force)))

    @router.post(
        "/{name}/abandon",
        status_code=204,
        responses=problems(
            *WITH_BODY,
            errors.TemplateNotFoundError,
            errors.TemplateSealedError,
            errors.NotTheBuilderError,
            errors.LeaseNotFoundError,
            errors.LeaseEndedError,
            errors.NotReadyError,
            errors.StoreFailedError,
        ),
    )
    async def abandon(name: TemplateName, body: AbandonBody) -> Response:
        """Give a build up; with `error`, those who wait are told it, else the next of them builds."""
        await use.templating.abandon(_key_of(use, name, body.lease), body.lease, body.error)
        return Response(status_code=204)

    @router.delete(
        "/{name}",
        status_code=204,
        responses=problems(
            errors.TemplateNotFoundError,
            errors.TemplateInUseError,
            errors.TemplateBuiltinError,
            errors.VersionUnavailableError,
            errors.StoreFailedError,
        ),
    )
    async def delete(name: TemplateName, postgres: Postgres = None, image: Of = None) -> Response:
        """Delete a template that nobody uses."""
        await use.templating.delete(key(name, postgres, image))
        return Response(status_code=204)

    return router


def act_routes(use: UseCases) -> APIRouter:
    router = APIRouter(prefix="/leases", tags=["leases"])

    @router.post(
        "/{lease_id}/reset",
        responses={
            200: {"model": ResetOut},
            **problems(
                *WITH_BODY,
                errors.LeaseNotFoundError,
                errors.LeaseEndedError,
                errors.LeaseLostError,
                errors.UnknownTemplateError,
                errors.PoolExhaustedError,
                *ON_SERVERS,
                errors.StoreFailedError,
            ),
        },
        openapi_extra=documented(ResetBody, {}),
    )
    async def reset(request: Request, lease_id: str) -> Response:
        """Give a lease's database its template's content again: the same URL and login, whatever was done to it."""
        body = await body_of(request, ResetBody)
        try:
            lease, ended = await use.resetting.reset(lease_id, body.template, body.wait, hung_up(request))
        except CallerGoneError:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        return JSONResponse({**lease_whole(lease, use.inventory), "ended_sessions": ended})

    @router.post(
        "/{lease_id}/template",
        status_code=201,
        responses={
            201: {"model": TemplateOut},
            **problems(
                *WITH_BODY,
                errors.LeaseNotFoundError,
                errors.LeaseEndedError,
                errors.LeaseLostError,
                errors.SessionsOpenError,
                errors.TemplateExistsError,
                errors.TemplateBuiltinError,
                errors.TemplateTooLargeError,
                errors.TemplatesUnavailableError,
                *ON_SERVERS,
                errors.StoreFailedError,
            ),
        },
        openapi_extra=documented(BranchBody, {}),
    )
    async def branch(request: Request, lease_id: str) -> Response:
        """Make a template of what a lease's database holds now. The lease goes on."""
        body = await body_of(request, BranchBody)
        found = await use.resetting.branch(lease_id, body.name, body.fingerprint, force=body.force)
        return JSONResponse(template_whole(found, use.inventory, ""), 201)

    return router


def _key_of(use: UseCases, name: str, lease_id: str) -> str:
    """Return the key of the template that a lease builds: its server says of which edition."""
    database = use.inventory.databases[use.leasing.get(lease_id).database_id]
    return editions.key(name, use.inventory.server_of(database).edition)


async def _whole(sql: str) -> AsyncIterator[str]:
    yield sql


def _gone_afterwards(request: Request, read: asyncio.Event) -> Callable[[], Awaitable[object]]:
    """Return what returns when the caller has hung up; while the body is read, that tells it."""

    async def gone() -> None:
        await read.wait()
        await hung_up(request)()

    return gone


async def _text(request: Request, read: asyncio.Event) -> AsyncIterator[str]:
    """Yield the body's text as it comes; ``read`` is set at its end.

    Raises:
        UploadIncompleteError: when it breaks off.
        SqlFailedError: when it is no text.
    """
    decoder, seen = codecs.getincrementaldecoder("utf-8")(), 0
    stream = request.stream()
    try:
        while True:
            async with asyncio.timeout(UPLOAD_PAUSE):
                chunk = await anext(stream, None)
            if chunk is None:
                break
            if not seen and chunk.startswith(GZIP):
                raise SqlFailedError(
                    "The text is compressed with gzip.",
                    line=1,
                    hint="Unpack it first: gunzip -c FILE makes text of it.",
                )
            seen += len(chunk)
            yield decoder.decode(chunk)
        read.set()
        yield decoder.decode(b"", final=True)
    except ClientDisconnect:
        raise UploadIncompleteError(f"The upload broke off after {seen} bytes.") from None
    except TimeoutError:
        raise UploadIncompleteError(f"Nothing more came for {UPLOAD_PAUSE:g} s after {seen} bytes.") from None
    except UnicodeDecodeError as error:
        raise SqlFailedError(
            f"The text is not UTF-8: {error.reason} after some {seen} bytes.",
            hint="Save it as UTF-8; pg_dump does with --encoding=UTF8.",
        ) from None
