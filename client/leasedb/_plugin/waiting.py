"""Showing, while pytest waits for a daemon to be started, why that takes so long."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest


@contextmanager
def showing_warnings(config: pytest.Config) -> Iterator[None]:
    """Write what the client warns of to the terminal, a line each; a worker of pytest-xdist has none."""
    terminal: Any = config.pluginmanager.getplugin("terminalreporter")
    if terminal is None:
        yield
        return
    log, handler = logging.getLogger("leasedb"), _Lines(terminal, config.pluginmanager.getplugin("capturemanager"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


class _Lines(logging.Handler):
    def __init__(self, terminal: Any, capturing: Any) -> None:
        super().__init__(logging.WARNING)
        self._terminal = terminal
        self._capturing = capturing

    def emit(self, record: logging.LogRecord) -> None:
        # in a fixture the terminal's own output would be captured, too
        with self._capturing.global_and_fixture_disabled() if self._capturing is not None else nullcontext():
            self._terminal.ensure_newline()
            self._terminal.write_line(f"leasedb: {' '.join(record.getMessage().split())}")
