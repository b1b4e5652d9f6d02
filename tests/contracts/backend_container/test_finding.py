"""Which engine is used, and what is said about those that are not."""

import asyncio
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

from leasedb_server.backends.container import ContainerBackend, ContainerSettings
from leasedb_server.backends.container.places import places
from leasedb_server.domain.errors import BackendUnavailableError, ServerUnreachableError
from leasedb_server.domain.names import Kind, Name, new_daemon_id, new_ident
from tests.contracts import engines
from tests.contracts.bench import Bench
from tests.contracts.late import LateEngine
from tests.contracts.registry import Registry
from tests.daemons import RealDaemon
from tests.waiting import until


def quiet(_line: str) -> None:
    pass


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


@pytest.fixture
def late(engine: engines.RealEngine, tmp_path: Path) -> Iterator[LateEngine]:
    with LateEngine(tmp_path / "e.sock", Path(engine.address.removeprefix("unix://"))) as late:
        yield late


def test_a_busy_engine_that_the_user_named_is_waited_for(
    late: LateEngine, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", late.address)
    monkeypatch.setenv("CONTAINER_HOST", bench.engine.address)  # and answers at once
    told: list[str] = []

    def tell(line: str) -> None:
        told.append(line)
        late.answer()

    assert late.address in bench.run(bench.backend(engine=None).check(tell))
    assert told[0] == f"DOCKER_HOST ({late.address}) does not answer yet: waiting for it"


def test_the_engine_that_has_leases_comes_first_and_is_waited_for(
    late: LateEngine, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", bench.engine.address)
    told: list[str] = []

    def tell(line: str) -> None:
        told.append(line)
        late.answer()

    assert late.address in bench.run(bench.backend(engine=None, leased=(late.address,)).check(tell))
    assert told[0] == f"the engine that has leases ({late.address}) does not answer yet: waiting for it"


def test_an_engine_that_had_leases_and_is_gone_is_not_waited_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", bench.engine.address)
    backend = bench.backend(engine=None, leased=(f"unix://{tmp_path}/gone.sock",))
    told: list[str] = []
    assert bench.engine.address in bench.run(backend.check(told.append))
    assert told[0] == f"Not used: the engine that has leases (unix://{tmp_path}/gone.sock): No such file or directory."


def test_a_daemon_that_is_started_again_keeps_its_leases_on_a_busy_engine(
    engine: engines.RealEngine, late: LateEngine
) -> None:
    """Whichever other engine answers sooner."""
    late.answer()
    daemon = RealDaemon(
        {"BACKEND": "container", "IMAGE": engines.image(), "POOL_READY": "1"}, {"DOCKER_HOST": late.address}
    )
    try:
        daemon.start()
        lease = daemon.lease(ttl=3600)
        daemon.kill()
        late.be_silent()
        daemon.spawn()
        until(lambda: f"{late.address}) does not answer yet" in daemon.log, 60, "the engine to be waited for")
        late.answer()
        until(lambda: httpx.get(f"{daemon.url}/readyz").status_code == 200, 60, "the daemon to be ready")
        assert daemon.get(f"/leases/{lease['id']}")["state"] == "active"
        with psycopg.connect(lease["dsn"]) as connection:
            assert connection.execute("select 1").fetchone() == (1,)
        daemon.release(lease, sync=True)
    finally:
        late.answer()
        daemon.remove()


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
