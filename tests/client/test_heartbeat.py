"""Renewing in the background: when, and what happens when it cannot."""

import asyncio
import gc
import logging
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import leasedb
from leasedb._errors import DaemonUnreachableError, LeaseEndedError, LeaseLostError, LeaseNotFoundError
from leasedb._heartbeat import Schedule
from leasedb._models import LeaseRecord, lease_record
from tests.client.stand_in import StandIn
from tests.client.test_client_protocol import LEASE
from tests.daemons import RealDaemon
from tests.waiting import until

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


class Held:
    """What the schedule needs of a lease."""

    def __init__(self, ttl: float, life: float = 1000.0) -> None:
        times = {"expires_at": NOON + timedelta(seconds=ttl), "max_expires_at": NOON + timedelta(seconds=life)}
        self.record = replace(lease_record(LEASE), ttl=ttl, **times)
        self.over: tuple[Any, ...] | None = None

    def _over(self, state: str, reason: str, record: LeaseRecord | None = None) -> None:
        self.over = (state, reason, record)


def scheduled(*leases: Held, now: float = 0.0) -> Schedule[Held]:
    schedule: Schedule[Held] = Schedule()
    for lease in leases:
        schedule.put(lease, now)
    return schedule


def test_renewal_is_due_at_a_third_of_the_ttl_earliest_first():
    slow, fast = Held(300), Held(30)
    schedule = scheduled(slow, fast)
    assert [(beat.lease, beat.due) for beat in [schedule.first()] if beat] == [(fast, 10)]
    schedule.drop(fast)
    schedule.drop(fast)
    assert [(beat.lease, beat.due) for beat in [schedule.first()] if beat] == [(slow, 100)]


def test_after_a_renewal_the_next_is_planned_from_then():
    lease = Held(30)
    schedule = scheduled(lease)
    beat = schedule.first()
    schedule.settle(beat, None, 11.0)
    assert schedule.first().due == 21.0


def test_a_transient_error_is_told_once_and_tried_again_sooner(caplog):
    lease = Held(60)
    schedule = scheduled(lease)
    beat = schedule.first()
    with caplog.at_level(logging.WARNING, "leasedb"):
        for now in (20.0, 25.0, 30.0):
            schedule.settle(beat, DaemonUnreachableError("gone"), now)
            assert schedule.first().due == now + 5.0
    assert caplog.text.count("could not renew lease abc, will try again: gone") == 1
    assert lease.over is None


@pytest.mark.parametrize(
    ("error", "state"),
    [(LeaseEndedError("d"), "expired"), (LeaseLostError("d"), "lost"), (LeaseNotFoundError("d"), "expired")],
)
def test_an_ended_lease_is_renewed_no_more(error, state):
    lease = Held(30)
    schedule = scheduled(lease)
    schedule.settle(schedule.first(), error, 11.0)
    assert schedule.first() is None
    assert lease.over == (state, "d", None)


def test_what_the_daemon_tells_of_the_end_wins():
    lease, error = Held(30), LeaseEndedError("d")
    error.lease = replace(lease.record, state="released", end_reason="by label")
    schedule = scheduled(lease)
    schedule.settle(schedule.first(), error, 11.0)
    assert lease.over == ("released", "by label", error.lease)


def test_a_lease_that_cannot_be_renewed_further_is_over_at_its_end():
    lease = Held(50, life=50)
    schedule = scheduled(lease)
    beat = schedule.first()
    assert (beat.due, beat.last) == (50, True)
    schedule.settle(beat, None, 50.0)
    assert schedule.first() is None
    assert lease.over[0] == "expired"
    assert "max_expires_at" in lease.over[1]


@pytest.mark.parametrize("error", [None, LeaseEndedError("d")])
def test_a_lease_released_while_its_renewal_was_under_way_stays_released(error):
    lease = Held(30)
    schedule = scheduled(lease)
    beat = schedule.first()
    schedule.drop(lease)
    schedule.settle(beat, error, 11.0)
    assert (schedule.first(), lease.over) == (None, None)


def test_a_lease_renewed_by_hand_while_its_renewal_was_under_way_keeps_the_newer_plan():
    lease = Held(30)
    schedule = scheduled(lease)
    beat = schedule.first()
    schedule.put(lease, 10.5)
    schedule.settle(beat, None, 11.0)
    assert schedule.first().due == 20.5


# --- with both clients, over HTTP, in real time ---


def renewals(daemon: StandIn, lease: Any) -> int:
    return len(daemon.sent("POST", f"/leases/{lease.id}/renew"))


def test_a_lease_outlives_its_ttl(client):
    with client.lease(ttl=1.5, pid=None) as lease:
        first = lease.expires_at
        until(lambda: lease.expires_at > first + timedelta(seconds=1), what="renewed past its first end")
        assert client.get(lease.id).state == "active"


def test_a_short_lease_is_not_forgotten_behind_a_long_one(connect, stand_in):
    client = connect(stand_in.url)
    with client.lease(ttl=300) as long, client.lease(ttl=1.5) as short:
        until(lambda: renewals(stand_in, short) >= 2, what="the short one renewed")
        assert renewals(stand_in, long) == 0


def test_a_short_lease_after_a_long_one_was_given_back(connect, stand_in):
    client = connect(stand_in.url)
    client.acquire(ttl=300).release()
    with client.lease(ttl=1.5) as short:
        until(lambda: renewals(stand_in, short) >= 2, what="renewed")


