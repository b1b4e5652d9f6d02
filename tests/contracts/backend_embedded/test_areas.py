"""Where the files of an embedded server lie: in memory or on a disk, and its socket where all can reach it."""

import asyncio
import os
import stat
from pathlib import Path

import psycopg
import pytest

from tests.contracts.backend_embedded.servers import (
    MEMORY,
    NOBODY,
    SOCKETS,
    SOME_MEMORY,
    alive,
    as_embedded,
    as_root,
    assert_nothing_left,
    connect,
    in_memory,
    postmaster_file,
    remains,
    shared,
    started,
)

pytestmark = as_embedded


def _owner(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_uid, stat.S_IMODE(found.st_mode)


@in_memory
def test_files_lie_in_memory_and_overflow_to_the_disk(make, root):
    backend = make(memory=SOME_MEMORY)
    name, endpoint = started(backend)
    overflow = Path(endpoint.overflow)
    with connect(endpoint) as connection:
        assert connection.execute("SHOW data_directory").fetchone() == (
            str(shared(MEMORY, name) / "servers" / name / "data"),
        )
        connection.execute(f"CREATE TABLESPACE disk LOCATION '{overflow}'")
        connection.execute("CREATE DATABASE large TABLESPACE disk")
        connection.execute(f"COPY (SELECT 1) TO '{endpoint.heartbeat}'")
    assert endpoint.memory == SOME_MEMORY
    assert overflow.parent == root
    assert _owner(overflow) == (_owner(root)[0], 0o700)
    assert _owner(shared(MEMORY, name)) == (os.geteuid(), 0o711)
    assert _owner(shared(MEMORY, name) / "servers") == (_owner(root)[0], 0o700)
    asyncio.run(backend.stop(name))
    assert_nothing_left(root, name)
    assert not shared(MEMORY, name).exists()
    assert not shared(SOCKETS, name).exists()


def test_files_lie_on_the_disk_when_no_memory_is_granted(make, root):
    name, endpoint = started(make(memory=0))
    assert (root / name / "data").exists()
    assert (endpoint.memory, endpoint.overflow) == (None, None)
    assert not shared(MEMORY, name).exists()


@in_memory
def test_shared_directories_go_with_the_last_server(make):
    backend = make(memory=SOME_MEMORY)
    (first, _), (second, _) = started(backend), started(backend)
    asyncio.run(backend.stop(first))
    assert shared(MEMORY, second).exists()
    assert shared(SOCKETS, second).exists()
    asyncio.run(backend.stop(second))
    assert not shared(MEMORY, second).exists()
    assert not shared(SOCKETS, second).exists()


@in_memory
def test_servers_in_both_areas_are_known_whatever_the_setting_is(make, root):
    on_disk, _ = started(make(memory=0))
    held, _ = started(make(memory=SOME_MEMORY))
    later = make(memory=0)
    assert alive(later, on_disk)
    assert alive(later, held)
    assert "ready to accept connections" in asyncio.run(later.logs(held, 50))
    assert set(asyncio.run(later.sweep(frozenset({on_disk})))) == {held}
    assert_nothing_left(root, held)
    assert asyncio.run(make(memory=SOME_MEMORY).sweep(NOBODY)) == [on_disk]
    assert_nothing_left(root, on_disk)


@in_memory
def test_what_a_killed_server_left_on_the_disk_alone_is_swept(make, root):
    backend = make(memory=SOME_MEMORY)
    name, endpoint = started(backend)
    asyncio.run(backend.stop(name))
    Path(endpoint.overflow).mkdir(mode=0o700)
    os.chown(endpoint.overflow, _owner(root)[0], -1)
    assert asyncio.run(make().sweep(NOBODY)) == [name]
    assert_nothing_left(root, name)


@as_root
@in_memory
@pytest.mark.parametrize("parent", [MEMORY, SOCKETS])
@pytest.mark.parametrize("trap", ["link", "owner", "mode"])
def test_what_others_put_into_a_shared_directory_is_neither_used_nor_touched(make, daemon_id, fresh_root, parent, trap):
    there = parent / f"leasedb_{daemon_id}"
    target = there
    if trap == "link":
        target = fresh_root.with_name("elsewhere")
        there.symlink_to(target)
    try:
        for path in (target, target / "servers", target / "sockets"):
            path.mkdir()
            path.chmod(0o777 if trap == "mode" else 0o755)
            os.chown(path, *((65534, 65534) if trap == "owner" else (0, 0)))
        backend = make(memory=SOME_MEMORY)
        name, endpoint = started(backend)
        (target / "servers" / name).mkdir(exist_ok=True)
        assert (endpoint.memory is None) == (parent == MEMORY)
        assert (endpoint.socket is None) == (parent == SOCKETS)
        with connect(endpoint) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        asyncio.run(backend.stop(name))
        assert (target / "servers" / name).exists()
    finally:
        if trap == "link":
            there.unlink()
        else:
            for path in (*there.glob("*/*"), *there.glob("*"), there):
                path.rmdir()


# --- sockets ---


def test_a_socket_that_every_program_can_reach(make, root):
    backend = make()
    name, endpoint = started(backend)
    folder = Path(endpoint.socket)
    socket = folder / f".s.PGSQL.{endpoint.port}"
    assert len(str(socket)) < 100
    assert all(path.stat().st_mode & 0o001 for path in (folder, *folder.parents))
    assert stat.S_IMODE(socket.stat().st_mode) == 0o777
    with connect(endpoint, host=endpoint.socket) as connection:
        assert connection.execute("SELECT inet_server_addr()").fetchone() == (None,)
    asyncio.run(backend.stop(name))
    assert not folder.exists()
    assert_nothing_left(root, name)


# --- access rules ---


def test_a_login_reaches_the_database_of_its_own_name_and_no_other(make):
    _, endpoint = started(make())
    with connect(endpoint) as connection:
        for login in ("anna", "berta"):
            connection.execute(f"CREATE ROLE {login} LOGIN PASSWORD 'pw of {login}'")
            connection.execute(f"CREATE DATABASE {login} OWNER {login}")
        connection.execute("ALTER ROLE anna REPLICATION")
    for host in (endpoint.host, endpoint.socket):
        anna = {"host": host, "user": "anna", "password": "pw of anna"}
        with connect(endpoint, dbname="anna", require_auth="password", **anna) as connection:
            assert connection.execute("SELECT current_database()").fetchone() == ("anna",)
        for other in ("berta", "postgres", "template1"):
            with pytest.raises(psycopg.OperationalError, match=r"no pg_hba\.conf entry"):
                connect(endpoint, dbname=other, **anna)
        with pytest.raises(psycopg.OperationalError, match=r"no pg_hba\.conf entry for replication"):
            connect(endpoint, dbname="anna", replication="true", **anna)
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            connect(endpoint, dbname="anna", **anna | {"password": "wrong"})
        with connect(endpoint, host=host, dbname="berta", require_auth="scram-sha-256") as connection:
            assert connection.execute("SELECT current_user").fetchone() == ("postgres",)
    assert endpoint.guarded


def test_a_port_that_was_taken_leaves_no_second_socket(make, root):
    backend = make()
    name, endpoint = started(backend)
    with pytest.raises(Exception, match="No port was free"):
        started(other := make(choose_port=lambda: endpoint.port))
    assert asyncio.run(other.sweep(frozenset({name}))) == []
    assert len(remains(root, name)) == 3  # its directory, the segment's, the socket's
    assert postmaster_file(root, name)
