"""What the daemon expects of its store, held by the store on SQLite and by the one in memory that other tests use."""

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace

import pytest

from leasedb_server.domain.database import Database, DatabaseState
from leasedb_server.domain.errors import StartupError, StoreFailedError
from leasedb_server.domain.fault import Fault
from leasedb_server.domain.lease import Holder, Lease, LeaseState
from leasedb_server.domain.server import Endpoint, Server, ServerState, Versions
from leasedb_server.domain.template import Copy, CopyState, Origin, Template, TemplateState
from leasedb_server.store import COLUMNS, SCHEMA, SqliteStore
from leasedb_server.store.tables import columns
from tests.doubles import MemoryStore

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system: needs root")

SERVER = Server("s1", "leasedb_aaaaaa_s_1", "embedded", 1000.125)
READY = SERVER.ready(
    Endpoint("::1", 5433, "postgres", "päss'word", dbname="postgres", heartbeat="/run/beat"),
    Versions("18.1", "0.8.1"),
    1001.5,
)
TEMPLATE = Template("t1", "shop", "17", "sql:abc", "base", Origin.SQL, created_at=1001.5, used_at=1002.25)
COPY = Copy("c1", "s1", "shop@17", "leasedb_aaaaaa_t_1")
DATABASE = Database("d1", "s1", "base", "leasedb_aaaaaa_d_1", "leasedb_aaaaaa_d_1", "s3cret")
LEASE = Lease(
    id="l1",
    database_id="d1",
    holder=Holder("suite «ü» 7", 4711, 999.015625),
    labels={"run": "7", "empty": "", "unicode": "☃"},
    created_at=1002.25,
    expires_at=1302.25,
    max_expires_at=87402.25,
    ttl=300.0,
    idempotency_key="key",
    request_digest="digest",
)


class Sqlite:
    def __init__(self, path):
        self.path = path

    def open(self):
        return SqliteStore(self.path)


class Memory:
    def __init__(self, _path):
        self.store = MemoryStore()

    def open(self):
        """Return the store as the next daemon finds it."""
        return self.store


@pytest.fixture(params=[Sqlite, Memory], ids=["sqlite", "memory"])
def place(request, tmp_path):
    return request.param(tmp_path / "leasedb.sqlite")


@contextmanager
def opened(place):
    store = place.open()
    try:
        yield store
    finally:
        asyncio.run(store.close())


def written(place, *calls):
    """Do the calls, each a method's name and what it takes, and return what the next daemon loads."""
    with opened(place) as store:
        asyncio.run(store.load())
        for method, value in calls:
            asyncio.run(getattr(store, method)(value))
    return loaded(place)


def loaded(place):
    with opened(place) as store:
        return asyncio.run(store.load())


def test_a_new_store_makes_itself_a_daemon_id_and_keeps_it(place):
    first = loaded(place)
    assert (first.servers, first.templates, first.databases, first.leases) == ([], [], [], [])
    assert len(first.daemon) == 6
    assert loaded(place) == first


@pytest.mark.parametrize(
    "server",
    [SERVER, READY, READY.to(ServerState.LOST, 'it died: "quoted"\nin two lines'), READY.to(ServerState.STOPPING),
     replace(READY, endpoint=Endpoint("h", 1, "u", "p")), replace(SERVER, edition="17", exclusive=True)],
)  # fmt: skip
def test_a_server_comes_back_with_all_it_has(place, server):
    assert written(place, ("save_server", SERVER), ("save_server", server)).servers == [server]


@pytest.mark.parametrize("state", TemplateState)
def test_a_template_comes_back(place, state):
    template = replace(TEMPLATE, state=state)
    assert written(place, ("save_template", TEMPLATE), ("save_template", template)).templates == [template]


