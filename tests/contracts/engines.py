"""Container engines that answer on this machine, and the image that the tests start."""

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest
from docker import APIClient
from docker.errors import ImageNotFound

from leasedb_server.backends.container.engine import reach
from leasedb_server.backends.container.places import named, places
from leasedb_server.backends.container.spec import RefusedError

ENGINES = ("docker", "podman")


def image() -> str:
    return os.environ.get("LEASEDB_TEST_IMAGE", "leasedb-test/pgvector:pg17")


@dataclass(frozen=True, slots=True)
class RealEngine:
    """``product`` is ``Docker`` or ``Podman``; ``address`` as in DOCKER_HOST."""

    product: str
    address: str

    @contextmanager
    def api(self) -> Iterator[APIClient]:
        client = APIClient(base_url=self.address, version="auto")
        try:
            yield client
        finally:
            client.close()

    def has(self, reference: str) -> bool:
        with self.api() as api:
            try:
                api.inspect_image(reference)
            except ImageNotFound:
                return False
            return True

    def containers(self, daemon: str) -> list[str]:
        """Return the names of all containers of a daemon, in whatever state."""
        with self.api() as api:
            found = api.containers(all=True, filters={"label": [f"leasedb.daemon={daemon}"]})
        return [name.removeprefix("/") for container in found for name in container["Names"]]

    def kill_postgres(self, container: str) -> None:
        """End the Postgres in a container with SIGKILL, not the container."""
        with self.api() as api:
            kill = api.exec_create(container, ["sh", "-c", 'kill -9 "$(head -n 1 "$PGDATA/postmaster.pid")"'])
            api.exec_start(kill["Id"])


def engine(name: str) -> RealEngine:
    """Return the engine (``docker`` or ``podman``) that has the image; skip, or fail where containers are required."""
    found = look(name)
    if isinstance(found, str):
        missing(found)
    if not found.has(image()):
        missing(f"{found.product} has no image {image()}: run tests/image/build.sh {name}, or set LEASEDB_TEST_IMAGE")
    return found


def missing(why: str) -> NoReturn:
    """Skip the test, saying why; fail it where LEASEDB_TEST_REQUIRE (comma-separated) names ``container``."""
    if "container" in os.environ.get("LEASEDB_TEST_REQUIRE", "").split(","):
        pytest.fail(f"containers are required here: {why}")
    pytest.skip(why)


@functools.cache
def look(name: str) -> RealEngine | str:
    """Return the engine, or why there is none. LEASEDB_TEST_DOCKER and LEASEDB_TEST_PODMAN name one by its address."""
    variable = f"LEASEDB_TEST_{name.upper()}"
    given = os.environ.get(variable)
    reasons = []
    for place in [named(given, variable)] if given else places(os.environ, Path.home()):
        if place.socket and not place.socket.exists() and not place.origin:
            continue
        try:
            client = reach(place, 30)
        except RefusedError as error:
            reasons.append(f"{place}: {error}")
            continue
        client.close()
        if client.product.lower() == name:
            return RealEngine(client.product, client.address)
    return f"no {name} engine answers here ({'; '.join(reasons) or 'no socket found'})"
