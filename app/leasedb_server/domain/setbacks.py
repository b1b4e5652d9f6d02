"""Failures in a row, and when to try again."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from leasedb_server.domain.lease import Instant

FIRST_PAUSE: Final = 0.5  # seconds
LONGEST_PAUSE: Final = 30.0


@dataclass(frozen=True, slots=True)
class Setback:
    count: int
    retry_at: Instant
    error: str


class Setbacks:
    """By what failed: a server's id, or any other key."""

    def __init__(self) -> None:
        self._by_key: dict[str, Setback] = {}

    def __repr__(self) -> str:
        return f"Setbacks({self._by_key})"

    def add(self, key: str, error: str, now: Instant) -> Setback:
        """Count a failure; the pause doubles with each in a row."""
        count = self._by_key[key].count + 1 if key in self._by_key else 1
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(count - 1, 10))
        self._by_key[key] = setback = Setback(count, now + pause, error)
        return setback

    def clear(self, key: str) -> None:
        self._by_key.pop(key, None)

    def get(self, key: str) -> Setback | None:
        return self._by_key.get(key)

    def latest(self, now: Instant) -> str:
        """Return the failure that matters most at present, or an empty text: the newest not yet tried again."""
        current = [setback for setback in self._by_key.values() if setback.retry_at + LONGEST_PAUSE > now]
        return max(current, key=lambda setback: setback.retry_at).error if current else ""

    def retry_at(self) -> Mapping[str, Instant]:
        return {key: setback.retry_at for key, setback in self._by_key.items()}
