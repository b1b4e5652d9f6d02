"""The inventory's indexes agree with a naive recount after whatever was put in."""

from collections import Counter
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from leasedb_server.domain.database import Database, DatabaseState
from leasedb_server.domain.inventory import ENDED_KEPT, Inventory, with_labels
from leasedb_server.domain.lease import Holder, Lease, LeaseState
from leasedb_server.domain.server import Endpoint, Server, ServerState, Versions
from leasedb_server.domain.template import Copy, CopyState

ENDPOINT = Endpoint("127.0.0.1", 1, "u", "p")
TEMPLATES = st.sampled_from(["base", "shop"])
S, D = ServerState, DatabaseState


def lease_on(database_id, number, **more):
    return Lease(f"l{number}", database_id, Holder(), {}, 0.0, 10.0, 20.0, 10.0, **more)


class Recounted(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.inventory = Inventory()
        self.servers = {}
        self.templates = {}
        self.databases = {}
        self.leases = {}
        self.condemned_in_order = []
        self.number = 0
        self.now = 0.0

    def next_id(self):
        self.number += 1
        return str(self.number)

    # --- what happens ---

    @rule(major=st.sampled_from(["16", "18"]), templates=st.sets(TEMPLATES))
    def server_comes(self, major, templates):
        server = Server(self.next_id(), "n", "embedded", 0.0).ready(ENDPOINT, Versions(f"{major}.1", "0.8.1"), 0.0)
        self.put_server(server)
        for name in templates:
            template = Copy(self.next_id(), server.id, name, "db", CopyState.SEALED)
            self.templates[template.id] = template
            self.inventory.put_copy(template)

    @precondition(lambda self: self.servers)
    @rule(data=st.data())
    def server_goes_on_its_way(self, data):
        server = data.draw(st.sampled_from(sorted(self.servers.values(), key=lambda one: int(one.id))))
        target = data.draw(st.sampled_from([S.LOST, S.STOPPING, S.GONE]))
        if server.state is S.GONE or (server.state is target) or (server.state, target) == (S.GONE, S.GONE):
            return
        if target is S.GONE:
            for template in [one for one in self.templates.values() if one.server_id == server.id]:
                self.inventory.put_copy(template.to(CopyState.GONE))
                del self.templates[template.id]
            for database in [one for one in self.databases.values() if one.server_id == server.id]:
                if database.state is not D.GONE:
                    self.put_database(database.to(D.GONE))
        self.put_server(server.to(target))

    @precondition(lambda self: self.servers)
    @rule(data=st.data(), template=TEMPLATES)
    def database_comes(self, data, template):
        server = data.draw(st.sampled_from(sorted(self.servers, key=int)))
        if self.servers[server].state is not S.GONE:
            name = self.next_id()
            self.put_database(Database(name, server, template, name, name, "p"))

    @precondition(lambda self: self.databases)
    @rule(data=st.data(), state=st.sampled_from(D))
    def database_goes_on(self, data, state):
        database = self.databases[data.draw(st.sampled_from(sorted(self.databases, key=int)))]
        follows = {D.MAKING: D.READY, D.CONDEMNED: D.DROPPING, D.DROPPING: D.GONE}
        held = any(lease.database_id == database.id and lease.active for lease in self.leases.values())
        target = state if state in {D.CONDEMNED, D.GONE} else follows.get(database.state)
        if target is None or database.state in {D.GONE, target} or held:
            return
        if (
            (database.state, target) == (D.DROPPING, D.CONDEMNED)
            or database.state is not D.DROPPING
            or target is D.GONE
        ):
            self.put_database(database.to(target))

    @rule(template=TEMPLATES, key=st.sampled_from([None, "k1", "k2"]))
    def lease(self, template, key):
        fitting = Counter()
        for one in self.databases.values():
            server = self.servers[one.server_id]
            if not server.exclusive and (one.state, one.template, server.state) == (D.READY, template, S.READY):
                fitting[one.server_id] += 1
        database = self.inventory.take_ready(template)
        if not fitting:
            assert database is None
            return
        leased = Counter(
            one.server_id for one in self.databases.values() if (one.state, one.template) == (D.LEASED, template)
        )
        chosen = database.server_id
        assert (leased[chosen], -fitting[chosen]) == min((leased[one], -fitting[one]) for one in fitting)
        assert self.databases[database.id] is database
        if key and self.inventory.lease_by_key(key):
            key = None  # it would have got the lease it got before
        self.put_database(database.to(D.LEASED))
        self.put_lease(lease_on(database.id, self.next_id(), idempotency_key=key))

    @precondition(lambda self: any(lease.active for lease in self.leases.values()))
    @rule(data=st.data())
    def lease_ends(self, data):
        active = sorted(lease.id for lease in self.leases.values() if lease.active)
        lease = self.leases[data.draw(st.sampled_from(active))]
        self.now += 1
        self.put_lease(lease.ended(LeaseState.RELEASED, self.now, "why"))
        database = self.databases[lease.database_id]
        if database.state is D.LEASED:
            self.put_database(database.to(D.CONDEMNED))

    @precondition(lambda self: self.leases)
    @rule(ago=st.integers(0, 5))
    def forget(self, ago):
        before = self.now - ago
        self.inventory.forget_ended(before)
        ended = [lease for lease in self.leases.values() if not lease.active and lease.ended_at < before]
        for lease in ended:
            del self.leases[lease.id]
        self.forget_gone()

    def put_server(self, server):
        self.servers[server.id] = server
        self.inventory.put_server(server)

    def put_database(self, database):
        self.databases[database.id] = database
        self.inventory.put_database(database)
        self.condemned_in_order = [one for one in self.condemned_in_order if one != database.id]
        if database.state is D.CONDEMNED:
            self.condemned_in_order.append(database.id)
        self.forget_gone()

    def put_lease(self, lease):
        self.leases[lease.id] = lease
        self.inventory.put_lease(lease)

    def forget_gone(self):
        """A database that is gone stays for as long as a lease of it can be asked about."""
        referred = {lease.database_id for lease in self.leases.values()}
        gone = [one.id for one in self.databases.values() if one.state is D.GONE and one.id not in referred]
        for name in gone:
            del self.databases[name]

    # --- what always holds ---

    @invariant()
    def the_same_things_are_there(self):
        assert self.inventory.databases == self.databases
        assert self.inventory.leases == self.leases
        assert self.inventory.servers == {name: one for name, one in self.servers.items() if one.state is not S.GONE}
        assert self.inventory.copies == self.templates
        active = {lease.id for lease in self.leases.values() if lease.active}
        assert {lease.id for lease in self.inventory.active_leases()} == active

    @invariant()
    def counts_agree(self):
        counts = Counter((one.server_id, one.template, one.state) for one in self.databases.values())
        assert self.inventory._counts == counts
        by_state = Counter(one.state for one in self.databases.values())
        assert self.inventory.counts_of_all() == by_state

    @invariant()
    def the_view_agrees(self):
        for view in self.inventory.view({}, {}, 0.0).servers:
            own = [one for one in self.databases.values() if one.server_id == view.id and one.state is not D.GONE]
            assert view.databases == len(own)
            assert view.at_work == sum(one.state in {D.MAKING, D.DROPPING} for one in own)
            assert view.condemned == tuple(
                name for name in self.condemned_in_order if self.databases[name].server_id == view.id
            )
            assert self.inventory.databases_of(view.id) == own

    @invariant()
    def keys_lead_to_their_leases(self):
        for key in ("k1", "k2"):
            of_key = [lease for lease in self.leases.values() if lease.idempotency_key == key]
            assert [self.inventory.lease_by_key(key)] == (of_key or [None])

    @invariant()
    def the_server_of_every_lease_is_known(self):
        for lease in self.leases.values():
            database = self.inventory.databases[lease.database_id]
            assert self.inventory.server_of(database).id == database.server_id


TestRecounted = Recounted.TestCase
TestRecounted.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_only_so_many_ended_leases_are_kept():
    inventory = Inventory()
    inventory.put_server(Server("s", "n", "embedded", 0.0))
    for number in range(ENDED_KEPT + 5):
        database = Database(f"d{number}", "s", "base", "n", "l", "p", D.DROPPING)
        lease = lease_on(database.id, number, idempotency_key=f"k{number}")
        inventory.put_database(database)
        inventory.put_lease(lease)
        inventory.put_lease(lease.ended(LeaseState.RELEASED, float(number), "why"))
    assert len(inventory.leases) == ENDED_KEPT
    assert inventory.lease_by_key("k4") is None
    assert inventory.lease_by_key("k5") is not None
    for database in list(inventory.databases.values()):
        inventory.put_database(database.to(D.GONE))
    assert len(inventory.databases) == ENDED_KEPT


def test_leases_are_found_by_labels():
    leases = [
        replace(lease_on("d", 1), labels={"run": "7", "kind": "unit"}),
        replace(lease_on("d", 2), labels={"run": "8"}),
    ]
    assert [lease.id for lease in with_labels(leases, {"run": "7"})] == ["l1"]
    assert [lease.id for lease in with_labels(leases, {"run": "7", "kind": "other"})] == []
    assert len(list(with_labels(leases, {}))) == 2
