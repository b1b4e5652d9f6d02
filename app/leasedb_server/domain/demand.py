"""What is going to be asked for: how many databases of each template to keep ready. Learned from what was asked for."""

import math
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from leasedb_server.domain.lease import Instant
from leasedb_server.domain.pace import Rate
from leasedb_server.domain.pool import CALM, low_water

HALF_LIFE: Final = 300.0  # seconds in which a peak counts for half: a suite is run again within minutes
IDLE: Final = 1800.0  # seconds after which a template that nobody asks for is not kept ready any more
HINTS: Final = 1000  # remembered at once
TEMPLATES: Final = 1000
_SHARED_EVERY: Final = 0.1  # seconds between looks at how many templates share the clones


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is known about one template."""

    target: int  # databases to keep ready, over all servers
    rate: float  # requests per second lately
    peak: float  # databases that had to be in stock lately, for nobody to wait
    hinted: int  # databases that callers announced and have not asked for yet
    last_asked: Instant | None


@dataclass(slots=True)
class _Hint:
    count: int
    until: Instant


@dataclass(slots=True)
class _Record:
    """One template. ``level`` is the bucket: what was asked for and not made again since."""

    known: Instant
    at: Instant
    level: float = 0.0
    peak: float = 0.0
    peak_at: Instant = 0.0
    floor: int = 0
    lazy: int = 0  # how high the level may be without anything being cloned, unless it is calm
    in_line: int = 0
    last_asked: Instant | None = None
    rate: Rate = field(default_factory=Rate)
    hints: dict[str, _Hint] = field(default_factory=dict)  # by holder


class Demand:
    """The need for ready databases, by template.

    Every request puts one into the template's bucket, and what is cloned takes one out, at the times at which the
    planner clones: below the low-water mark always, above it when it is calm. The highest level is then the number of
    databases that would have had to be in stock for nobody to wait.

    While somebody waits nothing runs out of the bucket. Tests ask for the next database when they are done with the one
    before, so waiting slows the asking down, and what was made meanwhile would not have been there in time.

    Args:
        floor: kept ready of each template in use.
        ceiling: kept ready of a template at most.
        idle: seconds after which a template that nobody asks for is no longer in use.
    """

    def __init__(self, floor: int = 10, ceiling: int = 1000, idle: float = IDLE) -> None:
        self._floor = floor
        self._ceiling = ceiling
        self._idle = idle
        self._refill = 0.0
        self._lead = 0.0
        self._records: OrderedDict[str, _Record] = OrderedDict()  # the one asked for longest ago first
        self._hints = 0
        self._sharing = 1
        self._shared_at = -math.inf

    def __repr__(self) -> str:
        return f"Demand({', '.join(self._records)})"

    # --- what happens ---

    def refills(self, rate: float, seconds: float = 0.0) -> None:
        """Take in how many clones per second all servers make, and how many seconds one takes."""
        self._refill, self._lead = rate, seconds

    def known(self, template: str, now: Instant, floor: int | None = None) -> None:
        """Take in that there is such a template; it counts as in use from now on. Saying so again changes nothing.

        ``floor`` is what is kept ready of it at least, when that is fewer than of others.
        """
        if template not in self._records:
            self._add(template, now).floor = self._floor if floor is None else min(floor, self._floor)

    def asked(self, template: str, holder: str, now: Instant) -> None:
        """Take in one request for a lease, whether or not it has to wait."""
        record = self._records.get(template) or self._add(template, now)
        self._drain(record, now)
        record.last_asked = now
        record.rate.add(now)
        record.level = min(record.level + 1, self._ceiling)
        # what runs out of the bucket now was begun a clone's time ago: so much more is asked for meanwhile
        under_way = record.rate.per_second(now) * self._lead
        record.peak = max(_faded(record, now), min(record.level + under_way, self._ceiling))
        record.peak_at = now
        wanted = self._wanted(record, now)
        record.lazy = wanted - low_water(wanted)
        self._records.move_to_end(template)
        if hint := record.hints.get(holder):
            hint.count -= 1
            if hint.count <= 0:
                self._drop_hint(record, holder)

    def joined(self, template: str, now: Instant) -> None:
        """Take in that a request has to wait in line."""
        record = self._records.get(template) or self._add(template, now)
        self._drain(record, now)
        record.in_line += 1

    def left(self, template: str, now: Instant) -> None:
        """Take in that a request is no longer in line, served or not."""
        if record := self._records.get(template):
            self._drain(record, now)
            record.in_line = max(0, record.in_line - 1)

    def hint(self, template: str, count: int, holder: str, until: Instant, now: Instant) -> None:
        """Take in that the holder is going to ask for so many; it takes the place of what it said before.

        Each of its requests counts one down. What is left at ``until`` is forgotten.
        """
        self._forget_hints(now)
        if record := self._records.get(template):
            self._drop_hint(record, holder)
        if count <= 0 or until <= now:
            return
        if self._hints >= HINTS:
            self._drop_soonest()
        record = record or self._add(template, now)
        record.hints[holder] = _Hint(count, until)
        self._hints += 1

    def forget(self, existing: Collection[str], now: Instant) -> None:
        """Forget what does not matter any more; to be called now and then.

        Args:
            existing: templates that there are. They are remembered, so that none of them becomes known anew.
            now: the present.
        """
        self._forget_hints(now)
        for template, record in list(self._records.items()):
            if template not in existing and not record.hints and not record.in_line and not self._in_use(record, now):
                del self._records[template]

    # --- what follows ---

    def wanted(self, template: str, now: Instant) -> int:
        """Return how many databases to keep ready, over all servers."""
        record = self._records.get(template)
        return self._wanted(record, now) if record else 0

    def forecast(self, template: str, now: Instant) -> Forecast:
        record = self._records.get(template)
        if record is None:
            return Forecast(target=0, rate=0.0, peak=0.0, hinted=0, last_asked=None)
        return Forecast(
            target=self._wanted(record, now),
            rate=record.rate.per_second(now),
            peak=_faded(record, now),
            hinted=_hinted(record, now),
            last_asked=record.last_asked,
        )

    def _wanted(self, record: _Record, now: Instant) -> int:
        learned = self._learned(record, now) if self._in_use(record, now) else 0
        return min(self._ceiling, max(learned, _hinted(record, now)))

    def _learned(self, record: _Record, now: Instant) -> int:
        peak = _faded(record, now)
        safety = max(2.0, peak / 8)
        return min(self._ceiling, max(record.floor, math.ceil(peak + safety) if peak >= 1 else 0))

    def _in_use(self, record: _Record, now: Instant) -> bool:
        return now - (record.known if record.last_asked is None else record.last_asked) < self._idle

    # --- the bucket ---

    def _drain(self, record: _Record, now: Instant) -> None:
        """Let run out what was cloned since the last look."""
        seconds, record.at = max(0.0, now - record.at), now
        if record.in_line or not record.level:
            return
        cloned = seconds * self._refill / self._share(now)
        if seconds >= CALM:
            record.level = max(0.0, record.level - cloned)
        else:  # the planner waits for calm before it fills up what is above the mark
            record.level = max(record.level - cloned, min(record.level, record.lazy))

    def _share(self, now: Instant) -> int:
        """Return how many templates share the clones at present."""
        if not 0 <= now - self._shared_at < _SHARED_EVERY:
            self._shared_at = now
            self._sharing = max(1, sum(record.level > record.lazy for record in self._records.values()))
        return self._sharing

    def _add(self, template: str, now: Instant) -> _Record:
        if len(self._records) >= TEMPLATES:
            self.forget((), now)
        if len(self._records) >= TEMPLATES:
            _, oldest = self._records.popitem(last=False)
            self._hints -= len(oldest.hints)
        record = self._records[template] = _Record(known=now, at=now, peak_at=now, floor=self._floor)
        return record

    # --- hints ---

    def _drop_hint(self, record: _Record, holder: str) -> None:
        if record.hints.pop(holder, None):
            self._hints -= 1

    def _forget_hints(self, now: Instant) -> None:
        for record in self._records.values():
            for holder, hint in list(record.hints.items()):
                if hint.until <= now:
                    self._drop_hint(record, holder)

    def _drop_soonest(self) -> None:
        """Make room for one more hint: the one that would be forgotten first goes."""
        hints = ((record, holder) for record in self._records.values() for holder in record.hints)
        record, holder = min(hints, key=lambda hint: hint[0].hints[hint[1]].until)
        self._drop_hint(record, holder)


def _faded(record: _Record, now: Instant) -> float:
    return record.peak * 2 ** (-max(0.0, now - record.peak_at) / HALF_LIFE)


def _hinted(record: _Record, now: Instant) -> int:
    return sum(hint.count for hint in record.hints.values() if hint.until > now)
