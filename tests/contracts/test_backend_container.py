"""What only the container backend promises, on every engine that answers here."""

import asyncio
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from leasedb_server.backends.container import ContainerBackend, ContainerSettings
from leasedb_server.backends.container.places import places
from leasedb_server.domain.errors import BackendUnavailableError, ServerStartError, ServerUnreachableError
from leasedb_server.domain.names import Kind, Name, new_daemon_id, new_ident
from tests.contracts import engines
from tests.contracts.bench import Bench, tar
from tests.contracts.forwarder import Forwarder
from tests.contracts.registry import Registry
from tests.waiting import until


@pytest.fixture(params=engines.ENGINES)
def engine(request: pytest.FixtureRequest) -> engines.RealEngine:
    return engines.engine(request.param)


@pytest.fixture
def bench(engine: engines.RealEngine) -> Iterator[Bench]:
    with asyncio.Runner() as runner:
        bench = Bench(engine, runner)
        try:
            yield bench
        finally:
            bench.close()


def quiet(_line: str) -> None:
    pass


# --- finding the engine ---


def test_importing_the_backend_costs_no_sdk() -> None:
    code = "import leasedb_server.backends.container, sys; sys.exit('docker' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_check_says_engine_version_address_and_image(bench: Bench) -> None:
    version = bench.api.version()["Version"].partition("+")[0]
    assert bench.run(bench.backend().check(quiet)) == (
        f"{bench.engine.product} {version} at {bench.engine.address} with the image {engines.image()}"
    )


def test_docker_host_comes_first(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", bench.engine.address)
    assert bench.engine.address in bench.run(bench.backend(engine=None).check(quiet))


def test_what_the_user_named_and_is_not_used_is_told(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    monkeypatch.setenv("DOCKER_CONTEXT", "lost")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("CONTAINER_HOST", bench.engine.address)
    told: list[str] = []
    assert bench.engine.address in bench.run(bench.backend(engine=None).check(told.append))
    assert told[0] == "Not used: DOCKER_HOST (unix:///nowhere/docker.sock): No such file or directory."
    assert told[1].startswith("Not used: the docker context 'lost': does not exist: no ")


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("unix:///nowhere.sock", "No such file or directory"),
        ("tcp://127.0.0.1:1", "Connection refused"),
        ("tcp://192.0.2.1:2375", "on another machine"),
        ("ssh://somebody@build.example", "on another machine"),
        ("tcp://[::1", "not an address"),
        ("docker.sock", "not an address of a kind known here"),
    ],
)
def test_an_engine_that_cannot_be_used_is_named_with_the_reason(address: str, reason: str) -> None:
    async def check() -> None:
        backend = ContainerBackend(ContainerSettings(daemon=new_daemon_id(), engine=address))
        with pytest.raises(BackendUnavailableError) as caught:
            await backend.check(quiet)
        await backend.close()
        assert address in caught.value.detail
        assert reason in caught.value.detail
        assert "DOCKER_HOST" in caught.value.hint
        with pytest.raises(ServerUnreachableError):
            await backend.stop(str(Name(backend._settings.daemon, Kind.SERVER, new_ident())))

    asyncio.run(check())


def test_something_else_on_the_address_is_told_from_an_engine() -> None:
    with Registry({}) as registry:
        backend = ContainerBackend(ContainerSettings(daemon=new_daemon_id(), engine=f"tcp://{registry.host}"))
        with pytest.raises(BackendUnavailableError, match="No container engine answers"):
            asyncio.run(backend.check(quiet))


def _context(home: Path, name: str, host: str) -> None:
    meta = home / ".docker/contexts/meta" / hashlib.sha256(name.encode()).hexdigest()
    meta.mkdir(parents=True)
    endpoints = {"docker": {"Host": host, "SkipTLSVerify": False}}
    (meta / "meta.json").write_text(json.dumps({"Name": name, "Metadata": {}, "Endpoints": endpoints}))


