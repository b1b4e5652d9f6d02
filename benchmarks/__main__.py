"""``python -m benchmarks [--quick] [--only NAME[,NAME]] [--list] [--write-readme] [--data DIRECTORY]``."""

import argparse
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from benchmarks import (
    growth,
    machine,
    many,
    peers,
    pytest_runs,
    query,
    report,
    resets,
    simulated,
    starts,
    sustained,
    templates,
    warm,
    whole,
)
from benchmarks.bench import Bench, reason
from benchmarks.machine import BenchmarkError
from benchmarks.outcome import Group, Outcome
from benchmarks.running import site
from benchmarks.sources import Source, forgetting

# in the order of the README
GROUPS: Sequence[Group] = (
    warm.GROUP,
    query.GROUP,
    sustained.GROUP,
    resets.GROUP,
    peers.GROUP,
    pytest_runs.GROUP,
    starts.GROUP,
    whole.GROUP,
    growth.GROUP,
    templates.GROUP,
    many.GROUP,
    simulated.GROUP,
)


def main(arguments: Sequence[str] | None = None, groups: Sequence[Group] = GROUPS) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measures the figures of the README.")
    parser.add_argument("--quick", action="store_true", help="few samples, in some three minutes")
    parser.add_argument("--only", metavar="NAME[,NAME]", help="these groups only")
    parser.add_argument("--list", action="store_true", help="name the groups and their rows, and measure nothing")
    parser.add_argument("--write-readme", action="store_true", help="put tables and plot into the README")
    parser.add_argument("--data", type=Path, metavar="DIRECTORY", help="where data lies while it is measured")
    chosen = parser.parse_args(arguments)
    by_name = {group.name: group for group in groups}
    names = chosen.only.split(",") if chosen.only else list(by_name)
    if unknown := [name for name in names if name not in by_name]:
        parser.error(f"there is no group {' or '.join(unknown)}; there are {', '.join(by_name)}")
    if chosen.write_readme and (chosen.only or chosen.quick):
        parser.error("the README has all groups, measured in full: --write-readme goes with neither --only nor --quick")
    if chosen.list:
        _list([by_name[name] for name in names])
        return 0
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _run([by_name[name] for name in names], chosen)
    except BenchmarkError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _run(groups: Sequence[Group], chosen: argparse.Namespace) -> int:
    """Measure, print and write; nothing is left behind, whatever happens."""
    parent, about, began = machine.data_place(chosen.data), machine.description(), time.monotonic()
    outcomes: list[Outcome] = []
    failed: dict[str, str] = {}
    with site(parent) as place:
        bench = Bench.here(place, quick=chosen.quick)
        with forgetting(bench.sources.values()):
            for group in groups:
                started = time.monotonic()
                try:
                    outcomes.append(group.measure(bench))
                except Exception as error:  # noqa: BLE001 - said, and the others go on
                    traceback.print_exc()
                    failed[group.name] = reason(error)
                print(f"{group.name}: {_minutes(started)}", file=sys.stderr, flush=True)
        about_engines = [source.about for source in bench.sources.values() if isinstance(source, Source)]
    lines = [
        f"{about}.",
        f"Data on {machine.file_system(parent)}; {'; '.join(about_engines)}.",
        f"Measured in {_minutes(began)}, load average {os.getloadavg()[0]:.1f} at the end.",
    ]
    text = report.markdown(lines, outcomes, failed)
    print(text)
    if chosen.write_readme and not failed:
        report.write(text, report.drawing(outcomes, about))
    return 1 if failed else 0


def _list(groups: Sequence[Group]) -> None:
    for group in groups:
        print(f"{group.name}: {group.about}")
        for row in group.rows:
            print(f"    {row}")


def _minutes(began: float) -> str:
    minutes, seconds = divmod(round(time.monotonic() - began), 60)
    return f"{minutes}:{seconds:02d} minutes"


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
