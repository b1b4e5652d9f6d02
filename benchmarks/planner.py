"""``python -m benchmarks.planner [--seconds N]``: the planner alone, in simulation, at a scale no laptop has.

The real `plan`, `Pace`, `Demand` and `WaitingLine` decide; the clock is virtual, and servers only take time.
"""

import argparse
import heapq
import math
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from benchmarks.samples import MILLISECONDS
from leasedb_server.domain.demand import Demand
from leasedb_server.domain.pace import Pace, Rate, Work
from leasedb_server.domain.pool import (
    CALM,
    DropDatabase,
    MakeDatabase,
    ServerView,
    Stock,
    Surplus,
    Targets,
    View,
    plan,
)
from leasedb_server.domain.server import ServerState
from leasedb_server.domain.waiting import Ticket, WaitingLine

CLONE, DROP = 0.0085, 0.004  # seconds on a server that does nothing else, as measured on tmpfs
GAIN = (1.0, 1.7, 1.95, 2.05, 2.1)  # times the statements per second that so many at once give, likewise
NOISE = 0.25
LOOK = 0.5  # seconds after which the planner looks without having been woken
PER_SECOND = 12_500.0  # at the height of the day, before noise
SECONDS = 8.0  # of the compressed day
COLLECTING = 2.0  # from the number of a suite's tests being known to the first of them
WORK_DAY = 4 * 3600.0


@dataclass(frozen=True, slots=True)
class Suite:
    """Tests that ask for a database each, one after another in every worker."""

    holder: str
    template: str
    workers: int
    tests: int
    least: float = 0.005  # seconds of a test
    most: float = 0.5


@dataclass(frozen=True, slots=True)
class Site:
    servers: int
    most: int
    templates: tuple[str, ...]
    lag: float  # seconds from an event to the plan that sees it
    drops_put_off: int = 100


class Rule(Protocol):
    """Says what to keep ready, and how many statements at once."""

    ready: int
    lazy: bool  # whether work waits for calm

    def asked(self, template: str, holder: str, now: float) -> None: ...
    def joined(self, template: str, now: float) -> None: ...
    def left(self, template: str, now: float) -> None: ...
    def announced(self, suite: Suite, now: float) -> None: ...
    def wanted(self, rate: float, seconds: float, now: float) -> Mapping[str, int]: ...


class Fixed:
    """Ten per server and template, whatever happens."""

    ready, lazy = 10, False

    def asked(self, template: str, holder: str, now: float) -> None: ...
    def joined(self, template: str, now: float) -> None: ...
    def left(self, template: str, now: float) -> None: ...
    def announced(self, suite: Suite, now: float) -> None: ...
    def wanted(self, _rate: float, _seconds: float, _now: float) -> Mapping[str, int]:
        return {}


class LastSecond(Fixed):
    """As many as were asked for in a second lately, and ten at least."""

    ready = 0

    def __init__(self, templates: Sequence[str]) -> None:
        self._rates = {template: Rate(memory=10.0) for template in templates}

    def asked(self, template: str, holder: str, now: float) -> None:
        del holder
        self._rates[template].add(now)

    def wanted(self, _rate: float, _seconds: float, now: float) -> Mapping[str, int]:
        return {template: max(10, math.ceil(rate.per_second(now))) for template, rate in self._rates.items()}


class Learning:
    """What the daemon does."""

    ready, lazy = 0, True

    def __init__(self, templates: Sequence[str], *, hints: bool = False) -> None:
        self._templates, self._hints = templates, hints
        self.demand = Demand(floor=10, ceiling=2000)
        for template in templates:
            self.demand.known(template, 0.0)
        self.asked, self.joined, self.left = self.demand.asked, self.demand.joined, self.demand.left

    def announced(self, suite: Suite, now: float) -> None:
        if self._hints:
            self.demand.hint(suite.template, suite.tests, suite.holder, now + 60, now)

    def wanted(self, rate: float, seconds: float, now: float) -> Mapping[str, int]:
        self.demand.refills(rate, seconds)
        return {template: self.demand.wanted(template, now) for template in self._templates}


