"""Group g: the planner alone, in simulation."""

from benchmarks.bench import Bench, progress
from benchmarks.outcome import Group, Outcome


def measure(bench: Bench) -> Outcome:
    from benchmarks import planner  # noqa: PLC0415 - should it not even load, that is this group's failure alone

    progress("the planner in simulation")
    text = planner.table(2.0) if bench.quick else planner.table()
    note = "Not measured: the real planner decides, the clock is virtual, and servers only take time."
    return Outcome(texts=[f"**The planner in simulation**\n\n{text}\n\n{note}"])


GROUP = Group("planner", "the planner alone, in simulation", [], measure)
