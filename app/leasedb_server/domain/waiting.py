"""The line of callers for whom no database was ready: first come first served per holder, holders in turn."""

from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """A place in the line."""

    holder: str
    template: str


class WaitingLine:
    """Tickets per template. Each template has a queue per holder, and holders take turns.

    A suite with a thousand waiting tests thus delays another suite's first test by one database, not by a thousand.
    """

    def __init__(self) -> None:
        self._queues: dict[str, OrderedDict[str, deque[Ticket]]] = {}

    def __repr__(self) -> str:
        return f"WaitingLine({dict(self.sizes())})"

    def join(self, holder: str, template: str) -> Ticket:
        ticket = Ticket(holder, template)
        self._queues.setdefault(template, OrderedDict()).setdefault(holder, deque()).append(ticket)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Give the place up; a ticket that is not in the line is not missed."""
        holders = self._queues.get(ticket.template, OrderedDict())
        queue = holders.get(ticket.holder, deque())
        if ticket in queue:
            queue.remove(ticket)
            self._tidy(ticket.template, ticket.holder)

    def next(self, template: str) -> Ticket | None:
        """Take the ticket whose turn it is out of the line; its holder goes to the end of the turns."""
        holders = self._queues.get(template)
        if not holders:
            return None
        holder, queue = next(iter(holders.items()))
        ticket = queue.popleft()
        holders.move_to_end(holder)
        self._tidy(template, holder)
        return ticket

    def position(self, ticket: Ticket) -> int:
        """Return the place in which the ticket will be served if nobody joins, from 1; 0 when not in the line."""
        for place, other in enumerate(self._order(ticket.template), start=1):
            if other is ticket:
                return place
        return 0

    def sizes(self) -> Counter[str]:
        """Return how many wait, by template."""
        return Counter(
            {template: sum(map(len, holders.values())) for template, holders in self._queues.items()},
        )

    def __len__(self) -> int:
        return sum(self.sizes().values())

    def _order(self, template: str) -> Iterator[Ticket]:
        queues = [list(queue) for queue in self._queues.get(template, OrderedDict()).values()]
        for turn in range(max(map(len, queues), default=0)):
            yield from (queue[turn] for queue in queues if turn < len(queue))

    def _tidy(self, template: str, holder: str) -> None:
        holders = self._queues[template]
        if not holders[holder]:
            del holders[holder]
        if not holders:
            del self._queues[template]