def test_places_are_tried_in_order(tmp_path: Path) -> None:
    _context(tmp_path, "colima", "unix:///there/docker.sock")
    (tmp_path / ".docker/config.json").write_text('{"currentContext": "colima"}')
    (tmp_path / ".colima/work").mkdir(parents=True)
    (tmp_path / ".colima/work/docker.sock").touch()
    environment = {
        "DOCKER_HOST": "tcp://localhost:2375",
        "CONTAINER_HOST": "unix:///pod.sock",
        "XDG_RUNTIME_DIR": "/run/user/7",
    }
    found = places(environment, tmp_path)
    assert [(place.origin, place.address, place.problem) for place in found[:3]] == [
        ("DOCKER_HOST", "tcp://localhost:2375", ""),
        ("the docker context 'colima'", "unix:///there/docker.sock", ""),
        ("CONTAINER_HOST", "unix:///pod.sock", ""),
    ]
    usual = [place.address for place in found[3:]]
    assert usual[:2] == ["unix:///var/run/docker.sock", "unix:///run/user/7/docker.sock"]
    assert f"unix://{tmp_path}/.colima/work/docker.sock" in usual
    assert "unix:///run/user/7/podman/podman.sock" in usual
    assert len({place.address for place in found}) == len(found)


def test_the_context_of_the_environment_wins(tmp_path: Path) -> None:
    _context(tmp_path, "one", "unix:///one.sock")
    _context(tmp_path, "two", "unix:///two.sock")
    (tmp_path / ".docker/config.json").write_text('{"currentContext": "one"}')
    assert places({"DOCKER_CONTEXT": "two"}, tmp_path)[0].address == "unix:///two.sock"
    assert places({"DOCKER_CONTEXT": "default"}, tmp_path)[0].origin == ""


@pytest.mark.parametrize("text", ["{", "[]", '"colima"'])
def test_a_damaged_docker_configuration_is_told(text: str, tmp_path: Path) -> None:
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker/config.json").write_text(text)
    first = places({}, tmp_path)[0]
    assert first.origin.endswith("config.json")
    assert "cannot be read" in first.problem


# --- the image ---


def test_an_image_that_cannot_be_pulled_is_told_with_the_registrys_reason(bench: Bench) -> None:
    with Registry({}) as registry:
        image = f"{registry.host}/leasedb-test/none:pg18"
        told: list[str] = []
        with pytest.raises(BackendUnavailableError) as caught:
            bench.run(bench.backend(image=image).check(told.append))
    assert told == [f"Pulling {image}; this is done once."]
    assert f"has no image {image}, and it cannot be pulled: " in caught.value.detail
    assert f"docker pull {image}" in caught.value.hint
    assert "LEASEDB_IMAGE" in caught.value.hint


def test_a_missing_image_is_pulled_with_progress() -> None:
    docker = engines.engine("docker")  # Podman speaks TLS to every registry that its own files do not except
    with asyncio.Runner() as runner, Registry({"leasedb-test/tiny": tar({"hello": "x" * 3_000_000})}) as registry:
        bench = Bench(docker, runner)
        image = f"{registry.host}/leasedb-test/tiny:latest"
        told: list[str] = []
        try:
            assert image in bench.run(bench.backend(image=image).check(told.append))
            assert told[0] == f"Pulling {image}; this is done once."
            assert told[-1].startswith(f"Pulled {image} in ")
            # there now: nothing to tell
            told.clear()
            bench.run(bench.backend(image=image).check(told.append))
            assert told == []
        finally:
            bench.api.remove_image(image)
            bench.close()


@pytest.mark.parametrize("image", [engines.image(), "leasedb-test/pgvector:pg18"])
def test_data_lies_on_a_volume_that_goes_with_the_container(bench: Bench, image: str) -> None:
    if not bench.engine.has(image):
        pytest.skip(f"no image {image} here: tests/image/build.sh --postgres 18 makes it")
    before = bench.volumes()
    backend, name = bench.backend(image=image), bench.name()
    with bench.ready(bench.run(backend.start(name))) as connection:
        (data,) = connection.execute("show data_directory").fetchone()
    mounts = {mount["Destination"]: mount["Name"] for mount in bench.inspect(name)["Mounts"]}
    (volume,) = (volume for path, volume in mounts.items() if f"{data}/".startswith(f"{path}/"))
    assert volume in bench.volumes()
    bench.run(backend.stop(name))
    assert bench.inspect(name) is None
    assert volume not in bench.volumes()
    assert bench.volumes() <= before


# --- the container ---


