"""Servers that are leased as a whole; on fakes."""

import asyncio

import pytest

from leasedb_server.domain.database import DatabaseState
from leasedb_server.domain.edition import Editions
from leasedb_server.domain.errors import (
    ExclusiveUnavailableError,
    IdempotencyInProgressError,
    LeaseEndedError,
    LeaseLostError,
    PoolExhaustedError,
    ServerRefusedError,
    ServerStartError,
    ServerUnreachableError,
    ShuttingDownError,
    StoreFailedError,
    UnknownTemplateError,
    VersionUnavailableError,
)
from leasedb_server.domain.lease import LeaseState
from leasedb_server.domain.server import ServerState
from leasedb_server.usecases.asking import CallerGoneError
from leasedb_server.usecases.exclusive import MOST_BEYOND
from tests.doubles import FakeProcesses
from tests.usecases.stage import FEW, Life, begun, living, run

FULL = StoreFailedError("The state file cannot be written: database or disk is full.")
REFUSED = ServerRefusedError("could not create", sqlstate="53100")
NO_MEMORY = ServerStartError("no memory")
TWO_EDITIONS = Editions("18", None, ("17",))


def whole(life, *, idle=None):
    """Return the servers that are leased as a whole, or can be; those with a database or those without."""
    servers = [one for one in life.inventory.servers.values() if one.exclusive]
    return [one for one in servers if idle in {None, not life.inventory.databases_of(one.id)}]


async def asking(life, *holders, **more):
    callers = [asyncio.ensure_future(life.acquire_whole(holder, **{"wait": 600.0, **more})) for holder in holders]
    await life.turns(3)
    return callers


async def leased(life, *holders, **more):
    callers = await asking(life, *(holders or ("a",)), **more)
    await life.settle()
    leases = [await caller for caller in callers]
    await life.settle()
    return leases


async def rested(life):
    for _ in range(3):
        life.clock.advance(1)
        await life.settle()
    await life.check()


# --- leasing ---


@living(targets=FEW, warm=1)
async def test_a_warm_server_is_leased_at_once_and_another_is_started(life):
    (warm,) = whole(life)
    lease = await life.acquire_whole(wait=0, database="app db", user="owner")
    database = life.database(lease)
    assert (database.server_id, database.name, database.login) == (warm.id, "app db", "owner")
    assert life.server_of(lease).opened_up
    life.log_in(lease)
    await life.settle()
    assert len(whole(life, idle=True)) == 1
    await rested(life)
    assert life.count(DatabaseState.READY) == FEW.ready, "the others' pool is as it was"


@living(targets=FEW)
async def test_without_a_warm_one_a_server_is_started_for_who_asks(life):
    assert whole(life) == []
    (lease,) = await leased(life)
    assert life.database(lease).name.startswith("leasedb_")
    life.log_in(lease)
    assert len(whole(life)) == 1
    with pytest.raises(PoolExhaustedError, match=r"No server came free within 0 s: 1 are leased .* number 1 in line"):
        await life.acquire_whole(wait=0)
    await rested(life)


@living(targets=FEW, warm=1)
async def test_a_shared_lease_never_lies_on_a_whole_server(life):
    leases = [await life.leased() for _ in range(4)]
    assert all(not life.inventory.server_of(life.database(lease)).exclusive for lease in leases)
    (server,) = whole(life)
    assert life.inventory.databases_of(server.id) == []


@living(targets=FEW, warm=1)
async def test_a_template_is_brought_along(life):
    await life.put("shop", "tables;")
    await life.settle()
    (lease,) = await leased(life, template="shop")
    assert life.content(lease) == "tables;"
    await rested(life)
    with pytest.raises(UnknownTemplateError):
        await life.acquire_whole(template="nothing")


@living(targets=FEW, warm=1)
async def test_a_template_that_is_just_being_kept_is_brought_along_too(life):
    """Its files are written once, however many need them."""
    await life.put("shop", "tables;")
    life.files.faults.hanging = {"write"}
    await life.upkeep.turn(life.spawn)
    (caller,) = await asking(life, "a", template="shop")
    await life.turns(10)
    life.files.faults.let_go()
    assert life.content(await caller) == "tables;"
    await life.settle()
    await rested(life)


