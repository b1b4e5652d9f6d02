"""The planner's servers of several editions: one of each beside the default, while it is in use."""

import math
from collections import Counter
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leasedb_server.domain.edition import key, parted
from leasedb_server.domain.pool import MakeDatabase, ServerView, StartServer, Stock, StopServer, Targets, View, plan
from leasedb_server.domain.server import ServerState

NOW = 1000.0
EDITIONS = ("", "17", "acme/postgres:17")
S = ServerState
small = st.integers(0, 3)
few = st.builds(Targets, servers=st.integers(1, 3), ready=st.integers(0, 3), most=st.integers(1, 30))


@st.composite
def views(draw):
    servers = []
    for number in range(draw(st.integers(0, 6))):
        edition = draw(st.sampled_from(EDITIONS))
        stock = st.builds(Stock, ready=small, making=small, leased=small)
        servers.append(
            ServerView(
                id=f"s{number}",
                state=draw(st.sampled_from([state for state in S if state is not S.GONE])),
                stock=draw(st.dictionaries(st.just(key("base", edition)), stock)),
                retry_at=draw(st.sampled_from([0.0, NOW + 1])),
                edition=edition,
            )
        )
    return View(
        tuple(servers),
        draw(st.dictionaries(st.sampled_from([key("base", edition) for edition in EDITIONS]), small)),
        retry_at=draw(st.sampled_from([0.0, NOW + 1])),
        editions=draw(st.dictionaries(st.sampled_from(EDITIONS[1:]), st.sampled_from([0.0, NOW + 1]))),
        quiet=draw(st.sampled_from([0.0, math.inf])),
        asleep=draw(st.booleans()),
    )


def of(actions, kind):
    return [action for action in actions if isinstance(action, kind)]


def wanted(view, targets, edition):
    """Return how many servers of the edition there are to be."""
    there = [server for server in view.servers if server.edition == edition]
    if edition:
        return int(edition in view.editions or any(server.leased for server in there))
    waited_for = view.waiting.get("base")
    return targets.servers if not view.asleep or waited_for or any(server.leased for server in there) else 0


@given(views(), few)
@settings(max_examples=150, deadline=None)
def test_there_are_never_more_servers_of_an_edition_than_wanted(view, targets):
    starts = Counter(start.edition for start in of(plan(view, targets, NOW), StartServer))
    for edition, number in starts.items():
        there = [server for server in view.servers if server.edition == edition]
        assert len(there) + number <= wanted(view, targets, edition)
        assert (view.editions[edition] if edition else view.retry_at) <= NOW, "after a failure none is started before"


@given(views(), few)
@settings(max_examples=150, deadline=None)
def test_what_is_in_use_of_an_edition_stays(view, targets):
    stopped = {stop.server_id for stop in of(plan(view, targets, NOW), StopServer)}
    for edition in EDITIONS:
        there = [server for server in view.servers if server.edition == edition]
        assert not any(server.leased for server in there if server.id in stopped and server.state is not S.LOST)
        staying = [server for server in there if server.state in {S.STARTING, S.READY}]
        left = [server for server in staying if server.id not in stopped]
        assert len(left) >= min(len(staying), wanted(view, targets, edition))


@given(views(), few)
@settings(max_examples=150, deadline=None)
def test_databases_are_made_on_servers_of_their_templates_edition(view, targets):
    servers = {server.id: server for server in view.servers}
    makes = of(plan(view, targets, NOW), MakeDatabase)
    assert all(parted(make.template)[1] == servers[make.server_id].edition for make in makes)


# --- one by one ---

ONE = Targets(servers=1, ready=1, most=10)


def server(name, edition="", state=S.READY, **stock):
    return ServerView(name, state, {key("base", edition): Stock(**stock)}, edition=edition)


