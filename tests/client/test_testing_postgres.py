"""PostgresContainer: suites that were written for testcontainers, and what a lease can and cannot do of it."""

import inspect
import os
import stat
import subprocess
import sys
from collections.abc import Iterator

import psycopg
import pytest
import sqlalchemy
from testcontainers.community.postgres import PostgresContainer as Original

import leasedb
from leasedb.testing import ContainerUnsupportedError, FakeDaemon, PostgresContainer
from leasedb.testing._images import wishes
from tests.client.processes import environment
from tests.client.test_starting import Place, needs_embedded
from tests.contracts import places
from tests.daemons import RealDaemon

NEWER = "leasedb-test/pgvector:pg18"


@pytest.fixture(scope="module", params=["embedded-18", "docker"])
def whole(request: pytest.FixtureRequest) -> Iterator[RealDaemon]:
    """A daemon that leases whole servers."""
    with places.place(request.param) as place:
        settings = {**place.settings, "POOL_READY": "1", "POOL_READY_MAX": "1", "POOL_EXCLUSIVE": "1"}
        if "IMAGE" in settings:
            settings["IMAGES"] = NEWER
        running = RealDaemon(settings, place.environment)
        try:
            yield running.start()
        finally:
            running.remove()


@pytest.fixture
def here(whole, monkeypatch) -> RealDaemon:
    monkeypatch.setenv("LEASEDB_URL", whole.url)
    monkeypatch.setenv("LEASEDB_AUTOSTART", "0")
    for name in ("POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB"):
        monkeypatch.delenv(name, raising=False)
    return whole


def plain(container: PostgresContainer) -> str:
    return container.get_connection_url(driver=None)


# --- suites, as they are but for the import ---

ENGINE_FOR_THE_SESSION = """
import pytest
import sqlalchemy
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from testcontainers.postgres import PostgresContainer


class Base(DeclarativeBase):
    pass


class Product(Base):
    __tablename__ = "product"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


@pytest.fixture(scope="session")
def postgres():
    with PostgresContainer("postgres:16-alpine", driver="psycopg") as container:
        yield container


@pytest.fixture(scope="session")
def engine(postgres):
    engine = sqlalchemy.create_engine(postgres.get_connection_url())
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def session(engine):
    with engine.connect() as connection:
        transaction = connection.begin()
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            yield session
        transaction.rollback()


@pytest.mark.parametrize("name", ["tea", "nail"])
def test_one_product(session, name):
    session.add(Product(name=name))
    session.commit()
    assert session.scalars(sqlalchemy.select(Product.name)).all() == [name]
"""

PARTS_OF_THE_ADDRESS = """
import os
import psycopg
import pytest
from testcontainers.postgres import PostgresContainer

postgres = PostgresContainer("postgres:latest", username="app", password="s3cret", dbname="shop")


@pytest.fixture(scope="module", autouse=True)
def setup(request):
    postgres.start()

    def remove_container():
        postgres.stop()

    request.addfinalizer(remove_container)
    os.environ["DB_HOST"] = postgres.get_container_host_ip()
    os.environ["DB_PORT"] = str(postgres.get_exposed_port(5432))
    os.environ["DB_USERNAME"] = postgres.username
    os.environ["DB_PASSWORD"] = postgres.password
    os.environ["DB_NAME"] = postgres.dbname


def connect():
    host, port = os.getenv("DB_HOST"), os.getenv("DB_PORT")
    username, password = os.getenv("DB_USERNAME"), os.getenv("DB_PASSWORD")
    return psycopg.connect(f"host={host} dbname={os.getenv('DB_NAME')} user={username} password={password} port={port}")


def test_customers():
    with connect() as connection:
        connection.execute("create table customers (id serial primary key, name text unique)")
        connection.execute("insert into customers (name) values ('ann'), ('bob')")
    with connect() as connection:
        assert connection.execute("select count(*) from customers").fetchone() == (2,)


def test_who_it_is():
    with connect() as connection:
        row = connection.execute("select current_user::text, current_database()::text").fetchone()
    assert row == ("app", "shop")


def test_roles_and_databases():
    with psycopg.connect(postgres.get_connection_url(driver=None), autocommit=True) as connection:
        connection.execute("create role reader login password 'r'")
        connection.execute("create database second owner reader")
"""

