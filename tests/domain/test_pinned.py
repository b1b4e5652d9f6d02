"""The planner's clones for callers who need a database of one very server: resets."""

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from leasedb_server.domain.database import DatabaseState
from leasedb_server.domain.pool import DropDatabase, MakeDatabase, ServerView, Stock, Surplus, Targets, View, plan
from leasedb_server.domain.server import ServerState
from tests.domain.simulation import TEMPLATES, Pool

NOW = 1000.0
BUSY = 0.01  # seconds since the last lease or release
D = DatabaseState
small = st.integers(0, 3)
stocks = st.builds(Stock, ready=small, making=small, leased=small, copied=st.booleans())
few = st.builds(
    Targets, servers=st.integers(1, 3), ready=st.integers(0, 3), most=st.integers(1, 20), drops_put_off=small
)


@st.composite
def views(draw):
    servers = [
        ServerView(
            id=f"s{number}",
            state=draw(st.sampled_from([ServerState.READY, ServerState.READY, ServerState.STARTING, ServerState.LOST])),
            stock=draw(st.dictionaries(st.sampled_from(TEMPLATES), stocks)),
            condemned=tuple(f"d{number}-{index}" for index in range(draw(small))),
            dropping=draw(st.integers(0, 2)),
            retry_at=draw(st.sampled_from([0.0, NOW + 1])),
            workers=draw(st.integers(1, 3)),
            full=draw(st.sampled_from([False, False, True])),
            crowded=draw(st.sampled_from([False, False, True])),
            spares=draw(st.integers(0, 2)),
        )
        for number in range(draw(st.integers(0, 4)))
    ]
    places = st.tuples(st.sampled_from(["s0", "s1", "s9"]), st.sampled_from(TEMPLATES))
    return View(
        tuple(servers),
        draw(st.dictionaries(st.sampled_from(TEMPLATES), small)),
        pinned=draw(st.dictionaries(places, small)),
        wanted=draw(st.dictionaries(st.sampled_from(TEMPLATES), st.integers(0, 9))),
        quiet=draw(st.sampled_from([0.0, BUSY, math.inf])),
    )


def of(actions, kind):
    return [action for action in actions if isinstance(action, kind)]


def ready(name="s", **more):
    return ServerView(name, ServerState.READY, **{"stock": {"base": Stock()}, **more})


def view_of(*servers, **more):
    return View(tuple(servers), **{"wanted": {"base": 0}, "quiet": BUSY, **more})


def planned(*servers, most=10, **more):
    return plan(view_of(*servers, **more), Targets(servers=len(servers), ready=0, most=most), NOW)


# --- whatever the view ---


@given(views(), few)
@settings(max_examples=150, deadline=None)
def test_a_reset_goes_one_beyond_the_ceiling_and_nothing_else_does(view, targets):
    actions = plan(view, targets, NOW)
    makes = Counter((make.server_id, make.template) for make in of(actions, MakeDatabase))
    existing = sum(server.databases for server in view.servers)
    spares = sum(server.spares for server in view.servers)
    assert not makes or existing + makes.total() <= targets.most + 1 + spares
    if existing + makes.total() > targets.most:
        beyond = existing + makes.total() - targets.most
        pinned = sum(min(number, view.pinned.get(place, 0)) for place, number in makes.items())
        assert pinned >= min(beyond, makes.total())
    servers = {server.id: server for server in view.servers}
    for server_id in {server_id for server_id, _ in makes}:
        server, made = servers[server_id], sum(number for (owner, _), number in makes.items() if owner == server_id)
        assert server.at_work + made <= server.workers
        assert server.state is ServerState.READY
        assert not server.full
    assert all(servers[server_id].stock[template].copied for server_id, template in makes)


@given(views(), few)
@settings(max_examples=150, deadline=None)
def test_no_more_is_cloned_for_a_reset_than_is_missing(view, targets):
    view = replace(view, waiting={}, wanted=dict.fromkeys(TEMPLATES, 0))
    makes = Counter((make.server_id, make.template) for make in of(plan(view, targets, NOW), MakeDatabase))
    servers = {server.id: server for server in view.servers}
    for (server_id, template), number in makes.items():
        stock = servers[server_id].stock[template]
        assert number <= view.pinned.get((server_id, template), 0) - stock.ready - stock.making


@given(views(), few)
@settings(max_examples=150, deadline=None)
def test_what_somebody_waits_for_on_a_server_is_not_given_up_there(view, targets):
    given_up = of(plan(replace(view, quiet=BUSY), targets, NOW), Surplus)
    assert not {(one.server_id, one.template) for one in given_up} & {
        place for place, number in view.pinned.items() if number
    }


# --- one by one ---


def test_it_is_cloned_there_and_not_where_it_would_be_done_first():
    quick, slow = ready("quick"), ready("slow", clone_seconds=1.0)
    assert planned(quick, slow, pinned={("slow", "base"): 1}) == [MakeDatabase("slow", "base")]


def test_who_has_a_lease_comes_before_those_who_have_none():
    server = ready(workers=1)
    both = {"base": Stock(), "shop": Stock()}
    actions = planned(replace(server, stock=both), waiting={"base": 5}, pinned={("s", "shop"): 1})
    assert actions == [MakeDatabase("s", "shop")]


def test_what_is_cloned_for_a_reset_counts_for_nobody_else():
    server = ready(stock={"base": Stock(ready=1)})
    assert planned(server, waiting={"base": 1}, pinned={("s", "base"): 1}) == [MakeDatabase("s", "base")]
    assert planned(server, pinned={("s", "base"): 1}) == []


