"""A container engine at hand, spoken to directly and through backends of daemons that exist for one test."""

import asyncio
import contextlib
import io
import json
import tarfile
from collections.abc import Coroutine
from typing import Any, TypeVar

import psycopg
from docker import APIClient
from docker.errors import APIError, NotFound

from leasedb_server.backends.container import ContainerBackend, ContainerSettings
from leasedb_server.domain.names import Kind, Name, new_daemon_id, new_ident
from leasedb_server.domain.server import Endpoint
from tests.contracts import engines
from tests.waiting import until

T = TypeVar("T")
ODDITY = "leasedb-test/oddity"


class Bench:
    """One engine, one loop that everything runs in, one daemon id; ``close`` takes all of it away."""

    def __init__(self, engine: engines.RealEngine, runner: asyncio.Runner) -> None:
        self.engine = engine
        self.api = APIClient(base_url=engine.address, version="auto")
        self.daemon = new_daemon_id()
        self._runner = runner
        self._backends: list[ContainerBackend] = []
        self._images: list[str] = []
        self._volumes = self.volumes()

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(call)

    def backend(self, **settings: Any) -> ContainerBackend:
        given = {"daemon": self.daemon, "image": engines.image(), "engine": self.engine.address, **settings}
        backend = ContainerBackend(ContainerSettings(**given))
        self._backends.append(backend)
        return backend

    def name(self) -> str:
        return str(Name(self.daemon, Kind.SERVER, new_ident()))

    def container(self, name: str, **settings: Any) -> str:
        """Make a container that the backend did not make, not started; return its id."""
        return self.api.create_container(engines.image(), ["postgres"], name=name, **settings)["Id"]

    def image(self, files: dict[str, str], entrypoint: list[str], base: str = "") -> str:
        """Make an image: from nothing but the files, or from a base with another entrypoint."""
        reference = f"{ODDITY}:{new_ident()}"
        lines = [f"FROM {base or 'scratch'}", "COPY . /", f"ENTRYPOINT {json.dumps(entrypoint)}"]
        context = tar({**files, "Dockerfile": "\n".join(lines) + "\n"})
        for event in self.api.build(
            fileobj=io.BytesIO(context), custom_context=True, tag=reference, rm=True, decode=True
        ):
            assert "error" not in event, event
        self._images.append(reference)
        return reference

    def inspect(self, name: str) -> dict[str, Any] | None:
        try:
            return self.api.inspect_container(name)
        except NotFound:
            return None
        except APIError as error:  # Podman's answer while it takes the container away
            if "no such container" not in str(error):
                raise
            return None

    def execute(self, name: str, command: list[str]) -> str:
        """Run a command in a container and return what it prints."""
        prepared = self.api.exec_create(name, command)
        answer: bytes = self.api.exec_start(prepared["Id"])
        return answer.decode()

    def prepared(self, image: str) -> list[dict[str, Any]]:
        """Return the images that the backend prepared from this one."""
        return self.api.images(filters={"label": [f"leasedb.prepared.image={image}"]})

    def volumes(self) -> set[str]:
        return {volume["Name"] for volume in self.api.volumes()["Volumes"] or ()}

    def volumes_of(self, name: str) -> dict[str, str]:
        """Return the volumes of a container by the path they are put on."""
        mounts = self.inspect(name)["Mounts"]
        return {mount["Destination"]: mount["Name"] for mount in mounts if mount["Type"] == "volume"}

    def connect(self, endpoint: Endpoint, **options: Any) -> psycopg.Connection:
        login = {"user": endpoint.user, "password": endpoint.password, "dbname": endpoint.dbname, **options}
        return psycopg.connect(host=endpoint.host, port=endpoint.port, connect_timeout=3, autocommit=True, **login)

    def try_connect(self, endpoint: Endpoint) -> psycopg.Connection | None:
        try:
            return self.connect(endpoint)
        except psycopg.OperationalError:
            return None

    def ready(self, endpoint: Endpoint) -> psycopg.Connection:
        return until(lambda: self.try_connect(endpoint), 60, "a query")

    def finish(self) -> None:
        while self._backends:
            backend = self._backends.pop()
            self.run(backend.sweep(frozenset()))
            self.run(backend.close())

    def close(self) -> None:
        self.finish()
        for image in reversed(self._images):
            for prepared in self.prepared(image):
                self.api.remove_image(prepared["Id"], force=True)
            self.api.remove_image(image, force=True)
        self.api.close()


def forget_prepared(engine: engines.RealEngine) -> None:
    """Take away what was prepared from the images that all tests share, unless somebody uses it."""
    with engine.api() as api:
        for image in api.images(filters={"label": ["leasedb.prepared"]}):
            if image["Labels"]["leasedb.prepared.image"].startswith("leasedb-test/pgvector:"):
                with contextlib.suppress(APIError):
                    api.remove_image(image["Id"])


def tar(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, text in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(text.encode()), 0o755
            archive.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()
