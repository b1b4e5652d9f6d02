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

    def lease(self, **body: object) -> dict[str, Any]:
        answer = self.client.post(f"{self.url}/leases", json={**BODY, **body}).raise_for_status()
        lease: dict[str, Any] = answer.json()
        return lease

    def release(self, lease: dict[str, Any]) -> None:
        self.client.delete(f"{self.url}/leases/{lease['id']}").raise_for_status()

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

    def base(self) -> str:
        """Return the name of the database that the daemon clones."""
        return self._stored("SELECT database FROM template WHERE name = 'base' AND state = 'sealed'")

    def conninfo(self, database: str = "postgres") -> str:
        """Return how the server's administrator logs in."""
        login = {name: self.endpoint()[name] for name in ("host", "port", "user", "password")}
        return make_conninfo(dbname=database, **login)

    def administrator(self, database: str = "postgres") -> "psycopg.Connection[tuple[Any, ...]]":
        return psycopg.connect(self.conninfo(database), autocommit=True)

    def _stored(self, query: str) -> str:
        # closing(): a connection's own block ends the transaction only
        with contextlib.closing(sqlite3.connect(f"file:{self.state_dir / _STORE}?mode=ro", uri=True)) as store:
            row = store.execute(query).fetchone()
        if row is None:
            raise BenchmarkError(f"The daemon's state file answers nothing to {query!r}.")
        return str(row[0])


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
        with daemon(self.place, source, directory, *flags) as running, keep_alive() as client:
            live = Live(running, source, directory, client)
            live.release(first_lease(running))
            yield live


def progress(text: str) -> None:
    print(f"measuring {text} ...", file=sys.stderr, flush=True)


def reason(error: BaseException) -> str:
    """Return the last line of what an error says, for a cell of a table."""
    lines = str(error).strip().splitlines()
    return (lines[-1] if lines else repr(error)).replace("|", "/")[:200]