@living(targets=FEW, warm=1)
async def test_a_template_that_cannot_be_brought_costs_a_server_and_no_more(life):
    await life.put("shop", "tables;")
    await life.settle()
    life.admin.faults.errors = {"import_copy": [REFUSED]}
    with pytest.raises(ServerRefusedError):
        await life.acquire_whole(template="shop")
    await rested(life)
    assert len(whole(life, idle=True)) == 1
    (lease,) = await leased(life, template="shop")
    assert life.content(lease) == "tables;"


@living(targets=FEW, editions=TWO_EDITIONS, warm=1)
async def test_a_server_of_another_edition_is_started_for_its_caller(life):
    (lease,) = await leased(life, postgres="17")
    server = life.inventory.server_of(life.database(lease))
    assert (server.edition, server.versions.major) == ("17", "17")
    with pytest.raises(VersionUnavailableError):
        await life.acquire_whole(postgres="16")
    await rested(life)
    assert [one.edition for one in whole(life, idle=True)] == [""]


@living(targets=FEW, kinds={"existing": False}, warm=1)
async def test_a_lent_server_is_not_leased_as_a_whole(life):
    with pytest.raises(ExclusiveUnavailableError, match=r"^No whole server can .* lends one server"):
        await life.acquire_whole()
    assert whole(life) == []


@living(targets=FEW)
async def test_where_a_superuser_could_do_anything_a_token_is_needed(life):
    life.backends["embedded"].confined = False
    with pytest.raises(ExclusiveUnavailableError, match=r"^No whole server can .* run programs as the user"):
        await life.acquire_whole()


@living(targets=FEW)
async def test_a_repeated_request_gets_the_same_server(life):
    (first,) = await asking(life, "a", key="k", digest="d")
    with pytest.raises(IdempotencyInProgressError):
        await life.acquire_whole("a", key="k", digest="d")
    await life.settle()
    assert await life.acquire_whole("a", key="k", digest="d") == await first
    assert len(whole(life)) == 1


# --- in line ---


@living(targets=FEW)
async def test_who_came_first_is_served_first(life):
    callers = await asking(life, *"abcdefghijkl")
    await life.settle()
    assert [caller.done() for caller in callers] == [True] * MOST_BEYOND + [False] * (12 - MOST_BEYOND)
    for number in range(MOST_BEYOND, 12):
        await life.leasing.release((await callers[number - MOST_BEYOND]).id, sync=False)
        await life.settle()
        assert [caller.done() for caller in callers] == [True] * (number + 1) + [False] * (11 - number)
    assert len(whole(life)) == MOST_BEYOND
    await rested(life)


@living(targets=FEW)
async def test_patience_ends_with_the_place_in_line_and_the_latest_trouble(life):
    life.backends["embedded"].faults.always = {"start": NO_MEMORY}
    callers = await asking(life, "a", "b", wait=5.0)
    await life.settle()
    for number, caller in enumerate(callers, start=1):
        with pytest.raises(PoolExhaustedError, match=f"number {number} in line.* no memory") as caught:
            await caller
        assert caught.value.position == number


@living(targets=FEW)
async def test_a_start_that_fails_is_tried_again_after_a_pause(life):
    life.backends["embedded"].faults.errors = {"start": [NO_MEMORY] * 2}
    (caller,) = await asking(life, "a")
    await life.settle()
    assert not caller.done()
    assert len(life.backends["embedded"].faults.errors["start"]) == 1, "no pause"
    for _ in range(3):
        life.clock.advance(1)
        await life.settle()
    life.log_in(await caller)
    await rested(life)


@living(targets=FEW)
async def test_who_hangs_up_leaves_the_line_and_its_server_goes(life):
    gone = asyncio.Event()
    (left,) = await asking(life, "a", gone=gone.wait)
    await life.upkeep.turn(life.spawn)
    await life.turns(2)
    assert [one.state for one in whole(life)] == [ServerState.STARTING]
    gone.set()
    with pytest.raises(CallerGoneError):
        await left
    await rested(life)
    assert whole(life) == []


