"""What df prints, and what it may print instead."""

import pytest

from leasedb_server.postgres.pulse import _total_and_free

KB = 1024


@pytest.mark.parametrize(
    ("line", "sizes"),
    [
        ("tmpfs               524288    3716    520572   1% /leasedb/memory", (524288 * KB, 520572 * KB)),
        ("/dev/my disk 1 1000 900 100 90% /a place/50% full", (1000 * KB, 100 * KB)),
        ("Filesystem 1024-blocks Used Available Capacity Mounted on", None),
        ("none 0 0 0 - /x", None),  # a file system that tells no size
        ("- - - - - /x", None),
        ("df: /x: No such file or directory", None),
        ("", None),
    ],
)
def test_a_line_of_df_tells_sizes_or_nothing(line, sizes):
    assert _total_and_free(line) == sizes
