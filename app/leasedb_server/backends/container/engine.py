"""What is said to one container engine. The only file that speaks through the Docker SDK; everything here blocks.

Importing it costs a fifth of a second, so it is imported when an engine is looked for, off the event loop.
"""

import os
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Any, Final, TypeVar

from docker import APIClient
from docker.errors import APIError, DockerException, NotFound
from docker.types import LogConfig, Mount
from docker.utils import kwargs_from_env, parse_repository_tag
from requests import RequestException, Response, Timeout
from urllib3.exceptions import HTTPError

from leasedb_server.backends.container.places import Place
from leasedb_server.backends.container.spec import Container, Image, ListedImage, RefusedError, SilentError, Spec
from leasedb_server.backends.container.tail import Output
from leasedb_server.domain.errors import ServerUnreachableError

T = TypeVar("T")
Event = Mapping[str, Any]  # of a pull: status, id, progressDetail{current, total}, error

_OLDEST_API: Final = "1.24"  # the first call only asks for the version that the engine speaks
# seconds without a byte
_CONNECT: Final = 3
_GLANCE: Final = 5
_PULL_SILENCE: Final = 300  # an engine says nothing while it unpacks a large layer
_PORT: Final = "5432/tcp"
# /dev/shm, where parallel workers of queries and HNSW builds meet; a limit, memory is taken as it is used
_SHM_BYTES: Final = 1 << 30
_FRAME: Final = struct.Struct(">4xL")
_CONFLICT: Final = 409
_ATTEMPTS: Final = 4
_PAUSE: Final = 0.1  # seconds between two attempts


