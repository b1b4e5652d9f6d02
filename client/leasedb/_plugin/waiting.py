"""Showing, while pytest waits for a daemon to be started, why that takes so long.

A worker of pytest-xdist has no terminal: it tells the process that has, through a channel that this one made for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, Final

import pytest

_CHANNEL: Final = "leasedb"  # in what pytest-xdist gives a worker to begin with
_SHOWN: Final = pytest.StashKey[dict[str, str]]()  # lines of workers, and who was the first to say each


@contextmanager
def showing_warnings(config: pytest.Config) -> Iterator[None]:
    """Write what the client warns of to the terminal, a line each."""
    show = _shown_by(config)
    if show is None:
        yield
        return
    log, handler = logging.getLogger("leasedb"), _Lines(show)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


def listen(config: pytest.Config, worker: Any) -> None:
    """Show what a worker of pytest-xdist that is about to start will warn of; what several say is shown once."""
    terminal: Any = config.pluginmanager.getplugin("terminalreporter")
    if terminal is None:
        return
    shown, name = config.stash.setdefault(_SHOWN, {}), str(worker.gateway.id)

    def show(line: str) -> None:  # in a thread of execnet's, while pytest-xdist waits for its workers
        if shown.setdefault(line, name) == name:
            _write(terminal, line)

    channel = worker.workerinput[_CHANNEL] = worker.gateway.newchannel()
    channel.setcallback(show)


def _shown_by(config: pytest.Config) -> Callable[[str], None] | None:
    """Return what shows a line to the user, if anything does."""
    channel = getattr(config, "workerinput", {}).get(_CHANNEL)
    if channel is not None:
        return lambda line: _sent(channel, line)
    terminal: Any = config.pluginmanager.getplugin("terminalreporter")
    if terminal is None:
        return None
    capturing: Any = config.pluginmanager.getplugin("capturemanager")

    def show(line: str) -> None:
        # in a fixture the terminal's own output would be captured, too
        with capturing.global_and_fixture_disabled() if capturing is not None else nullcontext():
            _write(terminal, line)

    return show


def _sent(channel: Any, line: str) -> None:
    with suppress(OSError):  # nobody listens any more
        channel.send(line)


def _write(terminal: Any, line: str) -> None:
    terminal.ensure_newline()
    terminal.write_line(line)


class _Lines(logging.Handler):
    def __init__(self, show: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._show = show

    def emit(self, record: logging.LogRecord) -> None:
        self._show(f"leasedb: {' '.join(record.getMessage().split())}")