def test_a_later_beat_does_not_wake_the_thread(stand_in):
    with leasedb.Client(stand_in.url) as client:
        heartbeat = client._line.heartbeat
        first = client.acquire(ttl=300)
        until(lambda: heartbeat._sleeps_until > 0, what="the thread asleep")
        before = heartbeat._sleeps_until
        first.release()
        kept = [client.acquire(ttl=300) for _ in range(5)]  # woken, it would sleep until the first of these is due
        assert heartbeat._sleeps_until == before
        kept[0].renew(30)
        until(lambda: heartbeat._sleeps_until < before, what="woken by an earlier one")


def test_without_heartbeat_it_ends(client):
    lease = client.acquire(ttl=0.2, pid=None, heartbeat=False)
    until(lambda: client.get(lease.id).state == "expired", what="expired")


def test_a_released_lease_is_renewed_no_more(connect, stand_in):
    client = connect(stand_in.url)
    gone, kept = client.acquire(ttl=1.5), client.acquire(ttl=1.5)
    gone.release()
    until(lambda: renewals(stand_in, kept) >= 2, what="the other renewed")
    assert renewals(stand_in, gone) == 0


def test_a_renewal_by_hand_sets_the_pace(connect, stand_in):
    client = connect(stand_in.url)
    lease, other = client.acquire(ttl=1.5), client.acquire(ttl=1.5)
    lease.renew(600)
    until(lambda: renewals(stand_in, other) >= 2, what="the other renewed")
    assert stand_in.sent("POST", f"/leases/{lease.id}/renew")[-1].body == {"ttl": 600}
    assert lease.ttl > 500


def test_a_daemon_that_is_away_for_a_while(connect, stand_in, caplog):
    client = connect(stand_in.url)
    with caplog.at_level(logging.WARNING, "leasedb"):
        lease = client.acquire(ttl=3)
        stand_in.stop()
        until(lambda: "could not renew lease" in caplog.text, what="the failure told")
        stand_in.start()
        until(lambda: renewals(stand_in, lease) >= 1, what="renewed again")
    assert (lease.state, lease.lost_reason) == ("active", None)
    assert client.get(lease.id).state == "active"


@pytest.mark.parametrize("state", ["lost", "expired", "released"])
def test_a_lease_that_the_daemon_ended(connect, stand_in, caplog, state):
    lease = connect(stand_in.url).acquire(ttl=1.5)
    with caplog.at_level(logging.WARNING, "leasedb"):
        stand_in.end(lease.id, state, "the server died")
        told = f"lease {lease.id} has ended ({state}): the server died"
        until(lambda: told in caplog.text, what="noticed and told")
    assert (lease.state, lease.lost_reason) == (state, "the server died")
    before = len(stand_in.seen)
    lease.release()
    assert len(stand_in.seen) == before


def test_at_the_end_of_its_longest_life(connect, caplog):
    with StandIn(max_life=2) as daemon, caplog.at_level(logging.WARNING, "leasedb"):
        lease = connect(daemon.url).acquire(ttl=1.5)
        until(lambda: "max_expires_at" in caplog.text, what="noticed and told")
        assert lease.state == "expired"
        assert renewals(daemon, lease) <= 3


def test_a_dropped_lease_is_still_renewed(connect, stand_in):
    dsn = connect(stand_in.url).acquire(ttl=1.5).dsn
    gc.collect()
    ident = dsn.rpartition("/d_")[2]
    until(lambda: len(stand_in.sent("POST", f"/leases/{ident}/renew")) >= 2, what="renewed")


def test_closing_ends_it(connect, stand_in):
    client = connect(stand_in.url)
    lease = client.acquire(ttl=1.5)
    until(lambda: renewals(stand_in, lease) >= 1, what="renewed")
    client.close()
    until(lambda: not stand_in.active(), what="expired")
    assert not [thread for thread in threading.enumerate() if thread.name == "leasedb-heartbeat"]


def test_one_thread_for_all_leases_and_none_before_the_first(stand_in):
    def beating() -> int:
        return len([thread for thread in threading.enumerate() if thread.name == "leasedb-heartbeat"])

    with leasedb.Client(stand_in.url) as client:
        client.health()
        assert beating() == 0
        leases = [client.acquire() for _ in range(5)]
        assert beating() == 1
        for lease in leases:
            lease.release()
        client.acquire()
        assert beating() == 1
    assert beating() == 0


def test_one_task_for_all_leases_and_none_after_the_last(stand_in):
    async def main() -> None:
        def beating() -> int:
            return len([task for task in asyncio.all_tasks() if task.get_name() == "leasedb-heartbeat"])

        async with leasedb.AsyncClient(stand_in.url) as client:
            assert beating() == 0
            leases = [await client.acquire() for _ in range(5)]
            assert beating() == 1
            for lease in leases:
                await lease.release()
            await client.health()
            assert beating() == 0
            await client.acquire()
            assert beating() == 1
        assert beating() == 0

    asyncio.run(main())


def test_a_real_daemon_killed_and_started_again(caplog):
    daemon = RealDaemon({"POOL_READY": "1"})
    daemon.start()
    try:
        listening = caplog.at_level(logging.WARNING, "leasedb")
        with listening, leasedb.Client(daemon.url) as client, client.lease(ttl=15, pid=None) as lease:
            daemon.kill()
            until(lambda: "could not renew lease" in caplog.text, what="the failure told")
            before = lease.expires_at
            daemon.start()
            until(lambda: lease.expires_at > before or lease.lost_reason, what="renewed again, or known to be over")
            assert daemon.get(f"/leases/{lease.id}")["state"] == lease.state
        assert daemon.get(f"/leases/{lease.id}")["state"] in {"released", "expired"}
    finally:
        daemon.remove()