class Engine:
    """One engine that answered.

    Every method may raise ``ServerUnreachableError`` when it no longer does, and ``RefusedError``.
    """

    def __init__(self, place: Place, product: str, version: str, api: str, patience: float) -> None:
        self.address = place.address
        self.product = product
        self._socket = place.socket
        self._arguments = {**_arguments(place), "version": api}
        self._api = APIClient(**self._arguments, timeout=max(1, round(patience)))
        self._glance = APIClient(**self._arguments, timeout=_GLANCE)
        self._memory: int | None = None
        self.title = f"{product} {version} at {place.address}"

    def image(self, name: str) -> Image | None:
        with self._speaking():
            try:
                inspect: Any = self._api.inspect_image  # the stubs leave it untyped
                found = inspect(name)
            except NotFound:
                return None
        config = found["Config"]
        environment = dict(entry.partition("=")[::2] for entry in config.get("Env") or ())
        data_dir = environment.get("PGDATA") or "/var/lib/postgresql/data"
        volumes = config.get("Volumes") or {}
        covered = any(f"{data_dir}/".startswith(f"{volume.rstrip('/')}/") for volume in volumes)
        major = environment.get("PG_MAJOR", "")  # of the official image, and of those built upon it
        return Image(
            id=found["Id"],
            name=name,
            entrypoint=tuple(config.get("Entrypoint") or ()),
            data_dir=data_dir,
            volume=covered,
            labels=config.get("Labels") or {},
            major=major if major.isdecimal() else None,
        )

    def images(self, label: str) -> list[ListedImage]:
        """Return all images with the label (``key`` or ``key=value``), also those that have lost their names."""
        with self._speaking():
            rows = self._api.images(filters={"label": [label]})
        # Docker writes <none>:<none> for no name
        return [
            ListedImage(
                id=row["Id"],
                tags=tuple(tag for tag in row.get("RepoTags") or () if not tag.startswith("<none>")),
                labels=row.get("Labels") or {},
            )
            for row in rows
        ]

    def commit(self, container_id: str, repository: str, tag: str, changes: Sequence[str]) -> str:
        """Make an image of what the container changed, and return its id; ``changes`` are lines of a Dockerfile."""
        with self._speaking():
            # not paused: nothing writes in it any more, and rootless engines often cannot pause
            made = self._api.commit(container_id, repository, tag, pause=False, changes=list(changes))
        # Podman leaves the prefix out, and then takes the rest for a name when there is no such image
        return f"sha256:{str(made['Id']).removeprefix('sha256:')}"

    def remove_image(self, image_id: str) -> bool:
        """Take the image away, unless a container or another image needs it; tell whether it is gone."""
        with self._speaking():
            try:
                self._api.remove_image(image_id)
            except NotFound:
                return True
            except APIError as error:
                if error.status_code != _CONFLICT:
                    raise
                return False
        return True

    def memory(self) -> int:
        """Return the bytes of memory of the machine that containers run on, be it a virtual one; 0 when not told."""
        if self._memory is None:
            with self._speaking():
                self._memory = int(self._api.info().get("MemTotal") or 0)
        return self._memory

    def pull(self, name: str, report: Callable[[Event], None]) -> None:
        repository, tag = parse_repository_tag(name)
        with self._speaking(), closing(APIClient(**self._arguments, timeout=_PULL_SILENCE)) as api:
            for event in api.pull(repository, tag=tag or "latest", stream=True, decode=True):
                if refusal := event.get("error"):  # a pull fails in its stream, after a 200
                    raise RefusedError(str(refusal).strip())
                report(event)

    def create(self, spec: Spec) -> str:
        """Make the container, not started, and return its id."""
        host = self._api.create_host_config(
            port_bindings={_PORT: ("127.0.0.1",)} if spec.published else None,
            auto_remove=True,
            shm_size=_SHM_BYTES,
            init=False,
            mounts=[Mount(spec.volume, None)] if spec.volume else None,
            # for everybody in the container: not every engine can give it to one user
            tmpfs={path: f"size={limit},mode=1777" for path, limit in spec.memory.items()} or None,
            # failing tests fill logs; Podman bounds them its own way
            log_config=LogConfig(type="json-file", config={"max-size": "16m"}) if self.product == "Docker" else None,
        )
        with self._speaking():
            made = self._api.create_container(
                spec.image,
                name=spec.name,
                # both are given, so that nothing of the image's own is mixed in
                entrypoint=list(spec.command[:1]),
                command=list(spec.command[1:]),
                environment=dict(spec.environment),
                labels=dict(spec.labels),
                user=spec.user or None,
                ports=[_PORT] if spec.published else None,
                host_config=host,
                use_config_proxy=False,
            )
        return str(made["Id"])

    def output(self, container_id: str) -> Output:
        """Return what the container prints from now on, also one that is not started yet."""
        with self._speaking():
            response = self._api.post(
                f"{self._api.base_url}/v{self._api.api_version}/containers/{container_id}/attach",
                params={"stream": 1, "stdout": 1, "stderr": 1},
                stream=True,
                timeout=(_CONNECT, None),
            )
            if not response.ok:
                raise RefusedError(_message(response))
            return _Attached(response)

    def start(self, container_id: str) -> None:
        with self._speaking():
            self._api.start(container_id)

    def find(self, container: str, *, glance: bool = False) -> Container | None:
        """Return the container with this name or id; with ``glance``, wait a few seconds at most for the answer."""
        api = self._glance if glance else self._api
        with self._speaking():
            try:
                found = _again(lambda: api.inspect_container(container))
            except NotFound:
                return None
        ports = (found["NetworkSettings"].get("Ports") or {}).get(_PORT) or ()
        return Container(
            id=found["Id"],
            name=found["Name"].removeprefix("/"),
            labels=found["Config"].get("Labels") or {},
            running=bool(found["State"]["Running"]),
            exit_code=int(found["State"]["ExitCode"]),
            port=next((int(port["HostPort"]) for port in ports), None),
        )

    def listing(self, label: str) -> list[Container]:
        """Return all containers with the label (``key=value``), whatever state they are in."""
        with self._speaking():
            rows = self._api.containers(all=True, filters={"label": [label]})
        return [
            Container(
                id=row["Id"],
                name=row["Names"][0].removeprefix("/") if row.get("Names") else "",
                labels=row.get("Labels") or {},
                running=row.get("State") == "running",
                exit_code=0,
                port=None,
            )
            for row in rows
        ]

    def remove(self, container_id: str) -> None:
        """Kill the container and take it away with its volumes; no error when it is gone or going."""
        with self._speaking():
            try:
                _again(lambda: self._api.remove_container(container_id, v=True, force=True))
            except NotFound:
                return
            except APIError as error:
                if error.status_code != _CONFLICT:
                    raise
                # it is being removed by itself already
                self._await_removal(container_id)

    def logs(self, container_id: str, lines: int) -> str:
        with self._speaking():
            try:
                output: bytes = self._api.logs(container_id, stdout=True, stderr=True, tail=lines)
            except NotFound:
                return ""
        return output.decode("utf-8", "replace")

    def close(self) -> None:
        self._api.close()
        self._glance.close()

    def _await_removal(self, container_id: str) -> None:
        try:
            self._api.wait(container_id, condition="removed")
        except NotFound:
            return

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        try:
            if self._socket:
                _knock(str(self._socket))
            yield
        except APIError as error:
            raise RefusedError(str(error.explanation or error).strip()) from error
        except (RequestException, DockerException, OSError) as error:
            raise ServerUnreachableError(
                f"{self.title} does not answer: {_reason(error)}.",
                hint="Start the container engine again, or the daemon with another LEASEDB_BACKEND.",
            ) from error