@pytest.mark.parametrize("next_in_line", [False, True])
def test_a_server_handed_to_a_caller_who_just_left_goes_to_the_next(next_in_line):
    async def work():
        life = await begun(targets=FEW, warm=1)
        (server,), gone = whole(life), asyncio.Event()
        life.exclusives._taken.add(server.id)
        (left,) = await asking(life, "a", gone=gone.wait)
        others = await asking(life, "b") if next_in_line else []
        life.exclusives._taken.discard(server.id)
        life.exclusives.serve()
        gone.set()
        with pytest.raises(CallerGoneError):
            await left
        await life.turns(30)
        for other in others:
            assert life.database(await other).server_id == server.id
        assert len(life.inventory.active_leases()) == int(next_in_line)

    run(work())


@living(targets=FEW, warm=1)
async def test_who_hangs_up_while_the_server_is_made_ready_has_leased_nothing(life):
    gone = asyncio.Event()
    life.admin.faults.hanging = {"create_exclusive"}
    (caller,) = await asking(life, "a", gone=gone.wait)
    gone.set()
    await life.turns(3)
    life.admin.faults.let_go()
    with pytest.raises(CallerGoneError):
        await caller
    await rested(life)
    assert life.inventory.active_leases() == []


@living(targets=FEW, warm=1)
async def test_a_server_lost_during_the_hand_over_is_not_leased(life):
    (server,) = whole(life)
    life.exclusives._taken.add(server.id)
    (caller,) = await asking(life, "a")
    life.exclusives._taken.discard(server.id)
    life.exclusives.serve()
    await life.ledger.put_server(server.to(ServerState.LOST, "died"))
    await life.turns(3)
    assert not caller.done()
    await life.settle()
    life.log_in(await caller)
    await rested(life)


@living(targets=FEW)
async def test_a_stopping_daemon_refuses_those_in_line(life):
    (caller,) = await asking(life, "a")
    life.leasing.close()
    for late in (caller, life.acquire_whole()):
        with pytest.raises(ShuttingDownError):
            await late


# --- what fails while it is made ready ---


@pytest.mark.parametrize("method", ["open_up", "create_exclusive"])
def test_a_server_that_cannot_be_made_ready_is_thrown_away(method):
    async def work():
        life = await begun(targets=FEW)
        life.admin.faults.errors = {method: [REFUSED]}
        (caller,) = await asking(life, "a")
        for _ in range(3):
            await life.settle()
            life.clock.advance(1)
        if method == "create_exclusive":
            with pytest.raises(ServerRefusedError):
                await caller
        else:
            life.log_in(await caller)
        await rested(life)
        assert len(whole(life)) == int(method == "open_up")

    run(work())


@pytest.mark.parametrize("commit", range(1, 8))
def test_a_store_that_fails_once_leaves_no_server_behind(commit):
    async def work():
        life = await begun(targets=FEW)
        life.store.fails = frozenset({life.store.tried + commit})
        (caller,) = await asking(life, "a")
        for _ in range(4):
            await life.settle()
            life.clock.advance(1)
        if not isinstance(caller.exception(), StoreFailedError):
            await life.leasing.release((await caller).id, sync=False)
        await rested(life)
        assert whole(life) == []

    run(work())


@living(targets=FEW, warm=2)
async def test_what_was_begun_goes_on_though_the_store_fails_for_the_next(life):
    """A template is to be dropped and two servers to be started, and only one of them can be written down."""
    await life.put("shop", "tables;")
    await life.settle()
    for server in whole(life):
        life.world.servers[server.name].alive = False
    await life.upkeep.check_servers()
    await life.templating.delete("shop")
    life.store.faults.errors = {"save_server": [FULL, FULL]}
    await rested(life)
    assert len(whole(life, idle=True)) == 2
    assert life.inventory.copies_from("shop") == []


# --- thrown away ---