ONE_IN_EACH_TEST = """
import unittest
import psycopg
from testcontainers.postgres import PostgresContainer


class TestVectors(unittest.TestCase):
    def setUp(self):
        self.postgres = PostgresContainer(
            image="pgvector/pgvector:pg16", port=5432, username="test", password="test", dbname="test", driver=None
        ).with_env("POSTGRES_DB", "test").with_command("postgres -c fsync=off -c max_connections=200").start()

    def tearDown(self):
        self.postgres.stop()

    def test_nearest(self):
        with psycopg.connect(self.postgres.get_connection_url()) as connection:
            connection.execute("create extension if not exists vector")
            connection.execute("create table item (embedding vector(3))")
            row = connection.execute("select '[1,2,3]'::vector <-> '[3,2,1]'").fetchone()
        self.assertAlmostEqual(row[0], 8**0.5)

    def test_fresh(self):
        with psycopg.connect(self.postgres.get_connection_url()) as connection:
            self.assertEqual(connection.execute("select to_regclass('item')").fetchone(), (None,))
        self.assertIn(b"ready to accept connections", b"".join(self.postgres.get_logs()))
"""


@pytest.mark.parametrize("suite", [ENGINE_FOR_THE_SESSION, PARTS_OF_THE_ADDRESS, ONE_IN_EACH_TEST])
def test_a_suite_moves_with_one_changed_import(here, tmp_path, suite):
    ours = suite.replace("from testcontainers.postgres import", "from leasedb.testing import")
    assert ours != suite
    # the version that this daemon has; a server that is still starting has none to tell
    servers = here.get("/servers")["servers"]
    major = next(server["versions"] for server in servers if server["versions"])["postgres"].partition(".")[0]
    ours = ours.replace("postgres:16-alpine", f"postgres:{major}-alpine").replace("pg16", f"pg{major}")
    (tmp_path / "test_suite.py").write_text(ours)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio", "-W", "error"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(here.url), capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [lease for lease in here.get("/leases?state=active")["leases"] if lease["server_kind"] == "exclusive"] == []


# --- what it tells ---


def test_what_a_container_tells(here):
    container = PostgresContainer(username="ann", dbname="shop")
    assert (container.status, container.username, container.password, container.dbname) == (
        "not_started", "ann", "test", "shop",
    )  # fmt: skip
    with container as started:
        assert started is container
        lease = container.lease
        assert container.start() is container
        assert container.lease is lease
        assert (container.status, container.username, container.dbname) == ("running", "ann", "shop")
        assert container.password == lease.password != "test"
        host, port = container.get_container_host_ip(), container.get_exposed_port(5432)
        rest = f"ann:{lease.password}@{host}:{port}/shop"
        assert container.get_connection_url() == f"postgresql+psycopg2://{rest}"
        assert container.get_connection_url(driver=None) == f"postgresql://{rest}"
        assert container.get_connection_url(driver="asyncpg") == f"postgresql+asyncpg://{rest}"
        assert container.get_connection_url(host="db").endswith(f"@db:{port}/shop")
        assert container.get_logs()[0] == b""
        with psycopg.connect(plain(container)) as connection:
            assert connection.execute("show is_superuser").fetchone() == ("on",)
    assert container.status == "exited"
    assert lease.state == "released"
    container.stop()
    with pytest.raises(RuntimeError, match="has not been started"):
        container.get_connection_url()
    with container:
        assert container.lease.id != lease.id


def test_a_name_that_postgres_has_itself_is_made_up(here):
    with PostgresContainer(username="postgres", password="postgres", dbname="postgres") as container:
        assert "postgres" not in {container.username, container.dbname}
        with psycopg.connect(plain(container)) as connection:
            row = connection.execute("select current_user::text, current_database()::text").fetchone()
        assert row == (container.username, container.dbname)


def test_the_environment_gives_the_names(here, monkeypatch):
    monkeypatch.setenv("POSTGRES_USER", "eve")
    monkeypatch.setenv("POSTGRES_DB", "eden")
    with PostgresContainer(driver="psycopg") as container:
        engine = sqlalchemy.create_engine(container.get_connection_url())
        with engine.connect() as connection:
            row = connection.execute(sqlalchemy.text("select current_user, current_database()")).one()
        engine.dispose()
    assert row == ("eve", "eden")


