"""The line of callers: first come first served per holder, holders in turn, and the place told is the place kept."""

import copy
from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from leasedb_server.domain.waiting import WaitingLine

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

    @rule(template=templates)
    def next(self, template):
        ticket = self.line.next(template)
        if not self.turns[template]:
            assert ticket is None
            return
        holder = self.turns[template].pop(0)
        self.turns[template].append(holder)
        assert ticket is next(t for t in self.tickets if (t.holder, t.template) == (holder, template))
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
        assert all(self.line.position(ticket) == 0 for ticket in self.left)

    @invariant()
    def every_place_told_is_the_one_kept(self):
        for template in self.turns:
            told = {id(t): self.line.position(t) for t in self.tickets if t.template == template}
            later = copy.copy(self.line)
            later._queues = {
                name: type(queues)((holder, queue.copy()) for holder, queue in queues.items())
                for name, queues in self.line._queues.items()
            }
            served = []
            while ticket := later.next(template):
                served.append(id(ticket))
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
