"""Templates as the daemon describes them, and what can go wrong with one, as frozen dataclasses.

Fields this version does not know are ignored, as in `_models`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from leasedb._models import Json, int_or_none, text, text_or_none, time_or_none

_PLACE = re.compile(r"^Statement \d+ failed on line \d+: ")


@dataclass(frozen=True, slots=True)
class BuildFailure:
    """Why a template could not be built.

    Attributes:
        message: in words.
        sqlstate: Postgres's five characters, when it was Postgres that refused.
        statement: number of the statement in the text, from 1.
        line: of the text, from 1.
        sql: the beginning of the statement.
        hint: what to do; empty when the daemon did not say.
    """

    message: str
    sqlstate: str | None = None
    statement: int | None = None
    line: int | None = None
    sql: str | None = None
    hint: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A sealed database, or one that is to become one, that leases are clones of.

    Whatever takes a template's name takes one of these too, and then asks for the Postgres it was made for. Two are
    equal when they have the same name and content and are for the same Postgres, however old what is told of them is.

    Attributes:
        name: what it is leased by.
        fingerprint: of what it was made of.
        parent: name of the template it was built upon; None for "base".
        state: building, sealed or failed.
        origin: builtin, sql, build (by a program) or branch (of a lease's database).
        postgres: the major version asked for, None for the daemon's default; ``image`` likewise.
        bytes: size of the database; None when it is not known.
        kept: its files survive the server it is on.
        leases: active ones on it.
        ready: databases that wait to be leased.
        progress: how far a build is, and whose it is; empty otherwise.
        error: why it failed; None otherwise.
        notes: such as which statements of a dump were left out.
        until_lease: id of the lease with which it goes away, when it is an anonymous branch.
    """

    name: str
    fingerprint: str
    postgres: str | None = None
    image: str | None = None
    # what changes, or is known of it, while it stays the same
    parent: str | None = field(default=None, compare=False)
    state: str = field(default="sealed", compare=False)
    origin: str = field(default="", compare=False)
    bytes: int | None = field(default=None, compare=False)
    kept: bool = field(default=False, compare=False)
    created_at: datetime | None = field(default=None, compare=False)
    used_at: datetime | None = field(default=None, compare=False)
    leases: int = field(default=0, compare=False)
    ready: int = field(default=0, compare=False)
    progress: str = field(default="", compare=False)
    error: BuildFailure | None = field(default=None, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)
    until_lease: str | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return self.name

    @property
    def key(self) -> str:
        """What `Pool` calls it: its name, and the Postgres that it is for where that is not the daemon's own."""
        edition = self.image or self.postgres
        return f"{self.name}@{edition}" if edition else self.name


class Checkpoint(Template):
    """What a lease's database held at an instant, see `Lease.checkpoint`; it lasts as long as that lease."""

    __slots__ = ()


class Templates(list[Template]):
    """The templates of a daemon.

    Attributes:
        bytes: what they take together, on disk and in memory.
        budget: what they may take; None when there is no limit.
    """

    def __init__(self, found: Iterable[Template] = (), bytes_: int = 0, budget: int | None = None) -> None:
        super().__init__(found)
        self.bytes = bytes_
        self.budget = budget


@dataclass(frozen=True, slots=True)
class OpenSession:
    """A session on a lease's database. ``state`` as in pg_stat_activity; ``query`` is the last one's beginning."""

    pid: int
    application: str = ""
    state: str = ""
    query: str = ""
    since: datetime | None = None


def key_of(template: Template | str) -> str:
    return template.key if isinstance(template, Template) else template


def build_failure(data: Json) -> BuildFailure:
    return BuildFailure(
        # what precedes Postgres's own words says what `statement` and `line` say
        message=_PLACE.sub("", str(data.get("message") or "")),
        sqlstate=text_or_none(data, "sqlstate"),
        statement=int_or_none(data, "statement"),
        line=int_or_none(data, "line"),
        sql=text_or_none(data, "sql"),
        hint=str(data.get("hint") or ""),
    )


def open_sessions(data: Any) -> tuple[OpenSession, ...]:
    """Return the sessions an error names; it is no reason for another error when it names them oddly."""
    return tuple(
        OpenSession(
            pid=int(one["pid"]),
            application=str(one.get("application") or ""),
            state=str(one.get("state") or ""),
            query=str(one.get("query") or ""),
            since=time_or_none(one, "since"),
        )
        for one in (data if isinstance(data, list) else ())
        if isinstance(one, Mapping) and isinstance(one.get("pid"), int)
    )


def _fields(data: Json) -> dict[str, Any]:
    error = data.get("error")
    return {
        "name": text(data, "name"),
        "fingerprint": text(data, "fingerprint"),
        "parent": text_or_none(data, "parent"),
        "state": text(data, "state"),
        "origin": str(data.get("origin") or ""),
        "postgres": text_or_none(data, "postgres"),
        "image": text_or_none(data, "image"),
        "bytes": int_or_none(data, "bytes"),
        "kept": bool(data.get("kept")),
        "created_at": time_or_none(data, "created_at"),
        "used_at": time_or_none(data, "used_at"),
        "leases": int_or_none(data, "leases") or 0,
        "ready": int_or_none(data, "ready") or 0,
        "progress": str(data.get("progress") or ""),
        "error": None if error is None else build_failure(error),
        "notes": tuple(str(note) for note in data.get("notes") or ()),
        "until_lease": text_or_none(data, "until_lease"),
    }


def template(data: Json) -> Template:
    return Template(**_fields(data))


def checkpoint(data: Json) -> Checkpoint:
    return Checkpoint(**_fields(data))


def templates(data: Json) -> Templates:
    return Templates(
        (template(one) for one in data["templates"]), int_or_none(data, "bytes") or 0, int_or_none(data, "budget")
    )
