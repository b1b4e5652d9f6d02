"""What embedded servers are copied from: what is in it, how it is made, and how it goes away again."""

import asyncio
import os
import shutil
import subprocess

import pytest

from leasedb_server.domain.errors import ServerStartError
from leasedb_server.domain.names import new_daemon_id
from tests.contracts.backend_embedded.servers import as_embedded, check, connect, name_for, prepared, started

pytestmark = as_embedded


def warm(make, **options):
    """Start a server from a complete prepared directory."""
    first = make(**options)
    asyncio.run(first.start(name_for(first)))
    asyncio.run(first.close())
    return started(make(**options))


@pytest.mark.parametrize("postgres", ["18", "16"])
def test_the_base_waits_in_every_further_server(make, postgres, memory):
    _, endpoint = warm(make, postgres=postgres, memory=memory)
    assert endpoint.base == "leasedb_base"
    with connect(endpoint) as connection:
        assert connection.execute(
            "SELECT datistemplate, datallowconn, pg_encoding_to_char(encoding) FROM pg_database WHERE datname = %s",
            [endpoint.base],
        ).fetchone() == (True, False, "UTF8")
        assert connection.execute("SELECT '[1,2,3]'::vector <-> '[3,2,1]'").fetchone() == (pytest.approx(8**0.5),)
        connection.execute(f"ALTER DATABASE {endpoint.base} RENAME TO renamed")
        connection.execute("CREATE DATABASE fresh TEMPLATE renamed STRATEGY file_copy")
        # no session has been there: it came with the base; before 18, single-user mode makes none
        cache = "SELECT pg_stat_file('base/' || oid || '/pg_internal.init', true) FROM pg_database WHERE datname = %s"
        assert (connection.execute(cache, ["fresh"]).fetchone() != (None,)) == (postgres == "18")
        assert connection.execute("SELECT pg_is_in_recovery()").fetchone() == (False,)
    with connect(endpoint, dbname="fresh") as connection:
        assert connection.execute(
            "SELECT nspname FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace WHERE extname = 'vector'"
        ).fetchone() == ("public",)
        connection.execute("CREATE TABLE items (embedding vector(3))")
        connection.execute("INSERT INTO items VALUES ('[1,2,3]')")
        connection.execute("CREATE INDEX ON items USING hnsw (embedding vector_l2_ops)")
        connection.execute("VACUUM (ANALYZE) items")
    with connect(endpoint) as connection:
        connection.execute("VACUUM FULL")  # reads every relation
    with connect(endpoint, dbname="template1") as connection:
        connection.execute("VACUUM (FREEZE, ANALYZE)")


def test_a_further_server_needs_no_recovery(make):
    name, endpoint = warm(make)
    lines = asyncio.run(make().logs(name, 100))
    assert "was shut down at" in lines
    assert "recovery" not in lines
    assert endpoint.base


def test_old_prepared_directories_do_not_pile_up(make, fresh_root):
    check(make(at=fresh_root))
    owner = fresh_root.stat().st_uid
    for number in range(4):
        old = fresh_root / f"prepared-{number:012}.{new_daemon_id()}.0badcafe"
        (old / "data").mkdir(parents=True)
        (old / "sealed").touch()
        for path in (old, old / "data", old / "sealed"):
            os.utime(path, (number, number))
            os.chown(path, owner, -1)
    warm(make, at=fresh_root)
    assert len(prepared(fresh_root)) == 3
    assert {f"{number:012}" for number in (2, 3)} < {name[9:21] for name in prepared(fresh_root)}


@pytest.mark.parametrize("damage", ["deleted", "cut short"])
def test_a_damaged_prepared_directory_is_made_anew(make, fresh_root, damage):
    warm(make, at=fresh_root)
    (databases,) = fresh_root.glob("prepared-*/databases.tar")
    if damage == "deleted":
        databases.unlink()
    else:
        os.truncate(databases, 100_000)
        with pytest.raises(ServerStartError):
            started(make(at=fresh_root))
    _, endpoint = started(make(at=fresh_root))
    with connect(endpoint) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_clean_takes_away_what_no_server_uses(make, fresh_root):
    name, endpoint = warm(make, at=fresh_root)
    old = fresh_root / "prepared-of-another-layout"
    programs = fresh_root / "postgres-0123456789ab"
    for path in (old, programs):
        path.mkdir()
        os.chown(path, fresh_root.stat().st_uid, -1)
    taken = asyncio.run(make(at=fresh_root).clean())
    assert len(taken) == 3
    assert f"the directory {old}" in taken
    assert f"the programs in {programs}" in taken
    assert prepared(fresh_root) == {}
    assert not programs.exists()
    with connect(endpoint) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert asyncio.run(make(at=fresh_root).clean()) == []
    assert (fresh_root / name).exists()
    started(make(at=fresh_root))  # makes anew what is missing


def test_programs_that_a_server_runs_from_are_not_cleaned(make, fresh_root):
    check(make(at=fresh_root))
    folder = fresh_root / "postgres-0123456789ab"
    folder.mkdir()
    shutil.copy2("/bin/sleep", folder / "postgres")
    with subprocess.Popen([folder / "postgres", "60"]) as process:
        assert asyncio.run(make(at=fresh_root).clean()) == []
        assert folder.exists()
        process.kill()
    os.chown(folder, fresh_root.stat().st_uid, -1)
    assert asyncio.run(make(at=fresh_root).clean()) == [f"the programs in {folder}"]


def test_cleaning_makes_nothing(make, fresh_root):
    assert asyncio.run(make(at=fresh_root).clean()) == []
    assert not fresh_root.exists()
