"""What an engine is asked for and what it answers, without the Docker SDK."""

from collections.abc import Mapping
from dataclasses import dataclass, field


class RefusedError(Exception):
    """The engine, or what answers in its place, said no; the text is its reason."""


class SilentError(RefusedError):
    """Somebody is there and has not answered in time."""


@dataclass(frozen=True, slots=True)
class Image:
    """``data_dir`` is where Postgres's data goes, ``volume`` says whether the image makes that a volume by itself.

    ``name`` is the one that it was asked for by; ``major`` the version of Postgres that it claims to have, if any.
    """

    id: str
    name: str
    entrypoint: tuple[str, ...]
    data_dir: str
    volume: bool
    labels: Mapping[str, str] = field(repr=False)
    major: str | None


@dataclass(frozen=True, slots=True)
class ListedImage:
    """An image in a listing; ``tags`` are its names, none when another image has taken the last one over."""

    id: str
    tags: tuple[str, ...]
    labels: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Spec:
    """A container to make.

    Args:
        image: by name or by id.
        volume: a path to put an anonymous volume on, empty for none of ours.
        memory: paths to put file systems in memory on, and the most bytes that each takes.
        user: ``uid:gid``, empty for the image's own.
        published: whether Postgres's port can be reached from this machine.
    """

    name: str
    image: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    labels: Mapping[str, str]
    volume: str = ""
    memory: Mapping[str, int] = field(default_factory=dict)
    user: str = ""
    published: bool = True


@dataclass(frozen=True, slots=True)
class Container:
    """``port`` is the published one on 127.0.0.1, None when there is none (any more)."""

    id: str
    name: str
    labels: Mapping[str, str]
    running: bool
    exit_code: int
    port: int | None