class _Attached:
    """A container's output. The SDK's own stream cannot be closed while another thread reads it without a mess.

    Frames: https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerAttach
    """

    def __init__(self, response: Response) -> None:
        self._response = response
        self._socket = socket.socket(fileno=os.dup(response.raw.fileno()))

    def __iter__(self) -> Iterator[bytes]:
        try:
            with suppress(HTTPError, OSError):  # the engine went away
                while len(header := self._response.raw.read(_FRAME.size)) == _FRAME.size:
                    yield self._response.raw.read(_FRAME.unpack(header)[0])
        finally:
            self._response.close()
            self._socket.close()

    def close(self) -> None:
        # the reader then meets the end, and closes
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


def reach(place: Place, patience: float, within: float = _CONNECT) -> Engine:
    """Return the engine that answers at a place ``within`` some seconds; ``patience`` is the limit of its later calls.

    Raises:
        SilentError: nothing has answered in time.
        RefusedError: nothing that speaks the Docker API answers there, with the reason.
    """
    if place.problem:
        raise RefusedError(place.problem)
    try:
        if place.socket:
            _knock(str(place.socket))
        with closing(APIClient(**_arguments(place), version=_OLDEST_API, timeout=round(within))) as client:
            answer = client.version(api_version=False)
        parts = {part["Name"]: part["Version"] for part in answer.get("Components") or ()}
        podman = parts.get("Podman Engine")
        version = str(podman or answer["Version"]).partition("+")[0]
        return Engine(place, "Podman" if podman else "Docker", version, str(answer["ApiVersion"]), patience)
    except (Timeout, TimeoutError) as error:
        raise SilentError(_reason(error)) from error
    except (RequestException, DockerException, OSError) as error:
        raise RefusedError(_reason(error)) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise RefusedError("what answers there does not speak the Docker API") from error


def _again(call: Callable[[], T]) -> T:
    """Return what the engine answers, asked again when it failed: Podman fails (500) on a container that just goes."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return call()
        except APIError as error:
            if not error.is_server_error():
                raise
        time.sleep(_PAUSE)
    return call()


def _knock(path: str) -> None:
    """Connect once without the SDK, which leaves its socket to the garbage collector when the connection fails."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_CONNECT)
        probe.connect(path)


def _message(response: Response) -> str:
    try:
        return str(response.json()["message"])
    except (ValueError, KeyError, TypeError):
        return response.text.strip()


def _arguments(place: Place) -> dict[str, Any]:
    # DOCKER_TLS_VERIFY and DOCKER_CERT_PATH belong to DOCKER_HOST
    tls = kwargs_from_env(dict(os.environ)).get("tls") if place.origin == "DOCKER_HOST" else None
    return {"base_url": place.address, **({"tls": tls} if tls else {})}


def _reason(error: BaseException) -> str:
    """Return what really happened, from under the layers that three libraries put around it."""
    while deeper := error.__cause__ or error.__context__:
        error = deeper
    said = error.strerror if isinstance(error, OSError) else None
    return (said or str(error) or type(error).__name__).rstrip(".")
