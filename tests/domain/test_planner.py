"""The pool's planner: what it never does, and that it gets there."""

import math
from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leasedb_server.domain.database import DatabaseState
from leasedb_server.domain.pool import (
    DropDatabase,
    MakeDatabase,
    ServerView,
    StartServer,
    Stock,
    StopServer,
    Surplus,
    Targets,
    View,
    low_water,
    plan,
)
from leasedb_server.domain.server import ServerState
from tests.domain.simulation import TEMPLATES, Pool

NOW = 1000.0
BUSY = 0.01  # seconds since the last lease or release
small = st.integers(0, 4)
stocks = st.builds(Stock, ready=small, making=small, leased=small)
instants = st.sampled_from([0.0, NOW, NOW + 0.5, NOW + 30])
targets_of_any_size = st.builds(
    Targets,
    servers=st.integers(1, 4),
    ready=st.integers(0, 5),
    most=st.integers(1, 40),
    drops_put_off=st.integers(0, 10),
)


@st.composite
def views(draw):
    servers = []
    for number in range(draw(st.integers(0, 5))):
        condemned = tuple(f"d{number}-{index}" for index in range(draw(small)))
        servers.append(
            ServerView(
                id=f"s{number}",
                state=draw(st.sampled_from([state for state in ServerState if state is not ServerState.GONE])),
                stock=draw(st.dictionaries(st.sampled_from(TEMPLATES), stocks)),
                condemned=condemned,
                dropping=draw(st.integers(0, 2)),
                retry_at=draw(instants),
                workers=draw(st.integers(1, 4)),
                full=draw(st.sampled_from([False, False, True])),
                tight=draw(st.sampled_from([False, False, True])),
                crowded=draw(st.sampled_from([False, False, True])),
                clone_seconds=draw(st.sampled_from([0.01, 0.1])),
            )
        )
    stuck = {name: draw(instants) for server in servers for name in server.condemned[:1]}
    return View(
        tuple(servers),
        draw(st.dictionaries(st.sampled_from(TEMPLATES), small)),
        retry_at=draw(instants),
        drop_retry_at=stuck,
        wanted=draw(st.dictionaries(st.sampled_from(TEMPLATES), st.integers(0, 9))),
        quiet=draw(st.sampled_from([0.0, BUSY, 1.0, math.inf])),
        urgent=frozenset(draw(st.sets(st.sampled_from(["d0-0", "d0-1", "d1-0", "d9-9"])))),
        asleep=draw(st.booleans()),
    )


def of(actions, kind):
    return [action for action in actions if isinstance(action, kind)]


@given(views(), targets_of_any_size)
@settings(max_examples=150, deadline=None)
def test_no_plan_goes_beyond_a_bound(view, targets):
    actions = plan(view, targets, NOW)
    makes, drops = of(actions, MakeDatabase), of(actions, DropDatabase)
    starts, stops = of(actions, StartServer), of(actions, StopServer)
    servers = {server.id: server for server in view.servers}

    existing = sum(server.databases for server in view.servers)
    assert not makes or existing + len(makes) <= targets.most
    assert not starts or len(view.servers) + len(starts) <= targets.servers

    owners = {database: server.id for server in view.servers for database in server.condemned}
    assert len(drops) == len({drop.database_id for drop in drops})
    assert {drop.database_id for drop in drops} <= owners.keys()

    assert all(view.drop_retry_at.get(drop.database_id, 0.0) <= NOW for drop in drops)
    work = Counter([make.server_id for make in makes] + [owners[drop.database_id] for drop in drops])
    given_up = of(actions, Surplus)
    for server_id in [*work, *(surplus.server_id for surplus in given_up)]:
        server = servers[server_id]
        assert not work[server_id] or server.at_work + work[server_id] <= server.workers
        assert server.retry_at <= NOW
        assert server.state is ServerState.READY
        assert server_id not in {stop.server_id for stop in stops}
    assert all(make.template in servers[make.server_id].stock for make in makes)
    assert not any(servers[make.server_id].full or servers[make.server_id].crowded for make in makes)

    assert len({(surplus.server_id, surplus.template) for surplus in given_up}) == len(given_up)
    for surplus in given_up:
        assert 0 < surplus.count <= servers[surplus.server_id].stock[surplus.template].ready
        assert not view.waiting.get(surplus.template)

    assert len(stops) == len(set(stops))
    assert all(servers[stop.server_id].retry_at <= NOW or servers[stop.server_id].state is ServerState.READY
               for stop in stops)  # fmt: skip
    assert not starts or view.retry_at <= NOW