def test_a_server_is_labelled_and_published_on_loopback_only(bench: Bench) -> None:
    backend, name = bench.backend(), bench.name()
    endpoint = bench.run(backend.start(name))
    found = bench.inspect(name)
    assert found["Config"]["Labels"].items() >= {"leasedb.daemon": bench.daemon, "leasedb.server": name}.items()
    assert found["NetworkSettings"]["Ports"]["5432/tcp"] == [{"HostIp": "127.0.0.1", "HostPort": str(endpoint.port)}]
    assert found["HostConfig"]["AutoRemove"] is True
    assert found["HostConfig"]["ShmSize"] >= 256 << 20
    assert not found["HostConfig"]["Privileged"]


def test_nobody_gets_in_without_the_password(bench: Bench) -> None:
    backend, name = bench.backend(), bench.name()
    endpoint = bench.run(backend.start(name))
    with bench.ready(endpoint) as connection:
        rules = connection.execute("select distinct auth_method from pg_hba_file_rules where type <> 'local'")
        assert rules.fetchall() == [("scram-sha-256",)]
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        bench.connect(endpoint, password="guess")
    assert endpoint.password not in bench.run(backend.logs(name, 400))
    assert endpoint.password not in repr(endpoint)


def test_a_parallel_hnsw_build_has_the_memory_it_shares(bench: Bench) -> None:
    backend, name = bench.backend(), bench.name()
    with bench.ready(bench.run(backend.start(name))) as connection:
        connection.execute("create extension vector")
        connection.execute("set maintenance_work_mem = '128MB'")
        connection.execute("set min_parallel_table_scan_size = 1")
        connection.execute("create table item (v vector(16))")
        connection.execute(
            "insert into item select array(select random() + n from generate_series(1, 16))::vector "
            "from generate_series(1, 2000) n"
        )
        connection.execute("create index on item using hnsw (v vector_l2_ops)")
        nearest = "select count(*) from (select * from item order by v <-> %s::vector limit 5) near"
        assert connection.execute(nearest, [str([1.0] * 16)]).fetchone() == (5,)


def test_a_container_of_somebody_else_is_never_touched(bench: Bench) -> None:
    backend, ours = bench.backend(), bench.name()
    stranger = str(Name(new_daemon_id(), Kind.SERVER, new_ident()))
    signs = {"leasedb.daemon": bench.daemon, "leasedb.server": ours}
    foreign = [
        bench.container(ours),  # our name, no label
        bench.container(stranger, labels={"leasedb.daemon": stranger.split("_")[1], "leasedb.server": stranger}),
        bench.container(f"mine_{new_ident()}", labels=signs),  # our labels, as an image committed from ours has them
        bench.container(bench.name(), labels=signs),  # our labels of another server
    ]
    try:
        for name in (ours, stranger):
            assert bench.run(backend.alive(name)) is False
            assert bench.run(backend.logs(name, 10)) == ""
            bench.run(backend.stop(name))
        assert bench.run(backend.sweep(frozenset())) == []
        with pytest.raises(ServerStartError, match="in use"):
            bench.run(backend.start(ours))
        with pytest.raises(ValueError, match="not a name for a server of the daemon"):
            bench.run(backend.start(stranger))
        assert all(bench.inspect(container) for container in foreign)
    finally:
        for container in foreign:
            bench.api.remove_container(container, v=True, force=True)


def test_sweep_takes_servers_in_every_state_but_those_kept(bench: Bench) -> None:
    dead, backend = bench.backend(), bench.backend()
    running, kept, created = bench.name(), bench.name(), bench.name()
    bench.run(dead.start(running))
    bench.run(dead.start(kept))
    bench.container(created, labels={"leasedb.daemon": bench.daemon, "leasedb.server": created})
    assert sorted(bench.run(backend.sweep(frozenset({kept})))) == sorted([running, created])
    assert bench.inspect(running) is bench.inspect(created) is None
    assert bench.run(backend.alive(kept)) is True
    assert bench.run(backend.alive(running)) is False
    assert bench.run(backend.sweep(frozenset({kept}))) == []


# --- dying ---


def test_an_image_that_cannot_even_start_is_told_and_nothing_is_left(bench: Bench) -> None:
    image = bench.image({"readme": "no shell here"}, ["/readme"])
    backend, name = bench.backend(image=image), bench.name()
    with pytest.raises(ServerStartError) as caught:
        bench.run(backend.start(name))
    assert name in caught.value.detail
    assert "sh" in caught.value.detail
    assert image in caught.value.hint
    assert bench.inspect(name) is None


