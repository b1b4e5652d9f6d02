"""Group k, second part: what a test pays for its database, by fixture, and with the plugins of others."""

import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.bench import Bench, progress, reason
from benchmarks.contest import Ground, Way, guarded, run_pytest
from benchmarks.machine import BenchmarkError
from benchmarks.outcome import Mark, Panel, Row, Table, left_out
from benchmarks.peers import versions
from benchmarks.samples import MILLISECONDS, NOTHING, Samples
from benchmarks.sources import Source

_OURS = ("leasedb.pytest_plugin",)
_TESTS, _TESTS_QUICK = 50, 20
_FULL = ("--pool-ready", "60")
_HOW = """
Set-up and tear-down of one test as pytest measures them, in serial runs that take turns: from nothing to an open
connection, and until that is closed and the database given back. Five tables without rows; each test writes to all,
commits, reads with a join, and fails where its database is not as at first. The first test of a run has what is made
once, and stands apart. leasedb's daemons run already and have seen the suite. Before a run the pool is full: 60
databases of each template, more than the tests want; or, with default settings, what the daemon keeps by itself, so
that tests without think time may come to wait for a clone. Servers of the others are as they start them.
"""
FIXTURES: Mapping[str, str] = {  # the rows of ours, and what suites/by_fixture.py calls them
    "`pg_lease` and `pg_conn`": "pg_conn",
    "`pg_lease` and `pg_pool`": "pg_pool",
    "`pg_lease` and `pg_engine`": "pg_engine",
    "`pg_reset` and `pg_conn`": "pg_reset",
    "`pg_truncate` and `pg_conn`": "pg_truncate",
    "`pg_rollback`": "pg_rollback",
}
WAYS = (
    Way("no fixture", "-", None, None),
    *(Way(name, "template", "by_fixture", None, "pool", None, _OURS) for name in FIXTURES),
    Way(
        "pytest-postgresql: `postgresql`",
        "template",
        "by_pytest_postgresql",
        None,
        "programs",
        "pytest-postgresql",
        ("pytest_postgresql.plugin",),
    ),
    Way(
        "testcontainers: one container, `CREATE DATABASE ... TEMPLATE` in a fixture",
        "template",
        "by_way",
        "testcontainers",
        "image",
        "testcontainers",
    ),
    Way(
        "pytest-databases: its server, `CREATE DATABASE ... TEMPLATE` in a fixture",
        "template",
        "by_pytest_databases",
        None,
        "image",
        "pytest-databases",
        ("pytest_databases._service", "pytest_databases.docker.postgres"),
    ),
)
ROWS = tuple(way.name for way in WAYS)


@dataclass(slots=True)
class _Found:
    test: Samples = field(default_factory=Samples)  # but for the first of each run; of ours with a pool that suffices
    ordinary: Samples = field(default_factory=Samples)  # ours, with a daemon of default settings
    first: Samples = field(default_factory=Samples)
    error: str = ""

    def row(self, way: Way) -> Row:
        if self.error:
            return left_out(way.name, self.error)
        return Row(way.name, [_pair(self.test), _pair(self.ordinary), self.first.middle, str(len(self.test))])


def _pair(samples: Samples) -> str:
    """Return median and p95."""
    if not samples:
        return NOTHING
    return f"{samples.median * MILLISECONDS:.2f} / {samples.p95 * MILLISECONDS:.2f} ms"


def measure(bench: Bench) -> tuple[Table, Panel]:
    found = {way.name: _Found() for way in WAYS}
    image, embedded = bench.sources["Docker"], bench.source("embedded")
    count = bench.pick(_TESTS, _TESTS_QUICK)
    with bench.daemon(embedded, *_FULL) as full, bench.daemon(embedded) as ordinary:
        grounds = [Ground(bench, live, live, image, "tables") for live in (full, ordinary)]
        for way in WAYS:
            if way.ours:
                for ground in grounds:
                    _attempt(ground, way, _Found())  # not counted: the template is built, and how many are wanted seen
                break
        end = time.monotonic() + bench.pick(150.0, 60.0)
        for number in range(bench.pick(6, 1)):
            for way in WAYS:
                each = found[way.name]
                if each.error or (number and time.monotonic() > end):
                    continue
                progress(f"{count} tests: {way.name}")
                _attempt(grounds[0], way, each)
                if way.ours:
                    _attempt(grounds[1], way, each, ordinary=True)
    head = [f"{count} tests", "set-up and tear-down, median / p95", "with default settings", "first test", "samples"]
    where = image.about if isinstance(image, Source) else "no engine"
    notes = [_HOW, f"Peers as documented: {versions(WAYS)}; containers on {where}."]
    marks = [
        Mark(
            way.name.replace("`", "").partition(":")[0],
            each.test.median * MILLISECONDS,
            each.test.p95 * MILLISECONDS,
            ours=way.ours,
        )
        for way in WAYS[1:]
        if (each := found[way.name]).test
    ]
    panel = Panel("Set-up and tear-down of a test (line to p95)", "ms", marks, logarithmic=True)
    return Table("Fixtures", head, [found[way.name].row(way) for way in WAYS], notes), panel


def _attempt(ground: Ground, way: Way, found: _Found, *, ordinary: bool = False) -> None:
    """Run one way once."""
    try:
        with guarded(ground, way) as (environment, prefix), ground.pool(way) as more:
            chosen = {"SUITE_TESTS": str(ground.bench.pick(_TESTS, _TESTS_QUICK))}
            if way.ours:
                chosen["SUITE_FIXTURE"] = FIXTURES[way.name]
            _, tests = run_pytest(ground, way, {**environment, **more, **chosen}, prefix, 1)
    except (BenchmarkError, subprocess.TimeoutExpired) as error:
        found.error = reason(error)
        print(error, file=sys.stderr)
        return
    seconds = [test.fixtures for test in tests]
    (found.ordinary if ordinary else found.test).seconds.extend(seconds[1:])
    found.first.seconds.append(seconds[0])