def test_a_template_comes_back_with_all_it_has(place):
    fault = Fault('column "ü" does not exist', "42703", 7, 812, "SELECT ü")
    template = replace(
        TEMPLATE,
        size=8_000_000,
        layout="18/x",
        kept=9_000_000,
        builder="l1",
        until_lease="l2",
        fault=fault,
        notes=("a",),
    )
    assert written(place, ("save_template", template)).templates == [template]


@pytest.mark.parametrize("state", CopyState)
def test_a_copy_comes_back(place, state):
    copy = replace(COPY, state=state, source="d1")
    assert written(place, ("save_copy", COPY), ("save_copy", copy)).copies == [copy]


@pytest.mark.parametrize("state", [state for state in DatabaseState if state is not DatabaseState.LEASED])
def test_a_database_comes_back_with_its_password_and_state(place, state):
    database = replace(DATABASE, state=state, partner="d2")
    found = written(place, ("add_database", DATABASE), ("save_database", database)).databases
    assert found == [database]
    assert found[0].password == "s3cret"


@pytest.mark.parametrize(
    "lease",
    [
        LEASE,
        replace(LEASE, builds="shop@17"),
        replace(LEASE, holder=Holder(), labels={}, idempotency_key=None, request_digest=None),
        LEASE.renewed(1100.0, 500.0),
        LEASE.ended(LeaseState.LOST, 1200.5, "its server died"),
        LEASE.renewed(1100.0, 500.0).ended(LeaseState.EXPIRED, 1600.0, "its time ran out"),
    ],
)
def test_a_lease_comes_back_with_all_it_has(place, lease):
    born = replace(lease, **{name: getattr(LEASE, name) for name in ("expires_at", "ttl", "state", "ended_at")})
    born = replace(born, end_reason="")
    (found,) = written(place, ("add_lease", born), ("save_lease", lease)).leases
    assert found == lease
    assert (found.idempotency_key, found.request_digest) == (lease.idempotency_key, lease.request_digest)


def test_a_lease_that_is_kept_comes_back_without_its_process(place):
    kept = LEASE.keep(1100.0, 500.0)
    assert written(place, ("add_lease", LEASE), ("save_lease", kept)).leases == [kept]
    assert kept.holder == Holder(LEASE.holder.name)


@pytest.mark.parametrize(
    ("row", "lease", "known"),
    [
        (DatabaseState.READY, None, DatabaseState.READY),
        (DatabaseState.READY, LEASE, DatabaseState.LEASED),
        (DatabaseState.READY, LEASE.ended(LeaseState.RELEASED, 1100.0, "r"), DatabaseState.CONDEMNED),
        (DatabaseState.CONDEMNED, LEASE.ended(LeaseState.RELEASED, 1100.0, "r"), DatabaseState.CONDEMNED),
        (DatabaseState.GONE, LEASE.ended(LeaseState.RELEASED, 1100.0, "r"), DatabaseState.GONE),
        (DatabaseState.MAKING, None, DatabaseState.MAKING),
    ],
)
def test_the_lease_on_it_tells_whether_a_ready_database_is_leased_or_to_be_dropped(place, row, lease, known):
    database = replace(DATABASE, state=row)
    calls = [("add_database", DATABASE), ("save_database", database)]
    if lease:
        calls += [("add_lease", LEASE), ("save_lease", lease)]
    assert written(place, *calls).databases == [replace(DATABASE, state=known)]


def test_a_second_lease_on_a_database_is_refused_and_changes_nothing(place):
    with opened(place) as store:
        asyncio.run(store.load())
        asyncio.run(store.add_lease(LEASE))
        for other in (replace(LEASE, id="l2"), replace(LEASE, database_id="d2")):
            with pytest.raises(StoreFailedError):
                asyncio.run(store.add_lease(other))
        asyncio.run(store.add_lease(replace(LEASE, id="l3", database_id="d3")))  # it goes on
    assert [lease.id for lease in loaded(place).leases] == ["l1", "l3"]


