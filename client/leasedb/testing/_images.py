"""What an image's reference asks for: that image where the daemon offers it, else its version of Postgres."""

import re
from collections.abc import Iterator
from typing import Final

_PLAIN: Final = frozenset({"postgres", "pgvector"})  # what these images are, any server of a daemon is as well
_OF_PGVECTOR: Final = re.compile(r"(?:^|-)pg(\d{2})(?![\d.])")  # pg16, 0.8.0-pg16-bookworm
_OF_POSTGRES: Final = re.compile(r"(\d{2})(?:[.-]|$|(?=alpine|bookworm|bullseye|trixie|beta|rc))")  # 16, 16.4-alpine


def wishes(image: str) -> Iterator[dict[str, str]]:
    """Yield what to ask the daemon for, until it has one: ``image``, then ``postgres``, nothing for its default.

    "acme/postgis:16"        -> {"image": "acme/postgis:16"}
    "postgres:16-alpine"     -> {"image": "postgres:16-alpine"}, {"postgres": "16"}
    "pgvector/pgvector:pg16" -> {"image": "pgvector/pgvector:pg16"}, {"postgres": "16"}
    "postgres:latest"        -> {"image": "postgres:latest"}, {}
    """
    yield {"image": image}
    path, _, digest = image.partition("@")
    name, _, tag = path.rpartition("/")[2].partition(":")
    if name not in _PLAIN or digest:
        return
    found = _OF_PGVECTOR.search(tag) if name == "pgvector" else _OF_POSTGRES.match(tag)
    if found:
        yield {"postgres": found[1]}
    elif not tag or not tag[0].isdecimal():  # latest, alpine, bookworm: whatever is the newest
        yield {}
