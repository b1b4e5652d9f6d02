"""Durations and what is said about them."""

import math
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

MILLISECONDS = 1000.0
NOTHING = "-"


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
        return self._most_of(0.99)

    @property
    def p95(self) -> float:
        """The same for 95 of 100."""
        return self._most_of(0.95)

    def _most_of(self, share: float) -> float:
        return sorted(self.seconds)[math.ceil(share * len(self.seconds)) - 1]

    @property
    def sure(self) -> tuple[float, float]:
        """Between what the true median lies, 19 times of 20; by the ranks of the samples."""
        ranked, count = sorted(self.seconds), len(self.seconds)
        # how many samples are below the true median varies like heads of a coin: 1.96 standard deviations
        rank = max(math.floor(count / 2 - 0.98 * math.sqrt(count)), 1)
        return ranked[rank - 1], ranked[-rank]

    @property
    def least(self) -> float:
        return min(self.seconds)

    @property
    def most(self) -> float:
        return max(self.seconds)

    @property
    def pair(self) -> str:
        """Median and p99, as in "1.23 / 4.56 ms"."""
        if not self.seconds:
            return NOTHING
        return f"{self.median * MILLISECONDS:.2f} / {self.p99 * MILLISECONDS:.2f} ms"

    @property
    def spread(self) -> str:
        """Median and range, as in "1.23 s (1.01 to 1.50, 5 times)"."""
        if not self.seconds:
            return NOTHING
        unit, factor = ("s", 1.0) if self.median >= 1 else ("ms", MILLISECONDS)
        digits = 2 if unit == "s" else _digits(self.median * factor)
        least, middle, most = (f"{value * factor:.{digits}f}" for value in (self.least, self.median, self.most))
        return f"{middle} {unit} ({least} to {most}, {len(self)} times)"

    @property
    def middle(self) -> str:
        """The median alone, as in "1.23 ms"."""
        return f"{self.median * MILLISECONDS:.{_digits(self.median * MILLISECONDS)}f} ms" if self.seconds else NOTHING


def _digits(value: float) -> int:
    return 2 if value < 10 else 1 if value < 100 else 0


def megabytes(count: float | None) -> str:
    if count is None:
        return NOTHING
    return f"{count / 1024**2:.{1 if count < 100 * 1024**2 else 0}f} MB"