@given(views(), targets_of_any_size)
@settings(max_examples=150, deadline=None)
def test_a_server_with_leases_on_it_is_stopped_only_when_it_is_lost(view, targets):
    stopped = {stop.server_id for stop in of(plan(view, targets, NOW), StopServer)}
    for server in view.servers:
        if server.id in stopped:
            assert server.state is ServerState.LOST or not server.leased


@given(views(), targets_of_any_size)
@settings(max_examples=150, deadline=None)
def test_stopping_never_leaves_fewer_servers_than_wanted(view, targets):
    stopped = {stop.server_id for stop in of(plan(view, targets, NOW), StopServer)}
    going = {ServerState.LOST, ServerState.STOPPING}
    staying = [server for server in view.servers if server.state not in going]
    needed = not view.asleep or any(view.waiting.values()) or any(server.leased for server in view.servers)
    surplus = max(0, len(staying) - (targets.servers if needed else 0))
    assert len([server for server in staying if server.id in stopped]) <= surplus


@given(views(), targets_of_any_size)
@settings(max_examples=150, deadline=None)
def test_callers_in_line_come_first(view, targets):
    """While somebody waits for a database that is not coming yet, no worker who could make it does anything else."""
    targets = replace(targets, drops_put_off=1000, most=targets.most + 1000)  # drops can wait
    actions = plan(view, targets, NOW)
    made = Counter(make.template for make in of(actions, MakeDatabase))
    stopped = {stop.server_id for stop in of(actions, StopServer)}
    staying = [s for s in view.servers if s.state is ServerState.READY and s.id not in stopped]
    usable = [server for server in staying if server.retry_at <= NOW]
    for template, number in view.waiting.items():
        able = [s for s in usable if template in s.stock and not s.full and not s.crowded]
        ready = sum(s.stock[template].ready for s in staying if template in s.stock and not s.crowded)
        making = sum(s.stock[template].making for s in usable if template in s.stock)
        missing = number - ready - making
        others_missing = sum(view.waiting.values()) - number
        workers = sum(max(0, server.workers - server.at_work) for server in able)
        if missing > 0 and not others_missing:
            assert made[template] >= min(missing, workers)


@given(views(), targets_of_any_size)
@settings(max_examples=150, deadline=None)
def test_while_tests_run_only_what_cannot_wait_is_done(view, targets):
    view = replace(view, quiet=BUSY, waiting={}, asleep=False)
    actions = plan(view, targets, NOW)
    staying = {s.id: s for s in view.servers if s.state is ServerState.READY}
    for stop in of(actions, StopServer):
        staying.pop(stop.server_id, None)
    for template, number in Counter(make.template for make in of(actions, MakeDatabase)).items():
        homes = [server for server in staying.values() if template in server.stock]
        wanted = view.wanted.get(template, targets.ready * len(homes))
        there = sum(0 if s.crowded else s.stock[template].ready for s in homes)
        making = sum(s.stock[template].making for s in homes if s.retry_at <= NOW)
        assert there + making + number <= low_water(wanted)
    assert not of(actions, Surplus)


def view_of(*servers, **more):
    return View(tuple(servers), **more)


def ready(name="s", **more):
    return ServerView(name, ServerState.READY, **more)


def condemned(number, name="c"):
    return tuple(f"{name}{index}" for index in range(number))


def makes(template, *servers):
    return [MakeDatabase(server, template) for server in servers]


def drops(*names):
    return [DropDatabase(name) for name in names]


ONE = Targets(servers=1, ready=10, most=100)


