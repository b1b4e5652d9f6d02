"""The one table from error code to HTTP status, and problem+json (RFC 9457)."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from leasedb_server.api.rendering import fault_whole, session_whole
from leasedb_server.domain import errors as domain
from leasedb_server.domain.errors import InvalidRequestError, LeasedbError, PoolExhaustedError
from leasedb_server.domain.fault import Fault

log = logging.getLogger(__name__)

PROBLEM: Final = "application/problem+json"


class MalformedJsonError(LeasedbError):
    code = "malformed-json"
    title = "The body is not JSON"
    default_hint = "Send a JSON object, such as {}."


class UnsupportedMediaTypeError(LeasedbError):
    code = "unsupported-media-type"
    title = "The body is of a type that is not taken"
    default_hint = "Send the header Content-Type: application/json."


class BodyTooLargeError(LeasedbError):
    code = "body-too-large"
    title = "The body is too large"
    default_hint = "A body may have 64 KiB."


class UnauthorizedError(LeasedbError):
    code = "unauthorized"
    title = "The token is missing or wrong"
    default_hint = (
        "Send the header Authorization: Bearer <LEASEDB_TOKEN>; clients read LEASEDB_TOKEN, and on the daemon's machine"
        " the token in leasedb.toml, in the working directory."
    )


class HostNotAllowedError(LeasedbError):
    code = "host-not-allowed"
    title = "This Host is not known here"
    default_hint = "Call the daemon by an IP address or as localhost."


class OriginNotAllowedError(LeasedbError):
    code = "origin-not-allowed"
    title = "Requests from web pages are refused"
    default_hint = "Call the daemon from a program, not from a page of another site."


class NotFoundError(LeasedbError):
    code = "not-found"
    title = "There is nothing at this path"
    default_hint = "See /docs for the paths."


class MethodNotAllowedError(LeasedbError):
    code = "method-not-allowed"
    title = "This path does not take this method"
    default_hint = "See the Allow header, or /docs."


STATUS: Final[Mapping[type[LeasedbError], int]] = {
    MalformedJsonError: 400,
    UnauthorizedError: 401,
    HostNotAllowedError: 403,
    OriginNotAllowedError: 403,
    NotFoundError: 404,
    domain.LeaseNotFoundError: 404,
    domain.ServerNotFoundError: 404,
    domain.TemplateNotFoundError: 404,
    domain.UploadIncompleteError: 400,
    domain.TemplateExistsError: 409,
    domain.SessionsOpenError: 409,
    domain.TemplateSealedError: 409,
    domain.NotTheBuilderError: 409,
    domain.TemplateInUseError: 409,
    MethodNotAllowedError: 405,
    domain.IdempotencyInProgressError: 409,
    domain.KeepQuotaError: 409,
    domain.LeaseEndedError: 410,
    domain.LeaseLostError: 410,
    BodyTooLargeError: 413,
    UnsupportedMediaTypeError: 415,
    domain.InvalidRequestError: 422,
    domain.UnknownTemplateError: 422,
    domain.VersionUnavailableError: 422,
    domain.ExclusiveUnavailableError: 422,
    domain.TemplateBuiltinError: 422,
    domain.ParentMissingError: 422,
    domain.TemplateCycleError: 422,
    domain.SqlFailedError: 422,
    domain.BuildFailedError: 422,
    domain.TemplatesUnavailableError: 422,
    domain.HolderNotFoundError: 422,
    domain.IdempotencyMismatchError: 422,
    domain.LeasedbError: 500,
    domain.ServerRefusedError: 502,
    domain.PoolExhaustedError: 503,
    domain.ShuttingDownError: 503,
    domain.NotReadyError: 503,
    domain.BackendUnavailableError: 503,
    domain.ServerStartError: 503,
    domain.ServerUnreachableError: 503,
    domain.StoreFailedError: 503,
    domain.TemplateBuildingError: 503,
    domain.TemplateTooLargeError: 507,
}


# what the framework itself refuses; 400 is a body whose bytes are no text
_KINDS: Final[Mapping[int, type[LeasedbError]]] = {
    400: MalformedJsonError,
    404: NotFoundError,
    405: MethodNotAllowedError,
    413: BodyTooLargeError,
}


def problem(error: LeasedbError, *, faults: Sequence[Mapping[str, str]] = ()) -> JSONResponse:
    """Return the answer that tells of the error; ``faults`` are ``{"field", "message"}``."""
    status = STATUS.get(type(error), 500)
    body: dict[str, Any] = {
        "type": f"urn:leasedb:error:{error.code}",
        "title": error.title,
        "status": status,
        "detail": error.detail,
        "code": error.code,
        "hint": error.hint,
    }
    body.update(members(error))
    headers: dict[str, str] = {}
    if faults:
        body["errors"] = list(faults)
    if isinstance(error, PoolExhaustedError):
        headers["Retry-After"] = str(error.retry_after)
    elif status == 503 or isinstance(error, domain.IdempotencyInProgressError):  # noqa: PLR2004
        headers["Retry-After"] = "1"
    elif status == 401:  # noqa: PLR2004
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body, status, headers, media_type=PROBLEM)


def members(error: LeasedbError) -> dict[str, Any]:
    """Return what the answer has beyond what all have."""
    found: dict[str, Any] = {}
    match error:
        case PoolExhaustedError():
            found["position"] = error.position
        case domain.TemplateExistsError():
            found = {"fingerprint": error.fingerprint, "requested": error.requested}
        case domain.TemplateBuildingError():
            found["progress"] = error.progress
        case domain.SessionsOpenError():
            found["sessions"] = [session_whole(session) for session in error.sessions]
        case domain.BuildFailedError():
            found["error"] = fault_whole(error.cause)
        case domain.SqlFailedError():
            found = fault_whole(Fault(error.detail, error.sqlstate, error.statement, error.line, error.sql, error.hint))
    return found


def install(app: FastAPI) -> None:
    """Have every error of the app answered as a problem."""
    # Coroutines: what is none runs in a thread of its own.
    app.add_exception_handler(LeasedbError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _of_the_framework)
    app.add_exception_handler(Exception, _unforeseen)


async def _ours(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, LeasedbError)  # noqa: S101 - as registered
    return problem(error)


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - as registered
    found = error.errors()
    if any(fault["type"] == "json_invalid" for fault in found):
        return problem(MalformedJsonError("The body could not be read as JSON."))
    # Without what was sent: it may hold a secret.
    faults = [{"field": _field(fault["loc"]), "message": str(fault["msg"])} for fault in found]
    detail = "; ".join(f"{fault['field']}: {fault['message']}" for fault in faults)
    return problem(InvalidRequestError(f"{detail}."), faults=faults)


def _field(location: Sequence[str | int]) -> str:
    return ".".join(str(part) for part in location[1:]) or str(location[0])


async def _of_the_framework(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 - as registered
    kind = _KINDS.get(error.status_code, InvalidRequestError)
    where = f"{request.method} {request.url.path}"
    details = {404: f"There is nothing at {where}.", 405: f"{where} is not offered.", 413: "The body is too large."}
    answer = problem(kind(details.get(error.status_code, str(error.detail))))
    answer.headers.update(error.headers or {})
    return answer


async def _unforeseen(request: Request, error: Exception) -> JSONResponse:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem(LeasedbError("Something failed that nobody foresaw; the daemon's log has the traceback."))
