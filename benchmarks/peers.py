"""Group d: a hundred tests, each on a fresh database, in the ways people have."""

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from benchmarks import peers_fifty
from benchmarks.bench import EMPTY, Bench, progress, reason
from benchmarks.contest import TESTS, TESTS_QUICK, Ground, Way, guarded, loop, run_pytest
from benchmarks.machine import BenchmarkError
from benchmarks.outcome import Group, Mark, Outcome, Panel, Row, Table, left_out
from benchmarks.samples import NOTHING, Samples
from benchmarks.sources import Source

_SLOW = 25.0  # seconds; a way that takes more is run once, and not with two workers
_WITHOUT_SCHEMA = {"leased", "by_hand", "by_hand_template", "testcontainers"}
_OURS = ("leasedb.pytest_plugin",)
_HOW = """
Real runs of pytest in processes of their own, each way in turns, without think time. Five tables and 15 rows; each
test writes three rows, reads them with a join, and fails where the database is not fresh. Whole run: the command from
start to end with all that it starts itself; one test: setup, call and teardown in the serial runs; no pytest: the
median of the same in a bare loop. The schema is applied once in a template where a way has templates, else in each
test. leasedb's daemons run already with full pools, as they are used; that of a pool of ten has never seen the suite,
so that it builds the template, too; the plugin announces its tests. The server of the ways by hand, of `TRUNCATE` and
of the rollback runs already too, with leasedb's settings on the same file system. A test that is rolled back cannot
commit, and these last two ways never give a fresh database. Last column: all of them without a schema, so that nothing
but database, login, connection and one question is measured.
"""
WAYS = (
    Way("pytest alone, no database", "-", None, None),
    Way("leasedb, pool of 120", "each test", "by_leasedb", "leased", "pool", plugins=_OURS),
    Way("leasedb, pool of ten at first", "each test", "by_leasedb", "leased", "new pool", plugins=_OURS),
    Way("leasedb, a template, pool of ten", "template", "by_template", "from_template", "new pool", None, _OURS),
    Way("leasedb, one lease, reset after each test", "template", "by_reset", "reset", "new pool", None, _OURS),
    Way("`CREATE DATABASE` by hand", "each test", "by_way", "by_hand", "server"),
    Way("`CREATE DATABASE ... TEMPLATE` by hand", "template", "by_way", "by_hand_template", "server"),
    Way("testcontainers, container per session", "template", "by_way", "testcontainers", "image", "testcontainers"),
    Way(
        "pytest-postgresql",
        "template",
        "by_pytest_postgresql",
        None,
        "programs",
        "pytest-postgresql",
        ("pytest_postgresql.plugin",),
    ),
    Way(
        "pytest-databases",
        "template",
        "by_pytest_databases",
        None,
        "image",
        "pytest-databases",
        ("pytest_databases._service", "pytest_databases.docker.postgres"),
    ),
    Way("`TRUNCATE` between tests", "once", "by_way", "truncated", "server"),
    Way("rollback after each test", "once", "by_way", "rolled_back", "server"),
)


@dataclass(slots=True)
class _Found:
    serial: Samples = field(default_factory=Samples)  # the whole command
    parallel: Samples = field(default_factory=Samples)
    test: Samples = field(default_factory=Samples)  # one test with its fixtures, of the serial runs
    loop: list[float] = field(default_factory=list)  # medians of one test without pytest
    empty: list[float] = field(default_factory=list)  # seconds for all, without pytest and without a schema
    error: str = ""

    def row(self, way: Way) -> Row:
        if self.error:
            return left_out(way.name, self.error)
        loop = f"{median(self.loop) * 1000:.1f} ms" if self.loop else NOTHING
        wholes = [f"{each.median:.2f} s" if each else NOTHING for each in (self.serial, self.parallel)]
        empty = f"{median(self.empty):.2f} s" if self.empty else NOTHING
        return Row(way.name, [way.schema, *wholes, self.test.pair, loop, empty])


def measure(bench: Bench) -> Outcome:
    found = {way.name: _Found() for way in WAYS}
    image = bench.sources["Docker"]
    embedded = bench.source("embedded")
    with (
        bench.daemon(embedded, "--pool-ready", "120", "--pool-max", "200") as full,
        bench.daemon(embedded, *EMPTY) as server,
    ):
        ground = Ground(bench, full, server, image)
        end = time.monotonic() + bench.pick(160.0, 30.0)
        for number in range(bench.pick(3, 1)):
            for way in WAYS:
                each = found[way.name]
                slow = sum(each.serial.seconds + each.parallel.seconds) > _SLOW
                if each.error or (number and (slow or time.monotonic() > end)):
                    continue
                progress(f"{bench.pick(TESTS, TESTS_QUICK)} tests: {way.name}")
                try:
                    _measure(ground, way, each)
                except (BenchmarkError, subprocess.TimeoutExpired) as error:
                    each.error = reason(error)
                    print(error, file=sys.stderr)
    outcome = _outcome(found, bench, image)
    table, panel = peers_fifty.measure(bench)
    return Outcome([*outcome.tables, table], [*outcome.panels, panel])


def _measure(ground: Ground, way: Way, found: _Found) -> None:
    """Run one way once: serial, with two workers, and without pytest."""
    with guarded(ground, way) as (environment, prefix):
        runs = ((1, found.serial), (2, found.parallel))
        for workers, samples in ground.bench.pick(runs, runs[:1]):
            if workers > 1 and found.serial.most > _SLOW:
                break
            with ground.pool(way) as more:
                took, tests = run_pytest(ground, way, {**environment, **more}, prefix, workers)
            samples.seconds.append(took)
            if workers == 1:
                found.test.seconds.extend(test.whole for test in tests)
        if way.way is not None:
            found.loop.append(median(loop(ground, way, environment, prefix)))
        if way.way in _WITHOUT_SCHEMA:
            found.empty.append(sum(loop(ground, way, {**environment, "SUITE_EMPTY": "yes"}, prefix)))


def _outcome(found: Mapping[str, _Found], bench: Bench, image: Source | str) -> Outcome:
    count = bench.pick(TESTS, TESTS_QUICK)
    head = [f"{count} tests", "schema applied", "whole run", "with two workers", "one test, median / p99", "no pytest"]
    head += [f"{count} empty databases, no pytest"]
    rows = [found[way.name].row(way) for way in WAYS]
    runs = max(len(each.serial) for each in found.values())
    where = image.about if isinstance(image, Source) else "no engine"
    notes = [
        _HOW,
        f"Peers as documented: {versions(WAYS)}; containers on {where}; medians of up to {runs} runs.",
    ]
    marks = []
    for way in WAYS[1:]:
        each = found[way.name]
        if each.serial:
            label = way.name.replace("`", "").replace("DATABASE ... ", "... ")
            marks.append(Mark(label, each.serial.median, ours=way.ours))
    return Outcome(
        [Table(f"{count} tests on fresh databases", head, rows, notes)],
        [Panel(f"{count} tests, serial, whole run", "s", marks)],
    )


def versions(ways: Sequence[Way]) -> str:
    return ", ".join(f"{way.package} {way.version}" for way in ways if way.package)


_ROWS = [way.name for way in (*WAYS, *peers_fifty.WAYS)]
GROUP = Group("peers", f"{TESTS} tests, each on a fresh database, in the ways people have", _ROWS, measure)
