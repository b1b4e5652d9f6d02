"""The pool's planner: what it never does, and that it gets there."""

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leasedb_server.domain.pool import (
    DropDatabase,
    MakeDatabase,
    ServerView,
    StartServer,
    Stock,
    StopServer,
    Targets,
    View,
    plan,
)
from leasedb_server.domain.server import ServerState
from tests.domain.simulation import TEMPLATES, Pool

NOW = 1000.0
small = st.integers(0, 4)
stocks = st.builds(Stock, ready=small, making=small, leased=small)
instants = st.sampled_from([0.0, NOW, NOW + 0.5, NOW + 30])
targets_of_any_size = st.builds(
    Targets, servers=st.integers(1, 4), ready=st.integers(0, 5), most=st.integers(1, 20), workers=st.integers(1, 4)
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
            )
        )
    waiting = draw(st.dictionaries(st.sampled_from(TEMPLATES), small))
    stuck = {name: draw(instants) for server in servers for name in server.condemned[:1]}
    return View(tuple(servers), waiting, retry_at=draw(instants), drop_retry_at=stuck)


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
    for server_id, number in work.items():
        server = servers[server_id]
        assert server.at_work + number <= targets.workers
        assert server.retry_at <= NOW
        assert server.state is ServerState.READY
        assert server_id not in {stop.server_id for stop in stops}
    assert all(make.template in servers[make.server_id].stock for make in makes)

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
    surplus = max(0, len(staying) - targets.servers)
    assert len([server for server in staying if server.id in stopped]) <= surplus


@given(views(), targets_of_any_size)
@settings(max_examples=150, deadline=None)
def test_callers_in_line_come_first(view, targets):
    """While somebody waits for a database that is not coming yet, no worker who could make it does anything else."""
    actions = plan(view, targets, NOW)
    made = Counter(make.template for make in of(actions, MakeDatabase))
    stopped = {stop.server_id for stop in of(actions, StopServer)}
    usable = [
        server
        for server in view.servers
        if server.state is ServerState.READY and server.retry_at <= NOW and server.id not in stopped
    ]
    room = targets.most - sum(server.databases for server in view.servers)
    for template, number in view.waiting.items():
        able = [server for server in usable if template in server.stock and server.at_work < targets.workers]
        there = [server.stock[template] for server in usable if template in server.stock]
        missing = number - sum(stock.ready + stock.making for stock in there)
        others_missing = sum(view.waiting.values()) - number
        workers = sum(targets.workers - server.at_work for server in able)
        if missing > 0 and not others_missing:
            assert made[template] >= min(missing, workers, room)


def view_of(*servers, **more):
    return View(tuple(servers), **more)


def ready(name="s", **more):
    return ServerView(name, ServerState.READY, **more)


def test_a_server_being_stopped_does_not_cost_another_its_life():
    """One of two servers too many is on its way out; the one that is wanted stays."""
    view = view_of(ServerView("old", ServerState.STOPPING), ready("new", stock={"base": Stock(ready=2)}))
    assert plan(view, Targets(servers=1, ready=2, most=10), NOW) == []


def test_a_worker_is_kept_for_drops_while_nobody_waits():
    view = view_of(ready(stock={"base": Stock()}, condemned=("c1", "c2", "c3")))
    actions = plan(view, Targets(servers=1, ready=10, most=100), NOW)
    assert actions == [MakeDatabase("s", "base"), DropDatabase("c1")]


def test_a_worker_is_kept_for_drops_when_the_other_is_making_already():
    view = view_of(ready(stock={"base": Stock(making=1)}, condemned=("c1", "c2", "c3")))
    assert plan(view, Targets(servers=1, ready=10, most=100), NOW) == [DropDatabase("c1")]


def test_a_database_that_cannot_be_dropped_now_takes_up_room_but_no_worker():
    view = view_of(ready(stock={"base": Stock()}, condemned=("stuck", "c1", "c2")), drop_retry_at={"stuck": NOW + 30})
    targets = Targets(servers=1, ready=10, most=4)
    assert plan(view, targets, NOW) == [MakeDatabase("s", "base"), DropDatabase("c1")]
    view = view_of(ready(stock={"base": Stock()}, condemned=("stuck",)), drop_retry_at={"stuck": NOW + 30})
    assert plan(view, targets, NOW) == [MakeDatabase("s", "base")] * 2


def test_drops_leave_a_worker_for_making():
    view = view_of(ready(stock={"base": Stock()}, condemned=("c1", "c2"), dropping=1))
    assert plan(view, Targets(servers=1, ready=10, most=100), NOW) == [MakeDatabase("s", "base")]


def test_the_only_worker_fills_the_stock_and_drops_afterwards():
    targets = Targets(servers=1, ready=1, most=10, workers=1)
    empty = view_of(ready(stock={"base": Stock()}, condemned=("c1",)))
    full = view_of(ready(stock={"base": Stock(ready=1)}, condemned=("c1",)))
    assert plan(empty, targets, NOW) == [MakeDatabase("s", "base")]
    assert plan(full, targets, NOW) == [DropDatabase("c1")]


def test_without_room_the_condemned_make_room():
    view = view_of(ready(stock={"base": Stock(leased=1)}, condemned=("c1", "c2")), waiting={"base": 5})
    assert plan(view, Targets(servers=1, ready=2, most=3), NOW) == [DropDatabase("c1"), DropDatabase("c2")]


def test_with_nothing_kept_ready_callers_are_still_served():
    view = view_of(ready(stock={"base": Stock()}), waiting={"base": 1})
    assert plan(view, Targets(servers=1, ready=0, most=3), NOW) == [MakeDatabase("s", "base")]


def test_the_emptiest_server_is_filled_first():
    view = view_of(ready("a", stock={"base": Stock(ready=3)}), ready("b", stock={"base": Stock(ready=1)}))
    actions = plan(view, Targets(servers=2, ready=4, most=5), NOW)
    assert actions == [MakeDatabase("b", "base")]


@pytest.mark.parametrize("state", [ServerState.LOST, ServerState.STOPPING, ServerState.STARTING])
def test_a_server_on_its_way_takes_its_place(state):
    view = view_of(ServerView("s", state, retry_at=NOW + 1))
    assert plan(view, Targets(servers=1, ready=2, most=10), NOW) == []


# --- in simulation ---

bounds = st.builds(
    Targets, servers=st.integers(1, 3), ready=st.integers(0, 4), most=st.integers(1, 12), workers=st.integers(1, 3)
)


@given(bounds, st.integers(1, 2), st.data())
@settings(max_examples=200, deadline=None)
def test_whatever_happened_the_pool_comes_to_rest_on_its_targets(targets, templates, data):
    pool = Pool(targets, TEMPLATES[:templates])
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


@given(bounds, st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_everybody_in_line_is_served_when_leases_end(targets, seed):
    """With one lease at a time per caller and every lease ending, nobody waits for ever."""
    random = Random(seed)
    pool = Pool(targets, TEMPLATES[:1])
    for _ in range(30):
        pool.do("ask", random.randrange(1000))
    for _ in range(2000):
        if not pool.waiting:
            break
        pool.do(random.choice(["act", "act", "finish", "finish", "release"]), random.randrange(1000))
    assert not pool.waiting
