"""Where a container engine may listen on this machine, in the order in which they are tried."""

import hashlib
import ipaddress
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

_DEFAULT_CONTEXT = "default"  # the docker command's own name for "no context": the usual socket
_ANY_CONTEXT = ("*/docker.sock", "docker.sock")


@dataclass(frozen=True, slots=True)
class Place:
    """One address, ``unix:///path`` or ``tcp://host:port``; ``origin`` says who named it, empty for a usual socket.

    ``problem`` says why it is not worth a try, empty when it is.
    """

    address: str
    origin: str = ""
    problem: str = ""

    @property
    def socket(self) -> Path | None:
        """The unix socket's path, or None for other kinds of address."""
        scheme, _, path = self.address.partition("://")
        return Path(path) if scheme == "unix" else None

    def __str__(self) -> str:
        return f"{self.origin} ({self.address})" if self.origin and self.address else self.origin or self.address


def places(environment: Mapping[str, str], home: Path) -> list[Place]:
    """Return every place to look at, what the user named before the usual sockets, none twice."""
    found: dict[str, Place] = {}
    for place in (*_named(environment, home), *_usual(environment, home)):
        # one engine is often reachable by several links
        key = str(place.socket.resolve()) if place.socket else place.address or place.origin
        found.setdefault(key, place)
    return list(found.values())


def named(address: str, origin: str) -> Place:
    """Return the place that somebody wrote down, with the problem of an engine that is not on this machine."""
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
    except ValueError as error:
        return Place(address, origin, f"not an address: {error}")
    if parts.scheme in {"unix", "npipe"}:
        return Place(address, origin)
    if parts.scheme in {"tcp", "http", "https"}:
        if _local(host):
            return Place(address, origin)
        return Place(address, origin, f"on another machine: a port published on 127.0.0.1 of {host} cannot be reached")
    if parts.scheme == "ssh":
        return Place(address, origin, f"on another machine: a port published on 127.0.0.1 of {host} cannot be reached")
    return Place(address, origin, "not an address of a kind known here (unix://, tcp://)")


def _local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _named(environment: Mapping[str, str], home: Path) -> Iterator[Place]:
    if address := environment.get("DOCKER_HOST"):
        yield named(address, "DOCKER_HOST")
    yield from _context(environment, home)
    if address := environment.get("CONTAINER_HOST"):
        yield named(address, "CONTAINER_HOST")


def _context(environment: Mapping[str, str], home: Path) -> Iterator[Place]:
    """Yield the current docker context's endpoint, unless it is the default one.

    Read here and not through ``docker.context``, which honours DOCKER_CONTEXT only since 7.2, looks for the contexts
    in the working directory when there is no config.json, and raises a bare Exception for a damaged file.
    The layout: https://docs.docker.com/engine/manage-resources/contexts/
    """
    folder = Path(environment.get("DOCKER_CONFIG") or home / ".docker")
    name = environment.get("DOCKER_CONTEXT") or ""
    try:
        if not name and (folder / "config.json").exists():
            name = json.loads((folder / "config.json").read_text("utf-8")).get("currentContext") or ""
    except (OSError, ValueError, AttributeError) as error:
        yield Place("", str(folder / "config.json"), f"cannot be read: {error}")
        return
    if name in {"", _DEFAULT_CONTEXT}:
        return
    origin = f"the docker context '{name}'"
    meta = folder / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest() / "meta.json"
    try:
        yield named(json.loads(meta.read_text("utf-8"))["Endpoints"]["docker"]["Host"], origin)
    except FileNotFoundError:
        yield Place("", origin, f"does not exist: no {meta}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        yield Place("", origin, f"cannot be read from {meta}: {error!r}")


def _usual(environment: Mapping[str, str], home: Path) -> Iterator[Place]:
    runtime = Path(environment.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}")
    machines = Path(environment.get("TMPDIR") or "/tmp")  # noqa: S108 - where podman puts its machines' sockets
    paths = [
        Path("/var/run/docker.sock"),
        runtime / "docker.sock",  # rootless Docker
        home / ".docker/run/docker.sock",  # Docker Desktop on macOS
        home / ".docker/desktop/docker.sock",  # Docker Desktop on Linux
        *_sockets(home / ".colima", *_ANY_CONTEXT),
        *_sockets(home / ".config/colima", *_ANY_CONTEXT),
        home / ".rd/docker.sock",  # Rancher Desktop
        home / ".orbstack/run/docker.sock",
        runtime / "podman/podman.sock",  # rootless Podman
        Path("/run/podman/podman.sock"),
        *_sockets(home / ".local/share/containers/podman/machine", "podman.sock", "*/podman.sock"),
        *_sockets(machines / "podman", "podman-machine-*-api.sock"),  # Podman 5 on macOS
    ]
    return (Place(f"unix://{path}") for path in paths)


def _sockets(folder: Path, *patterns: str) -> list[Path]:
    return [path for pattern in patterns for path in sorted(folder.glob(pattern))]
