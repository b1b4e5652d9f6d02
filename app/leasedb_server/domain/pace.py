"""What a server can do: how long a clone takes there, and how many statements at once it rewards. Learned by doing."""

import math
from dataclasses import dataclass
from typing import Final

from leasedb_server.domain.lease import Instant

FEWEST: Final = 1
MOST: Final = 8
BEGIN: Final = 2  # right on most machines: one statement waits for the disk while the other works
UNKNOWN: Final = 0.02  # seconds a clone takes, until one has been seen

REWARD: Final = 1.15  # one more worker is kept for so many times the clones per second
IDLE_HAND: Final = 1.07  # and given up for less than this; in between things stay as they are
_CLEAR: Final = 1.3  # a trial that goes so badly ends early
_LOOK: Final = 8  # clones until a trial may end early
_TRIAL: Final = 48  # clones in a trial, and before it
_RARELY: Final = 480  # clones between trials that come to nothing again and again
_AGREE_MORE: Final = 3  # trials in a row that have to say the same for one worker more
_AGREE_FEWER: Final = 2  # and for one fewer

_NEAR: Final = 0.3  # how far from a whole number the average of statements under way may be, to count for it
_OUTLIER: Final = 4.0  # a clone counts as at most so many times the usual: one stall says nothing about the rest
_FEW: Final = 1 / 16  # weight of a new clone in the averages


@dataclass(frozen=True, slots=True)
class Work:
    """A statement under way."""

    begun: Instant
    area: float  # statements under way so far, times seconds, when it began


class Pace:
    """One server's pace. Every statement that is sent there is told: ``started``, then ``finished`` or ``ended``.

    How many were under way while a clone was made is told by the area under their number. By Little's law ``n`` at once
    that take ``s`` seconds each are ``n / s`` per second, so nothing has to be saturated to learn: every clone tells
    about the number that happened to be under way.

    Now and then one worker more or one fewer is tried. The number changes when some trials in a row say so, each held
    against the clones right before it, so that a machine that is slower today than yesterday is not misread. Trials
    without a result become rare.
    """

    def __init__(self, workers: int = BEGIN) -> None:
        self._kept = workers
        self._tried: int | None = None
        self._step = +1
        self._votes = 0
        self._pause = _TRIAL
        self._base = _Mean()
        self._trial = _Mean()
        self._usual: dict[int, float] = {}  # seconds of a clone, by how many were under way
        self._lately = 0.0
        self._under_way = 0
        self._area = 0.0
        self._at: Instant | None = None

    def __repr__(self) -> str:
        trying = f", trying {self._tried}" if self._tried else ""
        return f"Pace({self._kept} workers{trying}, {self.clone_seconds * 1000:.1f} ms, {self.rate:.0f}/s)"

    @property
    def workers(self) -> int:
        """Return how many statements to send at once."""
        return self._tried or self._kept

    @property
    def clone_seconds(self) -> float:
        """Return how long a clone takes at present."""
        return self._lately or UNKNOWN

    @property
    def rate(self) -> float:
        """Return the clones per second of all workers together."""
        known = [number / self._usual[number] for number in self._usual if number <= self._kept]
        return max(known, default=self._kept / self.clone_seconds)

    def started(self, now: Instant) -> Work:
        self._pass(now)
        self._under_way += 1
        return Work(now, self._area)

    def ended(self, work: Work, now: Instant) -> None:
        """Take note of a statement that ended and says nothing: a drop, or a clone that failed."""
        del work
        self._pass(now)
        self._under_way = max(0, self._under_way - 1)

    def finished(self, work: Work, now: Instant) -> None:
        """Take note of a clone that was made, and learn from it."""
        self._pass(now)
        self._under_way = max(0, self._under_way - 1)
        seconds = now - work.begun
        if seconds <= 0:  # the clock was set meanwhile
            return
        if self._lately:
            seconds = min(seconds, _OUTLIER * self._lately)
        self._lately = _moved(self._lately, seconds)
        average = (self._area - work.area) / (now - work.begun)
        number = max(FEWEST, round(average))
        if number > MOST or abs(average - number) > _NEAR:
            return
        self._usual[number] = _moved(self._usual.get(number, 0.0), seconds * number / average)
        self._learn(number, seconds * number / average)

    def _pass(self, now: Instant) -> None:
        if self._at is not None:
            self._area += self._under_way * max(0.0, now - self._at)
        self._at = now

    # --- trials ---

    def _learn(self, number: int, seconds: float) -> None:
        if self._tried is None:
            if number == self._kept:
                self._base.add(seconds)
                if self._base.count >= self._pause:
                    self._try()
        elif number == self._tried:
            self._trial.add(seconds)
            if self._trial.count >= _TRIAL or (self._trial.count >= _LOOK and self._hopeless()):
                self._judge()

    def _try(self) -> None:
        if not FEWEST <= self._kept + self._step <= MOST:
            self._step = -self._step
        self._tried = self._kept + self._step
        self._trial = _Mean()

    def _reward(self) -> float:
        """Return how many times the clones per second the larger of the two numbers gives."""
        assert self._tried is not None  # noqa: S101 # for mypy
        gain = (self._tried / self._trial.value) / (self._kept / self._base.value)
        return gain if self._step > 0 else 1 / gain

    def _hopeless(self) -> bool:
        return self._reward() < 1 / _CLEAR**0.5 if self._step > 0 else self._reward() > _CLEAR

    def _judge(self) -> None:
        """End the trial."""
        assert self._tried is not None  # noqa: S101 # for mypy
        reward = self._reward()
        better = reward >= REWARD if self._step > 0 else reward < IDLE_HAND
        self._votes = self._votes + 1 if better else 0
        if self._votes >= (_AGREE_MORE if self._step > 0 else _AGREE_FEWER):
            self._kept, self._votes, self._pause = self._tried, 0, _TRIAL
        elif self._votes:
            self._pause = _TRIAL  # look again soon, in the same direction
        else:
            self._step = -self._step
            self._pause = min(_RARELY, self._pause * 2)
        self._tried = None
        self._base = _Mean()


class Rate:
    """How often something happened lately, per second: what is old counts less and less."""

    def __init__(self, memory: float = 10.0) -> None:
        self._memory = memory  # seconds
        self._first: Instant | None = None
        self._at: Instant = 0.0
        self._count = 0.0

    def __repr__(self) -> str:
        return f"Rate({self._count:.1f} in {self._memory:g} s)"

    def add(self, now: Instant) -> None:
        self._first = now if self._first is None else self._first
        self._count = self._left(now) + 1
        self._at = now

    def per_second(self, now: Instant) -> float:
        if self._first is None:
            return 0.0
        # of a memory that is not full yet, only the part that could have seen anything counts
        seen = 1 - math.exp(-max(1.0, now - self._first) / self._memory)
        return self._left(now) / (self._memory * seen)

    def _left(self, now: Instant) -> float:
        return self._count * math.exp(-max(0.0, now - self._at) / self._memory)


class _Mean:
    """An average of the latest: plain at first, then moving."""

    def __init__(self) -> None:
        self.count = 0
        self.value = 0.0

    def add(self, sample: float) -> None:
        self.count += 1
        self.value += (sample - self.value) / min(self.count, _TRIAL)


def _moved(average: float, sample: float) -> float:
    return average + (sample - average) * _FEW if average else sample
