"""The daemon's command line: ``leasedb serve`` and what ``leasedb doctor`` asks."""

import argparse
import asyncio
import gc
import importlib
import sys
from collections.abc import Callable, Coroutine, Sequence
from types import ModuleType
from typing import Any, TypeVar

import uvloop

from leasedb_server import logs, settings
from leasedb_server.domain.errors import LeasedbError
from leasedb_server.settings import PREFIX, Settings

T = TypeVar("T")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the daemon in the foreground; return the exit code."""
    try:
        chosen = settings.load(_flags(arguments))
        logs.set_up(chosen.log_format)
        assembly = _assembly()
        _run(lambda: assembly.serve(chosen, _say))
    except LeasedbError as error:
        print(f"leasedb: {error}", file=sys.stderr)
        return 1
    return 0


def diagnose() -> list[tuple[str, bool, str]]:
    """Return for each backend its kind, whether it could be used here, and what was found or is missing."""
    try:
        assembly = _assembly()
        return _run(lambda: assembly.diagnose(settings.load({})))
    except LeasedbError as error:
        return [("settings", False, str(error))]


def _assembly() -> ModuleType:
    """Import what the daemon is made of, late: a wrong setting is said, and help given, without that."""
    gc.disable()  # nothing that importing makes can be collected, and looking for it is a tenth of the start
    try:
        return importlib.import_module("leasedb_server.assembly")
    finally:
        gc.freeze()  # and no later collection has to look at it again
        gc.enable()


def _run(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work())


def _say(line: str) -> None:
    print(line, flush=True)


def _flags(arguments: Sequence[str] | None) -> dict[str, Any]:
    """Return the settings given as flags, by field name; only those given."""
    parser = argparse.ArgumentParser(
        prog="leasedb serve",
        description="Run the daemon in the foreground.",
        epilog=f"Each setting is also read from {PREFIX}<NAME> and from leasedb.toml; flags win, then the environment.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    for name, field in Settings.model_fields.items():
        default = "" if field.default_factory or field.default is None else f" (default: {field.default})"
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            metavar=name.rpartition("_")[2].upper(),
            help=f"{field.description}{default}".replace("%", "%%"),
        )
    return vars(parser.parse_args(arguments))