class TestServers:
    def test_one_being_stopped_does_not_cost_another_its_life(self):
        """One of two servers too many is on its way out; the one that is wanted stays."""
        view = view_of(ServerView("old", ServerState.STOPPING), ready("new", stock={"base": Stock(ready=2)}))
        assert plan(view, Targets(servers=1, ready=2, most=10), NOW) == []

    @pytest.mark.parametrize("state", [ServerState.LOST, ServerState.STOPPING, ServerState.STARTING])
    def test_one_on_its_way_takes_its_place(self, state):
        view = view_of(ServerView("s", state, retry_at=NOW + 1))
        assert plan(view, Targets(servers=1, ready=2, most=10), NOW) == []

    def test_nobody_wants_one_while_all_sleep(self):
        two = replace(ONE, servers=2)
        idle = view_of(ready("a", stock={"base": Stock(ready=3)}), ready("b"), asleep=True)
        assert plan(idle, two, NOW) == [StopServer("a"), StopServer("b")]
        assert plan(view_of(asleep=True), two, NOW) == []

    def test_who_waits_wakes_them(self):
        assert plan(view_of(asleep=True, waiting={"base": 1}), replace(ONE, servers=2), NOW) == [StartServer()] * 2

    def test_a_lease_keeps_them_awake(self):
        view = view_of(ready("a", stock={"base": Stock(leased=1)}), ready("b", stock={"base": Stock()}), asleep=True)
        assert not of(plan(view, replace(ONE, servers=2), NOW), StopServer)


class TestMakes:
    def test_with_nothing_kept_ready_callers_are_still_served(self):
        view = view_of(ready(stock={"base": Stock()}), waiting={"base": 1})
        assert plan(view, Targets(servers=1, ready=0, most=3), NOW) == makes("base", "s")

    def test_the_emptiest_server_is_filled_first(self):
        view = view_of(ready("a", stock={"base": Stock(ready=3)}), ready("b", stock={"base": Stock(ready=1)}))
        assert plan(view, Targets(servers=2, ready=4, most=5), NOW) == makes("base", "b")

    def test_in_calm_what_is_wanted_is_spread_evenly(self):
        servers = [
            ready(name, stock={"base": Stock(ready=number)}) for name, number in zip("abc", (5, 3, 4), strict=True)
        ]
        actions = plan(view_of(*servers, wanted={"base": 16}), replace(ONE, servers=3), NOW)
        assert actions == makes("base", "b", "c", "b", "a")

    def test_a_low_stock_is_filled_while_tests_run_and_a_fair_one_is_not(self):
        low, fair = ({"base": Stock(ready=number)} for number in (4, 5))
        assert plan(view_of(ready(stock=low), wanted={"base": 10}, quiet=BUSY), ONE, NOW) == makes("base", "s")
        assert plan(view_of(ready(stock=fair), wanted={"base": 10}, quiet=BUSY), ONE, NOW) == []
        assert plan(view_of(ready(stock=fair), wanted={"base": 10}, quiet=1), ONE, NOW) == makes("base", "s", "s")

    def test_a_single_wanted_one_is_made_at_once(self):
        view = view_of(ready(stock={"base": Stock()}), wanted={"base": 1}, quiet=BUSY)
        assert plan(view, ONE, NOW) == makes("base", "s")

    def test_the_template_furthest_from_what_is_wanted_comes_first(self):
        stock = {"base": Stock(ready=40), "shop": Stock(ready=2)}
        view = view_of(ready(stock=stock), wanted={"base": 100, "shop": 4})
        assert plan(view, replace(ONE, most=1000), NOW) == makes("base", "s", "s")
        view = view_of(ready(stock=stock), wanted={"base": 50, "shop": 5})
        assert plan(view, replace(ONE, most=1000), NOW) == makes("shop", "s", "s")

    def test_every_worker_that_a_server_rewards_works(self):
        view = view_of(ready(stock={"base": Stock()}, workers=5), waiting={"base": 9})
        assert plan(view, ONE, NOW) == makes("base", *"sssss")

    def test_a_full_server_makes_nothing_and_another_does(self):
        view = view_of(
            ready("a", stock={"base": Stock()}, full=True),
            ready("b", stock={"base": Stock(ready=9)}),
            wanted={"base": 20},
        )
        assert plan(view, replace(ONE, servers=2), NOW) == makes("base", "b", "b")

    def test_callers_get_theirs_where_it_is_done_first(self):
        view = view_of(
            ready("slow", stock={"base": Stock()}, clone_seconds=0.1),
            ready("quick", stock={"base": Stock()}, clone_seconds=0.02),
            waiting={"base": 3},
        )
        targets = Targets(servers=2, ready=0, most=100)
        assert plan(view, targets, NOW) == makes("base", "quick", "quick", "slow")

    def test_what_is_ready_on_a_crowded_server_covers_nobody(self):
        view = view_of(
            ready("a", stock={"base": Stock(ready=5)}, crowded=True),
            ready("b", stock={"base": Stock()}),
            waiting={"base": 1},
            wanted={"base": 0},
        )
        assert plan(view, replace(ONE, servers=2), NOW) == makes("base", "b")

    def test_the_line_of_one_template_does_not_starve_another(self):
        """With room for one at a time, templates take turns: the view names first the one whose turn it is."""
        view = view_of(ready(stock={"base": Stock(leased=3), "shop": Stock()}), waiting={"shop": 1, "base": 1000})
        assert plan(view, Targets(servers=1, ready=0, most=4), NOW) == makes("shop", "s")
        view = view_of(ready(stock={"base": Stock(leased=2), "shop": Stock()}), waiting={"base": 1000, "shop": 2})
        actions = plan(view, Targets(servers=1, ready=0, most=4), NOW)
        assert actions == makes("base", "s") + makes("shop", "s")