async def released(life, lease):
    await life.leasing.release(lease.id, sync=True)
    return LeaseState.RELEASED


async def expired(life, lease):
    life.clock.advance(301)
    await life.upkeep.reap()
    return LeaseState.EXPIRED


async def died(life, lease):
    life.processes.started.clear()
    await life.upkeep.reap()
    return LeaseState.RELEASED


@pytest.mark.parametrize("end", [released, expired, died])
def test_a_server_is_thrown_away_with_its_lease(end):
    async def work():
        processes = FakeProcesses()
        processes.started = {7: 100.0}
        life = await begun(targets=FEW, processes=processes, warm=1)
        lease = await life.acquire_whole(pid=7)
        server = life.server_of(lease)
        assert await end(life, lease) == life.leasing.get(lease.id).state
        assert server.name not in life.world.servers
        with pytest.raises(LeaseEndedError):
            await life.leasing.renew(lease.id, 10)
        await rested(life)
        assert len(whole(life, idle=True)) == 1

    run(work())


@pytest.mark.parametrize("hangs", [False, True], ids=["fails", "hangs"])
def test_a_server_that_cannot_be_thrown_away_now_is_later_and_nobody_waits_for_it(hangs):
    async def work():
        life = await begun(targets=FEW, warm=1)
        (lease,) = await leased(life)
        server = life.server_of(lease)
        faults = life.backends["embedded"].faults
        faults.only = lambda name: name == server.name
        faults.hanging, faults.errors = ({"stop"}, {}) if hangs else (set(), {"stop": [ServerUnreachableError("no")]})
        before = asyncio.get_running_loop().time()
        await life.leasing.release(lease.id, sync=False)
        assert asyncio.get_running_loop().time() - before <= 5.1
        assert not life.leasing.get(lease.id).active
        again = await life.acquire_whole(wait=0)
        assert life.server_of(again) is not server
        faults.let_go()
        await rested(life)
        assert server.name not in life.world.servers

    run(work())


@living(targets=FEW, warm=1)
async def test_a_server_that_dies_takes_its_lease_along(life):
    (lease,) = await leased(life)
    life.server_of(lease).alive = False
    await life.upkeep.check_servers()
    with pytest.raises(LeaseLostError):
        await life.leasing.renew(lease.id, 10)
    await rested(life)
    assert len(whole(life)) == 1


@living(targets=FEW, warm=2)
async def test_a_daemon_that_stops_takes_all_servers_away(life):
    (lease,) = await leased(life)
    life.backends["embedded"].faults.hanging = {"stop"}
    release = asyncio.ensure_future(life.leasing.release(lease.id, sync=False))
    await life.turns(5)
    stopping = asyncio.ensure_future(life.upkeep.shut_down())
    await life.turns(5)
    life.backends["embedded"].faults.let_go()
    await asyncio.gather(release, stopping)
    assert life.world.servers == {}
    assert life.inventory.servers == {}


# --- no more than wanted ---


@living(targets=FEW, editions=TWO_EDITIONS, warm=1)
async def test_servers_beyond_what_is_wanted_go_and_the_warm_ones_stay(life):
    (warm,), gone = whole(life), asyncio.Event()
    callers = await asking(life, "a", "b", gone=gone.wait, postgres="17")
    await life.upkeep.turn(life.spawn)
    await life.turns(2)
    assert len(whole(life)) == 3
    gone.set()
    await asyncio.gather(*callers, return_exceptions=True)
    await rested(life)
    assert whole(life) == [warm]


# --- taken over ---


@living(targets=FEW, warm=1)
async def test_a_whole_server_goes_on_under_the_next_daemon(life):
    (lease,) = await leased(life, database="app", user="owner")
    (idle,) = whole(life, idle=True)
    life.log_in(lease)
    again = await Life(life.world, life.store, life.clock, files=life.files, targets=FEW, warm=1).begin()
    again.log_in(lease)
    assert [one.id for one in whole(again, idle=True)] == [idle.id]
    await rested(again)
    await again.leasing.release(lease.id, sync=True)
    await rested(again)
