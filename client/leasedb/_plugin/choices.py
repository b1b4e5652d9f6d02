"""What a run and a test want: the command line wins, then the marker, then the ini file."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from leasedb._plugin.options import DATABASE_URL, KEEPING, PER_TEST

Scope = Literal["function", "class", "module", "package", "session"]


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
        told: on the command line.
        written: in the ini file.
    """

    keep: str
    optional: bool
    start: bool | None
    database_url: tuple[str, str] | None
    told: Wishes
    written: Wishes
    root: Path

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
    try:
        return Choices(
            keep=_one_of("keep", config.getini("leasedb_keep") or "no", KEEPING) if keep is None else keep,
            optional=_flag(config, "optional"),
            start=False if _flag(config, "no_start") else None,
            database_url=_database_url(config),
            told=_checked(told),
            written=_checked(written),
            root=config.rootpath,
        )
    except ValueError as error:
        raise pytest.UsageError(f"leasedb: {error}") from None


def _flag(config: pytest.Config, name: str) -> bool:
    told = config.getoption(f"leasedb_{name}")
    return bool(config.getini(f"leasedb_{name}") if told is None else told)


def _database_url(config: pytest.Config) -> tuple[str, str] | None:
    for name in (DATABASE_URL, config.getini("leasedb_database_url")):
        if name and (url := os.environ.get(name, "").strip()):
            return url, name
    return None


def wishes_of(where: pytest.Item | pytest.Collector, choices: Choices) -> Wishes:
    """Return what a test, or all in a module or class, wants.

    Raises:
        ValueError: a marker makes no sense.
    """
    marked = Wishes()
    for marker in where.iter_markers("leasedb"):  # the nearest first
        if marker.args:
            raise ValueError(f"the marker takes names only, as in leasedb(template=...), and has {marker.args[0]!r}")
        marked = marked.over(_checked(dict(marker.kwargs)))
    return choices.told.over(marked).over(choices.written)


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
            given[name] = str(value)
        elif name != "template" and not isinstance(value, str):
            raise ValueError(f"{name} is {value!r}, which is no text")
    return Wishes(**given)


def _one_of(name: str, value: object, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; it is one of {', '.join(choices)}")
    return str(value)


def _seconds(value: object) -> float:
    try:
        seconds = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ValueError(f"ttl is {value!r}, which is no number of seconds")
    return seconds
