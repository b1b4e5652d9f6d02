"""A daemon that speaks IntegreSQL's protocol."""

import itertools
import re
from collections.abc import Iterator

import pytest

from tests.integresql.speaking import Speaking


@pytest.fixture(scope="module")
def integresql() -> Iterator[Speaking]:
    with Speaking.started({"POOL_READY": "3"}) as speaking:
        yield speaking


@pytest.fixture
def hashed(request: pytest.FixtureRequest, counter=itertools.count(1)) -> str:  # noqa: B008 - one for all tests
    """Return a hash that no other test has."""
    return re.sub(r"[^\w-]", "-", f"{next(counter)}-{request.node.name}")[:60]
