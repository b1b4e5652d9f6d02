"""The progress of a pull, told in a few lines."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

_PAUSE: Final = 2.0  # seconds between two lines
_MEGABYTE: Final = 1_000_000
_DOWNLOADED: Final = {"Verifying Checksum", "Download complete", "Extracting", "Pull complete"}


class PullProgress:
    """Turns the events of https://docs.docker.com/reference/api/engine/ (images/create) into lines.

    Podman sends texts without figures; then only the beginning, the seconds and the end are told.
    """

    def __init__(self, image: str, report: Callable[[str], None]) -> None:
        self._image = image
        self._report = report
        self._layers: dict[str, tuple[int, int]] = {}  # bytes there, bytes in all
        self._began = self._told = time.monotonic()
        report(f"Pulling {image}; this is done once.")

    def event(self, event: Mapping[str, Any]) -> None:
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
