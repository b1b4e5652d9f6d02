"""Warning of what a test says of its database that is not heeded, since the database is there already."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pytest

from leasedb._plugin import ALL, SESSION
from leasedb._plugin.choices import Choices


class Unheard:
    """Warns as a test is set up: where warnings are errors, it is that test which fails."""

    def __init__(self, choices: Choices) -> None:
        self._scope = choices.scope
        self._one_template = choices.told.template is not None  # whatever pg_template gives
        self._first: dict[str, tuple[object, str]] = {}  # what was pg_template, and for which test, when it was made

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        names = ALL.intersection(getattr(item, "fixturenames", ())) - {"pg_template", "leasedb_client"}
        if not names:
            return
        own = [marker.kwargs for marker in item.own_markers if marker.name == "leasedb"]
        if own and (why := self._of_marker(own[0], names)):
            item.warn(pytest.PytestWarning(f"leasedb: {why}"))
        for fixture in names & self._of_the_session():
            if why := self._of_template(item, fixture):
                item.warn(pytest.PytestWarning(f"leasedb: {why}"))

    def _of_marker(self, marker: Mapping[str, Any], names: Collection[str]) -> str | None:
        if SESSION.issuperset(names):
            return (
                "pg_session_lease is of the whole run, so the marker of a test is not heard; say it with --leasedb-... "
                "or in the ini file, or take pg_lease"
            )
        if "pg_lease" in names and self._scope != "function":
            return (
                f"pg_lease lives for each {self._scope} in this run (leasedb_scope), so the marker of this test alone "
                "is not heard; put it there"
            )
        mode, wanted = marker.get("mode") or "fresh", marker.get("scope") or "function"
        if mode != "fresh" and wanted != "function":
            return (
                f"in mode {mode} the database is put right before each test, so tests of a {wanted} do not see what "
                "others did, whatever the scope; for that leave the mode out"
            )
        return None

    def _of_the_session(self) -> frozenset[str]:
        return frozenset({"pg_session_lease", "pg_lease"} if self._scope == "session" else {"pg_session_lease"})

    def _of_template(self, item: pytest.Item, fixture: str) -> str | None:
        """Say that a fixture of the session has been made with another folder's `pg_template`: pytest makes it once."""
        known = getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", {})
        template = (known.get("pg_template") or [None])[-1]
        first, where = self._first.setdefault(fixture, (template, item.nodeid))
        if template is first or self._one_template:
            return None
        other = "pg_lease or pg_reset" if fixture == "pg_session_lease" else "pg_reset"
        return (
            f"{fixture} is one database for the whole run, made of the pg_template that {where} has, and this test has "
            f"another; take {other}"
        )
