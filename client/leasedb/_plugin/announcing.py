"""Telling the daemon, before the first test, how many databases the run is going to ask for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

import leasedb
from leasedb._plugin import ALL, FRESH
from leasedb._plugin.choices import NAME, Wishes, choose, wishes_of
from leasedb._plugin.run import BASE, Run

_MOST_EXPECTED: Final = 10_000  # leases that the daemon lets one holder announce
_EXPECTED_FOR: Final = 600.0  # seconds; after that the daemon goes by what it has seen of the suite
_PLUGIN: Final = "leasedb.pytest_plugin"  # where our own pg_template stands

Source = tuple[object, str | None, str | None]


class Announcements:
    """What was said is coming, and what of it has come.

    Args:
        run: whose tests they are.
        items: the tests.
        speaks: this process announces; the others of a run only count what they take.
    """

    def __init__(self, run: Run, items: list[pytest.Item], *, speaks: bool) -> None:
        self._run = run
        self.speaks = speaks
        self._wanted: dict[Source, int] = {}  # tests by what gives them their template, not announced yet
        self._to_come: dict[leasedb.Template | str, int] = {}  # announced leases that were not taken yet
        for item in items if speaks else ():
            if source := self._source(item):
                self._wanted[source] = self._wanted.get(source, 0) + 1

    def begin(self) -> None:
        """Announce what is known before any test has run; the fixtures report what is wrong, not this."""
        for source in list(self._wanted):
            name = source[0]
            if name is None:
                name = self._run.choices.written.template or BASE
            if isinstance(name, str) and NAME.fullmatch(name) and source[1:] == (None, None):
                self._announce(name, self._wanted.pop(source))

    def known(self, where: pytest.Item | pytest.Collector, wishes: Wishes, template: leasedb.Template | str) -> None:
        """Announce the tests whose template has just become known."""
        count = self._wanted.pop(self._source_of(where, wishes), 0)
        if count and (isinstance(template, leasedb.Template) or not (wishes.postgres or wishes.image)):
            self._announce(template, count)

    def take_back(self) -> None:
        """Take back what was announced for tests that did not come to it: after -x, Ctrl-C, skips at run time."""
        for template, count in list(self._to_come.items()):
            if count > 0:
                self._announce(template, 0)

    def counts(self) -> dict[str, int]:
        """Return how many leases are still to come of each template, as the daemon calls them; taken ones are less."""
        return {one.key if isinstance(one, leasedb.Template) else one: n for one, n in self._to_come.items()}

    def _announce(self, template: leasedb.Template | str, count: int) -> None:
        with suppress(leasedb.LeasedbError):
            client = self._run.client()
            client.expect(min(count, _MOST_EXPECTED), template, holder=self._run.holder, ttl=_EXPECTED_FOR)
            self._to_come[template] = count

    def taken(self, template: leasedb.Template | str) -> None:
        """Take note of a lease."""
        self._to_come[template] = self._to_come.get(template, 0) - 1

    def _source(self, item: pytest.Item) -> Source | None:
        """Return what gives a test its template, when it is going to take a database of its own."""
        names = ALL.intersection(getattr(item, "fixturenames", ()))  # items of other plugins may have none
        try:
            wishes = wishes_of(item, self._run.choices)
        except ValueError:  # the fixture reports it
            return None
        mode = wishes.mode or "fresh"
        lasting = (wishes.scope or self._run.choices.scope) != "function"
        takes = FRESH.intersection(names) and mode == "fresh" and not lasting
        if not (takes or (FRESH.intersection(names) and mode == "reset") or {"pg_reset", "pg_reset_async"} & names):
            return None
        return None if wishes.server == "exclusive" else self._source_of(item, wishes)

    def _source_of(self, where: pytest.Item | pytest.Collector, wishes: Wishes) -> Source:
        """Return what gives the template: its name, or the function that stands in place of our `pg_template`."""
        given: Any = wishes.template
        if given is None or given == self._run.choices.written.template:
            given = _overriding(where)
        elif isinstance(given, list):  # the marker's is made anew each time it is read
            given = tuple(layer if isinstance(layer, str | Path) else id(layer) for layer in given)
        elif not isinstance(given, str | Path):
            given = id(given)
        return given, wishes.postgres, wishes.image


def take_back(config: pytest.Config, told: Iterable[Mapping[str, Any]]) -> None:
    """Take back what one worker of pytest-xdist had announced, and all of them together did not come to."""
    left: Counter[tuple[str, str]] = Counter()
    for worker in told:
        left.update({(worker["holder"], template): count for template, count in worker["to_come"].items()})
    if not any(count > 0 for count in left.values()):
        return
    run = Run(config, replace(choose(config), start=False))
    try:
        with suppress(leasedb.LeasedbError):
            for (holder, template), count in left.items():
                if count > 0:
                    run.client().expect(0, template, holder=holder)
    finally:
        run.close()


def _overriding(where: pytest.Item | pytest.Collector) -> object:
    fixtures = getattr(getattr(where, "_fixtureinfo", None), "name2fixturedefs", {}).get("pg_template", ())
    function = fixtures[-1].func if fixtures else None
    return None if getattr(function, "__module__", None) == _PLUGIN else function
