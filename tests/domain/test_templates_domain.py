"""Templates by key, and what the inventory knows of them, their copies and the spare databases of resets."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasedb_server.domain.database import Database, DatabaseState
from leasedb_server.domain.edition import key, parted
from leasedb_server.domain.inventory import Inventory
from leasedb_server.domain.server import Endpoint, Server, ServerState, Versions
from leasedb_server.domain.template import (
    BASE,
    Copy,
    CopyState,
    Origin,
    Template,
    TemplateState,
    base_key,
    is_base,
)

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", fullmatch=True)
EDITIONS = st.sampled_from(["", "17", "acme/postgres:17", "registry.local:5000/pg@sha256:0af"])
D = DatabaseState


def template(name="shop", edition="", state=TemplateState.SEALED, ident="t1", **more):
    return Template(ident, name, edition, "f", BASE, Origin.SQL, 1.0, 1.0, state, **more)


def copy(name="shop", server="s1", state=CopyState.SEALED, ident="c1"):
    return Copy(ident, server, name, f"leasedb_{ident}", state)


def database(ident, state=D.READY, name="shop", server="s1", **more):
    return Database(ident, server, name, f"d_{ident}", f"d_{ident}", "secret", state, **more)


def server(ident="s1", edition="", *, exclusive=False):
    found = Server(ident, ident, "embedded", 1.0, edition=edition, exclusive=exclusive)
    return found.ready(Endpoint("::1", 1, "u", "p"), Versions("18.1", "0.8.1"), 2.0)


@pytest.fixture
def inventory():
    known = Inventory()
    known.put_server(server())
    return known


@given(NAMES, EDITIONS)
def test_a_key_tells_name_and_edition_and_no_two_have_the_same(name, edition):
    assert parted(key(name, edition)) == (name, edition)
    assert key(name, "") == name
    assert template(name, edition).key == key(name, edition)


def test_the_base_of_every_edition_is_built_in():
    assert base_key("") == BASE
    assert all(is_base(base_key(edition)) for edition in ("", "17"))
    assert not any(map(is_base, ("shop", "shop@17", "basement", "basement@17")))


def test_another_template_of_the_same_name_takes_its_place_and_is_not_taken_away_with_it(inventory):
    old, new = template(ident="old"), template(ident="new")
    inventory.put_template(old)
    inventory.put_template(new)
    inventory.put_template(old.to(TemplateState.GONE))
    assert inventory.templates == {"shop": new}
    inventory.put_template(new.to(TemplateState.GONE))
    assert inventory.templates == {}


def test_only_sealed_copies_are_cloned_from(inventory):
    for number, state in enumerate(CopyState):
        inventory.put_copy(copy(state=state, ident=f"c{number}"))
    sealed = next(one for one in inventory.copies.values() if one.state is CopyState.SEALED)
    assert inventory.sealed_on("s1", "shop") is sealed
    assert inventory.sealed_on("s2", "shop") is None
    assert inventory.sealed_on("s1", "shop@17") is None
    assert len(inventory.copies_from("shop")) == len(inventory.copies_of("s1")) == 3, "one is gone"


def test_what_is_kept_ready_is_sealed_and_the_base_of_servers_that_serve(inventory):
    inventory.put_copy(copy(BASE, ident="b1"))
    inventory.put_server(server("s2", "17"))
    inventory.put_copy(copy("base@17", "s2", ident="b2"))
    inventory.put_server(server("s3", "16", exclusive=True))
    inventory.put_copy(copy("base@16", "s3", ident="b3"))
    inventory.put_template(template())
    inventory.put_template(template("cart", state=TemplateState.BUILDING, ident="t2"))
    inventory.put_template(template("old", state=TemplateState.FAILED, ident="t3"))
    assert inventory.known_templates() == {"base", "base@17", "shop"}
    inventory.put_server(inventory.servers["s2"].to(ServerState.LOST))
    assert inventory.known_templates() == {"base", "shop"}


def test_uses_are_told_once(inventory):
    inventory.put_template(template())
    inventory.used("shop", 5.0)
    inventory.used("nothing", 5.0)
    assert inventory.templates["shop"].used_at == 5.0
    assert inventory.used_since() == [inventory.templates["shop"]]
    assert inventory.used_since() == []


def test_databases_of_a_template_are_found_on_all_servers(inventory):
    for one in (
        database("d1"),
        database("d2", server="s2"),
        database("d3", D.LEASED),
        database("d4", name="cart"),
        database("d5", D.MAKING),
    ):
        inventory.put_database(one)
    assert {one.id for one in inventory.ready_from("shop")} == {"d1", "d2"}
    assert inventory.leases_from("shop") == 1
    assert inventory.ready_on("s2", "shop").id == "d2"


def test_a_spare_database_takes_up_room_and_is_found_by_its_partner(inventory):
    inventory.put_copy(copy(BASE, ident="b1"))
    inventory.put_database(database("d1", D.LEASED, BASE))
    inventory.put_database(spare := database("d2", D.LEASED, BASE))
    inventory.put_database(spare := replace(spare.to(D.SPARE), partner="d1"))
    assert inventory.spare_for("d1") is spare
    assert inventory.spare_for("d2") is None
    (seen,) = inventory.view({}, {}, 0.0).servers
    assert (seen.spares, seen.leased, seen.databases) == (1, 1, 2)
    inventory.put_database(spare.to(D.CONDEMNED))
    assert inventory.spare_for("d1") is None
    (seen,) = inventory.view({}, {}, 0.0).servers
    assert (seen.spares, seen.databases) == (0, 2)


def test_a_whole_server_is_nothing_that_the_planner_sees(inventory):
    inventory.put_server(server("s2", exclusive=True))
    inventory.put_database(database("d1", server="s2", name=BASE))
    assert [one.id for one in inventory.view({}, {}, 0.0).servers] == ["s1"]
    assert inventory.take_ready(BASE) is None
    assert not inventory.serves("s2")


def test_a_server_that_is_gone_is_known_while_there_are_templates_on_it(inventory):
    inventory.put_copy(copy())
    assert inventory.left_behind() == []
    inventory.put_server(gone := inventory.servers["s1"].to(ServerState.GONE))
    assert inventory.left_behind() == [gone]
    inventory.put_copy(copy(state=CopyState.GONE))
    assert inventory.left_behind() == []
