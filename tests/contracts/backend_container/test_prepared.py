"""The prepared state: made once, made anew when the image changes, gone when asked for, and never in the way."""

import asyncio
import fcntl
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker.errors import NotFound

from leasedb_server.backends.container import ContainerBackend
from leasedb_server.domain.names import new_ident
from tests.contracts import engines
from tests.contracts.bench import ODDITY, Bench
from tests.waiting import until

CHECK = """
import asyncio, sys
from leasedb_server.backends.container import ContainerBackend, ContainerSettings
engine, image, daemon = sys.argv[1:]
backend = ContainerBackend(ContainerSettings(daemon=daemon, image=image, engine=engine))
asyncio.run(backend.check(print))
"""


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """Keep the tests of this file out of each other's way, in all workers: cleaning takes what any of them made."""
    with Path(__file__).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def quiet(_line: str) -> None:
    pass


def another(bench: Bench, files: dict[str, str] | None = None) -> str:
    """Make an image that nothing was prepared from yet."""
    return bench.image({"unlike": new_ident(), **(files or {})}, ["docker-entrypoint.sh"], base=engines.image())


def started(bench: Bench, backend: ContainerBackend) -> dict[str, Any]:
    """Start a server and return what the engine says about its container."""
    name = bench.name()
    bench.ready(bench.run(backend.start(name))).close()
    return bench.inspect(name)


def image_of(container: dict[str, Any]) -> str:
    return container["Image"].removeprefix("sha256:")


def ids(rows: list[dict[str, Any]]) -> set[str]:
    return {row["Id"].removeprefix("sha256:") for row in rows}


def test_an_image_is_prepared_once_and_servers_start_from_that(bench: Bench) -> None:
    image = another(bench)
    told: list[str] = []
    bench.run(bench.backend(image=image).check(told.append))
    assert told[0] == f"Preparing {image}; this is done once."
    assert told[1].startswith(f"Prepared {image} in ")
    assert bench.engine.containers(bench.daemon) == []
    (made,) = bench.prepared(image)
    assert (made["Labels"]["leasedb.daemon"], made["Labels"]["leasedb.server"]) == ("", "")
    assert "POSTGRES_PASSWORD=" in bench.api.inspect_image(made["Id"])["Config"]["Env"]

    told.clear()
    backend = bench.backend(image=image)
    bench.run(backend.check(told.append))
    assert told == []
    assert image_of(started(bench, backend)) in ids([made])
    assert len(bench.prepared(image)) == 1


def test_looking_makes_nothing(bench: Bench) -> None:
    image = another(bench)
    bench.run(bench.backend(image=image).check(quiet, fetch=False))
    assert bench.prepared(image) == []


def test_another_image_under_the_same_name_is_prepared_anew(bench: Bench) -> None:
    image = another(bench)
    backend = bench.backend(image=image)
    bench.run(backend.check(quiet))
    first = ids(bench.prepared(image))

    bench.api.tag(another(bench), ODDITY, image.partition(":")[2])
    container = started(bench, backend)
    second = ids(bench.prepared(image))
    assert image_of(container) in second
    # nothing used the first one
    assert first.isdisjoint(second)


def test_what_somebody_deleted_is_made_again(bench: Bench) -> None:
    image = another(bench)
    backend = bench.backend(image=image)
    bench.run(backend.check(quiet))
    bench.api.remove_image(bench.prepared(image)[0]["Id"])
    assert image_of(started(bench, backend)) in ids(bench.prepared(image))


def test_cleaning_takes_what_no_server_uses(bench: Bench) -> None:
    image = another(bench)
    backend = bench.backend(image=image)
    container = started(bench, backend)
    assert not [line for line in bench.run(backend.clean()) if image in line]
    assert image_of(container) in ids(bench.prepared(image))

    bench.run(backend.stop(container["Name"].removeprefix("/")))
    taken = [line for line in bench.run(backend.clean()) if image in line]
    assert taken == [f"the prepared state of {image} in {backend._engine.title}"]
    assert bench.prepared(image) == []


