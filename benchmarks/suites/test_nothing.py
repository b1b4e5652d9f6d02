"""As many tests without a database: what pytest itself costs."""

import pytest

from benchmarks.suites import subject


@pytest.mark.parametrize("number", range(subject.TESTS))
def test_nothing(number: int) -> None:
    del number