@dataclass(slots=True)
class Server:
    id: str
    learns: bool
    pace: Pace = field(default_factory=Pace)
    ready: Counter[str] = field(default_factory=Counter)
    making: Counter[str] = field(default_factory=Counter)
    leased: Counter[str] = field(default_factory=Counter)
    condemned: deque[str] = field(default_factory=deque)
    dropping: int = 0
    busy: int = 0
    view: ServerView | None = None  # until something changes

    def seen(self, templates: Sequence[str]) -> ServerView:
        if self.view is None:
            self.view = ServerView(
                self.id,
                ServerState.READY,
                {name: Stock(self.ready[name], self.making[name], self.leased[name]) for name in templates},
                tuple(self.condemned),
                self.dropping,
                workers=self.pace.workers if self.learns else 2,
                clone_seconds=self.pace.clone_seconds,
            )
        return self.view


@dataclass(slots=True)
class Outcome:
    """What came of it; seconds."""

    waits: list[float] = field(default_factory=list)
    by_holder: dict[str, list[float]] = field(default_factory=dict)
    by_second: Counter[int] = field(default_factory=Counter)
    ready_seconds: float = 0.0
    seconds: float = 0.0
    made: int = 0
    unused: int = 0

    def wait(self, holder: str, seconds: float, now: float) -> None:
        self.waits.append(seconds)
        self.by_second[int(now)] += 1
        self.by_holder.setdefault(holder, []).append(seconds)


