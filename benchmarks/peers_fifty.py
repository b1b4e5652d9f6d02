"""Group d, continued: the same with a schema that takes long to make."""

import subprocess
import sys
import time
from dataclasses import dataclass, field

from benchmarks.bench import EMPTY, Bench, progress, reason
from benchmarks.contest import TESTS, TESTS_QUICK, Ground, Way, guarded, run_pytest
from benchmarks.machine import BenchmarkError
from benchmarks.outcome import Mark, Panel, Row, Table, left_out
from benchmarks.samples import MILLISECONDS, NOTHING, Samples
from benchmarks.schemas import DIMENSIONS, DOCUMENTS

_OURS = ("leasedb.pytest_plugin",)
_HOW = f"""
The same with 50 tables, one of them of {DOCUMENTS:,} rows of vector({DIMENSIONS}) with an HNSW index; each test writes
to three tables, asks for neighbours, and fails where the database is not fresh. A daemon of default settings and a
server run already, and know nothing of the suite before its first run. Kept: leasedb's template, and one that a hash of
the schema names, outlive the run; the others apply the schema anew in each. `TRUNCATE` empties and fills 48 small
tables again; it leaves the large one as it is, but for the test's own row.
"""
WAYS = (
    Way("50 tables: leasedb, a lease for each test", "kept", "by_template", None, "pool", None, _OURS),
    Way("50 tables: leasedb, one lease, reset after each test", "kept", "by_reset", None, "pool", None, _OURS),
    Way("50 tables: cloning by hand, as pgtestdb does", "kept", "by_way", "by_hash", "server"),
    Way("50 tables: testcontainers, a template", "each run", "by_way", "testcontainers", "image", "testcontainers"),
    Way(
        "50 tables: pytest-postgresql, its template",
        "each run",
        "by_pytest_postgresql",
        None,
        "programs",
        "pytest-postgresql",
        ("pytest_postgresql.plugin",),
    ),
    Way("50 tables: `TRUNCATE` between tests", "each run", "by_way", "truncated", "server"),
    Way("50 tables: rollback after each test", "each run", "by_way", "rolled_back", "server"),
)


@dataclass(slots=True)
class _Found:
    runs: Samples = field(default_factory=Samples)  # the whole command
    test: list[Samples] = field(default_factory=list)  # one test with its fixtures, by run
    error: str = ""

    def row(self, way: Way) -> Row:
        if self.error:
            return left_out(way.name, self.error)
        first, *later = [f"{seconds:.2f} s" for seconds in self.runs.seconds] or [NOTHING]
        return Row(way.name, [way.schema, first, *(later[:1] or [NOTHING]), self.one.pair, self.slowest])

    @property
    def one(self) -> Samples:
        return self.test[-1] if self.test else Samples()

    @property
    def slowest(self) -> str:
        """The first test of the last run has what is done once for all of them."""
        return f"{self.one.most * MILLISECONDS:.0f} ms" if self.one else NOTHING


def measure(bench: Bench) -> tuple[Table, Panel]:
    found = {way.name: _Found() for way in WAYS}
    count, embedded = bench.pick(TESTS, TESTS_QUICK), bench.source("embedded")
    with bench.daemon(embedded) as full, bench.daemon(embedded, *EMPTY) as server:
        ground = Ground(bench, full, server, bench.sources["Docker"], "fifty")
        end = time.monotonic() + bench.pick(150.0, 75.0)
        for number in range(2):
            for way in WAYS:
                each = found[way.name]
                if each.error or (number and time.monotonic() > end):
                    continue
                progress(f"{count} tests: {way.name}")
                try:
                    _measure(ground, way, each)
                except (BenchmarkError, subprocess.TimeoutExpired) as error:
                    each.error = reason(error)
                    print(error, file=sys.stderr)
    head = [f"{count} tests", "schema applied", "first run", "second run", "one test, median / p99", "its slowest"]
    rows = [found[way.name].row(way) for way in WAYS]
    marks = [
        Mark(way.name.replace("`", "").replace("50 tables: ", ""), one.median * MILLISECONDS, ours=way.ours)
        for way in WAYS
        if (one := found[way.name].one)
    ]
    panel = Panel("One test on 50 tables (dot: median)", "ms", marks, logarithmic=True)
    return Table(f"{count} tests on 50 tables", head, rows, [_HOW]), panel


def _measure(ground: Ground, way: Way, found: _Found) -> None:
    with guarded(ground, way) as (environment, prefix), ground.pool(way) as more:
        took, tests = run_pytest(ground, way, {**environment, **more}, prefix, 1)
    found.runs.seconds.append(took)
    found.test.append(Samples([test.whole for test in tests]))
