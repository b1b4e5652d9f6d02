"""The errors of the client: one family, rebuilt from the daemon's answers by their code."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from leasedb._models import LeaseRecord


class LeasedbError(Exception):
    """Something went wrong between a program and its database lease.

    Raised as itself for a code this version of the client does not know.

    Attributes:
        code: stable, such as "pool-exhausted"; branch on it or on the class, never on the text.
        status: the HTTP status of the answer; None when there was no answer.
        title: the error's name in words.
        detail: what happened and why.
        hint: what to do.
        errors: for each field of the request that was refused, its name and why.
    """

    code: str = "unknown"
    default_hint: ClassVar[str] = ""

    def __init__(
        self,
        detail: str,
        *,
        code: str | None = None,
        status: int | None = None,
        title: str = "",
        hint: str | None = None,
        errors: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or type(self).code
        self.status = status
        self.title = title
        self.hint = self.default_hint if hint is None else hint
        self.errors = tuple(errors)

    def __str__(self) -> str:
        return f"{self.detail} {self.hint}".rstrip()


# --- what no daemon said ---


class InvalidAddressError(LeasedbError):
    """``LEASEDB_URL``, ``LEASEDB_TOKEN`` or what was given instead cannot be used."""

    code = "invalid-address"


class DaemonUnreachableError(LeasedbError):
    """Nothing answered at the daemon's address, or not in time."""

    code = "daemon-unreachable"


class UnexpectedAnswerError(LeasedbError):
    """Something answered that does not speak as a leasedb daemon."""

    code = "unexpected-answer"


class ClientClosedError(LeasedbError):
    """The client was used after its ``close``."""

    code = "client-closed"


# --- what a request can meet ---


class InvalidRequestError(LeasedbError):
    code = "invalid-request"


class MalformedJsonError(LeasedbError):
    code = "malformed-json"


class UnsupportedMediaTypeError(LeasedbError):
    code = "unsupported-media-type"


class BodyTooLargeError(LeasedbError):
    code = "body-too-large"


class UnauthorizedError(LeasedbError):
    code = "unauthorized"


class HostNotAllowedError(LeasedbError):
    code = "host-not-allowed"


class OriginNotAllowedError(LeasedbError):
    code = "origin-not-allowed"


class NotFoundError(LeasedbError):
    code = "not-found"


class MethodNotAllowedError(LeasedbError):
    code = "method-not-allowed"


class LeaseNotFoundError(LeasedbError):
    code = "lease-not-found"


class LeaseEndedError(LeasedbError):
    """The lease was released or expired.

    Attributes:
        lease: how the lease ended, when the daemon still told.
    """

    code = "lease-ended"
    lease: "LeaseRecord | None" = None


class LeaseLostError(LeaseEndedError):
    """The server that held the lease's database died."""

    code = "lease-lost"


class ServerNotFoundError(LeasedbError):
    code = "server-not-found"


class UnknownTemplateError(LeasedbError):
    code = "unknown-template"


class VersionUnavailableError(LeasedbError):
    code = "version-unavailable"


class HolderNotFoundError(LeasedbError):
    code = "holder-not-found"


class PoolExhaustedError(LeasedbError):
    """No database came free within ``wait``.

    Attributes:
        retry_after: seconds after which asking again makes sense; None when the daemon did not say.
        position: place in the waiting line when the wait ended, counted from 1; None when the daemon did not say.
    """

    code = "pool-exhausted"
    retry_after: float | None = None
    position: int | None = None


class IdempotencyMismatchError(LeasedbError):
    code = "idempotency-mismatch"


class IdempotencyInProgressError(LeasedbError):
    code = "idempotency-in-progress"


class ShuttingDownError(LeasedbError):
    code = "shutting-down"


class NotReadyError(LeasedbError):
    code = "not-ready"


class InternalError(LeasedbError):
    code = "internal-error"


class StoreFailedError(LeasedbError):
    code = "store-failed"


# --- what keeps a server from serving ---


class BackendUnavailableError(LeasedbError):
    code = "backend-unavailable"


class ServerStartError(LeasedbError):
    code = "server-start-failed"


class ServerUnreachableError(LeasedbError):
    code = "server-unreachable"


class ServerRefusedError(LeasedbError):
    code = "server-refused"


BY_CODE: Mapping[str, type[LeasedbError]] = {
    kind.code: kind
    for kind in (
        InvalidRequestError,
        MalformedJsonError,
        UnsupportedMediaTypeError,
        BodyTooLargeError,
        UnauthorizedError,
        HostNotAllowedError,
        OriginNotAllowedError,
        NotFoundError,
        MethodNotAllowedError,
        LeaseNotFoundError,
        LeaseEndedError,
        LeaseLostError,
        ServerNotFoundError,
        UnknownTemplateError,
        VersionUnavailableError,
        HolderNotFoundError,
        PoolExhaustedError,
        IdempotencyMismatchError,
        IdempotencyInProgressError,
        ShuttingDownError,
        NotReadyError,
        InternalError,
        StoreFailedError,
        BackendUnavailableError,
        ServerStartError,
        ServerUnreachableError,
        ServerRefusedError,
    )
}


def from_problem(status: int, problem: Mapping[str, object], retry_after: str | None = None) -> LeasedbError:
    """Rebuild the error that a daemon described.

    Args:
        status: of the HTTP answer.
        problem: the body, RFC 9457 with ``code`` and ``hint``.
        retry_after: the header of that name, in seconds.
    """
    code = str(problem["code"])
    fields = problem.get("errors")
    error = BY_CODE.get(code, LeasedbError)(
        str(problem.get("detail") or problem.get("title") or f"The daemon answered HTTP {status} ({code})."),
        code=code,
        status=status,
        title=str(problem.get("title") or ""),
        hint=str(problem.get("hint") or ""),
        errors=[
            (str(field.get("field", "")), str(field.get("message", "")))
            for field in (fields if isinstance(fields, list) else [])
            if isinstance(field, dict)
        ],
    )
    if isinstance(error, PoolExhaustedError):
        position = problem.get("position")
        error.position = position if isinstance(position, int) else None
        error.retry_after = float(retry_after) if retry_after and retry_after.isdecimal() else None
    return error
