"""What every group is given: the place for its data, how much to measure, and daemons to measure."""

import contextlib
import json
import sqlite3
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psycopg
from psycopg.conninfo import make_conninfo

from benchmarks.machine import BenchmarkError
from benchmarks.running import BODY, Running, Site, daemon, first_lease, keep_alive
from benchmarks.sources import EMBEDDED, Source, docker_source, podman_source

T = TypeVar("T")
THINK = 0.02  # seconds between a quiet pool and the next request
_POLL = 0.003
_BUILD_LIMIT = 180.0  # seconds for a template of SQL text
_STORE = "leasedb.sqlite"
EMPTY = ("--pool-ready", "0", "--pool-ready-max", "0")  # flags of a daemon that only has a server running


@dataclass(frozen=True, slots=True)
class Live:
    """A daemon that has given its first lease, and a client of its own for what is not measured."""

    running: Running
    source: Source
    state_dir: Path
    client: httpx.Client

    @property
    def url(self) -> str:
        return self.running.url

    @property
    def pid(self) -> int:
        return self.running.process.pid

    def get(self, path: str) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get(f"{self.url}{path}").raise_for_status().json()
        return found

    def post(self, path: str, **body: object) -> dict[str, Any]:
        """Return the answer to a POST.

        Raises:
            BenchmarkError: when it is an error.
        """
        return _read(self.client.post(f"{self.url}{path}", json=body))

    def lease(self, **body: object) -> dict[str, Any]:
        return self.post("/leases", **{**BODY, **body})

    def release(self, lease: dict[str, Any]) -> None:
        self.delete(f"/leases/{lease['id']}")

    def release_all(self) -> None:
        """Release every lease of the benchmark's own, those of clients that measure included."""
        for lease in self.get("/leases?state=active")["leases"]:
            self.release(lease)

    def quiet(self, limit: float = 30.0, *, full: bool = True) -> None:
        """Return when the pool is full and nothing is being made or dropped; without ``full``, when nothing is."""
        end = time.monotonic() + limit
        while True:
            pool = self.get("/pool")
            enough = not full or (pool["per"] and pool["ready"] >= sum(each["target"] for each in pool["demand"]))
            if enough and not pool["making"] and not pool["condemned"]:
                return
            if time.monotonic() > end:
                raise BenchmarkError(f"The pool of {self.url} was not quiet within {limit:g} s: {pool}")
            time.sleep(_POLL)

    def endpoint(self) -> dict[str, Any]:
        """Return host, port, user and password of the daemon's own login on its first server."""
        found: dict[str, Any] = json.loads(self._stored("SELECT endpoint FROM server WHERE state = 'ready'"))
        return found

    def template(self, name: str, sql: str) -> dict[str, Any]:
        """Have a template built of SQL text, and return it."""
        return _read(self.client.put(f"{self.url}/templates/{name}", json={"sql": sql}, timeout=_BUILD_LIMIT))

    def delete(self, path: str) -> None:
        self.client.delete(f"{self.url}{path}").raise_for_status()

    def until_kept(self, template: str, limit: float = 120.0) -> None:
        """Return when the files of a template are in the state directory."""
        end = time.monotonic() + limit
        while not self.get(f"/templates/{template}")["kept"]:
            if time.monotonic() > end:
                raise BenchmarkError(f"The files of the template {template} were not kept within {limit:g} s.")
            time.sleep(_POLL)

    def copy(self, template: str = "base") -> str:
        """Return the name of the database of which databases of a template are clones."""
        return self._stored("SELECT database FROM copy WHERE template = ? AND state = 'sealed'", template)

    def conninfo(self, database: str = "postgres") -> str:
        """Return how the server's administrator logs in."""
        login = {name: self.endpoint()[name] for name in ("host", "port", "user", "password")}
        return make_conninfo(dbname=database, **login)

    def administrator(self, database: str = "postgres") -> "psycopg.Connection[tuple[Any, ...]]":
        return psycopg.connect(self.conninfo(database), autocommit=True)

    def _stored(self, query: str, *values: str) -> str:
        with stored(self.state_dir) as store:
            row = store.execute(query, values).fetchone()
        if row is None:
            raise BenchmarkError(f"The daemon's state file answers nothing to {query!r}.")
        return str(row[0])


def _read(answer: httpx.Response) -> dict[str, Any]:
    if answer.is_error:
        raise BenchmarkError(f"{answer.request.method} {answer.request.url}: {answer.text[:500]}")
    found: dict[str, Any] = answer.json()
    return found


@contextlib.contextmanager
def stored(state_dir: Path) -> Iterator[sqlite3.Connection]:
    """Look into what a daemon has written down."""
    # closing(): a connection's own block ends the transaction only
    with contextlib.closing(sqlite3.connect(f"file:{state_dir / _STORE}?mode=ro", uri=True)) as store:
        yield store


@dataclass(frozen=True, slots=True)
class Bench:
    """One run of ``python -m benchmarks``."""

    place: Site
    quick: bool
    sources: dict[str, Source | str] = field(default_factory=dict)  # by title; a text says why there is none

    @classmethod
    def here(cls, place: Site, *, quick: bool) -> "Bench":
        sources = {"embedded": EMBEDDED, "Docker": docker_source(), "Podman": podman_source()}
        return cls(place, quick, sources)

    def pick(self, full: T, quick: T) -> T:
        return quick if self.quick else full

    def source(self, title: str) -> Source:
        """Return a source.

        Raises:
            BenchmarkError: when this machine has none of the kind; with the reason.
        """
        found = self.sources[title]
        if isinstance(found, str):
            raise BenchmarkError(found)
        return found

    @contextlib.contextmanager
    def daemon(self, source: Source = EMBEDDED, *flags: str, state_dir: Path | None = None) -> Iterator[Live]:
        """Run a daemon that has given and taken back one lease when the block begins."""
        directory = state_dir or self.place.new_directory()
        with daemon(self.place, source, directory, *flags) as running, keep_alive(running.token) as client:
            live = Live(running, source, directory, client)
            live.release(first_lease(running))
            yield live


def progress(text: str) -> None:
    print(f"measuring {text} ...", file=sys.stderr, flush=True)


def reason(error: BaseException) -> str:
    """Return the last line of what an error says, for a cell of a table."""
    lines = str(error).strip().splitlines()
    return (lines[-1] if lines else repr(error)).replace("|", "/")[:200]
