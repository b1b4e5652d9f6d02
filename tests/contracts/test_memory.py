"""How much memory a server's files are granted."""

import pytest

from leasedb_server.backends.memory import LEAST, SHARE, granted

ROOM = 1 << 50


@pytest.mark.parametrize("wanted", [0, 1, LEAST - 1])
def test_too_little_is_none(wanted):
    assert granted(wanted, ROOM) is None


def test_what_was_asked_for_is_granted_as_far_as_it_is_there():
    assert granted(LEAST, ROOM) == LEAST
    assert granted(ROOM, LEAST) == LEAST
    assert granted(ROOM, LEAST - 1) is None


def test_otherwise_a_share_is_granted_and_shared_by_all_servers():
    room = 2 * SHARE * LEAST
    assert granted(None, room) in {2 * LEAST, None}  # no more than the machine has
    assert granted(None, SHARE * LEAST, servers=2) is None
