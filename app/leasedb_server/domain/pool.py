"""The pool's planner: what to do next so that databases are ready before they are asked for.

`plan` looks and decides; `usecases.upkeep` acts. Planning is free of memory: whatever is under way shows in the view as
making, dropping, starting or stopping, so that planning twice starts nothing twice.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from leasedb_server.domain.lease import Instant
from leasedb_server.domain.server import ServerState

NEVER: Final[Instant] = 0.0


@dataclass(frozen=True, slots=True)
class Targets:
    """What the operator asked for."""

    servers: int
    ready: int  # per server and template
    most: int  # databases in existence at once, over all servers
    workers: int = 2  # statements at work per server: two reach all that a server gives, eight no more


@dataclass(frozen=True, slots=True)
class Stock:
    """How many databases of one template one server has in each state."""

    ready: int = 0
    making: int = 0
    leased: int = 0


@dataclass(frozen=True, slots=True)
class ServerView:
    id: str
    state: ServerState
    stock: Mapping[str, Stock] = field(default_factory=dict)  # by template
    condemned: tuple[str, ...] = ()  # ids of databases, the longest condemned first
    dropping: int = 0
    retry_at: Instant = NEVER  # after a failure here, nothing is tried before

    @property
    def at_work(self) -> int:
        return self.dropping + sum(stock.making for stock in self.stock.values())

    @property
    def databases(self) -> int:
        there = sum(stock.ready + stock.making + stock.leased for stock in self.stock.values())
        return there + len(self.condemned) + self.dropping

    @property
    def leased(self) -> int:
        return sum(stock.leased for stock in self.stock.values())


@dataclass(frozen=True, slots=True)
class View:
    """The pool as it is now."""

    servers: tuple[ServerView, ...]
    waiting: Mapping[str, int] = field(default_factory=dict)  # callers in line, by template
    retry_at: Instant = NEVER  # after a server failed to start, none is started before
    drop_retry_at: Mapping[str, Instant] = field(default_factory=dict)  # by id of a database that a server keeps


@dataclass(frozen=True, slots=True)
class StartServer:
    pass


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


Action = StartServer | StopServer | MakeDatabase | DropDatabase


def plan(view: View, targets: Targets, now: Instant) -> list[Action]:
    """Decide what to do now.

    Holds whatever the view: never more than ``targets.servers`` servers are started, never more than ``targets.most``
    databases exist, never more than ``targets.workers`` statements are at work on one server. When every action
    succeeds, planning again and again reaches the targets and then decides nothing.
    """
    actions: list[Action] = list(_servers(view, targets, now))
    stopping = {action.server_id for action in actions if isinstance(action, StopServer)}
    usable = [
        server
        for server in view.servers
        if server.state is ServerState.READY and server.id not in stopping and server.retry_at <= now
    ]
    free = {server.id: max(0, targets.workers - server.at_work) for server in usable}
    room = targets.most - sum(server.databases for server in view.servers)
    makes = _makes(usable, view.waiting, targets, dict(free), room)
    droppable = {
        server.id: [name for name in server.condemned if view.drop_retry_at.get(name, NEVER) <= now]
        for server in usable
    }
    # Callers in line come first. When nobody waits, a worker is kept for drops, so that they do not pile up.
    if not any(view.waiting.values()):
        makes = _with_room_for_drops(makes, usable, free, droppable, targets.workers)
    actions += makes
    for make in makes:
        free[make.server_id] -= 1
    for server in usable:
        actions += [DropDatabase(database_id) for database_id in droppable[server.id][: free[server.id]]]
    return actions


def _servers(view: View, targets: Targets, now: Instant) -> Iterator[Action]:
    for server in view.servers:
        if server.state is ServerState.LOST and server.retry_at <= now:
            yield StopServer(server.id)
    # A server that is lost or stopping still takes its place: a backend may have room for no more.
    missing = targets.servers - len(view.servers)
    if missing > 0 and view.retry_at <= now:
        yield from (StartServer() for _ in range(missing))
    # Too many are only those that stay: one that is going already is not a reason to stop another.
    staying = [server for server in view.servers if server.state in {ServerState.STARTING, ServerState.READY}]
    idle = [server for server in staying if server.state is ServerState.READY and not server.leased]
    yield from (StopServer(server.id) for server in idle[: max(0, len(staying) - targets.servers)])


def _makes(
    usable: list[ServerView], waiting: Mapping[str, int], targets: Targets, free: dict[str, int], room: int
) -> list[MakeDatabase]:
    """Fill the line of waiting callers first, then the emptiest stock, while workers and room last."""
    coming: Counter[tuple[str, str]] = Counter()
    for server in usable:
        for template, stock in server.stock.items():
            coming[server.id, template] = stock.ready + stock.making
    makes: list[MakeDatabase] = []
    wanted = dict(waiting)
    while room > 0 and (choice := _most_wanted(usable, wanted, targets, free, coming)):
        makes.append(choice)
        coming[choice.server_id, choice.template] += 1
        free[choice.server_id] -= 1
        room -= 1
    return makes


def _most_wanted(
    usable: list[ServerView],
    waiting: Mapping[str, int],
    targets: Targets,
    free: Mapping[str, int],
    coming: Counter[tuple[str, str]],
) -> MakeDatabase | None:
    """Return the clone that is missed most, or None when nothing is missing or nobody is free."""
    candidates: list[tuple[bool, int, MakeDatabase]] = []
    for template in sorted({template for server in usable for template in server.stock}):
        uncovered = waiting.get(template, 0) - sum(coming[server.id, template] for server in usable)
        for server in usable:
            if template in server.stock and free[server.id] > 0:
                have = coming[server.id, template]
                if uncovered > 0 or have < targets.ready:
                    candidates.append((uncovered <= 0, have, MakeDatabase(server.id, template)))
    if not candidates:
        return None
    return min(candidates, key=lambda candidate: candidate[:2])[2]


def _with_room_for_drops(
    makes: list[MakeDatabase],
    usable: list[ServerView],
    free: Mapping[str, int],
    droppable: Mapping[str, list[str]],
    workers: int,
) -> list[MakeDatabase]:
    kept: list[MakeDatabase] = []
    for server in usable:
        own = [make for make in makes if make.server_id == server.id]
        if own and droppable[server.id] and not server.dropping and workers > 1 and len(own) == free[server.id]:
            own.pop()
        kept += own
    return kept
