"""Group k, fourth part: a suite that runs in two checkouts at once, on one daemon."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.bench import Bench, progress
from benchmarks.contest import SUITES, last_lines, pytest_command, recorded
from benchmarks.machine import BenchmarkError
from benchmarks.outcome import Row, Table
from benchmarks.samples import Samples
from benchmarks.unattended import PLUGIN, Unattended, unattended

TESTS = 300
TWO = f"{TESTS} tests with `-n 2`, in two checkouts at once"
ONE = f"{TESTS} tests with `-n 2`, in one of them alone"
ROWS = (TWO, ONE)
_PLUGINS = (PLUGIN, "benchmarks.suites.recorder", "benchmarks.suites.by_fixture")
_LIMIT = 180.0  # seconds for one run
_HOW = """
A fresh database for each test (`pg_lease` and `pg_conn`), of a template that both checkouts have; each test writes,
commits, reads, and fails where its database is not fresh. A daemon of default settings, embedded; nobody starts it, so
that the first two runs find none and make one between them. Time: until both have ended.
"""


@dataclass(slots=True)
class _Found:
    whole: Samples = field(default_factory=Samples)
    runs: int = 0
    failures: int = 0  # tests that did not pass, or did not run

    def row(self, name: str) -> Row:
        failures = f"{self.failures} of {self.runs * TESTS:,}"
        return Row(name, [str(len(self.whole)), failures, self.whole.spread])


def measure(bench: Bench) -> Table:
    two, one = _Found(), _Found()
    with unattended(bench) as place, ThreadPoolExecutor(2) as both:
        folders = [_checkout(place, name) for name in ("checkout-1", "checkout-2")]
        daemons = set()
        for number in range(count := bench.pick(20, 2)):
            progress(f"{TESTS} tests in two checkouts, {number + 1} of {count}")
            with two.whole.timed():
                failed = list(both.map(lambda folder: _failures(place, folder), folders))
            two.runs += len(failed)
            two.failures += sum(failed)
            daemons.add((place.daemon() or {}).get("pid"))
        for _ in range(bench.pick(5, 1)):
            with one.whole.timed():
                one.failures += _failures(place, folders[0])
            one.runs += 1
    if len(daemons) != 1:
        raise BenchmarkError(f"the runs had {len(daemons)} daemons instead of one")
    head = ["suite", "repetitions", "failures", "median (range)"]
    return Table("Two checkouts", head, [two.row(TWO), one.row(ONE)], [_HOW])


def _checkout(place: Unattended, name: str) -> Path:
    folder = place.folder / name
    folder.mkdir()
    (folder / "test_subject.py").write_text((SUITES / "test_subject.py").read_text())
    return folder


def _failures(place: Unattended, folder: Path) -> int:
    """Run the suite of a checkout; return how many of its tests did not pass."""
    record = folder / "record.json"
    more = {"SUITE_RECORD": str(record), "SUITE_TESTS": str(TESTS), "SUITE_SCHEMA": "tables"}
    done = subprocess.run(
        pytest_command(folder, folder / "test_subject.py", _PLUGINS, workers=2),
        env={**place.environment, **more},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=_LIMIT,
        check=False,
    )
    failures = TESTS - sum(test.passed for test in recorded(record))
    if failures or done.returncode:
        print(f"{folder.name}, exit code {done.returncode}:\n{last_lines(done)}", file=sys.stderr)
    return max(failures, int(done.returncode != 0))