class TestDrops:
    def test_when_it_is_calm_all_workers_drop(self):
        view = view_of(ready(stock={"base": Stock(ready=10)}, condemned=condemned(5)))
        assert plan(view, ONE, NOW) == drops("c0", "c1")

    def test_while_tests_run_they_wait(self):
        view = view_of(ready(stock={"base": Stock(ready=10)}, condemned=condemned(25)), quiet=BUSY)
        assert plan(view, ONE, NOW) == []

    def test_the_urgent_do_not_wait(self):
        server = ready(stock={"base": Stock(ready=10)}, condemned=condemned(9))
        view = view_of(server, quiet=BUSY, urgent=frozenset({"c7", "c4", "elsewhere"}))
        assert plan(view, ONE, NOW) == drops("c4", "c7")
        assert plan(replace(view, urgent=frozenset({"c7"})), ONE, NOW) == drops("c7")

    def test_the_urgent_get_a_worker_though_callers_wait(self):
        server = ready(stock={"base": Stock()}, condemned=condemned(3))
        view = view_of(server, quiet=BUSY, waiting={"base": 9}, urgent=frozenset({"c2"}))
        assert plan(view, ONE, NOW) == [*makes("base", "s"), *drops("c2")]

    @pytest.mark.parametrize("want", ["tight", "crowded", "full"])
    def test_where_something_is_short_they_do_not_wait(self, want):
        server = ready(stock={"base": Stock(ready=10)}, condemned=condemned(5), **{want: True})
        assert plan(view_of(server, quiet=BUSY), ONE, NOW) == drops("c0", "c1")

    def test_a_crowded_server_drops_though_callers_wait(self):
        server = ready(stock={"base": Stock(ready=10)}, condemned=condemned(5), crowded=True)
        assert plan(view_of(server, waiting={"base": 3}), ONE, NOW) == drops("c0", "c1")

    def test_until_there_are_many(self):
        many = ready(stock={"base": Stock(ready=10)}, condemned=condemned(26))
        assert plan(view_of(many, quiet=BUSY), ONE, NOW) == drops("c0")
        assert plan(view_of(replace(many, dropping=1), quiet=BUSY), ONE, NOW) == []

    def test_how_many_may_be_chosen(self):
        view = view_of(ready(stock={"base": Stock(ready=10)}, condemned=condemned(6)), quiet=BUSY)
        assert plan(view, replace(ONE, drops_put_off=5), NOW) == drops("c0")

    def test_many_keep_a_worker_though_the_stock_is_low(self):
        view = view_of(ready(stock={"base": Stock()}, condemned=condemned(26)), quiet=BUSY)
        assert plan(view, ONE, NOW) == [*makes("base", "s"), *drops("c0")]

    def test_too_many_leave_one_worker_even_to_callers(self):
        view = view_of(
            ready(stock={"base": Stock()}, condemned=condemned(51), workers=3), quiet=BUSY, waiting={"base": 9}
        )
        assert plan(view, ONE, NOW) == [*makes("base", "s"), *drops("c0", "c1")]

    def test_too_many_take_the_only_worker(self):
        server = ready(stock={"base": Stock()}, condemned=condemned(51), workers=1)
        assert plan(view_of(server, quiet=BUSY, waiting={"base": 9}), ONE, NOW) == drops("c0")
        server = replace(server, condemned=condemned(50))
        assert plan(view_of(server, quiet=BUSY, waiting={"base": 9}), ONE, NOW) == makes("base", "s")

    def test_one_that_cannot_be_dropped_now_takes_up_room_but_no_worker(self):
        view = view_of(ready(stock={"base": Stock()}, condemned=("stuck", "c1")), drop_retry_at={"stuck": NOW + 30})
        targets = Targets(servers=1, ready=10, most=3)
        assert plan(view, targets, NOW) == [*makes("base", "s"), *drops("c1")]

    def test_the_only_worker_fills_the_stock_and_drops_afterwards(self):
        targets = Targets(servers=1, ready=1, most=10)
        empty = view_of(ready(stock={"base": Stock()}, condemned=("c1",), workers=1))
        full = view_of(ready(stock={"base": Stock(ready=1)}, condemned=("c1",), workers=1))
        assert plan(empty, targets, NOW) == makes("base", "s")
        assert plan(full, targets, NOW) == drops("c1")

    def test_without_room_the_condemned_make_room_for_callers(self):
        server = ready(stock={"base": Stock(leased=1)}, condemned=("c1", "c2"))
        view = view_of(server, waiting={"base": 5}, quiet=BUSY)
        assert plan(view, Targets(servers=1, ready=2, most=3), NOW) == drops("c1", "c2")

    def test_without_room_they_make_room_for_a_low_stock(self):
        server = ready(stock={"base": Stock(leased=1)}, condemned=("c1", "c2"))
        view = view_of(server, wanted={"base": 2}, quiet=BUSY)
        assert plan(view, Targets(servers=1, ready=2, most=3), NOW) == drops("c1", "c2")

    def test_on_a_full_server_they_go_at_once(self):
        view = view_of(ready(stock={"base": Stock()}, condemned=condemned(3), full=True), quiet=BUSY)
        assert plan(view, ONE, NOW) == drops("c0", "c1")


