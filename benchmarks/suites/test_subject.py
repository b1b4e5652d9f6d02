"""The tests: all alike, so that one number says what a test costs."""

import pytest

from benchmarks.suites import subject


@pytest.mark.parametrize("number", range(subject.TESTS))
def test_the_subject(db: subject.Connection, number: int) -> None:
    del number
    subject.body(db)
