"""`leasedb stop`: ends the daemon of this machine, such as one that was started in the background."""

import argparse
import os
import signal
import time
from typing import Final

from leasedb._arguments import client, say, show
from leasedb._discovery import process_lives
from leasedb._errors import DaemonUnreachableError

_LIMIT: Final = 60.0  # seconds: it drains for 5 and takes its servers away for 20
_PAUSE: Final = 0.05  # seconds between two looks


def run(args: argparse.Namespace) -> int:
    """Tell the daemon to end, and wait until it has."""
    with client(args) as daemon:
        url = daemon.url
        try:
            health = daemon.health()
        except DaemonUnreachableError as error:
            say(error.detail)
            return 1
        near = daemon._line.wire.neighbour is not None  # noqa: SLF001 - nobody else asks
    if not near:
        say(f"the daemon at {url} does not run on this machine, or in another container: stop it there")
        return 1
    try:
        os.kill(health.pid, signal.SIGTERM)
    except ProcessLookupError:
        pass
    except PermissionError:
        say(f"the daemon at {url}, process {health.pid}, belongs to another user")
        return 1
    end = time.monotonic() + _LIMIT
    while process_lives(health.pid):
        if time.monotonic() > end:
            say(f"the daemon at {url}, process {health.pid}, has been told to end, and has not within {_LIMIT:g} s")
            return 1
        time.sleep(_PAUSE)
    show(f"stopped the daemon at {url}, process {health.pid}")
    return 0
