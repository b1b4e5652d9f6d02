"""The tests: all alike, so that one number says what a test costs."""

import pytest

from benchmarks.suites import shop


@pytest.mark.parametrize("number", range(shop.TESTS))
def test_a_purchase(db: shop.Connection, number: int) -> None:
    del number
    shop.body(db)
