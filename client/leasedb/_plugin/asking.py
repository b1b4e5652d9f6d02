"""Which fixtures a test has its database from, those too that are asked for by name while it runs, as Django's are.

pytest tells in a test what was asked for in it. What outlives a test asks once, for the first of its tests, and so that
has to be remembered for the others.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from leasedb._plugin import ALL


class Asking:
    """Remembers which of our fixtures were asked for with ``request.getfixturevalue`` by those that outlive a test."""

    def __init__(self) -> None:
        self._asked: dict[str, set[str]] = {}  # for ours, by who asked

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, Any, Any]:
        if fixturedef.scope == "function":
            return (yield)
        before = set(request.fixturenames)
        try:
            return (yield)
        finally:
            self._remember(fixturedef.argname, ALL.intersection(request.fixturenames) - before)

    def led_to(self, request: Any) -> None:
        """Remember who asks for a fixture: where this begins the run, they are being set up already."""
        fixture = str(request.fixturename)
        while request := getattr(request, "_parent_request", None):
            if request.fixturename and request.scope != "function":
                self._remember(request.fixturename, {fixture})

    def fixtures(self, item: pytest.Item) -> frozenset[str]:
        """Return the names of the fixtures that a test has had so far; items that are no functions may have none."""
        names = set(getattr(getattr(item, "_request", item), "fixturenames", ()))
        return frozenset(names.union(*(self._asked.get(name, ()) for name in names)))

    def _remember(self, who: str, asked_for: set[str] | frozenset[str]) -> None:
        if asked_for:
            self._asked.setdefault(who, set()).update(asked_for)
