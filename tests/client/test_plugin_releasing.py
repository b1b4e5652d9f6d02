"""Leases on their way back: the next test does not wait, and no more than one is under way."""

import os
import threading
from collections.abc import Iterator

import pytest

from leasedb._plugin.releasing import Releases

LIMIT = 10.0  # seconds


class Held:
    """A lease whose release takes until it is let go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go = threading.Event()
        self.releaser: tuple[int, str] | None = None  # process and thread

    def __exit__(self, *_raised: object) -> None:
        self.releaser = os.getpid(), threading.current_thread().name
        self.begun.set()
        assert self.go.wait(LIMIT)


@pytest.fixture
def held() -> Iterator[tuple[Held, Held]]:
    leases = Held(), Held()
    yield leases
    for lease in leases:
        lease.go.set()


@pytest.fixture
def releases(held: tuple[Held, Held]) -> Iterator[Releases]:
    releases = Releases()
    yield releases
    for lease in held:
        lease.go.set()
    releases.close()


def in_another_thread(work) -> threading.Event:
    done = threading.Event()
    threading.Thread(target=lambda: (work(), done.set()), daemon=True).start()
    return done


def test_a_test_does_not_wait_for_its_lease_to_be_released(releases, held):
    releases.put(held[0])
    assert held[0].begun.wait(LIMIT)  # under way, and we are here


def test_one_at_a_time_is_on_its_way_back(releases, held):
    releases.put(held[0])
    put = in_another_thread(lambda: releases.put(held[1]))
    assert held[0].begun.wait(LIMIT)
    assert not put.is_set()
    assert not held[1].begun.is_set()
    held[0].go.set()
    assert put.wait(LIMIT)
    assert held[1].begun.wait(LIMIT)


def test_the_end_waits_for_the_last(releases, held):
    releases.put(held[0])
    closed = in_another_thread(releases.close)
    assert held[0].begun.wait(LIMIT)
    assert not closed.is_set()
    held[0].go.set()
    assert closed.wait(LIMIT)
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("leasedb-release")] == []


def test_the_end_of_a_run_without_leases(releases):
    releases.close()
    releases.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # forks beside threads are what is tried
def test_a_child_that_may_end_at_once_releases_by_itself(releases, held):
    releases.put(held[0])
    assert held[0].begun.wait(LIMIT)
    held[1].go.set()
    child = os.fork()
    if not child:
        try:
            releases.put(held[1])
            releases.close()
            here = held[1].releaser == (os.getpid(), threading.current_thread().name)
        finally:
            os._exit(0 if here else 1)
    assert os.waitpid(child, 0)[1] == 0
