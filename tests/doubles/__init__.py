"""Verified fakes of our own ports: the same contract suites run against them and against the real adapters.

What lies outside the daemon (servers, the store's rows) is a world that outlives any daemon, so that a test can kill
one and start another on what it left. Every effect on that world is a step, and a fuse can blow before or after each.
"""

from tests.doubles.admin import FakeAdmin
from tests.doubles.backend import FakeBackend, unavailable
from tests.doubles.files import MemoryFiles
from tests.doubles.store import MemoryStore
from tests.doubles.world import (
    FakeClock,
    FakeDatabase,
    FakeLogin,
    FakeProcesses,
    FakeServer,
    FakeSession,
    FakeWorld,
    Faults,
    Fuse,
    KilledError,
)

__all__ = [
    "FakeAdmin",
    "FakeBackend",
    "FakeClock",
    "FakeDatabase",
    "FakeLogin",
    "FakeProcesses",
    "FakeServer",
    "FakeSession",
    "FakeWorld",
    "Faults",
    "Fuse",
    "KilledError",
    "MemoryFiles",
    "MemoryStore",
    "unavailable",
]
