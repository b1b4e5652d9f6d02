"""Where servers come from on this machine: the wheel, Docker, Podman."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import docker
from docker.errors import DockerException, ImageNotFound

from benchmarks import machine

IMAGE_VARIABLE = "LEASEDB_BENCH_IMAGE"
IMAGES = ("leasedb-test/pgvector:pg17", "pgvector/pgvector:pg18")
DOCKER_SOCKET = "unix:///var/run/docker.sock"
_PREPARED_LABEL = "leasedb.prepared"
PODMAN_SOCKETS = ("/run/podman/podman.sock", "podman/podman.sock")  # the second below XDG_RUNTIME_DIR


@dataclass(frozen=True, slots=True)
class Source:
    """Where a daemon's servers come from, as the benchmark starts it.

    Args:
        title: as rows call it.
        about: what exactly, such as "Docker 28.2 with pgvector/pgvector:pg18, volumes on ext4".
        flags: of ``leasedb serve``.
        environment: what the daemon sees beside the benchmark's own.
        image: of a container engine; ``address`` is the engine's.
    """

    title: str
    about: str
    flags: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    image: str | None = None
    address: str | None = None


EMBEDDED = Source("embedded", "Postgres of the wheel", ("--backend", "embedded"))


def docker_source() -> Source | str:
    """Return Docker as a source, or why there is none."""
    return _engine("Docker", os.environ.get("DOCKER_HOST", DOCKER_SOCKET))


def podman_source() -> Source | str:
    """Return Podman as a source, or why there is none."""
    folder = Path(os.environ.get("XDG_RUNTIME_DIR", "/run"))
    found = [path for path in (folder / socket for socket in PODMAN_SOCKETS) if path.exists()]
    return _engine("Podman", f"unix://{found[0]}") if found else f"no socket at {' or '.join(PODMAN_SOCKETS)}"


def _engine(title: str, address: str) -> Source | str:
    wanted = os.environ.get(IMAGE_VARIABLE)
    images = (wanted,) if wanted else IMAGES
    try:
        with contextlib.closing(docker.DockerClient(base_url=address)) as engine:
            version = engine.version()["Version"]
            for image in images:
                with contextlib.suppress(ImageNotFound):
                    engine.images.get(image)
                    # elsewhere than on Linux the engine has a virtual machine of its own
                    root = Path(engine.info()["DockerRootDir"])
                    lie = machine.file_system(root) if root.is_dir() else "a file system that cannot be seen from here"
                    return Source(
                        title,
                        f"{title} {version} with {image}, its own files on {lie}",
                        ("--backend", "container", "--image", image),
                        {"DOCKER_HOST": address},
                        image,
                        address,
                    )
    except DockerException as error:
        return f"no engine answers: {error}"
    return f"the engine has none of the images {', '.join(images)}; pull one, or name one in {IMAGE_VARIABLE}"


@contextlib.contextmanager
def forgetting(sources: Iterable[Source | str]) -> Iterator[None]:
    """Take away, at the end, the images that daemons of the block prepared for themselves."""
    engines = [source.address for source in sources if isinstance(source, Source) and source.address]
    before = {address: _prepared(address) for address in engines}
    try:
        yield
    finally:
        for address in engines:
            with contextlib.closing(docker.DockerClient(base_url=address)) as engine:
                for image in _prepared(address) - before[address]:
                    with contextlib.suppress(DockerException):  # somebody else's daemon uses it by now
                        engine.images.remove(image)


def _prepared(address: str) -> set[str]:
    with contextlib.closing(docker.DockerClient(base_url=address)) as engine:
        images = engine.images.list(filters={"label": _PREPARED_LABEL})
        return {tag for image in images for tag in image.tags}
