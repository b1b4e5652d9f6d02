"""The errors of the client: one family, rebuilt from the daemon's answers by their code."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from leasedb._errors.base import LeasedbError as LeasedbError
from leasedb._errors.templates import BuildFailedError as BuildFailedError
from leasedb._errors.templates import ExclusiveUnavailableError as ExclusiveUnavailableError
from leasedb._errors.templates import NotTheBuilderError as NotTheBuilderError
from leasedb._errors.templates import ParentMissingError as ParentMissingError
from leasedb._errors.templates import SessionsOpenError as SessionsOpenError
from leasedb._errors.templates import SqlFailedError as SqlFailedError
from leasedb._errors.templates import TemplateBuildingError as TemplateBuildingError
from leasedb._errors.templates import TemplateBuiltinError as TemplateBuiltinError
from leasedb._errors.templates import TemplateCycleError as TemplateCycleError
from leasedb._errors.templates import TemplateExistsError as TemplateExistsError
from leasedb._errors.templates import TemplateInUseError as TemplateInUseError
from leasedb._errors.templates import TemplateNotFoundError as TemplateNotFoundError
from leasedb._errors.templates import TemplateSealedError as TemplateSealedError
from leasedb._errors.templates import TemplatesUnavailableError as TemplatesUnavailableError
from leasedb._errors.templates import TemplateTooLargeError as TemplateTooLargeError
from leasedb._errors.templates import UploadIncompleteError as UploadIncompleteError
from leasedb._models import int_or_none

if TYPE_CHECKING:
    from leasedb._models import LeaseRecord

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


class FileUnreadableError(LeasedbError):
    """A file or folder that a template is made of is not there, or cannot be read."""

    code = "file-unreadable"


class DaemonStartError(LeasedbError):
    """No daemon answered, and none could be started; the message has the daemon's own words."""

    code = "daemon-start-failed"


class IncompatibleDaemonError(LeasedbError):
    """The daemon's version and this client's do not understand each other."""

    code = "incompatible-daemon"


_NEVER_SENT: Final = (
    InvalidAddressError,
    DaemonUnreachableError,
    DaemonStartError,
    IncompatibleDaemonError,
    UnexpectedAnswerError,
    ClientClosedError,
    FileUnreadableError,
)

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


class KeepQuotaError(LeasedbError):
    """As many leases are kept as may be at once, all of them by this holder."""

    code = "keep-quota"


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
        position: place in the waiting line when the wait ended, counted from 1; None when the daemon did not say.
    """

    code = "pool-exhausted"
    position: int | None = None

    def take(self, problem: Mapping[str, Any]) -> None:
        self.position = int_or_none(problem, "position")


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


def _family(kind: type[LeasedbError]) -> Iterator[type[LeasedbError]]:
    for child in kind.__subclasses__():
        yield child
        yield from _family(child)


BY_CODE: Mapping[str, type[LeasedbError]] = {
    kind.code: kind for kind in _family(LeasedbError) if kind not in _NEVER_SENT
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
    if retry_after and retry_after.isdecimal():
        error.retry_after = float(retry_after)
    # what is told oddly beyond that is no reason for another error
    with suppress(KeyError, TypeError, ValueError, AttributeError):
        error.take(problem)
    return error
