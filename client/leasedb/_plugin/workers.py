"""What the workers of pytest-xdist tell the process that started them, and which has the terminal."""

from __future__ import annotations

from typing import Any, Final

import pytest

from leasedb._plugin import TOLD, waiting

_NAME: Final = "leasedb-workers"


def listen(worker: Any) -> None:
    """Take in what a worker, which is about to be started, has to tell."""
    plugins = worker.config.pluginmanager
    if not plugins.hasplugin(_NAME):
        plugins.register(_Workers(worker.config), _NAME)
    waiting.listen(worker.config, worker)


class _Workers:
    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._shown: dict[str, str] = {}  # errors, and the test whose report has them whole

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Show what several workers failed for once, and the traceback of a build."""
        error, again = getattr(report, "leasedb_error", ("", ""))
        if error:
            first = self._shown.setdefault(error, report.nodeid)
            if first != report.nodeid:
                report.longrepr = f"{again}{first})"

    def pytest_testnodedown(self, node: Any) -> None:
        told = getattr(node, "workeroutput", {}).get("leasedb")  # one that was killed tells nothing
        if told:
            self._config.stash.setdefault(TOLD, []).append(told)
