"""Servers of several images side by side, and images that cannot be had."""

import asyncio

import pytest

from leasedb_server.backends.container import ContainerSettings
from leasedb_server.backends.container.pulling import PullProgress
from leasedb_server.backends.container.spec import RefusedError
from leasedb_server.domain.edition import Editions
from leasedb_server.domain.errors import ServerStartError
from leasedb_server.domain.names import new_ident
from tests.contracts import engines
from tests.contracts.bench import Bench, tar
from tests.contracts.registry import Registry


def quiet(_line: str) -> None:
    pass


def another(bench: Bench) -> str:
    """Make an image that nothing was prepared from yet."""
    return bench.image({"unlike": new_ident()}, ["docker-entrypoint.sh"], base=engines.image())


def test_two_images_side_by_side(bench: Bench) -> None:
    other = another(bench)
    backend = bench.backend(images=(other,))
    bench.run(backend.check(quiet))
    assert bench.prepared(other) == []

    plain, special, late = bench.name(), bench.name(), bench.name()

    async def start() -> None:
        for endpoint in await asyncio.gather(backend.start(plain), backend.start(special, other)):
            with await asyncio.to_thread(bench.ready, endpoint) as connection:
                connection.execute("select '[1,2,3]'::vector")
            assert endpoint.base == "leasedb_base"

    bench.run(start())
    (prepared,) = bench.prepared(other)
    assert bench.inspect(special)["Image"].removeprefix("sha256:") == prepared["Id"].removeprefix("sha256:")
    assert bench.inspect(plain)["Image"] != bench.inspect(special)["Image"]

    again = bench.backend(images=(other,))
    bench.run(again.start(late, other))
    assert bench.inspect(late)["Image"] == bench.inspect(special)["Image"]
    assert len(bench.prepared(other)) == 1

    bench.run(again.stop(special))
    assert [bench.run(again.alive(name)) for name in (plain, special, late)] == [True, False, True]
    assert bench.run(again.sweep(frozenset({plain}))) == [late]
    assert bench.run(again.alive(plain)) is True
    # one of them goes, the other is prepared still
    assert [line for line in bench.run(backend.clean()) if other in line]
    assert bench.prepared(other) == []


def test_an_edition_that_is_not_allowed(bench: Bench) -> None:
    backend = bench.backend(images=(engines.image(),))
    for edition in ("17", "acme/postgres:1"):
        with pytest.raises(ServerStartError, match=f"no servers of {edition} here.*LEASEDB_VERSIONS"):
            bench.run(backend.start(bench.name(), edition))
    assert bench.engine.containers(bench.daemon) == []


def test_an_image_that_cannot_be_pulled_keeps_only_its_own_servers_away(bench: Bench) -> None:
    with Registry({}) as registry:
        image = f"{registry.host}/leasedb-test/none:pg18"
        backend, name = bench.backend(images=(image,)), bench.name()
        bench.run(backend.check(quiet))
        with pytest.raises(ServerStartError) as caught:
            bench.run(backend.start(name, image))
    assert f"has no image {image}, and it cannot be pulled: " in caught.value.detail
    assert f"docker pull {image}" in caught.value.hint
    assert f"take {image} out of LEASEDB_IMAGES" in caught.value.hint
    assert bench.inspect(name) is None
    bench.ready(bench.run(backend.start(name))).close()


def test_an_image_that_is_pulled_when_it_is_first_asked_for() -> None:
    docker = engines.engine("docker")  # Podman speaks TLS to every registry that its own files do not except
    with asyncio.Runner() as runner, Registry({"leasedb-test/tiny": tar({"hello": "x"})}) as registry:
        bench = Bench(docker, runner)
        image = f"{registry.host}/leasedb-test/tiny:latest"
        try:
            with pytest.raises(ServerStartError, match=r"could be made|did not start"):  # there is no Postgres in it
                bench.run(bench.backend(images=(image,)).start(bench.name(), image))
            assert docker.has(image)
        finally:
            bench.api.remove_image(image)
            bench.close()


@pytest.mark.parametrize("of_the_default", [True, False])
def test_a_pull_in_which_nothing_happens_is_not_waited_for_at_the_end(of_the_default: bool) -> None:  # noqa: FBT001
    docker = engines.engine("docker")
    with asyncio.Runner() as runner, Registry({"leasedb-test/never": tar({"hello": "x"})}, stalling=True) as registry:
        image, bench = f"{registry.host}/leasedb-test/never:latest", Bench(docker, runner)

        async def given_up() -> None:
            backend = bench.backend(image=image) if of_the_default else bench.backend(images=(image,))
            pull = backend.check(quiet) if of_the_default else backend.start(name := bench.name(), image)
            pulling = asyncio.ensure_future(pull)
            try:
                assert await asyncio.to_thread(registry.asked.wait, 20)
                pulling.cancel()
                async with asyncio.timeout(5):
                    if not of_the_default:
                        await backend.stop(name)
                    await backend.close()
            finally:
                registry.give_up()
                await asyncio.wait([pulling])

        try:
            bench.run(given_up())
        finally:
            bench.close()


def test_the_version_of_an_own_image_is_known_once_it_was_looked_at(bench: Bench) -> None:
    backend = bench.backend(versions=("16",))
    assert backend.editions == Editions(None, engines.image(), ("16",))
    bench.run(backend.check(quiet))
    claimed = bench.api.inspect_image(engines.image())["Config"]["Env"]
    major = next((entry.partition("=")[2] for entry in claimed if entry.startswith("PG_MAJOR=")), None)
    assert backend.editions == Editions(major, engines.image(), ("16",))
    assert bench.backend(major="18").editions.default_major == "18"


def test_what_versions_are_made_of() -> None:
    settings = ContainerSettings("aaaaaa", versions=("17",), images=("acme/postgres:1",))
    assert settings.image_of("") == "pgvector/pgvector:pg18"
    assert settings.image_of("17") == "pgvector/pgvector:pg17"
    assert settings.image_of("acme/postgres:1") == "acme/postgres:1"
    assert settings.image_of("16") is settings.image_of("acme/postgres:2") is None


def test_a_pull_that_nobody_waits_for_ends() -> None:
    given_up = False
    pull = PullProgress("acme/postgres:1", quiet, lambda: given_up)
    pull.event({"status": "Downloading"})
    given_up = True
    with pytest.raises(RefusedError, match="given up"):
        pull.event({"status": "Downloading"})
