"""Where the next database goes, and when a server has too few connections left."""

import pytest

from leasedb_server.domain.room import DISK_RESERVE, LEAST, Place, crowded, place_for

MB, GB = 1024**2, 1024**3


@pytest.mark.parametrize(
    ("memory", "memory_free", "disk_free", "place"),
    [
        (None, None, None, Place.MAIN),  # a lent server: nothing is known of it
        (None, None, GB, Place.MAIN),
        (None, None, DISK_RESERVE - 1, Place.NONE),
        (GB, None, None, Place.MAIN),  # not measured yet
        (GB, GB, None, Place.MAIN),
        (GB, GB // 8, GB, Place.MAIN),
        (GB, GB // 8 - 1, GB, Place.OVERFLOW),
        (GB, GB // 8 - 1, None, Place.OVERFLOW),
        (GB, GB // 8 - 1, DISK_RESERVE - 1, Place.NONE),
        (GB, GB, 0, Place.MAIN),  # a full disk is no matter while there is memory
        (100 * MB, LEAST - 1, GB, Place.OVERFLOW),
        (GB, -5, GB, Place.OVERFLOW),
    ],
)
def test_memory_first_then_the_disk_then_nowhere(memory, memory_free, disk_free, place):
    assert place_for(memory, memory_free, disk_free) is place


def test_a_server_is_crowded_until_it_is_clearly_not():
    assert not crowded(89, 100, before=False)
    assert crowded(90, 100, before=False)
    assert crowded(80, 100, before=True)
    assert not crowded(79, 100, before=True)