def test_the_last_words_of_a_server_that_dies_early_are_kept(bench: Bench) -> None:
    script = "#!/bin/sh\nfor n in $(seq 30); do echo line $n; done >&2\necho 'no space left on device' >&2\nexit 3\n"
    image = bench.image({"fail": script}, ["sh", "/fail"], base=engines.image())
    backend, name = bench.backend(image=image), bench.name()
    said = ""
    try:
        bench.run(backend.start(name))
    except ServerStartError as error:  # it was quicker than the engine's answer
        said = error.detail
    assert not said or ("line 30\nno space left on device" in said and "line 5\n" not in said)
    until(lambda: not bench.run(backend.alive(name)), 60, "the server is seen dead")
    until(lambda: bench.inspect(name) is None, 60, "the container is gone")
    until(lambda: "no space left on device" in bench.run(backend.logs(name, 20)), 5, "the last words")
    assert bench.run(backend.logs(name, 1)).count("\n") == 0
    bench.run(backend.stop(name))
    assert bench.run(backend.logs(name, 20)) == ""


def test_a_crash_is_seen_at_once_and_its_log_can_be_read(bench: Bench) -> None:
    backend, name = bench.backend(), bench.name()
    endpoint = bench.run(backend.start(name))
    with bench.ready(endpoint) as connection:
        connection.execute(f"copy (select 1) to '{endpoint.heartbeat}'")
    bench.engine.kill_postgres(name)
    until(lambda: not bench.run(backend.alive(name)), 30, "the crash is seen")
    assert bench.inspect(name)["State"]["Running"]
    assert "leasedb: postgres ended with exit code 137" in bench.run(backend.logs(name, 5))
    bench.run(backend.stop(name))
    assert bench.inspect(name) is None


def test_a_server_without_its_daemon_stops_and_takes_its_data_along(bench: Bench) -> None:
    before = bench.volumes()
    backend, name = bench.backend(orphan_timeout=2.0), bench.name()
    endpoint = bench.run(backend.start(name))
    with bench.ready(endpoint) as connection:
        connection.execute(f"copy (select 1) to '{endpoint.heartbeat}'")
    bench.run(backend.close())
    until(lambda: bench.inspect(name) is None, 60, "the orphan is gone")
    until(lambda: bench.volumes() <= before, 10, "its volume is gone")


def test_a_server_that_no_daemon_ever_spoke_to_stops_too(bench: Bench) -> None:
    backend, name = bench.backend(orphan_timeout=1.0, start_timeout=2.0), bench.name()
    bench.run(backend.start(name))
    until(lambda: not bench.run(backend.alive(name)), 60, "the server is stopped")
    until(lambda: bench.inspect(name) is None, 60, "the orphan is gone")
    assert "leasedb: no sign of the daemon for" in bench.run(backend.logs(name, 20))


def test_a_start_that_was_cancelled_leaves_nothing_after_its_stop(bench: Bench) -> None:
    backend, name = bench.backend(), bench.name()

    async def cancel() -> None:
        await backend.check(quiet)
        start = asyncio.ensure_future(backend.start(name))
        while name not in backend._starting:
            await asyncio.wait([start], timeout=0.001)
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        await backend.stop(name)

    bench.run(cancel())
    assert bench.inspect(name) is None


def test_an_engine_that_goes_away_is_told_and_found_again(bench: Bench, tmp_path: Path) -> None:
    name = bench.name()
    backend = bench.backend(engine=f"unix://{tmp_path}/e.sock")
    with Forwarder(tmp_path / "e.sock", bench.engine.address):
        bench.run(backend.start(name))
        assert bench.run(backend.alive(name)) is True
    for call in (backend.stop(name), backend.sweep(frozenset())):
        with pytest.raises(ServerUnreachableError, match="does not answer: No such file or directory"):
            bench.run(call)
    with pytest.raises(ServerStartError, match="does not answer"):
        bench.run(backend.start(bench.name()))
    # it may well live, and only a query can tell
    assert bench.run(backend.alive(name)) is True
    assert "initdb" in bench.run(backend.logs(name, 400)) or bench.inspect(name)
    with Forwarder(tmp_path / "e.sock", bench.engine.address):
        bench.run(backend.stop(name))
        bench.run(backend.stop(name))
        bench.finish()
    assert bench.inspect(name) is None