def test_an_edition_gets_its_server_when_somebody_waits_for_it():
    default = server("s", ready=1)
    view = View((default,), {"base@17": 1}, editions={"17": 0.0})
    assert plan(view, ONE, NOW) == [StartServer("17")]
    assert plan(replace(view, editions={"17": NOW + 1}), ONE, NOW) == []
    starting = server("t", "17", S.STARTING)
    assert plan(replace(view, servers=(default, starting)), ONE, NOW) == []


def test_an_edition_that_nobody_uses_any_more_gives_its_server_back():
    idle, used = server("t", "17", ready=1), server("t", "17", ready=1, leased=1)
    assert plan(View((server("s", ready=1), idle)), ONE, NOW) == [StopServer("t")]
    assert plan(View((server("s", ready=1), used)), ONE, NOW) == []


@pytest.mark.parametrize("waiting", [{"base@17": 1}, {"base": 0}])
def test_who_waits_for_an_edition_does_not_wake_the_default(waiting):
    view = View((), waiting, asleep=True)
    assert plan(view, ONE, NOW) == []
    assert plan(replace(view, waiting={"base": 1}), ONE, NOW) == [StartServer()]


# --- in simulation ---


@dataclass
class EditionsOnPaper:
    """Servers that come up, die and go, while callers come and go."""

    targets: Targets
    servers: dict[str, tuple[str, ServerState]] = field(default_factory=dict)
    waiting: set[str] = field(default_factory=set)
    leased: set[str] = field(default_factory=set)
    number: int = 0

    def view(self):
        servers = [
            ServerView(name, state, {"base": Stock(leased=int(name in self.leased))}, edition=edition)
            for name, (edition, state) in self.servers.items()
        ]
        waiting = {key("base", edition): 1 for edition in self.waiting}
        return View(tuple(servers), waiting, editions=dict.fromkeys(self.waiting - {""}, 0.0))

    def act(self):
        for action in plan(self.view(), self.targets, NOW):
            self.number += 1
            match action:
                case StartServer(edition):
                    self.servers[f"s{self.number}"] = (edition, S.STARTING)
                case StopServer(name):
                    assert name not in self.leased
                    self.servers[name] = (self.servers[name][0], S.STOPPING)
        counts = Counter(edition for edition, _ in self.servers.values())
        assert counts[""] <= self.targets.servers
        assert all(number <= 1 for edition, number in counts.items() if edition)

    def do(self, deed, choice):
        edition = EDITIONS[choice % len(EDITIONS)]
        ready = [name for name, (of_it, state) in self.servers.items() if of_it == edition and state is S.READY]
        match deed:
            case "ask":
                self.waiting.add(edition)
            case "lease" if ready and edition in self.waiting:
                self.leased.add(ready[0])
                self.waiting.discard(edition)
            case "release" if self.leased:
                self.leased.discard(sorted(self.leased)[choice % len(self.leased)])
            case "die" if ready:
                self.servers[ready[0]] = (edition, S.LOST)
                self.leased.discard(ready[0])
            case "finish" if self.servers:
                self.finish(sorted(self.servers)[choice % len(self.servers)])

    def finish(self, name):
        edition, state = self.servers[name]
        if state is S.STARTING:
            self.servers[name] = (edition, S.READY)
        elif state is S.STOPPING:
            del self.servers[name]


@given(few, st.lists(st.tuples(st.sampled_from(["ask", "lease", "release", "die", "finish", "finish"]), small)))
@settings(max_examples=150, deadline=None)
def test_whatever_happened_every_edition_in_use_has_its_servers_in_the_end(targets, deeds):
    pool = EditionsOnPaper(targets)
    for deed, choice in deeds:
        pool.act()
        pool.do(deed, choice)
    for _ in range(30):
        pool.act()
        for name in list(pool.servers):
            pool.finish(name)
    ready = Counter(edition for edition, state in pool.servers.values() if state is S.READY)
    used = (pool.waiting | {pool.servers[name][0] for name in pool.leased}) - {""}
    assert ready == Counter({"": targets.servers, **dict.fromkeys(used, 1)})
