"""One test: writes down when its body began, in the file that SUITE_RECORD names."""

import os
import time
from pathlib import Path

from benchmarks.suites.subject import Connection


def test_first(pg_conn: Connection) -> None:
    Path(os.environ["SUITE_RECORD"]).write_text(repr(time.time()))
    assert pg_conn.execute("SELECT '[1,2]'::vector <-> '[1,3]'").fetchone() == (1.0,)
