"""How to clone: every way a server knows is tried on the first clones of a template, and the quickest is kept.

What is quickest depends on the template's size, the file system and Postgres's version, so it is measured, and on
databases that are needed anyway.
"""

import math
import statistics
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

TRIALS: Final = 2  # clones by each way before one is preferred
HOPELESS: Final = 1.5  # a way whose first clone took so many times what another takes is not tried again
KEPT: Final = 16  # durations remembered of each way


class Strategy(StrEnum):
    """The ways of CREATE DATABASE (https://www.postgresql.org/docs/current/sql-createdatabase.html)."""

    COPY = "file_copy"  # copies files between two checkpoints
    LOG = "wal_log"  # copies blocks through shared buffers and the log: cheap for small, no checkpoint
    CLONE = "file_copy_clone"  # has the file system share the blocks (file_copy_method, Postgres 18)


@dataclass(frozen=True, slots=True)
class Figures:
    """What is known of one way: ``seconds`` is the median of the last clones, None before the first."""

    strategy: Strategy
    seconds: float | None = None
    clones: int = 0
    refused: str = ""  # why it cannot be used here


@dataclass(slots=True)
class _Known:
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    under_way: int = 0
    clones: int = 0
    refused: str = ""


class Cloning:
    """The choice for one template on one server.

    Args:
        strategies: the ways this server knows, at least one; the first is taken when nothing is known yet.
    """

    def __init__(self, strategies: tuple[Strategy, ...]) -> None:
        self._known = {strategy: _Known() for strategy in strategies}
        self.surest = strategies[0]  # works wherever cloning works at all

    def __repr__(self) -> str:
        return f"Cloning({', '.join(f'{each.strategy} {each.seconds}' for each in self.figures())})"

    def begin(self) -> Strategy:
        """Return how to make the next clone; `took` or `failed` has to follow."""
        usable = {strategy: known for strategy, known in self._known.items() if not known.refused}
        untried = [strategy for strategy, known in usable.items() if self._worth_a_trial(known)]
        strategy = untried[0] if untried else self.best
        self._known[strategy].under_way += 1
        return strategy

    def took(self, strategy: Strategy, seconds: float) -> None:
        known = self._known[strategy]
        known.under_way -= 1
        known.clones += 1
        known.seconds.append(seconds)

    def failed(self, strategy: Strategy, refused: str = "") -> None:
        """Count a clone that did not come about; with a reason, this way is not used again while there is another."""
        known = self._known[strategy]
        known.under_way -= 1
        if refused and sum(not other.refused for other in self._known.values()) > 1:
            known.refused = refused

    def _worth_a_trial(self, known: _Known) -> bool:
        if known.clones + known.under_way >= TRIALS:
            return False
        shortest = min((min(other.seconds) for other in self._known.values() if other.seconds), default=math.inf)
        return not known.seconds or min(known.seconds) <= HOPELESS * shortest

    @property
    def best(self) -> Strategy:
        """The quickest by the median of the last clones, among those that were tried."""
        usable = {strategy: known for strategy, known in self._known.items() if not known.refused}
        tried = {strategy: known for strategy, known in usable.items() if known.seconds}
        if not tried:
            return next(iter(usable))
        return min(tried, key=lambda strategy: statistics.median(tried[strategy].seconds))

    @property
    def seconds(self) -> float | None:
        """What a clone takes at present, or None before the first."""
        return next(each.seconds for each in self.figures() if each.strategy is self.best)

    def figures(self) -> tuple[Figures, ...]:
        return tuple(
            Figures(
                strategy,
                statistics.median(known.seconds) if known.seconds else None,
                known.clones,
                known.refused,
            )
            for strategy, known in self._known.items()
        )
