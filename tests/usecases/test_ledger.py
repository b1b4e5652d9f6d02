"""Facts that could not be written down at their time; on fakes."""

import pytest

from leasedb_server.domain.errors import StoreFailedError
from leasedb_server.domain.inventory import Inventory
from leasedb_server.domain.server import Server, ServerState
from leasedb_server.domain.template import Copy, CopyState
from leasedb_server.usecases.ledger import Ledger
from tests.doubles import MemoryStore
from tests.usecases.stage import run

SERVER = Server("s1", "s1", "embedded", 1.0)
COPY = Copy("c1", "s1", "shop", "leasedb_c1")


async def written(store):
    """Return what a daemon that starts now would know."""
    inventory = Inventory()
    await Ledger(inventory, store).load()
    return inventory


def test_a_fact_holds_at_once_and_is_written_down_with_the_next_thing_that_can_be():
    async def work():
        store = MemoryStore()
        ledger = Ledger(Inventory(), store)
        store.fails = frozenset({1, 2, 4})
        await ledger.put_copy(COPY, fact=True)
        await ledger.put_server(SERVER, fact=True)
        assert ledger.inventory.copies == {"c1": COPY}
        assert ledger.inventory.servers == {"s1": SERVER}
        await ledger.put_server(stopping := SERVER.to(ServerState.STOPPING))
        assert (await written(store)).servers == {"s1": stopping}
        assert (await written(store)).copies == {}, "it failed again"
        await ledger.put_server(SERVER)
        assert (await written(store)).copies == {"c1": COPY}

    run(work())


def test_what_came_after_a_fact_is_not_written_over():
    async def work():
        store = MemoryStore()
        ledger = Ledger(Inventory(), store)
        store.fails = frozenset({1})
        await ledger.put_copy(COPY, fact=True)
        await ledger.put_copy(sealed := COPY.to(CopyState.SEALED))
        await ledger.put_server(SERVER)
        assert (await written(store)).copies == {"c1": sealed}

    run(work())


def test_what_is_no_fact_is_not_known_when_it_could_not_be_written():
    async def work():
        store = MemoryStore()
        ledger = Ledger(Inventory(), store)
        store.fails = frozenset({1})
        with pytest.raises(StoreFailedError):
            await ledger.put_copy(COPY)
        await ledger.put_server(SERVER)
        assert ledger.inventory.copies == (await written(store)).copies == {}

    run(work())