def test_a_client_of_ones_own_stays_open(here):
    with leasedb.Client(here.url) as client:
        shop = client.template("shop", "create table product (name text)")
        with PostgresContainer(client=client, template=shop).with_name("the shop") as container:
            assert container.lease.labels == {"container": "the shop"}
            with psycopg.connect(plain(container)) as connection:
                assert connection.execute("select count(*) from product").fetchone() == (0,)
        assert [lease.state for lease in client.leases(labels={"container": "the shop"})] == ["released"]


def test_the_image_decides_when_it_is_offered(here):
    if "IMAGES" not in here.settings:
        pytest.skip("this backend has no images")
    with PostgresContainer(NEWER) as container:
        assert container.lease.image == NEWER
        assert container.lease.versions["postgres"].startswith("18.")


def test_an_image_with_more_in_it_than_postgres_is_not_replaced(here):
    container = PostgresContainer("postgis/postgis:16-3.4")
    with pytest.raises(leasedb.VersionUnavailableError, match=r"LEASEDB_IMAGES=.*postgis/postgis:16-3.4"), container:
        pass


def test_a_version_that_is_not_served_is_refused(here):
    container = PostgresContainer("postgres:13")
    with pytest.raises(leasedb.VersionUnavailableError, match="Postgres 13 is not served here"), container:
        pass
    assert container.status == "not_started"


# --- what it cannot do ---


@pytest.mark.parametrize(
    ("ask", "why"),
    [
        (lambda container: container.with_env("POSTGRES_INITDB_ARGS", "-E LATIN1"), "daemon's environment"),
        (lambda container: container.with_bind_ports(5432, 5433), "get_exposed_port"),
        (lambda container: container.with_exposed_ports(8080), "nothing but Postgres listens"),
        (lambda container: container.with_command("postgres -c wal_level=logical"), "ALTER SYSTEM"),
        (lambda container: container.with_command("-c max_connections=1000"), "ALTER SYSTEM"),
        (lambda container: container.with_volume_mapping("/a", "/docker-entrypoint-initdb.d"), "client.template"),
        (lambda container: container.with_tmpfs_mount("/tmp"), "only Postgres"),
        (lambda container: container.with_kwargs(mem_limit="1g"), "options of Docker"),
        (lambda container: container.with_network("net"), "this machine only"),
        (lambda container: container.exec("psql"), "get_connection_url"),
        (lambda container: container.get_wrapped_container(), "no container"),
        (lambda container: container.with_copy_into_container(b"", "/x"), "client.template"),
        (lambda _: PostgresContainer(command="postgres -c wal_level=logical"), "ALTER SYSTEM"),
        (lambda _: PostgresContainer(volumes=[("/a", "/b", "ro")]), "client.template"),
        (lambda _: PostgresContainer(env={"TZ": "UTC"}), "over SQL"),
        (lambda _: PostgresContainer(ports=[80]), "nothing but Postgres"),
        (lambda _: PostgresContainer(privileged=True), "option privileged"),
    ],
)
def test_what_a_lease_cannot_do_is_said_at_once(ask, why):
    with pytest.raises(ContainerUnsupportedError, match=why):
        ask(PostgresContainer())


def test_what_makes_no_difference_is_taken():
    container = PostgresContainer("postgres", env={"PGDATA": "/x"}, ports=[5432], name="n", command=None)
    taken = (
        container.with_env("POSTGRES_PASSWORD", "x")
        .with_envs(POSTGRES_USER="y")
        .with_exposed_ports(5432, "5432/tcp")
        .with_bind_ports(5432)
        .with_command(["postgres", "-c", "fsync=off", "-cmax_connections=200", "--synchronous_commit=off"])
        .with_command("postgres")
        .with_tmpfs_mount("/var/lib/postgresql/data", "1g")
        .with_kwargs()
        .waiting_for(object())
        .maybe_emulate_amd64()
        .with_name("other")
    )
    taken.reload()
    assert taken is container
    assert container.env == {"PGDATA": "/x", "POSTGRES_PASSWORD": "x", "POSTGRES_USER": "y"}
    assert (container.username, container.image) == ("test", "postgres")
    with pytest.raises(ValueError, match="username"):
        PostgresContainer(user="x")
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        container.nonsense  # noqa: B018 - looking is the test


