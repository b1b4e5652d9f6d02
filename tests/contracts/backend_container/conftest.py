"""A bench per engine that answers here."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.contracts import engines
from tests.contracts.bench import Bench


@pytest.fixture(params=engines.ENGINES)
def engine(request: pytest.FixtureRequest) -> engines.RealEngine:
    return engines.engine(request.param)


@pytest.fixture
def bench(engine: engines.RealEngine) -> Iterator[Bench]:
    with asyncio.Runner() as runner:
        bench = Bench(engine, runner)
        try:
            yield bench
        finally:
            bench.close()