class TestSurplus:
    def test_what_nobody_wants_any_more_goes(self):
        view = view_of(ready(stock={"base": Stock(ready=4)}), wanted={"base": 0})
        assert plan(view, ONE, NOW) == [Surplus("s", "base", 4)]

    def test_a_little_more_than_wanted_stays(self):
        def planned(number, quiet=60):
            return plan(view_of(ready(stock={"base": Stock(ready=number)}), wanted={"base": 20}, quiet=quiet), ONE, NOW)

        assert planned(27) == []
        assert planned(28) == [Surplus("s", "base", 8)]
        assert planned(28, quiet=2.9) == []

    def test_it_goes_where_most_is(self):
        view = view_of(
            ready("a", stock={"base": Stock(ready=9)}),
            ready("b", stock={"base": Stock(ready=4)}),
            ready("c", stock={"base": Stock(ready=1)}),
            wanted={"base": 6},
        )
        assert plan(view, replace(ONE, servers=3), NOW) == [Surplus("a", "base", 7), Surplus("b", "base", 1)]

    def test_a_ceiling_filled_by_another_template_gives_way_to_a_caller(self):
        stock = {"base": Stock(ready=8), "shop": Stock(leased=1), "mail": Stock(ready=1)}
        view = view_of(ready(stock=stock), waiting={"shop": 3}, wanted={"base": 4, "shop": 4, "mail": 4}, quiet=BUSY)
        assert plan(view, replace(ONE, most=10), NOW) == [Surplus("s", "base", 3)]

    def test_and_only_as_much_as_is_not_being_dropped_already(self):
        server = ready(stock={"base": Stock(ready=8), "shop": Stock()}, condemned=("c1",), dropping=1)
        actions = plan(view_of(server, waiting={"shop": 3}, quiet=BUSY), replace(ONE, most=10), NOW)
        assert actions == [*drops("c1"), Surplus("s", "base", 1)]

    def test_nothing_gives_way_to_who_cannot_be_served_anyway(self):
        view = view_of(ready(stock={"base": Stock(ready=10)}), waiting={"unknown": 3}, quiet=BUSY)
        assert plan(view, replace(ONE, most=10), NOW) == []

    def test_a_full_server_gives_way_too(self):
        server = ready(stock={"base": Stock(ready=8), "shop": Stock()}, full=True)
        view = view_of(server, waiting={"shop": 2}, quiet=BUSY)
        assert plan(view, ONE, NOW) == [Surplus("s", "base", 2)]
        room = ready("t", stock={"shop": Stock()})
        assert plan(view_of(server, room, waiting={"shop": 2}, quiet=BUSY), replace(ONE, servers=2), NOW) == [
            *makes("shop", "t", "t"),
        ]

    def test_who_waits_gets_the_room_in_the_end(self):
        pool = Pool(Targets(servers=1, ready=0, most=6), TEMPLATES, wanted={"base": 6})
        pool.rest()
        pool.waiting = [(1, "shop"), (2, "shop")]
        pool.rest()
        assert not pool.waiting
        assert len(pool.held) == 2


