"""Servers of two versions side by side, and versions that there are no programs of."""

import asyncio
import logging
from pathlib import Path

import pytest

from leasedb_server.domain.edition import Editions
from leasedb_server.domain.errors import ServerStartError
from tests.contracts.backend_embedded.servers import (
    NOBODY,
    SPEC,
    alive,
    as_embedded,
    assert_nothing_left,
    check,
    connect,
    name_for,
    prepared,
)

pytestmark = as_embedded


def version(endpoint) -> str:
    with connect(endpoint) as connection:
        return connection.info.parameter_status("server_version").partition(".")[0]


def test_two_versions_side_by_side(make, fresh_root, memory):
    backend = make(at=fresh_root, versions=("16",), memory=memory)
    plain, older = name_for(backend), name_for(backend)

    async def start():
        return await asyncio.gather(backend.start(plain), backend.start(older, "16"))

    assert [version(endpoint) for endpoint in asyncio.run(start())] == ["18", "16"]
    asyncio.run(backend.close())
    kinds = prepared(fresh_root)
    assert len({name.partition(".")[0] for name in kinds}) == 2

    again = make(at=fresh_root, versions=("16",), memory=memory)
    check(again)
    third = name_for(again)
    endpoint = asyncio.run(again.start(third, "16"))
    assert (version(endpoint), endpoint.base) == ("16", "leasedb_base")
    assert prepared(fresh_root).keys() == kinds.keys()

    asyncio.run(again.stop(older))
    assert [alive(again, name) for name in (plain, older, third)] == [True, False, True]
    assert asyncio.run(again.sweep(frozenset({plain}))) == [third]
    assert asyncio.run(again.sweep(NOBODY)) == [plain]
    for name in (plain, older, third):
        assert_nothing_left(fresh_root, name)


def test_a_version_that_is_the_default_needs_nothing_of_its_own(make, fresh_root):
    backend = make(at=fresh_root, versions=("18",))
    check(backend)
    for edition in ("", "18"):
        assert version(asyncio.run(backend.start(name_for(backend), edition))) == "18"
    asyncio.run(backend.close())
    assert len(prepared(fresh_root)) == 1


def test_all_that_is_installed_is_offered_unless_versions_are_named(make, fresh_root):
    backend = make(at=fresh_root)
    check(backend)
    assert backend.editions == Editions("18", None, ("16",), installed=("18", "16"))
    assert len(prepared(fresh_root)) <= 1  # of the other one nothing, before it is asked for
    assert version(asyncio.run(backend.start(name_for(backend), "16"))) == "16"
    none = make(versions=())
    check(none)
    assert none.editions == Editions("18", None, (), installed=("18", "16"))


def test_versions_without_programs_are_left_out(make, caplog):
    backend = make(versions=("17", "16"))
    assert backend.editions == Editions("18", None, ("17", "16"))
    with caplog.at_level(logging.WARNING):
        check(backend)
    assert backend.editions == Editions("18", None, ("16",), installed=("18", "16"))
    (told,) = caplog.messages
    assert told.startswith("callers cannot have Postgres 17, which LEASEDB_VERSIONS names: ")
    assert "carries 16 and 18" in told
    for edition in ("17", "acme/postgres:1"):
        with pytest.raises(ServerStartError, match=f"no servers of Postgres {edition} here.*LEASEDB_VERSIONS"):
            asyncio.run(backend.start(name_for(backend), edition))


def test_an_installed_postgres_and_another_from_the_wheel(make):
    pg_bin = Path(SPEC.origin).parent / "pginstall" / "bin"
    backend = make(pg_bin=pg_bin, postgres=None, versions=("16", "18"))
    check(backend)
    assert backend.editions == Editions("16", None, ("16", "18"), installed=("18", "16"))
    assert version(asyncio.run(backend.start(name_for(backend), "18"))) == "18"
