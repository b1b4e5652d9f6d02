"""The image, the container around a server, and how both end, on every engine that answers here."""

import asyncio
from pathlib import Path

import pytest

from leasedb_server.domain.errors import BackendUnavailableError, ServerStartError, ServerUnreachableError
from leasedb_server.domain.names import Kind, Name, new_daemon_id, new_ident
from tests.contracts import engines
from tests.contracts.bench import Bench, tar
from tests.contracts.forwarder import Forwarder
from tests.contracts.registry import Registry
from tests.waiting import until


def quiet(_line: str) -> None:
    pass


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
            assert any(line.startswith(f"Pulled {image} in ") for line in told)
            # there now: nothing to tell
            told.clear()
            bench.run(bench.backend(image=image).check(told.append))
            assert not any(line.startswith("Pull") for line in told)
        finally:
            bench.api.remove_image(image)
            bench.close()


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


def test_a_parallel_hnsw_build_has_the_memory_it_shares(bench: Bench) -> None:
    backend, name = bench.backend(), bench.name()
    with bench.ready(bench.run(backend.start(name))) as connection:
        connection.execute("create extension if not exists vector")
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
    backend, name = bench.backend(orphan_timeout=2.0), bench.name()
    endpoint = bench.run(backend.start(name))
    with bench.ready(endpoint) as connection:
        connection.execute(f"copy (select 1) to '{endpoint.heartbeat}'")
    volumes = set(bench.volumes_of(name).values())
    bench.run(backend.close())
    until(lambda: bench.inspect(name) is None, 60, "the orphan is gone")
    until(lambda: not volumes & bench.volumes(), 10, "its volumes are gone")


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
