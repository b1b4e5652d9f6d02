"""As many tests without a database: what pytest itself costs."""

import pytest

from benchmarks.suites import shop


@pytest.mark.parametrize("number", range(shop.TESTS))
def test_nothing(number: int) -> None:
    del number
