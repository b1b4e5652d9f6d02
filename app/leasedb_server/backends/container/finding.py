"""Finding the engine: every place is tried with a real call, and every failure is told."""

import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Final

from leasedb_server.backends.container.places import Place, named, places
from leasedb_server.backends.container.spec import RefusedError, SilentError
from leasedb_server.domain.errors import BackendUnavailableError

if TYPE_CHECKING:
    from leasedb_server.backends.container.engine import Engine

_NAMED: Final = 15.0  # seconds for an engine that the user named and that is there; a busy one answers late
_HINT: Final = (
    "Start Docker or Podman ('podman system service' serves its API), set DOCKER_HOST, or use LEASEDB_BACKEND=embedded."
)


def find(address: str | None, patience: float, report: Callable[[str], None], leased: Collection[str] = ()) -> "Engine":
    """Return the first engine that answers; blocks.

    Args:
        address: the only one to try; None to look everywhere.
        patience: limit of the engine's later calls, and of the wait for one that has leases, seconds.
        report: told of each place that the user named and that does not answer, when another one does.
        leased: the addresses of engines that run servers with leases, which would be lost with another one.

    Raises:
        BackendUnavailableError: none answers; lists what was tried, and why it failed.
    """
    failures: list[str] = []
    absent: list[str] = []
    for place in _candidates(address, leased):
        if place.socket and not place.origin and not place.socket.exists():
            absent.append(str(place.socket))
            continue
        try:
            engine = _reached(place, patience, report, leased=place.address in leased)
        except RefusedError as error:
            failures.append(f"{place}: {error}")
            continue
        for failure in failures:
            report(f"Not used: {failure}.")
        return engine
    if absent:
        failures.append(f"no socket at {', '.join(absent)}")
    raise BackendUnavailableError(f"No container engine answers. Tried {'; '.join(failures)}.", hint=_HINT)


def _candidates(address: str | None, leased: Collection[str]) -> list[Place]:
    if address:
        return [named(address, "the address given")]
    found = places(os.environ, Path(os.environ.get("HOME") or "/"))
    known = {place.address for place in found}
    found += [named(one, "the engine that has leases") for one in leased if one not in known]
    return sorted(found, key=lambda place: place.address not in leased)


def _reached(place: Place, patience: float, report: Callable[[str], None], *, leased: bool) -> "Engine":
    # the SDK takes a fifth of a second to import, which daemons without containers need not pay
    from leasedb_server.backends.container.engine import reach  # noqa: PLC0415

    try:
        return reach(place, patience)
    except SilentError:
        if not (leased or place.origin):
            raise
        report(f"{place} does not answer yet: waiting for it")
        return reach(place, patience, within=patience if leased else _NAMED)
