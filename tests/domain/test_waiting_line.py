"""The line of callers: the holder with the fewest leases first, and the place told is the place kept."""

import copy
import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from leasedb_server.domain.waiting import LONGEST, SHORTEST, WaitingLine, estimate

holders = st.sampled_from(["", "a", "b", "c"])
templates = st.sampled_from(["base", "shop"])


class Line(RuleBasedStateMachine):
    """Against a naive line: a list of holders in the order of their turns, and all tickets in the order they came."""

    def __init__(self):
        super().__init__()
        self.line = WaitingLine()
        self.turns = {"base": [], "shop": []}
        self.tickets = []
        self.left = []
        self.held = Counter()

    @rule(holder=holders, template=templates)
    def join(self, holder, template):
        self.tickets.append(self.line.join(holder, template))
        if holder not in self.turns[template]:
            self.turns[template].append(holder)

    @rule(data=st.data())
    def leave(self, data):
        if self.tickets:
            ticket = data.draw(st.sampled_from(self.tickets))
            self.line.leave(ticket)
            self.tickets.remove(ticket)
            self.left.append(ticket)
            self.tidy(ticket)

    @rule(data=st.data())
    def leave_twice(self, data):
        if self.left:
            self.line.leave(data.draw(st.sampled_from(self.left)))

    @rule(holder=holders)
    def release(self, holder):
        self.held[holder] = max(0, self.held[holder] - 1)

    @rule(holder=holders)
    def lease_without_waiting(self, holder):
        self.held[holder] += 1

    @rule(template=templates)
    def next(self, template):
        ticket = self.line.next(template, self.held)
        turns = self.turns[template]
        if not turns:
            assert ticket is None
            return
        holder = min(turns, key=lambda name: self.held[name])
        turns.remove(holder)
        turns.append(holder)
        assert ticket is next(t for t in self.tickets if (t.holder, t.template) == (holder, template))
        self.held[holder] += 1
        self.tickets.remove(ticket)
        self.left.append(ticket)
        self.tidy(ticket)

    def tidy(self, ticket):
        if not any((t.holder, t.template) == (ticket.holder, ticket.template) for t in self.tickets):
            self.turns[ticket.template].remove(ticket.holder)

    @invariant()
    def sizes_agree(self):
        assert self.line.sizes() == Counter(ticket.template for ticket in self.tickets)
        assert len(self.line) == len(self.tickets)
        assert all(self.line.position(ticket, self.held) == 0 for ticket in self.left)

    @invariant()
    def every_place_told_is_the_one_kept(self):
        for template in self.turns:
            told = {id(t): self.line.position(t, self.held) for t in self.tickets if t.template == template}
            later, held = copy.copy(self.line), self.held.copy()
            later._sizes = self.line._sizes.copy()
            later._queues = type(self.line._queues)(
                (name, type(queues)((holder, queue.copy()) for holder, queue in queues.items()))
                for name, queues in self.line._queues.items()
            )
            served = []
            while ticket := later.next(template, held):
                served.append(id(ticket))
                held[ticket.holder] += 1
            assert told == {key: place for place, key in enumerate(served, start=1)}


TestLine = Line.TestCase
TestLine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_thousand_of_one_suite_delay_another_by_one():
    line = WaitingLine()
    crowd = [line.join("crowd", "base") for _ in range(1000)]
    late = line.join("late", "base")
    assert line.position(late) == 2
    assert [line.next("base") for _ in range(3)] == [crowd[0], late, crowd[1]]
    assert repr(line) == "WaitingLine({'base': 998})"


def test_who_has_none_goes_before_a_thousand_of_who_has_some():
    line, held = WaitingLine(), Counter(crowd=20)
    crowd = [line.join("crowd", "base") for _ in range(1000)]
    late = [line.join("late", "base") for _ in range(21)]
    assert [line.position(ticket, held) for ticket in late] == [*range(1, 21), 22]
    assert line.position(crowd[0], held) == 21
    assert line.position(crowd[-1], held) == 1021
    assert line.next("base", held) is late[0]


@given(st.integers(2, 60), st.lists(st.integers(1, 50), min_size=2, max_size=4), st.data())
@settings(max_examples=60, deadline=None)
def test_every_suite_that_keeps_asking_gets_its_share(databases, workers, data):
    """Whatever the numbers of their workers: nobody has more than one lease more than another who wants more."""
    line, held = WaitingLine(), Counter()
    for number, count in enumerate(workers):
        for _ in range(count):
            line.join(f"h{number}", "base")
    for _ in range(min(databases, sum(workers))):
        held[line.next("base", held).holder] += 1
    for _ in range(100):
        if not held.total() or not len(line):
            break
        back = data.draw(st.sampled_from(sorted(held.elements())))
        held[back] -= 1
        line.join(back, "base")
        held[line.next("base", held).holder] += 1
    wanting = {ticket.holder for queue in line._queues.get("base", {}).values() for ticket in queue}
    for holder in wanting:
        assert held[holder] >= max(held.values()) - 1


def test_templates_take_turns():
    line = WaitingLine()
    for template in ("base", "shop", "base"):
        line.join("", template)
    assert list(line.sizes()) == ["base", "shop"]
    line.next("base")
    assert list(line.sizes()) == ["shop", "base"]


class Holders(dict):
    """Counts how often it is looked at."""

    looks = 0

    def get(self, key, default=None):
        self.looks += 1
        return super().get(key, default)


@pytest.mark.parametrize("holders", [1, 2, 10_000])
def test_ten_thousand_in_line_are_not_searched_for_the_next(holders):
    line, held = WaitingLine(), Holders({"h0": 3})
    tickets = [line.join(f"h{number % holders}", "base") for number in range(10_000)]
    for ticket in tickets[5000:]:
        line.leave(ticket)
    served = 0
    while line.next("base", held):
        served += 1
    assert served == 5000
    assert held.looks <= 2 * served


@pytest.mark.parametrize(
    ("position", "about", "seconds"),
    [
        (1, {"room": 1}, SHORTEST),
        (50, {"room": 100}, 5),  # 10 clones per second
        (51, {"room": 100}, 6),
        (10, {"room": 0, "releases": 2.0}, 6),  # a second for the clones and five for the room
        (10, {"room": 6, "releases": 2.0}, 3),
        (1, {"room": 0, "soonest": 42.0}, 43),
        (1, {"room": -3, "soonest": math.inf}, LONGEST),
        (10_000, {"room": 20_000}, LONGEST),
        (1, {"room": 0, "soonest": -1.0}, SHORTEST),
        (3, {"room": 9, "rate": 0.0}, SHORTEST),
    ],
)
def test_who_waited_in_vain_is_told_when_to_come_back(position, about, seconds):
    known = {"rate": 10.0, "room": 0, "releases": 0.0, "soonest": math.inf, **about}
    assert estimate(position, **known) == seconds


@given(st.integers(0, 10**6), st.floats(0, 1e6), st.integers(-10, 10**6), st.floats(0, 1e6), st.floats(-1e6, math.inf))
def test_what_is_told_is_between_a_second_and_a_minute(position, rate, room, releases, soonest):
    told = estimate(position, rate=rate, room=room, releases=releases, soonest=soonest)
    assert SHORTEST <= told <= LONGEST
