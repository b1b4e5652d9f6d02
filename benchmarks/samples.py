"""Durations and what is said about them."""

import math
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

MILLISECONDS = 1000.0


@dataclass(frozen=True, slots=True)
class Samples:
    """Durations in seconds."""

    seconds: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.seconds)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Add the time that the block takes; nothing when it fails."""
        started = perf_counter()
        yield
        self.seconds.append(perf_counter() - started)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def p99(self) -> float:
        """The smallest sample that 99 of 100 samples do not exceed."""
        return sorted(self.seconds)[math.ceil(0.99 * len(self.seconds)) - 1]

    @property
    def least(self) -> float:
        return min(self.seconds)

    @property
    def most(self) -> float:
        return max(self.seconds)