def test_a_database_has_one_row(place):
    with opened(place) as store:
        asyncio.run(store.load())
        asyncio.run(store.add_database(DATABASE))
        with pytest.raises(StoreFailedError):
            asyncio.run(store.add_database(DATABASE))


def test_what_is_not_there_is_not_missed(place):
    found = written(place, ("save_database", DATABASE), ("save_lease", LEASE))
    assert (found.databases, found.leases) == ([], [])


def test_leases_come_back_in_the_order_in_which_they_ended(place):
    calls = []
    for number, ended_at in enumerate([300.0, 100.0, 200.0]):
        lease = replace(LEASE, id=f"l{number}", database_id=f"d{number}")
        calls += [("add_lease", lease), ("save_lease", lease.ended(LeaseState.RELEASED, ended_at, "r"))]
    calls.append(("add_lease", replace(LEASE, id="active", database_id="d9")))
    assert [lease.id for lease in written(place, *calls).leases] == ["active", "l1", "l2", "l0"]


def test_what_is_forgotten_is_what_ended_and_what_is_gone_and_nothing_else(place):
    calls = []
    for number, (state, ended_at) in enumerate(
        [
            (DatabaseState.GONE, 99.0),
            (DatabaseState.GONE, 100.0),
            (DatabaseState.CONDEMNED, 99.0),
            (DatabaseState.READY, None),
        ]
    ):
        server = replace(SERVER, id=f"s{number}")
        database = replace(DATABASE, id=f"d{number}", server_id=server.id)
        lease = replace(LEASE, id=f"l{number}", database_id=database.id)
        calls += [("save_server", server), ("add_database", database), ("add_lease", lease)]
        calls += [("save_database", replace(database, state=state))]
        if ended_at:
            calls += [("save_lease", lease.ended(LeaseState.RELEASED, ended_at, "r"))]
        calls += [("save_server", server.to(ServerState.GONE))]
        template, copy = replace(TEMPLATE, id=f"t{number}"), replace(COPY, id=f"c{number}", server_id=server.id)
        calls += [("save_copy", copy.to(CopyState.GONE) if number else copy)]
        calls += [("save_template", template.to(TemplateState.GONE) if number else template)]
    never_leased = replace(DATABASE, id="d9", server_id="s9", state=DatabaseState.GONE)
    calls += [("add_database", never_leased), ("forget", 100.0)]
    found = written(place, *calls)
    assert [lease.id for lease in found.leases] == ["l3", "l1"]
    assert sorted(database.id for database in found.databases) == ["d1", "d2", "d3"]
    assert sorted(server.id for server in found.servers) == ["s1", "s2", "s3"]
    assert [template.id for template in found.templates] == ["t0"]
    assert [copy.id for copy in found.copies] == ["c0"]


# --- the file ---


@pytest.fixture
def path(tmp_path):
    return tmp_path / "leasedb.sqlite"


def kept(path, *calls):
    return written(Sqlite(path), *calls)


def test_nobody_else_may_read_it(path):
    with opened(Sqlite(path)) as store:
        asyncio.run(store.load())
        asyncio.run(store.add_database(DATABASE))
        files = sorted(path.parent.iterdir())
        assert [file.name for file in files] == ["leasedb.sqlite", "leasedb.sqlite-shm", "leasedb.sqlite-wal"]
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
        assert repr(store) == f"SqliteStore({str(path)!r})"


