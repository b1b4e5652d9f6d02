"""Which daemons this client understands."""

import re

import leasedb
from leasedb._errors import IncompatibleDaemonError
from leasedb._models import Health


def check(health: Health, url: str) -> None:
    """Let daemons pass that have our version's first number, and where that is 0 the second one too.

    Raises:
        IncompatibleDaemonError: saying which of the two is older.
    """
    theirs, ours = _line(health.version), _line(leasedb.__version__)
    if theirs is None or ours is None or theirs == ours:
        return
    if theirs < ours:
        hint = (
            "Stop it with 'leasedb stop', and start it with the version that is installed here; or set LEASEDB_URL to "
            "another daemon's address."
        )
    else:
        hint = "Upgrade the client with: pip install --upgrade leasedb; or set LEASEDB_URL to another daemon's address."
    older = "older" if theirs < ours else "newer"
    raise IncompatibleDaemonError(
        f"The daemon at {url} is leasedb {health.version}, which is {older} than this client, {leasedb.__version__}, "
        "and they do not understand each other.",
        hint=hint,
    )


def _line(version: str) -> tuple[int, int] | None:
    """Return what versions that understand each other have in common; None when it says nothing of the kind."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None:
        return None
    major, minor = int(numbers[1]), int(numbers[2])
    return major, minor if major == 0 else 0