class Simulation:
    """One pool under one rule."""

    def __init__(self, site: Site, rule: Rule, turn: Callable[[WaitingLine], Ticket | None] | None = None) -> None:
        self._site, self._rule, self._random = site, rule, Random(0)
        self._targets = Targets(site.servers, rule.ready, site.most, site.drops_put_off)
        self._servers = {f"s{number}": Server(f"s{number}", rule.lazy) for number in range(site.servers)}
        self._stock: dict[str, dict[str, int]] = {template: {} for template in site.templates}  # ready, by server
        self.ready = 0
        self._line = WaitingLine()
        self._turn = turn
        self._waiters: dict[Ticket, tuple[float, Callable[[Server], None]]] = {}
        self._held: Counter[str] = Counter()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._planned = False
        self._last_used = -60.0
        self._rate, self._clone_seconds = 0.0, 0.0
        self._rated_at = -1.0
        self._owners: dict[str, Server] = {}
        self.now = 0.0
        self.outcome = Outcome()

    def run(self, arrivals: Iterator[tuple[float, Suite]], until: float) -> Outcome:
        """Let the suites arrive, each at its time from now, and return what came of them."""
        self.outcome, begin = Outcome(), self.now
        for seconds, suite in arrivals:
            announced_at = max(begin, begin + seconds - COLLECTING)
            self._at(announced_at, lambda suite=suite: self._rule.announced(suite, self.now))  # type: ignore[misc]
            self._at(begin + seconds, lambda suite=suite: self._begin(suite))  # type: ignore[misc]
        end = begin + until
        self._tick(end)
        while self._events and self._events[0][0] <= end:
            at, _, act = heapq.heappop(self._events)
            self.outcome.ready_seconds += self.ready * (at - self.now)
            self.now = at
            act()
        self.outcome.seconds = end - begin
        self.now = end
        return self.outcome

    def _tick(self, end: float) -> None:
        self._wake()
        if self.now + LOOK < end:
            self._at(self.now + LOOK, lambda: self._tick(end))

    def _at(self, when: float, act: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (when, self._number, act))

    # --- callers ---

    def _begin(self, suite: Suite) -> None:
        left = [suite.tests]
        for _ in range(suite.workers):
            self._ask(suite, left)

    def _ask(self, suite: Suite, left: list[int]) -> None:
        if not left[0]:
            return
        left[0] -= 1
        asked_at = self.now
        self._rule.asked(suite.template, suite.holder, asked_at)

        def lease(server: Server) -> None:
            self._held[suite.holder] += 1
            server.leased[suite.template] += 1
            self.outcome.wait(suite.holder, self.now - asked_at, self.now)
            seconds = suite.least * (suite.most / suite.least) ** self._random.random()
            self._at(self.now + seconds, lambda: release(server))

        def release(server: Server) -> None:
            self._held[suite.holder] -= 1
            server.leased[suite.template] -= 1
            self._condemn(server)
            self._used()
            self._ask(suite, left)

        self._used()
        if not self._line.sizes()[suite.template] and (server := self._take(suite.template)):
            lease(server)
            return
        self._rule.joined(suite.template, asked_at)
        self._waiters[self._line.join(suite.holder, suite.template)] = (asked_at, lease)

    def _used(self) -> None:
        self._last_used = self.now
        self._wake()

    def _take(self, template: str) -> Server | None:
        """Take a ready database of the server with the fewest leases."""
        if not self._stock[template]:
            return None
        server = min((self._servers[name] for name in self._stock[template]), key=lambda one: one.leased[template])
        self._put(server, template, -1)
        return server

    def _put(self, server: Server, template: str, number: int) -> None:
        server.ready[template] += number
        server.view = None
        self.ready += number
        self._stock[template][server.id] = server.ready[template]
        if not server.ready[template]:
            del self._stock[template][server.id]

    def _condemn(self, server: Server) -> None:
        self._number += 1
        name = f"d{self._number}"
        self._owners[name] = server
        server.condemned.append(name)
        server.view = None

    def _serve(self) -> None:
        for template in list(self._line.sizes()):
            while self._stock[template]:
                ticket = self._turn(self._line) if self._turn else self._line.next(template, self._held)
                if ticket is None:
                    break
                server = self._take(template)
                assert server is not None
                self._rule.left(template, self.now)
                self._waiters.pop(ticket)[1](server)

    # --- the pool ---

    def _wake(self, after: float | None = None) -> None:
        if after is not None:
            self._at(self.now + after, self._wake)
        elif not self._planned:
            self._planned = True
            self._at(self.now + self._site.lag, self._plan)

    def _plan(self) -> None:
        self._planned = False
        if self.now - self._rated_at >= LOOK:
            paces = [server.pace for server in self._servers.values()]
            self._rate, self._rated_at = sum(pace.rate for pace in paces), self.now
            self._clone_seconds = sum(pace.clone_seconds for pace in paces) / len(paces)
        quiet = self.now - self._last_used if self._rule.lazy else math.inf
        view = View(
            tuple(server.seen(self._site.templates) for server in self._servers.values()),
            self._line.sizes(),
            wanted=self._rule.wanted(self._rate, self._clone_seconds, self.now),
            quiet=quiet,
        )
        for action in plan(view, self._targets, self.now):
            match action:
                case MakeDatabase(server, template):
                    self._make(self._servers[server], template)
                case DropDatabase(name):
                    self._drop(self._owners.pop(name), name)
                case Surplus(server, template, count):
                    self._put(self._servers[server], template, -count)
                    for _ in range(count):
                        self._condemn(self._servers[server])
                    self.outcome.unused += count
                    self._wake()
        if quiet < CALM:
            self._wake(after=CALM - quiet)

    def _work(self, server: Server, alone: float) -> tuple[Work, float]:
        server.busy += 1
        at_once = min(server.busy, len(GAIN))
        noise = math.exp(self._random.gauss(0, NOISE))
        return server.pace.started(self.now), alone * server.busy / GAIN[at_once - 1] * noise

    def _make(self, server: Server, template: str) -> None:
        work, seconds = self._work(server, CLONE)
        server.making[template] += 1
        server.view = None

        def made() -> None:
            server.busy -= 1
            server.pace.finished(work, self.now)
            server.making[template] -= 1
            self._put(server, template, +1)
            self.outcome.made += 1
            self._serve()
            self._wake()

        self._at(self.now + seconds, made)

    def _drop(self, server: Server, name: str) -> None:
        work, seconds = self._work(server, DROP)
        server.condemned.remove(name)
        server.dropping += 1
        server.view = None

        def dropped() -> None:
            server.busy -= 1
            server.pace.ended(work, self.now)
            server.dropping -= 1
            server.view = None
            self._wake()

        self._at(self.now + seconds, dropped)


# --- traffic ---

TEMPLATES = ("base", "shop", "mail", "search")
LARGE = Site(servers=100, most=10_000, templates=TEMPLATES, lag=0.005, drops_put_off=2500)
LAPTOP = Site(servers=1, most=1000, templates=("base", "shop"), lag=0.0005)
TIGHT = Site(servers=1, most=20, templates=("base",), lag=0.0005)
_MEAN_TEST = (0.5 - 0.005) / math.log(0.5 / 0.005)


