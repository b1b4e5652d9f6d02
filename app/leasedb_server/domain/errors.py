"""The errors of the daemon: one family, each with a stable code, a message and what to do about it."""

from typing import ClassVar

from leasedb_server.domain.fault import Fault
from leasedb_server.domain.sessions import SessionInfo


class LeasedbError(Exception):
    """Something a caller or an operator has to know.

    Args:
        detail: what happened and why, one sentence or two.
        hint: what to do; the class's own hint when left out.
    """

    code: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "The daemon failed"
    default_hint: ClassVar[str] = "This is a defect in leasedb: please report it with the daemon's log."

    def __init__(self, detail: str, *, hint: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.hint = hint or self.default_hint

    def __str__(self) -> str:
        between = "\n" if "\n" in self.detail else " "
        return f"{self.detail.rstrip()}{between}{self.hint}"


class IllegalTransitionError(LeasedbError):
    """A state was asked to follow one it cannot follow: a defect of the daemon, never of a caller."""

    def __init__(self, what: object, target: object) -> None:
        super().__init__(f"{what!r} cannot become {target}.")


# --- what a request can meet ---


class InvalidRequestError(LeasedbError):
    code = "invalid-request"
    title = "The request is not valid"
    default_hint = "See /docs for what this call takes."


class LeaseNotFoundError(LeasedbError):
    code = "lease-not-found"
    title = "No such lease"
    default_hint = "GET /leases lists the leases; of ended ones the last 1,000 are kept, for ten minutes."


class LeaseEndedError(LeasedbError):
    code = "lease-ended"
    title = "The lease has ended"
    default_hint = "Take a new one with POST /leases; a longer ttl, or renewing, keeps a lease alive."


class LeaseLostError(LeaseEndedError):
    code = "lease-lost"
    title = "The lease's database is gone"
    default_hint = "Its server died and is being replaced. Take a new lease with POST /leases."


class KeepQuotaError(LeasedbError):
    code = "keep-quota"
    title = "No more leases are kept at once"
    default_hint = (
        "'leasedb kept' lists them, and with --drop ID or --drop-all gives them back. For more at once, stop the daemon"
        " ('leasedb stop') and start it with a larger LEASEDB_KEEP_MAX; half of LEASEDB_POOL_MAX counts at most."
    )


class ServerNotFoundError(LeasedbError):
    code = "server-not-found"
    title = "No such server"
    default_hint = "GET /servers lists the servers."


class UnknownTemplateError(LeasedbError):
    code = "unknown-template"
    title = "No such template"
    default_hint = "GET /templates lists the templates; build it with PUT /templates/{name} or the client."


class VersionUnavailableError(LeasedbError):
    code = "version-unavailable"
    title = "This Postgres version is not served"
    default_hint = "Leave 'postgres' and 'image' out, or start the daemon anew with LEASEDB_VERSIONS or LEASEDB_IMAGES."


class ExclusiveUnavailableError(LeasedbError):
    code = "exclusive-unavailable"
    title = "No server can be leased as a whole here"
    default_hint = "Use the container or the embedded backend: a server that is only lent stays as it is."


class HolderNotFoundError(LeasedbError):
    code = "holder-not-found"
    title = "The holder's process does not run here"
    default_hint = "Send the pid of a live process on the daemon's machine, or leave 'pid' out and renew the lease."


class PoolExhaustedError(LeasedbError):
    """No database came free within the caller's ``wait``.

    Args:
        detail: what happened.
        retry_after: seconds after which asking again makes sense.
        position: place in the waiting line when the wait ended, counted from 1.
    """

    code = "pool-exhausted"
    title = "No database came free in time"
    default_hint = "Wait longer with 'wait', release leases, or raise LEASEDB_POOL_MAX."

    def __init__(self, detail: str, *, retry_after: int, position: int, hint: str | None = None) -> None:
        super().__init__(detail, hint=hint)
        self.retry_after = retry_after
        self.position = position


# --- templates ---


class TemplateNotFoundError(LeasedbError):
    code = "template-not-found"
    title = "No such template"
    default_hint = "GET /templates lists the templates; unused ones are evicted when they take too much room."


class TemplateExistsError(LeasedbError):
    """There is a template of this name, with another content.

    Args:
        detail: what happened.
        fingerprint: of the content that is there.
        requested: of the content that was asked for.
    """

    code = "template-exists"
    title = "There is another template of this name"
    default_hint = "Use another name, such as one with the fingerprint in it, or DELETE /templates/{name} first."

    def __init__(self, detail: str, *, fingerprint: str, requested: str) -> None:
        super().__init__(detail)
        self.fingerprint = fingerprint
        self.requested = requested


class TemplateBuiltinError(LeasedbError):
    code = "template-builtin"
    title = "The template 'base' is built in"
    default_hint = "Choose another name; 'base' is the parent of everything."


class ParentMissingError(LeasedbError):
    code = "parent-missing"
    title = "The parent template is not there"
    default_hint = "Build the parent first; GET /templates lists what there is."


class TemplateCycleError(LeasedbError):
    code = "template-cycle"
    title = "A template cannot be built upon itself"
    default_hint = "Choose another parent or another name."


class SqlFailedError(LeasedbError):
    """A statement of a template's text failed; nothing of the template stays.

    Args:
        detail: what failed and why.
        sqlstate: Postgres's five characters; None when it was not Postgres that refused.
        statement: number of the statement, from 1.
        line: of the text, from 1.
        sql: the beginning of the statement.
        hint: what to do.
    """

    code = "sql-failed"
    title = "The SQL of the template failed"
    default_hint = "Mend the statement and send the text again; nothing of it was kept."

    def __init__(
        self,
        detail: str,
        *,
        sqlstate: str | None = None,
        statement: int | None = None,
        line: int | None = None,
        sql: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(detail, hint=hint)
        self.sqlstate = sqlstate
        self.statement = statement
        self.line = line
        self.sql = sql


class BuildFailedError(LeasedbError):
    """The build that this caller waited for failed.

    Args:
        detail: what failed.
        cause: what is known of the failure; its hint is this error's.
    """

    code = "build-failed"
    title = "The template's build failed"
    default_hint = "Mend what failed and build again; whoever asks next becomes the builder."

    def __init__(self, detail: str, *, cause: Fault) -> None:
        super().__init__(detail, hint=cause.hint or None)
        self.cause = cause


class TemplateBuildingError(LeasedbError):
    """Somebody else is building the template, and was not done within the caller's ``wait``."""

    code = "template-building"
    title = "The template is still being built"
    default_hint = "Ask again, or wait longer with 'wait'."

    def __init__(self, detail: str, *, progress: str) -> None:
        super().__init__(detail)
        self.progress = progress


class SessionsOpenError(LeasedbError):
    """Sessions stand in the way of what was asked for; everything is as before."""

    code = "sessions-open"
    title = "Sessions are open on the database"
    default_hint = "Close them, or send 'force': true to have them ended."

    def __init__(self, detail: str, *, sessions: tuple[SessionInfo, ...]) -> None:
        super().__init__(detail)
        self.sessions = sessions


class TemplateSealedError(LeasedbError):
    code = "template-sealed"
    title = "The template is sealed already"
    default_hint = "Lease from it; to change it, build a template with another name upon it."


class NotTheBuilderError(LeasedbError):
    code = "not-the-builder"
    title = "This lease does not build the template"
    default_hint = "Use the lease that POST /templates/{name}/build returned."


class TemplateInUseError(LeasedbError):
    code = "template-in-use"
    title = "The template is in use"
    default_hint = "Release its leases first: GET /leases tells who has them."


class UploadIncompleteError(LeasedbError):
    code = "upload-incomplete"
    title = "The upload broke off"
    default_hint = "Send the whole text again; nothing of it was kept."


class TemplatesUnavailableError(LeasedbError):
    code = "templates-unavailable"
    title = "This server cannot have templates"
    default_hint = "Templates need Postgres 14 or newer; use a newer server."


class TemplateTooLargeError(LeasedbError):
    code = "template-too-large"
    title = "The template does not fit"
    default_hint = "Raise LEASEDB_TEMPLATE_BUDGET, or delete templates that are not needed."


class IdempotencyMismatchError(LeasedbError):
    code = "idempotency-mismatch"
    title = "This Idempotency-Key belongs to another request"
    default_hint = "Use a new key for a new request; a key repeats one request, body and all."


class IdempotencyInProgressError(LeasedbError):
    code = "idempotency-in-progress"
    title = "A request with this Idempotency-Key is still being answered"
    default_hint = "Repeat the request in a second."


class ShuttingDownError(LeasedbError):
    code = "shutting-down"
    title = "The daemon is stopping"
    default_hint = "Start it again with 'leasedb serve'."


class NotReadyError(LeasedbError):
    code = "not-ready"
    title = "The daemon is not ready yet"
    default_hint = "It is ready when GET /readyz answers 200; POST /leases waits for that by itself."


class StoreFailedError(LeasedbError):
    """A row could not be committed; what it was to record was not done."""

    code = "store-failed"
    title = "The daemon cannot write its state"
    default_hint = "Free some space on the disk of the state directory; nothing was changed."


# --- what keeps a server from serving ---


class BackendUnavailableError(LeasedbError):
    code = "backend-unavailable"
    title = "This backend cannot be used here"
    default_hint = "'leasedb doctor' shows what each backend needs."


class ServerStartError(LeasedbError):
    code = "server-start-failed"
    title = "A server did not start"
    default_hint = "'leasedb doctor' shows what each backend needs."


class ServerUnreachableError(LeasedbError):
    """A statement could not be run because the connection to the server failed or the server is unknown."""

    code = "server-unreachable"
    title = "A server does not answer"
    default_hint = "It is replaced when it stays silent."


class ServerRefusedError(LeasedbError):
    """The server answered a statement with an error.

    Args:
        detail: what was being done and what the server said.
        sqlstate: the five characters of https://www.postgresql.org/docs/current/errcodes-appendix.html
    """

    code = "server-refused"
    title = "A server refused a statement"
    default_hint = "See the server's log: GET /servers/{id}/logs."

    def __init__(self, detail: str, *, sqlstate: str, hint: str | None = None) -> None:
        super().__init__(detail, hint=hint)
        self.sqlstate = sqlstate


# --- what keeps the daemon from starting ---


class StartupError(LeasedbError):
    """The daemon cannot start; the command line prints the message as one line and exits with 1."""

    code = "startup-failed"
    title = "The daemon cannot start"
    default_hint = "'leasedb doctor' shows what is missing."