def test_a_file_that_others_may_read_is_closed_to_them(path):
    kept(path, ("save_server", SERVER))
    path.chmod(0o644)
    kept(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_was_committed_survives_kill_9(path):
    """The process ends in the middle of things: no close, nothing flushed by Python."""
    code = (
        "import asyncio, os, sys, signal\n"
        "from pathlib import Path\n"
        "from leasedb_server.store import SqliteStore\n"
        "from leasedb_server.domain.database import Database\n"
        "store = SqliteStore(Path(sys.argv[1]))\n"
        "asyncio.run(store.load())\n"
        "for number in range(50):\n"
        "    asyncio.run(store.add_database(Database(f'd{number}', 's', 'base', 'n', 'l', 'p')))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], env={**os.environ, "PYTHONPATH": ":".join(sys.path)}, check=False
    )
    assert done.returncode == -9
    assert len(kept(path).databases) == 50


@pytest.mark.parametrize("content", [b"not a database, certainly " * 200, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_that_is_no_store_says_so_and_what_to_do(path, content):
    path.write_bytes(content)
    with pytest.raises(StartupError, match=r"leasedb.sqlite cannot be used: .*move it away"):
        SqliteStore(path)
    assert path.read_bytes() == content


def test_a_file_damaged_in_its_middle_says_so_and_what_to_do(path):
    kept(path, *[("add_database", replace(DATABASE, id=f"d{number}")) for number in range(200)])
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(StartupError, match="move it away"):
        kept(path)


def test_a_row_that_means_nothing_says_so_and_what_to_do(path):
    kept(path, ("add_database", DATABASE))
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE database SET state = 'sold'")
    connection.close()
    with pytest.raises(StartupError, match=r"'sold'.*move it away"):
        kept(path)


def test_a_file_of_a_later_leasedb_is_left_alone(path):
    kept(path, ("add_database", DATABASE))
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    connection.close()
    with pytest.raises(StartupError, match=rf"of another leasedb \(format {SCHEMA + 1}.*LEASEDB_STATE_DIR"):
        SqliteStore(path)


def test_a_folder_in_its_place_says_so(path):
    path.mkdir()
    with pytest.raises(StartupError, match="cannot be used"):
        SqliteStore(path)


def test_a_folder_that_is_not_there_says_so(tmp_path):
    with pytest.raises(StartupError, match="No such file or directory"):
        SqliteStore(tmp_path / "missing" / "leasedb.sqlite")


@contextmanager
def small_file_system(path, options):
    path.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "leasedb-test", path], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


@as_root
def test_a_read_only_folder_says_so(tmp_path):
    read_only = pytest.raises(StartupError, match="Read-only file system")
    with small_file_system(tmp_path / "disk", "size=1m,ro") as disk, read_only:
        SqliteStore(disk / "leasedb.sqlite")


@as_root
def test_a_file_that_has_become_read_only_says_so(tmp_path):
    with small_file_system(tmp_path / "disk", "size=4m") as disk:
        kept(disk / "leasedb.sqlite", ("add_database", DATABASE))
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with pytest.raises(StartupError, match="Read-only file system"):
            SqliteStore(disk / "leasedb.sqlite")


@as_root
def test_a_full_disk_refuses_what_it_cannot_keep_and_goes_on_when_there_is_room(tmp_path):
    with small_file_system(tmp_path / "disk", "size=1m") as disk:
        place = Sqlite(disk / "leasedb.sqlite")
        with opened(place) as store:
            asyncio.run(store.load())
            asyncio.run(store.add_database(DATABASE))
            with pytest.raises(OSError, match="No space left"):
                (disk / "ballast").write_bytes(b"x" * 2**20)
            added = []
            with pytest.raises(StoreFailedError, match=r"full.*Free some space"):  # noqa: PT012 - the file has some room
                for number in range(10_000):
                    database = replace(DATABASE, id=f"x{number}")
                    asyncio.run(store.add_database(database))
                    added.append(database)
            (disk / "ballast").unlink()
            asyncio.run(store.add_database(replace(DATABASE, id="after")))
        assert {database.id for database in loaded(place).databases} == {"d1", "after", *(one.id for one in added)}


def test_the_statements_know_the_columns_of_the_tables():
    assert columns() == COLUMNS


def test_the_daemon_is_imported_without_what_only_a_new_file_needs():
    code = "import leasedb_server.assembly, sys; print({'sqlalchemy', 'sqlmodel'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"
