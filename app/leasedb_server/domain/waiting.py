"""The line of callers for whom no database was ready: first come first served per holder, the poorest holder first."""

import math
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

SHORTEST: Final = 1  # seconds that a caller who waited in vain is told to come back after
LONGEST: Final = 60
_NONE: Final[Mapping[str, int]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """A place in the line."""

    holder: str
    template: str


class WaitingLine:
    """Tickets per template. Each template has a queue per holder.

    It is the turn of the holder with the fewest leases; holders with as many take turns. Two suites on one machine thus
    get a share each, whatever the number of their workers, and a suite with a thousand waiting tests does not delay
    another's first test.
    """

    def __init__(self) -> None:
        self._queues: OrderedDict[str, OrderedDict[str, OrderedDict[Ticket, None]]] = OrderedDict()
        self._sizes: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"WaitingLine({dict(self.sizes())})"

    def join(self, holder: str, template: str) -> Ticket:
        ticket = Ticket(holder, template)
        self._queues.setdefault(template, OrderedDict()).setdefault(holder, OrderedDict())[ticket] = None
        self._sizes[template] += 1
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Give the place up; a ticket that is not in the line is not missed."""
        holders = self._queues.get(ticket.template, OrderedDict())
        if ticket in holders.get(ticket.holder, ()):
            self._take(ticket)

    def next(self, template: str, held: Mapping[str, int] = _NONE) -> Ticket | None:
        """Take the ticket whose turn it is out of the line; its holder goes to the end of the turns.

        Args:
            template: of the database that is there to be leased.
            held: active leases by holder; who has none need not be in it.
        """
        holders = self._queues.get(template)
        if not holders:
            return None
        chosen, fewest = "", math.inf
        for holder in holders:
            if (number := held.get(holder, 0)) < fewest:
                chosen, fewest = holder, number
                if number <= 0:  # nobody has fewer, so a long line of the empty-handed is not searched
                    break
        ticket = next(iter(holders[chosen]))
        holders.move_to_end(chosen)
        self._queues.move_to_end(template)
        self._take(ticket)
        return ticket

    def position(self, ticket: Ticket, held: Mapping[str, int] = _NONE) -> int:
        """Return the place in which the ticket will be served, from 1; 0 when not in the line.

        As things are: nobody joins, and no lease ends.
        """
        holders = self._queues.get(ticket.template, OrderedDict())
        own = holders.get(ticket.holder, OrderedDict())
        if ticket not in own:
            return 0
        earlier = next(index for index, other in enumerate(own) if other is ticket)
        has = held.get(ticket.holder, 0)
        at = has + earlier  # leases of its holder when its turn comes
        place = 1 + earlier
        passed = False  # whether the loop is past the ticket's own holder
        for holder, queue in holders.items():
            if queue is own:
                passed = True
                continue
            other = held.get(holder, 0)
            served = at - other  # tickets of the other that are served while it has fewer leases
            # With as many, the one who was served longer ago goes first: who came from more leases was served less.
            if other > has or (other == has and not passed):
                served += 1
            place += max(0, min(len(queue), served))
        return place

    def sizes(self) -> Counter[str]:
        """Return how many wait, by template; first the template that was served longest ago."""
        return Counter({template: self._sizes[template] for template in self._queues})

    def __len__(self) -> int:
        return self._sizes.total()

    def _take(self, ticket: Ticket) -> None:
        template, holder = ticket.template, ticket.holder
        holders = self._queues[template]
        del holders[holder][ticket]
        self._sizes[template] -= 1
        if not holders[holder]:
            del holders[holder]
        if not holders:
            del self._queues[template], self._sizes[template]


def estimate(position: int, *, rate: float, room: int, releases: float, soonest: float) -> int:
    """Return the seconds after which it makes sense to ask again.

    Args:
        position: the caller's place in line.
        rate: clones per second of all servers; 0 while none is ready.
        room: databases that may still be made before the ceiling is reached.
        releases: leases per second that ended lately.
        soonest: seconds until the next lease expires; infinite when there is none.
    """
    beyond = max(0, position - max(0, room))  # places that have to wait for a lease to end
    seconds = position / rate if rate > 0 else 0.0
    if beyond:
        seconds += beyond / releases if releases > 0 else max(0.0, soonest)
    return math.ceil(min(LONGEST, max(SHORTEST, seconds)))
