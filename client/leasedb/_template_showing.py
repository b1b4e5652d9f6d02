"""Templates as text for people."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from leasedb._sql import first_line
from leasedb._tables import count, duration, size, table
from leasedb._template import BuildFailure, Template, Templates

_LONG_AGO = datetime.min.replace(tzinfo=UTC)


def template_lines(templates: Templates, now: datetime | None = None) -> list[str]:
    """Return the table of templates, what is to say of single ones, and how much they take."""
    rows = [["NAME", "POSTGRES", "STATE", "SIZE", "PARENT", "LEASES", "READY", "USED", "KEPT"]]
    rows += [_row(template, now or datetime.now(UTC)) for template in templates if template.error is None]
    if all(row[1] == "-" for row in rows[1:]):
        rows = [[row[0], *row[2:]] for row in rows]
    budget = "" if templates.budget is None else f" of {size(templates.budget)}"
    total = f"{count(len(templates), 'template')}, {size(templates.bytes)}{budget}"
    # each remedy once: many that failed failed alike
    remedies = dict.fromkeys(template.error.hint for template in templates if template.error and template.error.hint)
    return [*table(rows), *template_notes(templates), *remedies, "", total]


def template_notes(templates: Sequence[Template]) -> Iterator[str]:
    """Yield a line for each template that is not simply there: those being built, then the failed, newest first."""
    for template in templates:
        if template.state == "building":
            yield f"{template.key}: {template.progress or 'is being built'}"
    failed = [(template, template.error) for template in templates if template.error is not None]
    for template, error in sorted(failed, key=lambda one: one[0].created_at or _LONG_AGO, reverse=True):
        yield f"{template.key} failed: {_why(error)}"


def _row(template: Template, now: datetime) -> list[str]:
    used = template.used_at
    return [
        template.name,
        template.image or template.postgres or "-",
        template.state,
        "-" if template.bytes is None else size(template.bytes),
        template.parent or "-",
        str(template.leases),
        str(template.ready),
        "-" if used is None else f"{duration((now - used).total_seconds())} ago",
        _kept(template),
    ]


def _kept(template: Template) -> str:
    """Say what the template survives."""
    if template.origin == "builtin":
        return "always"
    if template.state != "sealed":
        return "-"
    if template.until_lease is not None:
        return f"until lease {template.until_lease} ends"
    return "across restarts" if template.kept else "while its server runs"


def _why(failure: BuildFailure) -> str:
    where = "" if failure.line is None else f"line {failure.line}: "
    state = f" (SQLSTATE {failure.sqlstate})" if failure.sqlstate else ""
    statement = first_line(failure.sql)
    message = first_line(failure.message).rstrip(".")  # without a driver's "LINE 1: ..." and its caret
    return first_line(f"{where}{message}{state}{f' in: {statement}' if statement else ''}")
