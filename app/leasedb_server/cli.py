"""The daemon's command line: ``leasedb serve``, ``leasedb clean`` and what ``leasedb doctor`` asks."""

import argparse
import asyncio
import importlib.util
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import uvloop

from leasedb_server import importing, logs, settings
from leasedb_server.domain.errors import BackendUnavailableError, LeasedbError
from leasedb_server.settings import PREFIX, Settings

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the daemon in the foreground until it is told to stop; return the exit code if it could not be started.

    Once it has run, the process ends here: a thread that still waits for a container engine, in the middle of a pull
    say, can neither be cancelled nor is it worth waiting for.
    """
    try:
        chosen = settings.load(_flags(arguments, "serve", "Run the daemon in the foreground."))
        logs.set_up(chosen.log_format)
        _forget_libpq(chosen)
        assembly = _assembly()  # late: a wrong setting is said, and help given, without it
    except LeasedbError as error:
        print(f"leasedb: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    code = _exit_code(lambda: assembly.serve(chosen, _say))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _forget_libpq(chosen: Settings) -> None:
    """Take what is meant for other servers (PGSERVICE, PGSSLMODE ...) out of the environment: libpq heeds it.

    For a server that the operator names it may be meant.
    """
    if chosen.existing_dsn is None:
        for name in [name for name in os.environ if name.startswith("PG")]:
            del os.environ[name]


def _assembly() -> ModuleType:
    """Import what the daemon is made of, but for its HTTP side, which has to be there all the same.

    Raises:
        ModuleNotFoundError: a library is not installed.
    """
    for name in ("fastapi", "uvicorn"):
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    with importing.quickly():
        return importlib.import_module("leasedb_server.assembly")


def _exit_code(work: Callable[[], Coroutine[Any, Any, None]]) -> int:
    try:
        # Not closed: that would wait for every thread and for every task that something else left behind.
        asyncio.Runner(loop_factory=uvloop.new_event_loop).run(work())
    except LeasedbError as error:
        print(f"leasedb: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception:
        log.critical("the daemon failed; leases go on, and its next start takes over", exc_info=True)
        return 70  # EX_SOFTWARE of sysexits.h
    return 0


def diagnose() -> list[tuple[str, bool, str]]:
    """Return for each backend its kind, whether it could be used here, and what was found or is missing."""
    try:
        assembly = _assembly()
        with tempfile.TemporaryDirectory(prefix="leasedb-doctor-") as scratch:  # looking leaves nothing behind
            place = Path(scratch)
            place.chmod(0o711)  # for the user whom root's Postgres runs as
            looking = settings.load({}).model_copy(update={"state_dir": place})
            found: list[tuple[str, bool, str]] = asyncio.run(assembly.diagnose(looking))
    except LeasedbError as error:
        return [("settings", False, str(error))]
    return found


def clean(arguments: Sequence[str] | None = None) -> int:
    """Take away what makes servers start quickly and none uses now; return the exit code."""
    try:
        chosen = settings.load(_flags(arguments, "clean", "Take away prepared data directories, images and programs."))
        cleaned = asyncio.run(_assembly().clean(chosen))
    except LeasedbError as error:
        print(f"leasedb: {error}", file=sys.stderr)
        return 1
    for kind, taken, problem in cleaned:
        for line in taken:
            print(f"removed {line}")
        if isinstance(problem, BackendUnavailableError):
            print(f"leasedb: {kind} skipped: {problem.detail}", file=sys.stderr)
        elif problem is not None:
            print(f"leasedb: {problem}", file=sys.stderr)
    if not any(taken for _, taken, _ in cleaned):
        print("nothing to clean")
    return int(any(problem and not isinstance(problem, BackendUnavailableError) for _, _, problem in cleaned))


def _say(line: str) -> None:
    print(line, flush=True)


def _flags(arguments: Sequence[str] | None, command: str, description: str) -> dict[str, Any]:
    """Return the settings given as flags, by field name; only those given."""
    parser = argparse.ArgumentParser(
        prog=f"leasedb {command}",
        description=description,
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
