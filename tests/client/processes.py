"""Subprocesses of these tests."""

import os
import subprocess
import sys
from collections.abc import Sequence


def environment(url: str, **more: str) -> dict[str, str]:
    """The environment of a subprocess that shall find this daemon, and start none in its place."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LEASEDB_", "PYTEST_", "PG"))}
    return kept | {"LEASEDB_URL": url, "LEASEDB_AUTOSTART": "0"} | more


def python(code: str, env: dict[str, str] | None = None, arguments: Sequence[str] = ()) -> str:
    """Run a piece of Python in a process of its own and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        env=os.environ | (env or {}),
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