def rush(seconds: float, per_second: float, seed: int) -> Iterator[tuple[float, Suite]]:
    """Yield suites whose arrival follows a day's curve, up to so many leases per second at its height."""
    random, at, number = Random(seed), 0.0, 0
    tests = 600  # in the mean
    # suites that arrive in the last moments would end after it
    while at < seconds:
        height = 0.3 + 0.7 * math.sin(math.pi * at / seconds) ** 2
        at += random.expovariate(height * per_second / tests)
        number += 1
        template = random.choices(TEMPLATES, (6, 3, 2, 1))[0]
        size = random.randint(tests // 3, tests * 5 // 3)
        yield at, Suite(f"suite {number}", template, random.randint(8, 32), size)


def working_day(seed: int, seconds: float) -> Iterator[tuple[float, Suite]]:
    """Yield the runs of one programmer: some in a row, then a break."""
    random, at, number = Random(seed), 30.0, 0
    kinds = [Suite("", "base", 8, 100), Suite("", "base", 8, 400), Suite("", "shop", 16, 150, 0.005, 0.1)]
    while at < seconds - 120:
        kind = random.choices(kinds, (5, 2, 3))[0]
        number += 1
        yield at, Suite(f"run {number}", kind.template, kind.workers, kind.tests, kind.least, kind.most)
        at += random.expovariate(1 / 40) + 15 if random.random() < 0.85 else random.uniform(600, 3000)


# --- what is shown ---


def table(seconds: float = SECONDS, working_day_seconds: float = WORK_DAY) -> str:
    """Return the simulated figures as Markdown.

    ``ready`` is the number of ready databases on average, ``unused`` the share of clones that were dropped unused.
    """
    heads = ("simulated", "leases", "busiest second", "without waiting", "wait p50 / p99 / max", "ready", "unused")
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    rule: Rule
    rules: Sequence[tuple[str, Rule]]
    rules = (("ten per server and template", Fixed()), ("last second's requests", LastSecond(TEMPLATES)))
    for title, rule in rules:
        outcome = Simulation(LARGE, rule).run(rush(seconds, PER_SECOND, seed=2), seconds)
        lines.append(_row(f"100 servers: {title}", outcome))
    learning = Simulation(LARGE, Learning(TEMPLATES))
    lines.append(_row("100 servers: learned, first day", learning.run(rush(seconds, PER_SECOND, seed=1), seconds)))
    lines.append(_row("100 servers: learned, second day", learning.run(rush(seconds, PER_SECOND, seed=2), seconds)))
    rules = (
        ("ten per server and template", Fixed()),
        ("last second's requests", LastSecond(LAPTOP.templates)),
        ("learned", Learning(LAPTOP.templates)),
        ("learned, and announced 2 s before", Learning(LAPTOP.templates, hints=True)),
    )
    for title, rule in rules:
        outcome = Simulation(LAPTOP, rule).run(working_day(3, working_day_seconds), working_day_seconds)
        lines.append(_row(f"one server, {working_day_seconds / 3600:.2g} hours: {title}", outcome))
    return "\n".join([*lines, "", *_fairness()])


def _fairness() -> Iterator[str]:
    yield "| one server, room for 20, 1,000 callers at once; a second suite with 4 workers | its wait p50 / max |"
    yield "| --- | --- |"
    arrivals = [(0.0, Suite("crowd", "base", 1000, 3000, 0.05, 0.2)), (1.0, Suite("small", "base", 4, 40, 0.05, 0.2))]
    turns: Sequence[tuple[str, Callable[[WaitingLine], Ticket | None] | None]] = (
        ("holders in turn", lambda line: line.next("base")),
        ("fewest leases first", None),
    )
    for title, turn in turns:
        outcome = Simulation(TIGHT, Learning(TIGHT.templates), turn=turn).run(iter(arrivals), 30)
        waits = sorted(outcome.by_holder["small"])
        yield f"| {title} | {_milliseconds(_part(waits, 0.5))} / {_milliseconds(waits[-1])} ms |"


def _row(title: str, outcome: Outcome) -> str:
    waits = sorted(outcome.waits)
    at_once = sum(seconds == 0 for seconds in waits) / len(waits)
    cells = [
        title,
        f"{len(waits):,}",
        f"{max(outcome.by_second.values()):,}",
        f"{at_once:.2%}",
        f"{' / '.join(_milliseconds(seconds) for seconds in (_part(waits, 0.5), _part(waits, 0.99), waits[-1]))} ms",
        f"{outcome.ready_seconds / outcome.seconds:,.0f}",
        f"{outcome.unused / max(1, outcome.made):.1%}",
    ]
    return f"| {' | '.join(cells)} |"


def _part(ordered: Sequence[float], share: float) -> float:
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _milliseconds(seconds: float) -> str:
    return f"{seconds * MILLISECONDS:.0f}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planner", description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="virtual seconds of the day at 100 servers")
    print(table(parser.parse_args(arguments).seconds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
