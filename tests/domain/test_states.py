"""States, and what may follow what; leases; pauses after failures."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasedb_server.domain.database import Database, DatabaseState
from leasedb_server.domain.errors import IllegalTransitionError
from leasedb_server.domain.lease import Holder, Lease, LeaseState
from leasedb_server.domain.server import Endpoint, Server, ServerState, Versions
from leasedb_server.domain.setbacks import FIRST_PAUSE, LONGEST_PAUSE, Setbacks
from leasedb_server.domain.template import Copy, CopyState, Origin, Template, TemplateState

SECRET = "0123456789abcdef"

# Written out once more, so that a slip in the domain's own tables shows.
LEGAL = {
    DatabaseState: "making>ready making>condemned making>gone ready>leased ready>condemned ready>gone leased>ready "
    "leased>spare leased>condemned leased>gone spare>condemned spare>gone condemned>dropping condemned>gone "
    "dropping>condemned dropping>gone",
    ServerState: "starting>ready starting>stopping starting>gone ready>lost ready>stopping ready>gone lost>stopping "
    "lost>gone stopping>lost stopping>gone",
    TemplateState: "building>sealed building>failed building>gone sealed>gone failed>gone",
    CopyState: "making>sealed making>condemned making>gone sealed>condemned sealed>gone condemned>gone",
}


def thing(state):
    match state:
        case DatabaseState():
            return Database("i", "s", "base", "name", "login", SECRET, state)
        case ServerState():
            endpoint = Endpoint("127.0.0.1", 5432, "postgres", SECRET)
            return Server("i", "name", "embedded", 1.0, state, endpoint, Versions("18.1", "0.8.1"))
        case CopyState():
            return Copy("i", "s", "base", "name", state)
        case _:
            return Template("i", "shop", "", "f", "base", Origin.SQL, 0.0, 0.0, state)


def pairs(*, legal):
    for kind, arrows in LEGAL.items():
        allowed = {tuple(map(kind, arrow.split(">"))) for arrow in arrows.split()}
        for pair in itertools.product(kind, kind):
            if (pair in allowed) is legal:
                yield pytest.param(*pair, id=f"{kind.__name__}: {pair[0]}>{pair[1]}")


@pytest.mark.parametrize(("old", "new"), [*pairs(legal=True)])
def test_a_legal_step_is_made_and_changes_nothing_else(old, new):
    before = thing(old)
    after = before.to(new)
    assert (before.state, after.state) == (old, new)
    assert {name: getattr(after, name) for name in after.__slots__ if name != "state"} == {
        name: getattr(before, name) for name in before.__slots__ if name != "state"
    }


@pytest.mark.parametrize(("old", "new"), [*pairs(legal=False)])
def test_an_illegal_step_says_honestly_what_was_asked_and_no_secret(old, new):
    before = thing(old)
    with pytest.raises(IllegalTransitionError) as caught:
        before.to(new)
    message = str(caught.value)
    assert repr(before) in message
    assert repr(old) in message
    assert f"cannot become {new}" in message
    assert SECRET not in message


@pytest.mark.parametrize("kind", LEGAL)
def test_gone_is_for_ever_and_can_always_be_reached(kind):
    assert not any(arrow.startswith("gone>") for arrow in LEGAL[kind].split())
    for state in kind:
        if state is not kind.GONE:
            assert thing(state).to(kind.GONE).state is kind.GONE


def test_a_server_becomes_ready_with_all_that_ready_means():
    endpoint, versions = Endpoint("::1", 1, "u", SECRET), Versions("16.9", "0.7.4")
    server = Server("i", "n", "embedded", 1.0).ready(endpoint, versions, 5.0)
    assert (server.state, server.endpoint, server.versions, server.ready_at) == (
        ServerState.READY, endpoint, versions, 5.0,
    )  # fmt: skip
    with pytest.raises(IllegalTransitionError):
        server.ready(endpoint, versions, 6.0)
    assert server.to(ServerState.LOST, "silent").to(ServerState.STOPPING).error == "silent"


@pytest.mark.parametrize("state", ServerState)
def test_only_a_ready_server_has_to_be_proven_again_after_a_restart(state):
    expected = ServerState.STARTING if state is ServerState.READY else state
    assert thing(state).unproven().state is expected


@pytest.mark.parametrize(("postgres", "major"), [("18.1", "18"), ("16.9", "16"), ("19beta1", "19beta1")])
def test_the_major_version_is_what_stands_before_the_dot(postgres, major):
    assert Versions(postgres, "0.8.1").major == major


# --- leases ---

instants = st.floats(0, 4e9)
durations = st.floats(0.001, 1e6)


def lease(created_at=1000.0, ttl=300.0, longest=86_400.0):
    return Lease(
        "i", "d", Holder("h", 7, 5.0), {}, created_at, created_at + ttl, created_at + longest, ttl,
        idempotency_key=SECRET, request_digest=SECRET,
    )  # fmt: skip


@given(instants, durations, durations, st.lists(st.tuples(durations, durations), max_size=5))
def test_a_renewed_lease_lives_from_now_and_never_beyond_its_longest(created_at, ttl, longest, renewals):
    now, one = created_at, lease(created_at, ttl, longest)
    for later, wanted in renewals:
        now += later
        one = one.renewed(now, wanted)
        assert one.expires_at == min(now + wanted, one.max_expires_at)
        assert one.max_expires_at == created_at + longest
        assert 0 <= one.ttl <= wanted + 1e-3
        assert one.ttl == max(0.0, one.expires_at - now)
        assert one.active


@pytest.mark.parametrize("state", [LeaseState.RELEASED, LeaseState.EXPIRED, LeaseState.LOST])
def test_an_ended_lease_is_ended_for_ever(state):
    ended = lease().ended(state, 1010.0, "why")
    assert (ended.active, ended.state, ended.ended_at, ended.end_reason) == (False, state, 1010.0, "why")
    for attempt in (
        lambda: ended.renewed(1020.0, 5),
        lambda: ended.ended(LeaseState.EXPIRED, 1020.0, "again"),
        lambda: lease().ended(LeaseState.ACTIVE, 1020.0, "no end"),
    ):
        with pytest.raises(IllegalTransitionError) as caught:
            attempt()
        assert "Lease(id='i'" in str(caught.value)
        assert SECRET not in str(caught.value)


# --- pauses after failures ---


def test_pauses_double_up_to_a_limit_and_start_anew_after_a_success():
    setbacks = Setbacks()
    pauses = [setbacks.add("s", "why", 100.0).retry_at - 100.0 for _ in range(50)]
    assert pauses[:7] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0]
    assert set(pauses[7:]) == {LONGEST_PAUSE}
    assert setbacks.get("s").count == 50
    setbacks.add("t", "another", 200.0)
    assert setbacks.retry_at() == {"s": 130.0, "t": 200.0 + FIRST_PAUSE}
    setbacks.clear("s")
    setbacks.clear("never failed")
    assert setbacks.get("s") is None
    assert setbacks.add("s", "why", 0.0).count == 1
    assert "why" in repr(setbacks)
