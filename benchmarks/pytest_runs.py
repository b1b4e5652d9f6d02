"""Group k: the pytest plugin, unused and used, in its first run and in two checkouts at once."""

from benchmarks import pytest_checkouts, pytest_first, pytest_fixtures, pytest_load
from benchmarks.bench import Bench
from benchmarks.outcome import Group, Outcome


def measure(bench: Bench) -> Outcome:
    load = pytest_load.measure(bench)
    fixtures, by_fixture = pytest_fixtures.measure(bench)
    first, until_test = pytest_first.measure(bench)
    checkouts = pytest_checkouts.measure(bench)
    return Outcome([load, fixtures, first, checkouts], [by_fixture, until_test])


_ROWS = [*pytest_load.ROWS, *pytest_fixtures.ROWS, *pytest_first.ROWS, *pytest_checkouts.ROWS]
GROUP = Group(
    "pytest", "the plugin: its start-up cost, its fixtures, a first run, two checkouts at once", _ROWS, measure
)
