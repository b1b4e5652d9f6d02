"""The contract suite runs once per place."""

from collections.abc import Iterator

import pytest

from tests.contracts import places
from tests.contracts.places import Place
from tests.daemons import RealDaemon


@pytest.fixture(scope="module", params=places.ALL)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    with places.place(request.param) as ready:
        yield ready


@pytest.fixture(scope="module")
def leasing(place: Place) -> Iterator[RealDaemon]:
    """A daemon in this place, shared by the tests of one file; small, so that its bounds can be reached."""
    settings = {"POOL_READY": "2", "POOL_READY_MAX": "2", "POOL_MAX": "6"}  # no more, whatever is learned
    running = RealDaemon({**place.settings, **settings}, place.environment)
    try:
        yield running.start()
    finally:
        running.remove()