def test_every_method_of_testcontainers_is_there_or_says_why_not():
    for name, theirs in inspect.getmembers(Original, inspect.isfunction):
        if name.startswith("_") and name != "__init__":
            continue
        try:
            ours = getattr(PostgresContainer, name)
        except AttributeError:
            with pytest.raises(ContainerUnsupportedError, match=name):
                getattr(PostgresContainer(), name)
            continue
        expected = list(inspect.signature(theirs).parameters)
        assert list(inspect.signature(ours).parameters)[: len(expected) - (name == "__init__")] == [
            parameter for parameter in expected if name != "__init__" or parameter != "kwargs"
        ], name


def test_an_embedded_daemon_that_leases_no_whole_servers_says_what_to_set(daemon):
    with leasedb.Client(daemon.url) as client, pytest.raises(leasedb.ExclusiveUnavailableError) as caught:
        PostgresContainer(client=client).start()
    assert "LEASEDB_POOL_EXCLUSIVE=1 leasedb serve" in str(caught.value)
    assert f"the daemon at {daemon.url} leases none" in str(caught.value)


@needs_embedded
def test_where_whole_servers_are_refused_it_starts_a_daemon_for_this_user_alone():
    there = Place()
    beside = Place(there.directory / "exclusive")
    code = (
        "from leasedb.testing import PostgresContainer\n"
        "with PostgresContainer() as one, PostgresContainer() as two:\n"
        "    print(one.lease.server_kind, one.lease.server != two.lease.server)"
    )
    try:
        for _ in range(2):
            process = there.python(code)
            assert process.communicate(timeout=120)[0] == "exclusive True\n"
        assert beside.starts == 1
        assert stat.S_IMODE((beside.directory / "token").stat().st_mode) == 0o600
        port = int((beside.directory / "port").read_text())
        with leasedb.Client(f"http://127.0.0.1:{port}") as stranger, pytest.raises(leasedb.UnauthorizedError):
            stranger.acquire(server="exclusive")
    finally:
        beside.end()
        there.end()


@needs_embedded
def test_no_daemon_is_started_beside_one_when_none_may_be(daemon, monkeypatch):
    monkeypatch.setenv("LEASEDB_URL", daemon.url)
    monkeypatch.setenv("LEASEDB_AUTOSTART", "0")
    with pytest.raises(leasedb.ExclusiveUnavailableError, match="LEASEDB_POOL_EXCLUSIVE=1 leasedb serve"):
        PostgresContainer().start()


def test_no_daemon(monkeypatch):
    monkeypatch.setenv("LEASEDB_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("LEASEDB_AUTOSTART", "0")
    container = PostgresContainer()
    with pytest.raises(leasedb.DaemonUnreachableError, match="leasedb serve"):
        container.start()
    assert container.status == "not_started"


def test_what_is_asked_for(monkeypatch):
    with FakeDaemon() as fake:
        monkeypatch.setenv("LEASEDB_URL", fake.url)
        with PostgresContainer("postgres:17", username="ann", dbname="postgres"):
            pass
        [request] = fake.sent("POST", "/leases")
    asked = {name: request.body[name] for name in ("server", "image", "user")}
    assert asked == {"server": "exclusive", "image": "postgres:17", "user": "ann"}
    assert "database" not in request.body
    assert (request.body["pid"], request.body["wait"]) == (os.getpid(), 600)


@pytest.mark.parametrize(
    ("image", "then"),
    [
        ("postgres:16", [{"postgres": "16"}]),
        ("postgres:16.4", [{"postgres": "16"}]),
        ("postgres:16-alpine", [{"postgres": "16"}]),
        ("postgres:18beta1", [{"postgres": "18"}]),
        ("docker.io/library/postgres:17.2-bookworm", [{"postgres": "17"}]),
        ("registry:5000/postgres:17", [{"postgres": "17"}]),
        ("pgvector/pgvector:pg16", [{"postgres": "16"}]),
        ("pgvector/pgvector:0.8.0-pg17", [{"postgres": "17"}]),
        ("pgvector/pgvector:0.8.0-pg17-trixie", [{"postgres": "17"}]),
        ("pgvector/pgvector", [{}]),
        ("postgres", [{}]),
        ("postgres:latest", [{}]),
        ("postgres:alpine", [{}]),
        ("postgres:9.6", []),
        ("postgres@sha256:0000", []),
        ("postgis/postgis:16-3.4", []),
        ("timescale/timescaledb:latest-pg16", []),
    ],
)
def test_an_image_that_is_not_offered_stands_for_its_version(image, then):
    assert list(wishes(image)) == [{"image": image}, *then]
