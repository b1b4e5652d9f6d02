"""Having the image: there, or pulled, with the progress told in a few lines."""

import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from leasedb_server.backends.container.spec import Image, RefusedError
from leasedb_server.domain.errors import BackendUnavailableError, ServerUnreachableError

if TYPE_CHECKING:  # the Docker SDK is imported when an engine is looked for
    from leasedb_server.backends.container.engine import Engine

OTHERWISE: Final = "name another image with LEASEDB_IMAGE, or use LEASEDB_BACKEND=embedded"
_PAUSE: Final = 2.0  # seconds between two lines
_GLANCE: Final = 0.2  # seconds between two looks whether the image is still wanted
_MEGABYTE: Final = 1_000_000
_DOWNLOADED: Final = {"Verifying Checksum", "Download complete", "Extracting", "Pull complete"}


class PullProgress:
    """Turns the events of https://docs.docker.com/reference/api/engine/ (images/create) into lines.

    Podman sends texts without figures; then only the beginning, the seconds and the end are told.
    """

    def __init__(self, image: str, report: Callable[[str], None], given_up: Callable[[], bool]) -> None:
        self._image = image
        self._report = report
        self._given_up = given_up
        self._layers: dict[str, tuple[int, int]] = {}  # bytes there, bytes in all
        self._began = self._told = time.monotonic()
        report(f"Pulling {image}; this is done once.")

    def event(self, event: Mapping[str, Any]) -> None:
        """Take in what the engine tells next; empty: that it told nothing for a while.

        Raises:
            RefusedError: the pull was given up; it ends when nobody reads its events any more.
        """
        if self._given_up():
            raise RefusedError("it was given up")
        layer, status = str(event.get("id") or ""), event.get("status")
        detail = event.get("progressDetail") or {}
        if status == "Downloading" and detail.get("total"):
            self._layers[layer] = (int(detail.get("current") or 0), int(detail["total"]))
        elif status in _DOWNLOADED and layer in self._layers:
            self._layers[layer] = (self._layers[layer][1],) * 2
        if time.monotonic() - self._told >= _PAUSE:
            self._told = time.monotonic()
            self._report(self._line())

    def done(self) -> None:
        self._report(f"Pulled {self._image} in {time.monotonic() - self._began:.0f} s.")

    def _line(self) -> str:
        there = sum(layer[0] for layer in self._layers.values())
        total = sum(layer[1] for layer in self._layers.values())
        if not total:
            return f"Pulling {self._image} for {time.monotonic() - self._began:.0f} s."
        if there == total:
            return f"Unpacking {self._image}."
        return f"Pulling {self._image}: {there / _MEGABYTE:.0f} of {total / _MEGABYTE:.0f} MB, {there * 100 // total}%."


def image_there(
    engine: "Engine",
    name: str,
    report: Callable[[str], None],
    *,
    fetch: bool = True,
    given_up: Callable[[], bool] = lambda: False,
    otherwise: str = OTHERWISE,
) -> Image:
    """Return the image, pulled when the engine does not have it and ``fetch`` allows it; blocks.

    Waiting for a pull ends soon after it is ``given_up``. ``otherwise`` is what can be done when it does not work.

    Raises:
        BackendUnavailableError: there is none, with the reason.
    """
    try:
        image = engine.image(name)
        if image is None and not fetch:
            raise BackendUnavailableError(
                f"{engine.title} does not have the image {name} yet.",
                hint=f"'{engine.product.lower()} pull {name}' fetches it, and so does LEASEDB_BACKEND=container.",
            )
        if image is None:
            pull = PullProgress(name, report, given_up)
            _pull(engine, name, pull, given_up)
            pull.done()
            image = engine.image(name)
    except RefusedError as error:
        raise BackendUnavailableError(
            f"{engine.title} has no image {name}, and it cannot be pulled: {error}.",
            hint=f"'docker pull {name}' (or podman pull) must work; or {otherwise}.",
        ) from error
    except ServerUnreachableError as error:
        raise BackendUnavailableError(error.detail, hint=error.hint) from error
    if image is None:
        raise BackendUnavailableError(
            f"{engine.title} pulled {name} but does not know it.", hint="Name it in full, with its registry."
        )
    return image


def _pull(engine: "Engine", name: str, pull: PullProgress, given_up: Callable[[], bool]) -> None:
    """Have the engine pull, in a thread: it may be silent for minutes, and nobody shall wait for that who gave up.

    The thread ends with what the engine tells next, or with the process.
    """
    told: queue.SimpleQueue[Mapping[str, Any] | BaseException | None] = queue.SimpleQueue()

    def hear(event: Mapping[str, Any]) -> None:
        if given_up():
            raise RefusedError("it was given up")
        told.put(event)

    def read() -> None:
        try:
            engine.pull(name, hear)
        except BaseException as error:  # noqa: BLE001 - raised again by who waits
            told.put(error)
        else:
            told.put(None)

    threading.Thread(target=read, name=f"pulling {name}", daemon=True).start()
    while True:
        try:
            event = told.get(timeout=_GLANCE)
        except queue.Empty:
            event = {}
        if event is None:
            return
        if isinstance(event, BaseException):
            raise event
        pull.event(event)
