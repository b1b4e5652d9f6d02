"""Group k, first part: what the plugin costs everybody who has leasedb installed, in runs that do not use it."""

import importlib.metadata
import json
import resource
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from benchmarks.bench import Bench, progress
from benchmarks.contest import ROOT, pytest_command, run
from benchmarks.outcome import Row, Table
from benchmarks.samples import MILLISECONDS, Samples

WITHOUT = "pytest, one trivial test, `-p no:leasedb`"
WITH = "pytest, one trivial test, leasedb's plugin unused"
DIFFERENCE = "the difference"
PARTS = {
    "import": "in the process: import of the plugin",
    "registration": "in the process: its options, configuration and fixtures",
    "hooks": "in the process: its hooks",
}
ROWS = (WITHOUT, WITH, DIFFERENCE, *PARTS.values())
_TRIVIAL = "def test_nothing():\n    pass\n"
_HOW = """
Runs with and without the plugin take turns, and the order within a pair alternates. pytest loads its plugins itself;
those of other packages are turned off. The difference is the median of the pairs' differences, with what it lies
between 19 times of 20. In the process: clocks around what the plugin does in one such run, medians.
"""


@dataclass(frozen=True, slots=True)
class _Run:
    """Seconds of a run, and those that it kept a processor busy."""

    whole: float
    busy: float


@dataclass(frozen=True, slots=True)
class _Pair:
    without: _Run
    loaded: _Run


def measure(bench: Bench) -> Table:
    progress("the plugin's start-up cost")
    folder = bench.place.new_directory()
    folder.mkdir()
    trivial = folder / "test_trivial.py"
    trivial.write_text(_TRIVIAL)
    pairs = [_pair(bench, folder, trivial, first=number % 2 == 0) for number in range(bench.pick(120, 10) + 1)]
    del pairs[0]  # it left the bytecode
    rows = [
        _row(WITHOUT, [pair.without for pair in pairs]),
        _row(WITH, [pair.loaded for pair in pairs]),
        _difference(pairs),
    ]
    inside = [_inside(bench, folder, trivial) for _ in range(bench.pick(40, 5) + 1)][1:]
    for part, name in PARTS.items():
        rows.append(_row(name, [found[part] for found in inside]))
    return Table("The plugin, unused", ["run", "from start to end", "processor time", "runs"], rows, [_HOW])


def _row(name: str, runs: list[_Run]) -> Row:
    whole, busy = Samples([run.whole for run in runs]), Samples([run.busy for run in runs])
    return Row(name, [whole.middle, busy.middle, str(len(runs))])


def _difference(pairs: list[_Pair]) -> Row:
    whole = Samples([pair.loaded.whole - pair.without.whole for pair in pairs])
    busy = Samples([pair.loaded.busy - pair.without.busy for pair in pairs])
    return Row(DIFFERENCE, [_bounded(whole), _bounded(busy), str(len(pairs))])


def _bounded(samples: Samples) -> str:
    least, middle, most = (f"{each * MILLISECONDS:.2f}" for each in (samples.sure[0], samples.median, samples.sure[1]))
    return f"{middle} ms ({least} to {most})"


def _pair(bench: Bench, folder: Path, tests: Path, *, first: bool) -> _Pair:
    """Run both; ``first``: the one with the plugin is the first of the two."""
    runs = {loaded: _one(bench, folder, tests, loaded=loaded) for loaded in (first, not first)}
    return _Pair(runs[False], runs[True])


def _one(bench: Bench, folder: Path, tests: Path, *, loaded: bool) -> _Run:
    others = {entry.name for entry in importlib.metadata.entry_points(group="pytest11")} - {"leasedb"}
    plugins = [f"no:{name}" for name in (*sorted(others), "cacheprovider", *(() if loaded else ("leasedb",)))]
    command, busy = pytest_command(folder, tests, plugins), _busy()
    began = perf_counter()
    run(command, bench.place.environment, folder)
    return _Run(perf_counter() - began, _busy() - busy)


def _busy() -> float:
    """Return the seconds that ended child processes kept a processor busy."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _inside(bench: Bench, folder: Path, tests: Path) -> dict[str, _Run]:
    record = folder / "clock.json"
    more = {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "SUITE_RECORD": str(record)}
    command = pytest_command(folder, tests, ["no:cacheprovider", "benchmarks.suites.clock"])
    run(command, {**bench.place.environment, **more}, folder)
    return {part: _Run(*seconds) for part, seconds in json.loads(record.read_text()).items()}
