"""What a run and a test want: the command line wins, then the marker, then the ini file."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, Literal

import pytest

from leasedb._plugin import DATABASE_URL, KEEPING, PER_TEST

Scope = Literal["function", "class", "module", "package", "session"]
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # of a template
_SCHEME: Final = re.compile(r"([A-Za-z0-9.-]+)(\+\w+)?://")


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a test wants, see `PER_TEST`; None where nothing was said."""

    mode: str | None = None
    scope: str | None = None
    template: Any = None
    postgres: str | None = None
    image: str | None = None
    server: str | None = None
    database: str | None = None
    user: str | None = None
    ttl: float | None = None

    def over(self, others: Wishes) -> Wishes:
        """Return these, with the others' where nothing is said here."""
        said = {name: value for name in PER_TEST if (value := getattr(self, name)) is not None}
        return replace(others, **said)


@dataclass(frozen=True, slots=True)
class Choices:
    """What holds for the whole run.

    Attributes:
        keep: no, failed or always.
        optional: skip what needs a database where none can be had.
        start: whether a daemon may be started; None: as the client finds right.
        database_url: of a server that exists already and is to be used, and the name of the variable it is in.
        told: on the command line; a template there is a name or a whole path.
        written: in the ini file, likewise.
    """

    keep: str
    optional: bool
    start: bool | None
    database_url: tuple[str, str] | None
    told: Wishes
    written: Wishes

    @property
    def scope(self) -> Scope:
        """The scope that pytest gives to `pg_lease`."""
        return self.told.scope or self.written.scope or "function"  # type: ignore[return-value] # one of SCOPES


def choose(config: pytest.Config) -> Choices:
    """Read the command line, the ini file and the environment.

    Raises:
        pytest.UsageError: something makes no sense.
    """
    keep = config.getoption("leasedb_keep")
    written = {name: config.getini(f"leasedb_{name}") or None for name in PER_TEST}
    told = {name: config.getoption(f"leasedb_{name}") for name in PER_TEST}
    ini_folder = config.inipath.parent if config.inipath is not None else config.rootpath
    for given, folder in ((written, ini_folder), (told, config.invocation_params.dir)):
        template = given["template"]
        if template is not None and (is_path(template) or not NAME.fullmatch(template)):
            given["template"] = folder / template
    try:
        return Choices(
            keep=_one_of("keep", config.getini("leasedb_keep") or "no", KEEPING) if keep is None else keep,
            optional=_flag(config, "optional"),
            start=False if _flag(config, "no_start") else None,
            database_url=_database_url(config),
            told=_checked(told),
            written=_checked(written),
        )
    except ValueError as error:
        raise pytest.UsageError(f"leasedb: {error}") from None


def _flag(config: pytest.Config, name: str) -> bool:
    told = config.getoption(f"leasedb_{name}")
    return bool(config.getini(f"leasedb_{name}") if told is None else told)


def _database_url(config: pytest.Config) -> tuple[str, str] | None:
    named = config.getini("leasedb_database_url")
    if "://" in named or "=" in named:
        raise ValueError(
            "leasedb_database_url takes the name of an environment variable, such as POSTGRES_URL, and not a URL"
        )
    for name in (DATABASE_URL, named):
        if name and (url := os.environ.get(name, "").strip()):
            return _plain(url, name), name
    return None


def _plain(url: str, name: str) -> str:
    """Return a URL as libpq has it: SQLAlchemy's names a driver, too."""
    scheme = _SCHEME.match(url)
    if scheme is None:
        return url  # "host=... dbname=..."
    if scheme[1] not in {"postgres", "postgresql"}:
        raise ValueError(f"{name} has a URL that begins with {scheme[1]}://, which is none of a Postgres server")
    return f"postgresql://{url[scheme.end() :]}"


def wishes_of(where: pytest.Item | pytest.Collector, choices: Choices) -> Wishes:
    """Return what a test, or all in a module or class, wants.

    Raises:
        ValueError: a marker makes no sense.
    """
    marked = Wishes()
    for holder, marker in where.iter_markers_with_node("leasedb"):  # the nearest first
        if marker.args:
            raise ValueError(f"the marker takes names only, as in leasedb(template=...), and has {marker.args[0]!r}")
        given = dict(marker.kwargs)
        if "template" in given:
            given["template"] = _located(given["template"], holder)
        marked = marked.over(_checked(given))
    wishes = choices.told.over(marked).over(choices.written)
    for name in ("database", "user"):
        if getattr(wishes, name) is not None and wishes.server != "exclusive":
            raise ValueError(f"{name} is {getattr(wishes, name)!r}, which needs server='exclusive'")
    return wishes


def is_path(text: str) -> bool:
    """Tell whether a text can only be meant as a path: it is neither SQL nor, in all likelihood, a template's name."""
    return len(text.split()) == 1 and (text.endswith(".sql") or "/" in text)


def _located(template: object, holder: Any) -> object:
    """Return what a marker has as its template, with paths from the folder of the file that it is in."""
    if isinstance(template, list | tuple):
        return [_located(layer, holder) for layer in template]
    if isinstance(template, Path) or (isinstance(template, str) and is_path(template)):
        return (holder.path if holder.path.is_dir() else holder.path.parent) / template
    return template


def _checked(given: dict[str, Any]) -> Wishes:
    known = [field.name for field in fields(Wishes)]
    if unknown := sorted(given.keys() - set(known)):
        raise ValueError(f"the marker has no {unknown[0]!r}; it takes {', '.join(known)}")
    for name, (_, choices) in PER_TEST.items():
        value = given.get(name)
        if value is None:
            continue
        if choices:
            _one_of(name, value, choices)
        elif name == "ttl":
            given[name] = _seconds(value)
        elif name == "postgres":
            given[name] = _major(value)
        elif name != "template" and not isinstance(value, str):
            raise ValueError(f"{name} is {value!r}, which is no text")
    return Wishes(**given)


def _one_of(name: str, value: object, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; it is one of {', '.join(choices)}")
    return str(value)


def _major(value: object) -> str:
    if not re.fullmatch("[0-9]{1,3}", str(value)):
        raise ValueError(f"postgres is {value!r}; it is a major version, such as 18")
    return str(value)


def _seconds(value: object) -> float:
    try:
        seconds = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ValueError(f"ttl is {value!r}, which is no number of seconds")
    return seconds