# --- in simulation ---

bounds = st.builds(
    Targets,
    servers=st.integers(1, 3),
    ready=st.integers(0, 4),
    most=st.integers(1, 12),
    drops_put_off=st.integers(0, 10),
)


@given(bounds, st.integers(1, 2), st.integers(1, 3), st.data())
@settings(max_examples=200, deadline=None)
def test_whatever_happened_the_pool_comes_to_rest_on_its_targets(targets, templates, workers, data):
    pool = Pool(targets, TEMPLATES[:templates], workers)
    deeds = st.sampled_from(pool.deeds())
    for _ in range(data.draw(st.integers(0, 60))):
        pool.do(data.draw(deeds), data.draw(st.integers(0, 1000)))
    pool.rest()
    pool.check_rest()


@given(bounds, st.integers(1, 3), st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_servers_too_many_go_one_by_one_and_no_wanted_one_with_them(targets, fewer, seed):
    """As after a restart with a smaller LEASEDB_POOL_SERVERS."""
    random, pool = Random(seed), Pool(targets, TEMPLATES[:1])
    pool.rest()
    pool.targets = replace(targets, servers=min(fewer, targets.servers))
    for _ in range(40):
        pool.do(random.choice(["act", "finish", "ask"]), random.randrange(1000))
        staying = [state for state in pool.servers.values() if state in {ServerState.READY, ServerState.STARTING}]
        assert len(staying) >= pool.targets.servers
    while pool.held:
        pool.do("release", 0)
        pool.rest()
    pool.waiting.clear()
    pool.rest()
    pool.check_rest()


@given(bounds, st.integers(1, 2), st.integers(1, 3), st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_everybody_in_line_is_served_when_leases_end(targets, templates, workers, seed):
    """With one lease at a time per caller and every lease ending, nobody waits for ever, though it is never calm."""
    random = Random(seed)
    pool = Pool(targets, TEMPLATES[:templates], workers, quiet=0.0)
    for _ in range(30):
        pool.do("ask", random.randrange(1000))
    for _ in range(2000):
        if not pool.waiting:
            break
        pool.do(random.choice(["act", "act", "finish", "finish", "release"]), random.randrange(1000))
    assert not pool.waiting


@given(bounds, st.integers(1, 3), st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_the_condemned_never_pile_up_though_it_is_never_calm_and_somebody_always_waits(targets, workers, seed):
    targets = replace(targets, most=200)
    random, pool = Random(seed), Pool(targets, TEMPLATES, workers, quiet=0.0)
    limit = max(2 * targets.drops_put_off, 8)
    for _ in range(120):
        while len(pool.waiting) < 5:
            pool.do("ask", random.randrange(1000))
        for deed in ("act", "finish", "act", "finish", "act", "finish", "release"):
            pool.do(deed, random.randrange(1000))
        assert sum(database.state is DatabaseState.CONDEMNED for database in pool.databases.values()) <= limit + 25


def test_a_plan_looks_at_each_server_and_template_a_few_times_only():
    """What is decided for many servers is what a single look decides; cost is counted, not timed."""
    looks = Counter()

    class Counted(dict):
        def items(self):
            looks["stock"] += len(self)
            return super().items()

        def values(self):
            looks["stock"] += len(self)
            return super().values()

    templates = [f"t{number}" for number in range(20)]
    servers = [
        ready(f"s{number}", stock=Counted({name: Stock() for name in templates}), workers=8) for number in range(100)
    ]
    view = view_of(*servers, waiting=dict.fromkeys(templates, 100), wanted=dict.fromkeys(templates, 500))
    actions = plan(view, Targets(servers=100, ready=0, most=100_000), NOW)
    assert len(actions) == 800
    assert looks["stock"] <= 10 * 100 * 20
