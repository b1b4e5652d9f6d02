"""One test without a database: writes down when its body began, in the file that SUITE_RECORD names."""

import os
import time
from pathlib import Path


def test_without() -> None:
    Path(os.environ["SUITE_RECORD"]).write_text(repr(time.time()))
