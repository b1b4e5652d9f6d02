"""Planner, pace, demand and line together: what a suite, a pause, an announcement and a second suite come to."""

from collections import Counter
from dataclasses import replace

import pytest

from benchmarks.planner import LAPTOP, TIGHT, Fixed, Learning, Simulation, Suite, rush, table
from leasedb_server.domain.demand import IDLE

TEMPLATES = LAPTOP.templates


def waited(outcome):
    return sum(seconds > 0 for seconds in outcome.waits)


def settled(simulation):
    return [
        (sum(server.ready.values()), len(server.condemned), server.dropping, sum(server.making.values()))
        for server in simulation._servers.values()
    ]


@pytest.mark.parametrize("workers", [4, 8, 16, 32])
@pytest.mark.parametrize("most", [0.01, 0.1])
def test_a_suite_waits_the_first_time_and_not_the_next(workers, most):
    simulation = Simulation(LAPTOP, Learning(TEMPLATES))
    simulation.run(iter([]), 5)  # the floor is filled
    suite = Suite("suite", "base", workers, 100, 0.005, most)
    first, second = (waited(simulation.run(iter([(0.0, suite)]), 30)) for _ in range(2))
    assert second <= 5  # the next time is not the same time: a test here and there takes longer or less
    assert first > 40 or most > 0.05  # slower tests may ask no faster than is cloned


def test_what_nobody_asks_for_any_more_is_given_up():
    rule = Learning(TEMPLATES)
    simulation = Simulation(LAPTOP, rule)
    simulation.run(iter([(1.0, Suite("suite", "base", 16, 300, 0.005, 0.01))]), 60)
    most = simulation.ready
    assert most > 100
    simulation.run(iter([]), 600)
    fewer = simulation.ready
    assert 20 < fewer < most / 2
    outcome = simulation.run(iter([]), IDLE)
    assert outcome.unused == fewer
    assert settled(simulation) == [(0, 0, 0, 0)]


def test_nobody_of_a_suite_that_was_announced_waits():
    suite = Suite("suite", "base", 8, 100, 0.005, 0.01)
    waits = {}
    for hints in (False, True):
        simulation = Simulation(LAPTOP, Learning(TEMPLATES, hints=hints))
        waits[hints] = waited(simulation.run(iter([(5.0, suite)]), 30))
    assert waits[False] > 50
    assert waits[True] == 0


def test_a_suite_with_a_thousand_in_line_leaves_another_its_share():
    crowd, small = Suite("crowd", "base", 1000, 3000, 0.05, 0.2), Suite("small", "base", 4, 40, 0.05, 0.2)
    outcome = Simulation(TIGHT, Learning(TIGHT.templates)).run(iter([(0.0, crowd), (1.0, small)]), 60)
    assert {holder: len(waits) for holder, waits in outcome.by_holder.items()} == {"crowd": 3000, "small": 40}
    assert max(outcome.by_holder["small"]) < 0.2  # a test's time


def test_a_ceiling_filled_for_one_template_gives_way_to_callers_of_another():
    site = replace(LAPTOP, most=30)
    simulation = Simulation(site, Learning(TEMPLATES, hints=True))
    simulation.run(iter([(5.0, Suite("filler", "base", 0, 30))]), 6)
    assert Counter(simulation._servers["s0"].ready)["base"] >= 20
    assert simulation.ready == site.most
    outcome = simulation.run(iter([(0.0, Suite("suite", "shop", 12, 60, 0.05, 0.2))]), 30)
    assert len(outcome.waits) == 60
    assert max(outcome.waits) < 1


def test_the_ceiling_holds_and_drops_do_not_starve_in_a_rush_that_never_pauses():
    site = replace(LAPTOP, most=100)
    simulation = Simulation(site, Learning(TEMPLATES))
    outcome = simulation.run(iter([(0.0, Suite(f"suite {n}", "base", 40, 2000, 0.005, 0.05)) for n in range(3)]), 120)
    assert len(outcome.waits) == 6000
    assert settled(simulation)[0][1:] == (0, 0, 0)


def test_learning_keeps_a_fraction_of_a_fixed_stock_ready_and_hardly_anybody_waits():
    site = replace(LAPTOP, servers=10, most=2000, templates=("base", "shop", "mail", "search"), lag=0.005)
    outcomes = []
    for rule in (Fixed(), Learning(site.templates)):
        simulation = Simulation(site, rule)
        simulation.run(rush(4, 800, seed=1), 4)
        outcomes.append(simulation.run(rush(4, 800, seed=2), 4))
    fixed, learned = outcomes
    assert waited(learned) / len(learned.waits) < 0.05
    assert learned.ready_seconds < fixed.ready_seconds / 2


def test_the_benchmark_shows_its_table():
    shown = table(seconds=1.0, working_day_seconds=300.0)
    assert shown.count("\n| 100 servers: ") == 4
    assert shown.count("\n| one server, 0.083 hours: ") == 4