def test_cleaning_leaves_what_somebody_made_of_ours(bench: Bench) -> None:
    image = another(bench)
    backend = bench.backend(image=image)
    container = started(bench, backend)
    committed = bench.api.commit(container["Id"], ODDITY, tag := new_ident())["Id"]
    bench.run(backend.stop(container["Name"].removeprefix("/")))
    try:
        bench.run(backend.clean())
        assert bench.engine.has(f"{ODDITY}:{tag}")
    finally:
        bench.api.remove_image(committed)


# --- when it fails ---


def test_an_image_that_cannot_be_prepared_initialises_itself(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    image = another(bench, {"usr/local/sbin/psql": "#!/bin/sh\necho no psql here >&2\nexit 1\n"})
    backend = bench.backend(image=image)
    for _ in range(2):
        name = bench.name()
        endpoint = bench.run(backend.start(name))
        assert (endpoint.guarded, endpoint.base, endpoint.memory, endpoint.overflow) == (False, None, None, None)
        with bench.ready(endpoint) as connection:
            rules = connection.execute("select distinct auth_method from pg_hba_file_rules where type <> 'local'")
            assert rules.fetchall() == [("scram-sha-256",)]
        bench.run(backend.stop(name))
    (told,) = (line for line in caplog.messages if "was not prepared" in line)
    assert "no psql here" in told
    assert bench.prepared(image) == []
    assert bench.engine.containers(bench.daemon) == []


def test_a_preparing_container_that_is_killed_leaves_nothing(bench: Bench) -> None:
    image = another(bench)
    backend = bench.backend(image=image)
    told: list[str] = []

    async def check_and_kill() -> None:
        check = asyncio.ensure_future(backend.check(told.append))
        container = await asyncio.to_thread(preparing, bench)
        # the sweep of the daemon whose own it is spares it
        assert await backend.sweep(frozenset()) == []
        await asyncio.to_thread(kill, bench, container)
        await check

    bench.run(check_and_kill())
    assert told[0] == f"Preparing {image}; this is done once."
    assert f"{image} was not prepared, so servers take longer to start: " in told[1]
    assert bench.prepared(image) == []
    assert bench.engine.containers(bench.daemon) == []


def test_a_daemon_that_is_killed_while_it_prepares_leaves_nothing_once_swept(bench: Bench) -> None:
    image = another(bench)
    command = [sys.executable, "-c", CHECK, bench.engine.address, image, bench.daemon]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as daemon:
        container = preparing(bench)
        volumes = set(bench.volumes_of(container).values())
        daemon.kill()
    assert bench.run(bench.backend(image=image).sweep(frozenset())) == [container]
    assert bench.engine.containers(bench.daemon) == []
    assert bench.prepared(image) == []
    assert not volumes & bench.volumes()


def test_a_daemon_that_stops_gives_up_preparing(bench: Bench) -> None:
    image = another(bench)
    backend = bench.backend(image=image)

    async def cancel() -> None:
        check = asyncio.ensure_future(backend.check(quiet))
        await asyncio.to_thread(preparing, bench)
        check.cancel()
        with pytest.raises(asyncio.CancelledError):
            await check
        await backend.close()

    bench.run(cancel())
    assert bench.engine.containers(bench.daemon) == []
    assert bench.prepared(image) == []


def preparing(bench: Bench) -> str:
    """Wait until the preparing container runs, and return its name."""

    def running() -> str | None:
        for name in bench.engine.containers(bench.daemon):
            found = bench.inspect(name)
            if found and found["State"]["Running"]:
                return name
        return None

    return until(running, 30, "the preparing container")


def kill(bench: Bench, container: str) -> None:
    try:
        bench.api.remove_container(container, v=True, force=True)
    except NotFound as error:
        raise AssertionError("it was quicker than the test") from error