def test_with_all_leased_there_is_room_for_one_reset_at_a_time():
    pinned = {("a", "base"): 3, ("b", "base"): 1}
    full = [ready(name, stock={"base": Stock(leased=2)}) for name in "ab"]
    assert planned(*full, most=4, pinned=pinned) == [MakeDatabase("a", "base")]
    making = replace(full[0], stock={"base": Stock(leased=2, making=1)})
    assert planned(making, full[1], most=4, pinned=pinned) == []
    turned = dict(reversed(pinned.items()))
    assert planned(*full, most=4, pinned=turned) == [MakeDatabase("b", "base")], "who was served longest ago is first"


def test_a_reset_that_failed_does_not_take_the_place_of_another():
    server = ready(stock={"base": Stock(leased=2)}, spares=1)
    assert planned(server, most=2, pinned={("s", "base"): 1}) == [MakeDatabase("s", "base")]


def test_what_is_beyond_the_ceiling_is_dropped_though_tests_run():
    server = ready(stock={"base": Stock(leased=4)}, condemned=("c1",))
    assert planned(server, most=4) == [DropDatabase("c1")]
    assert planned(server, most=5) == []


def test_a_ceiling_filled_by_what_is_ready_elsewhere_gives_way():
    here, there = ready("here", stock={"base": Stock(leased=2)}), ready("there", stock={"base": Stock(ready=2)})
    actions = planned(here, there, most=4, pinned={("here", "base"): 3}, wanted={"base": 2})
    assert actions == [MakeDatabase("here", "base"), Surplus("there", "base", 2)]


def test_a_full_server_gives_way_too():
    server = ready(stock={"base": Stock(leased=1), "shop": Stock(ready=3)}, full=True)
    actions = planned(server, ready("other"), pinned={("s", "base"): 1}, wanted={"base": 0, "shop": 3})
    assert actions == [Surplus("s", "shop", 1)]


def test_a_crowded_server_clones_for_those_who_are_there_already():
    server = ready(stock={"base": Stock(leased=3)}, crowded=True)
    assert planned(server, pinned={("s", "base"): 1}) == [MakeDatabase("s", "base")]


def test_a_server_without_the_template_waits_until_it_is_brought():
    server = ready(stock={"base": Stock(leased=1), "shop": Stock(copied=False)})
    assert planned(server, most=1, pinned={("s", "shop"): 1, ("gone", "shop"): 1}) == []


# --- in simulation ---


@dataclass
class PinnedPool(Pool):
    """Whoever holds a database may have it reset: one of the same server is taken in its place."""

    resets: list[tuple[int, str, str]] = field(default_factory=list)  # holder, server, template
    done: int = 0

    def view(self):
        pinned = Counter((server, template) for _, server, template in self.resets)
        return replace(super().view(), pinned=pinned)

    def _reset(self, choice):
        waiting = {holder for holder, _, _ in self.resets}
        if holders := sorted(self.held.keys() - waiting):
            holder = holders[choice % len(holders)]
            self.resets.append(
                (holder, self.databases[self.held[holder]].server, self.templates[choice % len(self.templates)])
            )

    def _empty(self, server):
        super()._empty(server)
        self.resets = [reset for reset in self.resets if reset[0] in self.held]

    def _release(self, choice):
        super()._release(choice)
        self.resets = [reset for reset in self.resets if reset[0] in self.held]

    def _serve(self):
        for reset in list(self.resets):
            holder, server, template = reset
            for database in self.databases.values():
                if (database.server, database.template, database.state) == (server, template, D.READY):
                    self.databases[self.held[holder]].state = D.CONDEMNED
                    database.state = D.LEASED
                    self.held[holder] = database.id
                    self.resets.remove(reset)
                    self.done += 1
                    break
        super()._serve()

    def check(self):
        assert len(self.databases) <= self.targets.most + 1
        self.targets, targets = replace(self.targets, most=self.targets.most + 1), self.targets
        super().check()
        self.targets = targets


bounds = st.builds(
    Targets, servers=st.integers(1, 3), ready=st.integers(0, 3), most=st.integers(1, 9), drops_put_off=st.integers(0, 9)
)


@given(bounds, st.integers(1, 2), st.integers(1, 3), st.data())
@settings(max_examples=150, deadline=None)
def test_every_reset_comes_about_though_no_lease_ends(targets, templates, workers, data):
    pool = PinnedPool(targets, TEMPLATES[:templates], workers)
    deeds = st.sampled_from([*pool.deeds(), "reset", "reset", "reset"])
    for _ in range(data.draw(st.integers(0, 50))):
        pool.do(data.draw(deeds), data.draw(st.integers(0, 1000)))
    pool.rest()
    assert not pool.resets
    pool.check_rest()


@given(bounds, st.integers(1, 2), st.integers(1, 3), st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_a_suite_that_resets_and_never_releases_goes_on(targets, templates, workers, seed):
    """As many workers as there may be databases, each with a lease for the whole run, and it is never calm."""
    random = Random(seed)
    pool = PinnedPool(targets, TEMPLATES[:templates], workers, quiet=0.0)
    for _ in range(targets.most):
        pool.do("ask", random.randrange(1000))
    for _ in range(1500):
        pool.do(random.choice(["act", "act", "finish", "finish", "reset"]), random.randrange(1000))
    assert pool.done >= 40
