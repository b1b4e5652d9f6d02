"""What requests about templates can meet."""

from collections.abc import Mapping
from typing import Any

from leasedb._errors.base import LeasedbError
from leasedb._template import BuildFailure, OpenSession, build_failure, open_sessions


class TemplateNotFoundError(LeasedbError):
    code = "template-not-found"


class TemplateExistsError(LeasedbError):
    """There is a template of this name, with another content.

    Attributes:
        fingerprint: of the one that is there.
        requested: of the one that was asked for.
    """

    code = "template-exists"
    fingerprint: str = ""
    requested: str = ""

    def take(self, problem: Mapping[str, Any]) -> None:
        self.fingerprint = str(problem.get("fingerprint") or "")
        self.requested = str(problem.get("requested") or "")


class SqlFailedError(LeasedbError):
    """A statement of a template's SQL failed; nothing of it was kept.

    Attributes:
        message: what Postgres said.
        sqlstate: its five characters; None when it was not Postgres that refused.
        statement: number of the statement in the whole text, from 1.
        line: in ``file``, or in the text where there is none, from 1.
        sql: the beginning of the statement.
        file: where it stands, as the caller named it; None for text.
    """

    code = "sql-failed"
    message: str = ""
    sqlstate: str | None = None
    statement: int | None = None
    line: int | None = None
    sql: str | None = None
    file: str | None = None

    def take(self, problem: Mapping[str, Any]) -> None:
        told = build_failure({**problem, "message": problem.get("message") or self.detail})
        self.message, self.sqlstate, self.sql = told.message, told.sqlstate, told.sql
        self.statement, self.line = told.statement, told.line


class BuildFailedError(LeasedbError):
    """Somebody else's build of the template, which this caller waited for, failed.

    Attributes:
        error: what is known of the failure; None when the daemon did not say.
    """

    code = "build-failed"
    error: BuildFailure | None = None

    def take(self, problem: Mapping[str, Any]) -> None:
        told = problem.get("error")
        self.error = build_failure(told) if isinstance(told, dict) else None


class TemplateBuildingError(LeasedbError):
    """Somebody else is building the template and was not done within ``wait``.

    Attributes:
        progress: how far the build is, and whose it is.
    """

    code = "template-building"
    progress: str = ""

    def take(self, problem: Mapping[str, Any]) -> None:
        self.progress = str(problem.get("progress") or "")


class SessionsOpenError(LeasedbError):
    """Sessions on the database stand in the way; everything is as it was.

    Attributes:
        sessions: those there are.
    """

    code = "sessions-open"
    sessions: tuple[OpenSession, ...] = ()

    def take(self, problem: Mapping[str, Any]) -> None:
        self.sessions = open_sessions(problem.get("sessions"))


class ParentMissingError(LeasedbError):
    code = "parent-missing"


class TemplateCycleError(LeasedbError):
    code = "template-cycle"


class TemplateBuiltinError(LeasedbError):
    code = "template-builtin"


class TemplateSealedError(LeasedbError):
    code = "template-sealed"


class NotTheBuilderError(LeasedbError):
    code = "not-the-builder"


class TemplateInUseError(LeasedbError):
    code = "template-in-use"


class UploadIncompleteError(LeasedbError):
    code = "upload-incomplete"


class TemplatesUnavailableError(LeasedbError):
    code = "templates-unavailable"


class TemplateTooLargeError(LeasedbError):
    code = "template-too-large"


class ExclusiveUnavailableError(LeasedbError):
    code = "exclusive-unavailable"
