"""The pool's planner: what to do next so that databases are ready before they are asked for.

`plan` looks and decides; `usecases.upkeep` acts. Planning is free of memory: whatever is under way shows in the view as
making, dropping, starting or stopping, so that planning twice starts nothing twice.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from heapq import heapify, heappop, heapreplace
from typing import Final

from leasedb_server.domain.edition import parted
from leasedb_server.domain.lease import Instant
from leasedb_server.domain.server import ServerState

NEVER: Final[Instant] = 0.0
CALM: Final = 0.1  # seconds without a lease or a release; then no test is disturbed by work that can wait
SETTLED: Final = 3.0  # seconds without one, after which what is too much is given up
_SMALL: Final = 10  # databases of a stock of which half is kept whatever the haste
_OF_ALL: Final = 4  # at most one in so many databases waits for a calm moment to be dropped, whatever was asked for
_A_FEW: Final = 8  # condemned databases are never too many


@dataclass(frozen=True, slots=True)
class Targets:
    """What the operator asked for."""

    servers: int  # of the default edition; of another there is one while it is in use
    ready: int  # per server, of each template of which the view does not say how many are wanted
    most: int  # databases in existence at once, over all servers
    drops_put_off: int = 100  # condemned databases that may wait for a calm moment


@dataclass(frozen=True, slots=True)
class Stock:
    """How many databases of one template one server has in each state."""

    ready: int = 0
    making: int = 0
    leased: int = 0
    copied: bool = True  # whether the server has a copy of the template, so that more can be made


@dataclass(frozen=True, slots=True)
class ServerView:
    id: str
    state: ServerState
    stock: Mapping[str, Stock] = field(default_factory=dict)  # by template
    condemned: tuple[str, ...] = ()  # ids of databases, the longest condemned first
    dropping: int = 0
    retry_at: Instant = NEVER  # after a failure here, nothing is tried before
    workers: int = 2  # statements at work at once
    clone_seconds: float = 0.02
    full: bool = False  # no room, in memory or on disk: nothing is made here
    tight: bool = False  # what is condemned here takes memory that is used up
    crowded: bool = False  # too few connections left: what is ready here cannot be leased now
    edition: str = ""
    spares: int = 0  # databases that are being exchanged for leased ones, or were when that failed

    @property
    def at_work(self) -> int:
        return self.dropping + sum(stock.making for stock in self.stock.values())

    @property
    def databases(self) -> int:
        there = sum(stock.ready + stock.making + stock.leased for stock in self.stock.values())
        return there + len(self.condemned) + self.dropping + self.spares

    @property
    def leased(self) -> int:
        return sum(stock.leased for stock in self.stock.values())


@dataclass(frozen=True, slots=True)
class View:
    """The pool as it is now."""

    servers: tuple[ServerView, ...]
    waiting: Mapping[str, int] = field(default_factory=dict)  # callers in line, by template; whose turn it is first
    retry_at: Instant = NEVER  # after a server of the default edition failed to start, none is started before
    pinned: Mapping[tuple[str, str], int] = field(default_factory=dict)  # the same by server and template: resets
    editions: Mapping[str, Instant] = field(default_factory=dict)  # others in use, and when one may be started next
    drop_retry_at: Mapping[str, Instant] = field(default_factory=dict)  # by id of a database that a server keeps
    urgent: frozenset[str] = frozenset()  # condemned databases that are dropped whatever the haste
    wanted: Mapping[str, int] = field(default_factory=dict)  # databases to keep ready, by template, over all servers
    quiet: float = math.inf  # seconds since the last lease or release
    asleep: bool = False  # nobody has asked for so long that no server is wanted until somebody waits


@dataclass(frozen=True, slots=True)
class StartServer:
    edition: str = ""


@dataclass(frozen=True, slots=True)
class StopServer:
    server_id: str


@dataclass(frozen=True, slots=True)
class MakeDatabase:
    server_id: str
    template: str


@dataclass(frozen=True, slots=True)
class DropDatabase:
    database_id: str


@dataclass(frozen=True, slots=True)
class Surplus:
    """So many ready databases are more than is needed, and are to be condemned."""

    server_id: str
    template: str
    count: int


Action = StartServer | StopServer | MakeDatabase | DropDatabase | Surplus


def low_water(wanted: int) -> int:
    """Return the stock below which databases are made at once, and not only when it is calm.

    Half of a small stock. A large one may shrink further before tests have to share the machine with clones.
    """
    return min((wanted + 1) // 2, max(_SMALL, wanted // 3))


def plan(view: View, targets: Targets, now: Instant) -> list[Action]:
    """Decide what to do now.

    Holds whatever the view: never more than ``targets.servers`` servers are started, never more than ``targets.most``
    databases exist, one more for a reset, never more than its ``workers`` statements are at work on one server. When
    every action succeeds and it is calm, planning again and again reaches the targets and then decides nothing.
    """
    actions: list[Action] = list(_servers(view, targets, now))
    stopping = {action.server_id for action in actions if isinstance(action, StopServer)}
    staying = [server for server in view.servers if server.state is ServerState.READY and server.id not in stopping]
    turn = _Turn(view, targets, now, staying)
    turn.make()
    turn.drop()
    turn.give_up()
    return actions + turn.actions


def _servers(view: View, targets: Targets, now: Instant) -> Iterator[Action]:
    for server in view.servers:
        if server.state is ServerState.LOST and server.retry_at <= now:
            yield StopServer(server.id)
    default = [server for server in view.servers if not server.edition]
    waited_for = {parted(template)[1] for template, number in view.waiting.items() if number}
    awake = not view.asleep or "" in waited_for or any(server.leased for server in default)
    yield from _of_edition("", default, targets.servers if awake else 0, view.retry_at <= now)
    others = {server.edition for server in view.servers} - {""} | view.editions.keys()
    for edition in sorted(others):
        there = [server for server in view.servers if server.edition == edition]
        used = edition in view.editions or any(server.leased for server in there)
        yield from _of_edition(edition, there, int(used), view.editions.get(edition, NEVER) <= now)


def _of_edition(edition: str, there: list[ServerView], wanted: int, may_start: bool) -> Iterator[Action]:  # noqa: FBT001
    # A server that is lost or stopping still takes its place: a backend may have room for no more.
    missing = wanted - len(there)
    if missing > 0 and may_start:
        yield from (StartServer(edition) for _ in range(missing))
    # Too many are only those that stay: one that is going already is not a reason to stop another.
    staying = [server for server in there if server.state in {ServerState.STARTING, ServerState.READY}]
    if len(staying) > wanted:
        idle = [server for server in staying if server.state is ServerState.READY and not server.leased]
        yield from (StopServer(server.id) for server in idle[: len(staying) - wanted])


class _Turn:
    """What is left to give away while one plan is made: workers, and room for databases."""

    def __init__(self, view: View, targets: Targets, now: Instant, staying: list[ServerView]) -> None:
        self.actions: list[Action] = []
        self._usable = [server for server in staying if server.retry_at <= now]
        self._busy = {server.id: server.at_work for server in self._usable}
        self._free = {server.id: max(0, server.workers - self._busy[server.id]) for server in self._usable}
        self._room = targets.most - sum(server.databases for server in view.servers)
        self._coming: Counter[str] = Counter()  # ready or being made, by template
        self._have: dict[tuple[str, str], int] = {}  # the same, by server and template
        self._count_stock(staying)
        self._pinned = {place: number for place, number in view.pinned.items() if number}
        self._unmet = 0  # of these, databases for which there is no room
        self._cramped: set[str] = set()  # servers that are full, and of these are to be made there
        # One beyond the ceiling: who waits for a reset has a lease, and may not end it before. Those that a reset has
        # taken already do not count, for one that failed keeps its own.
        self._beyond = 1 + sum(server.spares for server in view.servers)
        self._homes = {name for server in self._usable for name, stock in server.stock.items() if stock.copied}
        there = Counter(template for server in staying for template in server.stock)
        self._learned = view.wanted
        self._wanted = {name: view.wanted.get(name, targets.ready * there[name]) for name in sorted(there)}
        self._waiting = {name: number for name, number in view.waiting.items() if number and name in self._homes}
        self._quiet = view.quiet
        self._droppable = {
            server.id: [name for name in server.condemned if view.drop_retry_at.get(name, NEVER) <= now]
            for server in self._usable
        }
        self._urgent: dict[str, int] = {}
        for server_id, names in self._droppable.items():
            self._urgent[server_id] = sum(name in view.urgent for name in names) if view.urgent else 0
            if self._urgent[server_id]:
                names.sort(key=lambda name: name not in view.urgent)
        backlog = sum(map(len, self._droppable.values()))
        limit = min(targets.drops_put_off, targets.most // _OF_ALL)
        self._many, self._too_many = backlog > limit, backlog > max(2 * limit, _A_FEW)
        self._short = False  # whether databases are missing for which there is no room
        self._lines: dict[tuple[str, bool], list[tuple[float, float, int]]] = {}

    def _count_stock(self, staying: list[ServerView]) -> None:
        for server in staying:
            sound = server.id in self._free  # what is being made on a server that fails at present is not counted on
            for template, stock in server.stock.items():
                ready = 0 if server.crowded else stock.ready
                self._coming[template] += ready + (stock.making if sound else 0)
                self._have[server.id, template] = stock.ready + stock.making

    # --- makes ---

    def make(self) -> None:
        """Clone for the callers in line, then for a stock that is low, then, when it is calm, for what is wanted."""
        kept = self._kept_for_drops()
        for server_id, number in kept.items():
            self._free[server_id] -= number
        self._fill_pinned()
        self._fill(self._waiting, by_share=False)  # a long line has no right to more than a short one
        self._fill({name: low_water(number) for name, number in self._wanted.items()})
        if self._quiet >= CALM and not self._waiting and not self._pinned:
            self._fill(self._wanted, hurry=False)
        for server_id, number in kept.items():
            self._free[server_id] += number

    def _kept_for_drops(self) -> dict[str, int]:
        kept: dict[str, int] = {}
        for server in self._usable:
            number = 0
            if self._too_many:
                number = max(1, server.workers - 1)
            elif self._many and not self._waiting and server.workers > 1:
                number = 1
            number = max(number, int(self._urgent[server.id] > 0))
            number = min(number - server.dropping, len(self._droppable[server.id]), self._free[server.id])
            kept[server.id] = max(0, number)
        return kept

    def _fill_pinned(self) -> None:
        """Clone on the very servers on which callers wait for a database."""
        usable = {server.id: server for server in self._usable}
        for (server_id, template), number in self._pinned.items():
            server = usable.get(server_id)
            if server is None or not _makes(server, template):
                continue
            missing = number - self._have[server_id, template]
            while missing > 0 and self._room + self._beyond > 0 and self._free[server_id] and not server.full:
                self._clone(server, template)
                missing -= 1
            if missing > 0 and (server.full or self._room + self._beyond <= 0):
                self._unmet += missing
                self._cramped |= {server_id} if server.full else set()
            # these are for nobody else
            there = self._have[server_id, template] - (server.stock[template].ready if server.crowded else 0)
            self._coming[template] -= min(number, there)
        self._short |= self._room < 0 or (self._unmet > 0 and self._room <= 0)

    def _fill(self, levels: Mapping[str, int], *, by_share: bool = True, hurry: bool = True) -> None:
        """Clone until as many of each template are coming as its level says, the one furthest from it first."""
        missing = [
            (self._coming[template] / (level if by_share else 1), number, template)
            for number, (template, level) in enumerate(levels.items())
            if self._coming[template] < level and template in self._homes
        ]
        heapify(missing)
        while missing:
            if self._room <= 0:
                self._short |= hurry
                return
            _, number, template = missing[0]
            server = self._next_server(template, hurry=hurry)
            if server is not None:
                self._clone(server, template)
            level, coming = levels[template], self._coming[template]
            if server is None or coming >= level:
                heappop(missing)
            else:
                heapreplace(missing, (coming / (level if by_share else 1), number, template))

    def _next_server(self, template: str, *, hurry: bool) -> ServerView | None:
        """Return the server that is done first, or in no hurry the one that has fewest; None when all are busy."""
        if (template, hurry) not in self._lines:
            line = [
                (*self._rank(server, template, hurry=hurry), index)
                for index, server in enumerate(self._usable)
                if self._free[server.id] and _makes(server, template) and not server.full and not server.crowded
            ]
            heapify(line)
            self._lines[template, hurry] = line
        line = self._lines[template, hurry]
        while line:
            first, second, index = line[0]
            server = self._usable[index]
            if not self._free[server.id]:
                heappop(line)
                continue
            # Work given to it since, for another template, has moved it back in this line.
            rank = self._rank(server, template, hurry=hurry)
            if rank == (first, second):
                return server
            heapreplace(line, (*rank, index))
        return None

    def _rank(self, server: ServerView, template: str, *, hurry: bool) -> tuple[float, float]:
        done, have = server.clone_seconds * (self._busy[server.id] + 1), self._have[server.id, template]
        return (done, have) if hurry else (have, done)

    def _clone(self, server: ServerView, template: str) -> None:
        self.actions.append(MakeDatabase(server.id, template))
        self._coming[template] += 1
        self._have[server.id, template] += 1
        self._busy[server.id] += 1
        self._free[server.id] -= 1
        self._room -= 1

    # --- drops ---

    def drop(self) -> None:
        """Drop what is condemned when that disturbs nobody, when there is too much of it, or when room is short."""
        at_ease = self._quiet >= CALM and not self._waiting and not self._pinned
        for server in self._usable:
            number = free = self._free[server.id]
            if not (at_ease or self._short or server.full or server.tight or server.crowded):
                most = max(1, server.workers - 1) if self._too_many else int(self._many)
                number = max(0, min(most - server.dropping, free), min(self._urgent[server.id], free))
            self.actions += [DropDatabase(name) for name in self._droppable[server.id][:number]]

    # --- what is too much ---

    def give_up(self) -> None:
        """Condemn ready databases that take the room of what callers wait for, and those that nobody wants any more."""
        self._give_way()
        if self._quiet >= SETTLED:
            for template in self._wanted:
                if template in self._learned and template not in self._waiting:
                    self._shrink(template)

    def _give_way(self) -> None:
        uncovered = {name for name, number in self._waiting.items() if number > self._coming[name]}
        crammed = self._usable
        if not self._short:
            homes = [server for server in self._usable if uncovered & server.stock.keys()]
            crammed = homes if all(server.full for server in homes) else []
            crammed += [one for one in self._usable if one.id in self._cramped and one not in crammed]
        need = sum(self._waiting[name] - self._coming[name] for name in uncovered)
        need += self._unmet
        need -= sum(len(self._droppable[server.id]) + server.dropping for server in crammed)
        idle = [name for name in self._wanted if name not in self._waiting]
        for template in sorted(idle, key=lambda name: -self._coming[name] / max(0.1, self._wanted[name])):
            if need <= 0:
                break
            free = [server for server in crammed if (server.id, template) not in self._pinned]
            need -= self._condemn(template, need, free)

    def _shrink(self, template: str) -> None:
        servers = [server for server in self._usable if not server.crowded]
        wanted = self._wanted[template]
        ready = sum(server.stock[template].ready for server in servers if template in server.stock)
        # some more than wanted is kept: what is wanted goes up and down
        if ready > (wanted + wanted // 4 + 2 if wanted else 0):
            self._condemn(template, ready - wanted, servers)

    def _condemn(self, template: str, count: int, servers: list[ServerView]) -> int:
        """Give up ``count`` ready databases, where most are first; return how many there were."""
        fullest = [(-server.stock[template].ready, server.id) for server in servers if template in server.stock]
        heapify(fullest)
        chosen: Counter[str] = Counter()
        left = count
        while left and fullest and fullest[0][0] < 0:
            ready, server_id = fullest[0]
            chosen[server_id] += 1
            left -= 1
            heapreplace(fullest, (ready + 1, server_id))
        self.actions += [Surplus(server_id, template, number) for server_id, number in chosen.items()]
        return count - left


def _makes(server: ServerView, template: str) -> bool:
    return template in server.stock and server.stock[template].copied
