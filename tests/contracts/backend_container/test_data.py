"""Where a server's files lie, who gets in, and what is there from the beginning."""

import psycopg
import pytest

from leasedb_server.domain.server import Endpoint
from tests.contracts import engines
from tests.contracts.bench import Bench

IMAGES = [engines.image(), "leasedb-test/pgvector:pg18"]
MEBIBYTE = 1 << 20


@pytest.fixture(params=IMAGES)
def image(request: pytest.FixtureRequest, engine: engines.RealEngine) -> str:
    if not engine.has(request.param):
        pytest.skip(f"no image {request.param} here: tests/image/build.sh --postgres 18 makes it")
    return request.param


def file_system(bench: Bench, name: str, path: str) -> tuple[str, int]:
    """Return the kind and the size in bytes of the file system that a path in the container lies on."""
    answer = bench.execute(name, ["stat", "--file-system", "--format=%T %b %S", path])
    kind, blocks, size = answer.split()
    return kind, int(blocks) * int(size)


def test_data_lies_in_memory_of_the_size_granted(bench: Bench, image: str) -> None:
    backend, name = bench.backend(image=image, memory=300 * MEBIBYTE), bench.name()
    endpoint = bench.run(backend.start(name))
    with bench.ready(endpoint) as connection:
        (data,) = connection.execute("show data_directory").fetchone()
        assert file_system(bench, name, data) == ("tmpfs", 300 * MEBIBYTE)
        assert endpoint.memory == 300 * MEBIBYTE
        # a log that finds no room would end the server
        assert file_system(bench, name, f"{data}/pg_wal/.") == ("tmpfs", 1024 * MEBIBYTE)
        # Postgres itself can put databases on the disk
        connection.execute(f"create tablespace overflow location '{endpoint.overflow}'")
        connection.execute("create database large tablespace overflow")
    assert file_system(bench, name, endpoint.overflow)[0] not in {"tmpfs", "overlayfs"}
    assert bench.execute(name, ["stat", "--format=%a", endpoint.overflow]).strip() == "700"
    volumes = set(bench.volumes_of(name).values())
    assert volumes <= bench.volumes()
    bench.run(backend.stop(name))
    assert not volumes & bench.volumes()


def test_a_share_of_memory_is_taken_when_nobody_says_how_much(bench: Bench) -> None:
    backend, name = bench.backend(), bench.name()
    endpoint = bench.run(backend.start(name))
    assert endpoint.memory is None or 0 < endpoint.memory < bench.api.info()["MemTotal"]


def test_data_lies_on_a_volume_that_goes_with_the_container(bench: Bench, image: str) -> None:
    backend, name = bench.backend(image=image, memory=0), bench.name()
    endpoint = bench.run(backend.start(name))
    assert (endpoint.memory, endpoint.overflow) == (None, None)
    with bench.ready(endpoint) as connection:
        (data,) = connection.execute("show data_directory").fetchone()
    volumes = bench.volumes_of(name)
    assert any(f"{data}/".startswith(f"{path}/") for path in volumes)
    assert set(volumes.values()) <= bench.volumes()
    bench.run(backend.stop(name))
    assert bench.inspect(name) is None
    assert not set(volumes.values()) & bench.volumes()


def test_the_base_waits_with_vector_in_it(bench: Bench, image: str) -> None:
    backend = bench.backend(image=image)
    endpoint = bench.run(backend.start(bench.name()))
    with bench.ready(endpoint) as connection:
        base = "select datistemplate, datallowconn, pg_encoding_to_char(encoding) from pg_database where datname = %s"
        assert connection.execute(base, [endpoint.base]).fetchone() == (True, False, "UTF8")
        # where vector is proven when a server starts
        assert connection.execute("select '[1,2]'::vector <-> '[1,3]'").fetchone() == (1.0,)
        connection.execute(f"create database clone template {endpoint.base} strategy file_copy")
    with bench.connect(endpoint, dbname="clone") as clone:
        assert clone.execute("select '[1,2]'::public.vector <-> '[1,3]'").fetchone() == (1.0,)


def refusal(bench: Bench, endpoint: Endpoint, **login: str) -> str:
    with pytest.raises(psycopg.OperationalError) as caught:
        bench.connect(endpoint, **login)
    return str(caught.value)


def test_a_login_reaches_the_database_of_its_own_name_and_no_other(bench: Bench) -> None:
    endpoint = bench.run(bench.backend().start(bench.name()))
    with bench.ready(endpoint) as connection:
        for name in ("one", "two"):
            connection.execute(f"create role {name} login password 'secret of {name}'")
            connection.execute(f"create database {name}")
    assert endpoint.guarded
    one = {"user": "one", "password": "secret of one"}
    with bench.connect(endpoint, dbname="one", **one) as connection:
        assert connection.execute("select current_user").fetchone() == ("one",)
        assert not connection.pgconn.used_gssapi
    for database in ("two", "postgres", "template1"):
        assert "no pg_hba.conf entry" in refusal(bench, endpoint, dbname=database, **one)
    assert "password authentication failed" in refusal(bench, endpoint, dbname="one", user="one", password="guess")
    assert "no pg_hba.conf entry" in refusal(bench, endpoint, dbname="one", replication="true", **one)


def test_the_superuser_proves_itself_and_its_password_is_nowhere_to_be_read(bench: Bench) -> None:
    backend, name = bench.backend(), bench.name()
    endpoint = bench.run(backend.start(name))
    with bench.ready(endpoint) as connection:
        rules = connection.execute("select user_name, auth_method from pg_hba_file_rules where type = 'host'")
        assert rules.fetchall() == [(["postgres"], "scram-sha-256"), (["all"], "password")]
        stored = connection.execute("select rolpassword from pg_authid where rolname = 'postgres'").fetchone()
        assert stored[0].startswith("SCRAM-SHA-256$")
    assert "password authentication failed" in refusal(bench, endpoint, password="guess")
    assert endpoint.password not in bench.run(backend.logs(name, 400))
    assert endpoint.password not in repr(endpoint)
    assert not any(endpoint.password in entry for entry in bench.inspect(name)["Config"]["Env"])
