"""A server's pace: how many at once it rewards is found under noise, kept, and found again when it changes."""

import heapq
import math
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leasedb_server.domain.pace import BEGIN, MOST, UNKNOWN, Pace, Rate


class Machine:
    """Makes clones: ``gains[n]`` tells how many times the clones per second of one worker ``n`` workers make."""

    def __init__(self, gains, seed, noise=0.3, alone=0.01):
        self.gains, self.random, self.noise, self.alone = gains, Random(seed), noise, alone
        self.pace, self.now = Pace(), 1000.0
        self.under_way = []
        self.number = 0

    def seconds(self, at_once):
        at_once = min(at_once, len(self.gains))
        slow = 10 if self.random.random() < 0.01 else 1  # now and then something stalls
        return slow * self.alone * at_once / self.gains[at_once - 1] * math.exp(self.random.gauss(0, self.noise))

    def work(self, clones, most=MOST):
        """Make so many, as many at once as the pace says; return the number of workers after each."""
        workers = []
        while len(workers) < clones:
            while len(self.under_way) < min(most, self.pace.workers):
                self.number += 1
                end = self.now + self.seconds(len(self.under_way) + 1)
                heapq.heappush(self.under_way, (end, self.number, self.pace.started(self.now)))
            self.now, _, work = heapq.heappop(self.under_way)
            self.pace.finished(work, self.now)
            workers.append(self.pace.workers)
        return workers


def share(workers, right):
    return sum(number in right for number in workers) / len(workers)


FLAT = [1.0] * 8
TWO = [1.0, 1.75, 1.8, 1.8, 1.8, 1.8, 1.8, 1.8]
FOUR = [1.0, 1.9, 2.8, 3.6, 3.7, 3.7, 3.7, 3.7]
ALL = [1.0, 2, 3, 4, 5, 6, 7, 8]
WORSE = [1.0, 1.7, 1.4, 1.2, 1.0, 0.9, 0.8, 0.7]


@pytest.mark.parametrize(
    ("gains", "right"),
    [(FLAT, {1}), (TWO, {2}), (FOUR, {4}), (ALL, {6, 7, 8}), (WORSE, {2})],  # the eighth brings 14%
    ids=["one", "two", "four", "eight", "more is worse"],
)
@pytest.mark.parametrize("seed", range(4))
def test_what_is_rewarded_is_found_and_kept_under_noise(gains, right, seed):
    machine = Machine(gains, seed)
    machine.work(4000)
    assert share(machine.work(2000), right) > 0.6  # the rest are trials
    best = 100 * gains[max(right) - 1]
    assert 0.5 * best < machine.pace.rate < 1.5 * best


@pytest.mark.parametrize("seed", range(4))
def test_it_follows_when_the_machine_changes(seed):
    machine = Machine(FOUR, seed)
    for gains, right in ((FOUR, 4), (WORSE, 2), (FOUR, 4)):
        machine.gains = gains
        machine.work(5000)
        assert share(machine.work(2000), {right}) > 0.6


@pytest.mark.parametrize("seed", range(4))
def test_a_machine_that_slows_down_alike_for_all_is_not_misread(seed):
    machine = Machine(TWO, seed)
    machine.work(1500)
    for alone in (0.05, 0.01, 0.2):
        machine.alone = alone
        assert share(machine.work(1000), {2}) > 0.6
    assert machine.pace.rate == pytest.approx(1.75 / 0.2, rel=0.45)


@given(seed=st.integers(0, 2**32), noise=st.floats(0, 1.5), gains=st.sampled_from([FLAT, TWO, FOUR, ALL, WORSE]))
@settings(max_examples=15, deadline=None)
def test_bounds_hold_whatever_is_measured(seed, noise, gains):
    machine = Machine(gains, seed, noise)
    workers = machine.work(1000)
    assert set(workers) <= set(range(1, MOST + 1))
    assert all(abs(one - other) <= 2 for one, other in pairwise(workers))
    assert machine.pace.rate > 0
    assert machine.pace.clone_seconds > 0


def test_before_anything_was_made_it_is_two_at_a_guessed_speed():
    pace = Pace()
    assert (pace.workers, pace.clone_seconds, pace.rate) == (BEGIN, UNKNOWN, BEGIN / UNKNOWN)
    assert repr(pace) == "Pace(2 workers, 20.0 ms, 100/s)"


def test_without_noise_it_tells_what_is():
    machine = Machine(TWO, 0, noise=0)
    machine.random.random = lambda: 1.0
    machine.random.gauss = lambda _mean, _deviation: 0.0
    machine.work(30)
    assert machine.pace.clone_seconds == pytest.approx(0.02 / 1.75, rel=0.1)
    assert machine.pace.rate == pytest.approx(175, rel=0.1)


def test_too_little_work_changes_nothing():
    """One at a time says nothing about two at a time, and the first burst gets two workers."""
    machine = Machine(FOUR, 0)
    assert set(machine.work(1000, most=1)) == {2}
    assert machine.pace.rate == pytest.approx(100, rel=0.4)


def test_drops_and_failures_count_as_work_under_way_only():
    """A clone next to a drop is a clone next to something."""
    pace, now = Pace(), 0.0
    for _ in range(100):
        drop, clone = pace.started(now), pace.started(now)
        now += 0.01
        pace.finished(clone, now)
        pace.ended(drop, now)
    assert pace.rate == pytest.approx(200)


def test_a_clock_that_is_set_back_teaches_nothing():
    pace = Pace()
    work = pace.started(1000.0)
    pace.finished(work, 900.0)
    assert pace.clone_seconds == UNKNOWN
    work = pace.started(900.0)
    pace.finished(work, 900.01)
    assert pace.clone_seconds == pytest.approx(0.01)


class TestRate:
    def test_a_steady_rate_is_told_from_the_first_seconds_on(self):
        rate, now = Rate(), 1000.0
        assert rate.per_second(now) == 0
        for number in range(1, 5000):
            now += 0.02
            rate.add(now)
            if number > 50:
                assert rate.per_second(now) == pytest.approx(50, rel=0.1)

    def test_what_is_long_ago_does_not_count(self):
        rate = Rate()
        for number in range(100):
            rate.add(1000.0 + number / 100)
        assert rate.per_second(1001) == pytest.approx(100, rel=0.15)
        assert rate.per_second(1100) < 0.01
        assert repr(rate).endswith(" in 10 s)")
