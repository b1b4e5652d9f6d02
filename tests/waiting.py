"""Waiting for a condition with a limit, instead of sleeping and hoping."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(condition: Callable[[], T], limit: float = 10.0, what: str = "") -> T:
    """Return the first truthy answer of ``condition``; fail when none came within ``limit`` seconds."""
    pause = threading.Event()
    end = time.monotonic() + limit
    while not (answer := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {limit} s: {what or condition}")
        pause.wait(0.02)
    return answer
