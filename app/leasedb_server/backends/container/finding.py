"""Finding the engine: every place is tried with a real call, and every failure is told."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from leasedb_server.backends.container.places import Place, named, places
from leasedb_server.backends.container.spec import RefusedError
from leasedb_server.domain.errors import BackendUnavailableError

if TYPE_CHECKING:
    from leasedb_server.backends.container.engine import Engine

_HINT: Final = (
    "Start Docker or Podman ('podman system service' serves its API), set DOCKER_HOST, or use LEASEDB_BACKEND=embedded."
)


def find(address: str | None, patience: float, report: Callable[[str], None]) -> "Engine":
    """Return the first engine that answers; blocks.

    Args:
        address: the only one to try; None to look everywhere.
        patience: limit of the engine's later calls, seconds.
        report: told of each place that the user named and that does not answer, when another one does.

    Raises:
        BackendUnavailableError: none answers; lists what was tried, and why it failed.
    """
    # the SDK takes a fifth of a second to import, which daemons without containers need not pay
    from leasedb_server.backends.container.engine import reach  # noqa: PLC0415

    failures: list[str] = []
    absent: list[str] = []
    for place in _candidates(address):
        if place.socket and not place.origin and not place.socket.exists():
            absent.append(str(place.socket))
            continue
        try:
            engine = reach(place, patience)
        except RefusedError as error:
            failures.append(f"{place}: {error}")
            continue
        for failure in failures:
            report(f"Not used: {failure}.")
        return engine
    if absent:
        failures.append(f"no socket at {', '.join(absent)}")
    raise BackendUnavailableError(f"No container engine answers. Tried {'; '.join(failures)}.", hint=_HINT)


def _candidates(address: str | None) -> Iterable[Place]:
    if address:
        return [named(address, "the address given")]
    return places(os.environ, Path(os.environ.get("HOME") or "/"))
