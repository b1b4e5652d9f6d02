"""Which leases may be kept at once, and what keeping does to a lease."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasedb_server.domain.errors import IllegalTransitionError
from leasedb_server.domain.inventory import Inventory
from leasedb_server.domain.keeping import makes_room
from leasedb_server.domain.lease import Holder, Lease, LeaseState


def lease(ident="i", holder="", created_at=0.0, *, kept=False, pid=None):
    held = Lease(ident, f"d-{ident}", Holder(holder, pid, 1.0 if pid else None), {}, created_at, 300.0, 86_400.0, 300.0)
    return replace(held, kept=kept)


def ids(leases):
    return None if leases is None else [one.id for one in leases]


A, B, C = lease("a", "red", 3.0, kept=True), lease("b", "blue", 1.0, kept=True), lease("c", "blue", 2.0, kept=True)
NEW = lease("new", "red")


@pytest.mark.parametrize(
    ("active", "wanted", "most", "expected"),
    [
        ([NEW], NEW, 1, []),
        ([NEW, lease("x")], NEW, 1, []),  # only those that are kept count
        ([NEW, A, B, C], NEW, 4, []),
        ([NEW, A, B, C], NEW, 3, ["b"]),  # the oldest of another holder, whoever has most
        ([NEW, A], NEW, 1, None),  # all of its own
        ([NEW, A, B, C], NEW, 2, ["b", "c"]),  # the quota was lowered
        ([NEW, A, B, C], NEW, 1, None),
        ([A, B, C], A, 3, []),  # is kept already
        ([A, B, C], A, 1, []),
        ([NEW], NEW, 0, None),
        ([A], A, 0, None),
    ],
)
def test_the_oldest_of_another_holder_makes_room(active, wanted, most, expected):
    assert ids(makes_room(active, wanted, most)) == expected


@given(
    holders=st.lists(st.sampled_from(["", "red", "blue"]), max_size=8),
    holder=st.sampled_from(["", "red", "blue"]),
    most=st.integers(0, 6),
)
def test_never_more_are_kept_than_may_be_and_nobody_loses_what_is_his_own(holders, holder, most):
    kept = [lease(str(number), name, float(-number), kept=True) for number, name in enumerate(holders)]
    wanted = lease("new", holder)
    leave = makes_room([*kept, wanted], wanted, most)
    if leave is None:
        assert most == 0 or sum(name == holder for name in holders) >= most
        return
    assert len(kept) - len(leave) + 1 <= most
    assert all(one.holder.name != holder for one in leave)
    stay = [one for one in kept if one.holder.name != holder and one not in leave]
    assert all(one.created_at > gone.created_at for one in stay for gone in leave)


def test_a_kept_lease_has_no_process_and_its_time_counts_from_now():
    kept = lease(holder="me", pid=7).keep(10.0, 3600.0)
    assert (kept.kept, kept.holder, kept.expires_at, kept.ttl) == (True, Holder("me"), 3610.0, 3600.0)
    assert lease().keep(10.0, 1e6).expires_at == 86_400.0


def test_a_kept_lease_is_only_prolonged():
    kept = lease().keep(0.0, 3600.0)
    for later in (kept.renewed(100.0, 5.0), kept.keep(100.0, 5.0)):
        assert (later.expires_at, later.ttl, later.kept) == (3600.0, 3500.0, True)
    assert kept.renewed(100.0, 7200.0).expires_at == 7300.0
    assert lease().renewed(100.0, 5.0).expires_at == 105.0


def test_what_has_ended_is_not_kept_and_cannot_be():
    ended = lease().keep(0.0, 60.0).ended(LeaseState.RELEASED, 1.0, "why")
    assert not ended.kept
    with pytest.raises(IllegalTransitionError):
        ended.keep(2.0, 60.0)


def test_a_holder_that_was_known_by_its_process_is_counted_right_when_it_is_kept():
    inventory = Inventory()
    held = lease(pid=7)
    inventory.put_lease(held)
    assert inventory.held == {"7": 1}
    inventory.put_lease(kept := held.keep(1.0, 60.0))
    assert inventory.held == {"": 1}
    inventory.put_lease(kept.ended(LeaseState.RELEASED, 2.0, "why"))
    assert inventory.held == {}
