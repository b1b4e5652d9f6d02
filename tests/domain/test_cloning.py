"""The choice of how to clone: everything is tried, the quickest is kept, what is refused is left."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasedb_server.domain.cloning import TRIALS, Cloning, Strategy

ALL = (Strategy.COPY, Strategy.CLONE, Strategy.LOG)


def clones(cloning, number, seconds):
    """Make clones one after the other; return how each was made."""
    used = []
    for _ in range(number):
        strategy = cloning.begin()
        cloning.took(strategy, seconds[strategy])
        used.append(strategy)
    return used


@given(st.permutations([0.009, 0.011, 0.012]))
def test_every_way_is_tried_and_the_quickest_is_kept(times):
    seconds = dict(zip(ALL, times, strict=True))
    cloning = Cloning(ALL)
    used = clones(cloning, 20, seconds)
    assert set(used) == set(ALL)
    quickest = min(seconds, key=lambda strategy: seconds[strategy])
    assert used[len(ALL) * TRIALS :] == [quickest] * (20 - len(ALL) * TRIALS)
    assert (cloning.best, cloning.seconds) == (quickest, seconds[quickest])


def test_a_hopeless_way_is_tried_once_only():
    cloning = Cloning(ALL)
    used = clones(cloning, 20, {Strategy.COPY: 0.01, Strategy.CLONE: 0.01, Strategy.LOG: 2.0})
    assert used.count(Strategy.LOG) == 1


def test_clones_under_way_count_as_trials():
    cloning = Cloning(ALL)
    begun = [cloning.begin() for _ in range(len(ALL) * TRIALS)]
    assert {strategy: begun.count(strategy) for strategy in ALL} == dict.fromkeys(ALL, TRIALS)


def test_a_refused_way_is_not_used_again_and_says_why():
    cloning = Cloning((Strategy.COPY, Strategy.CLONE))
    for _ in range(TRIALS):
        cloning.took(cloning.begin(), 0.01)
    strategy = cloning.begin()
    assert strategy is Strategy.CLONE
    cloning.failed(strategy, "the file system cannot")
    assert clones(cloning, 5, {Strategy.COPY: 0.01}) == [Strategy.COPY] * 5
    assert [figures.refused for figures in cloning.figures()] == ["", "the file system cannot"]


def test_the_last_way_is_never_given_up():
    cloning = Cloning((Strategy.COPY,))
    cloning.failed(cloning.begin(), "disk full")
    assert cloning.begin() is Strategy.COPY


def test_a_failure_without_a_reason_leaves_the_way_open():
    cloning = Cloning((Strategy.COPY, Strategy.LOG))
    cloning.failed(cloning.begin())
    assert [figures.refused for figures in cloning.figures()] == ["", ""]


def test_the_choice_follows_what_clones_take():
    cloning = Cloning((Strategy.COPY, Strategy.LOG))
    clones(cloning, 10, {Strategy.COPY: 0.01, Strategy.LOG: 0.012})
    used = clones(cloning, 40, {Strategy.COPY: 0.3, Strategy.LOG: 0.012})
    assert used[-1] is Strategy.LOG


def test_nothing_is_known_before_the_first_clone():
    cloning = Cloning(ALL)
    assert (cloning.best, cloning.seconds) == (Strategy.COPY, None)
    assert "file_copy None" in repr(cloning)


@pytest.mark.parametrize("ways", [ALL, ALL[:1]])
def test_the_first_way_is_the_surest(ways):
    assert Cloning(ways).surest is ways[0]
