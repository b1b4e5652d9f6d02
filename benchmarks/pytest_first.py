"""Group k, third part: from `pytest` to the first test, where nothing was set up."""

from benchmarks.bench import Bench, progress
from benchmarks.contest import SUITES
from benchmarks.outcome import Mark, Panel, Row, Table
from benchmarks.samples import Samples
from benchmarks.unattended import unattended

WITHOUT = "a test without a database"
EVER = "first run ever: no daemon, no state directory"
AGAIN = "the next run: the daemon is there"
LATER = "a run after the daemon has stopped"
ROWS = (WITHOUT, EVER, AGAIN, LATER)
_TEST, _NOTHING = SUITES / "test_first.py", SUITES / "test_without.py"
_HOW = """
From before pytest's process is created until the body of the first test begins, with a connection to its database
(`pg_conn`). The plugin starts the daemon; embedded servers. The four take turns, each time in an empty place, with
bytecode and programs in the page cache.
"""


def measure(bench: Bench) -> tuple[Table, Panel]:
    progress("first runs, with a daemon that pytest starts")
    found = {name: Samples() for name in ROWS}
    for number in range(bench.pick(10, 2) + 1):
        samples = found if number else {name: Samples() for name in ROWS}  # the first round leaves the bytecode
        _round(bench, samples)
    rows = [Row(name, [samples.spread]) for name, samples in found.items()]
    marks = [Mark(_label(name), samples.median, samples.most, ours=name != WITHOUT) for name, samples in found.items()]
    table = Table("From `pytest` to the first test", ["run", "median (range)"], rows, [_HOW])
    return table, Panel("From pytest to the first test (line to the slowest)", "s", marks)


def _round(bench: Bench, found: dict[str, Samples]) -> None:
    with unattended(bench) as place:
        found[WITHOUT].seconds.append(place.until_test(_NOTHING))
        found[EVER].seconds.append(place.until_test(_TEST))
        found[AGAIN].seconds.append(place.until_test(_TEST))
        place.stop()
        found[LATER].seconds.append(place.until_test(_TEST))


def _label(name: str) -> str:
    return name.partition(":")[0]
