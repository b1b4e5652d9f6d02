"""A pytest plugin: loads leasedb's plugin and writes down what that and its hooks take, in seconds.

It does so once pytest's fixture manager is there, so that registering has in it what is otherwise spread over the
start: options, configuration, fixtures. The file's name is in SUITE_RECORD; each part has its seconds by the clock, and
those that it kept a processor busy.
"""

import importlib
import json
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import pytest

PLUGIN = "leasedb.pytest_plugin"
_seconds = {"import": [0.0, 0.0], "registration": [0.0, 0.0], "hooks": [0.0, 0.0]}


@contextmanager
def _counted(part: str) -> Iterator[None]:
    began, busy = perf_counter(), process_time()
    try:
        yield
    finally:
        _seconds[part][0] += perf_counter() - began
        _seconds[part][1] += process_time() - busy


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    manager = session.config.pluginmanager
    with _counted("import"):
        plugin = importlib.import_module(PLUGIN)
    with _counted("registration"):
        manager.register(plugin, "leasedb")
    for caller in manager.get_hookcallers(plugin) or []:
        for hook in caller.get_hookimpls():
            if hook.plugin is plugin:
                timed = _timed_wrapper if hook.wrapper else _timed
                hook.function = timed(hook.function)  # type: ignore[misc] # final, but nothing else tells ours from theirs


def pytest_unconfigure() -> None:
    Path(os.environ["SUITE_RECORD"]).write_text(json.dumps(_seconds))


def _timed(function: Callable[..., Any]) -> Callable[..., Any]:
    def called(*arguments: Any) -> Any:
        with _counted("hooks"):
            return function(*arguments)

    return called


def _timed_wrapper(function: Callable[..., Any]) -> Callable[..., Any]:
    def called(*arguments: Any) -> Generator[None, Any, Any]:
        generator = function(*arguments)
        with _counted("hooks"):
            next(generator)
        answer = yield
        with _counted("hooks"):
            try:
                generator.send(answer)
            except StopIteration as ended:
                return ended.value
        raise RuntimeError("a hook went on after its second half")

    return called
