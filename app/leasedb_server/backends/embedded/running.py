"""The processes of servers: told from all others by what their command lines say, found again by any later daemon.

The watchdog and a postmaster have the server's directory among their arguments. The other processes of Postgres write
their title over theirs, which begins with the server's name (``cluster_name``), and are sessions of their own: no
process group reaches them.
"""

import contextlib
import os
import re
import signal
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from leasedb_server.backends.embedded.account import Account
from leasedb_server.backends.embedded.areas import Home
from leasedb_server.backends.embedded.segments import Segment
from leasedb_server.domain.names import Kind, Name

QUIT_LIMIT = 2.0  # seconds for an immediate shutdown, before it is enforced
ORPHAN_LIMIT = 1.0  # seconds for a watchdog that has no postmaster (yet, or any more)
KILL_LIMIT = 5.0  # seconds more, for the kernel
_ROUND = 0.25  # seconds until processes are looked for anew
_PAUSE = 0.005
_POSTMASTER = "postgres"
_BACKEND = "backend"  # any other process of Postgres
_WATCHDOG = "leasedb-watchdog"
_COPYING = ("leasedb-copy", "cp", "tar")


@dataclass(frozen=True, slots=True)
class PidFile:
    """What a postmaster says about itself in postmaster.pid (src/include/utils/pidfile.h)."""

    pid: int
    segment: Segment | None
    ready: bool

    @classmethod
    def read(cls, home: Home) -> "PidFile | None":
        """Return what is written so far; None when there is nothing."""
        try:
            lines = (home.data / "postmaster.pid").read_text().splitlines()
            pid = int(lines[0])
        except (OSError, ValueError, IndexError):
            return None
        segment = Segment.parse(f"{pid} {lines[6]}") if len(lines) > 6 else None  # noqa: PLR2004 - the seventh line
        return cls(pid, segment, ready=lines[-1].strip() == "ready")


def postmaster_runs(home: Home) -> bool:
    """Tell whether the process that the server's pid file names is alive and is this server's postmaster."""
    pid_file = PidFile.read(home)
    if pid_file is None:
        return False
    try:
        return str(home.data) in psutil.Process(pid_file.pid).cmdline()  # a zombie has none
    except (psutil.Error, ValueError):
        return False


@dataclass(frozen=True, slots=True)
class Found:
    """One process of a server."""

    process: psutil.Process
    program: str


def find(areas: Iterable[Path], daemon: str, account: Account) -> dict[str, list[Found]]:
    """Return the processes of this daemon's servers by server name, those included whose directory is gone."""
    places = "|".join(re.escape(f"{area}/") for area in areas)
    pattern = re.compile(rf"(?:^postgres: |{places})(leasedb_\w+)")
    servers: dict[str, list[Found]] = {}
    for pid in psutil.pids():
        try:
            process = psutil.Process(pid)
            arguments = process.cmdline()
            text = " ".join(arguments)
            match = pattern.search(text)
            if match is None or process.uids().effective != account.uid:
                continue
        except psutil.Error:
            continue
        name = Name.parse(match[1])
        program = _program(arguments)
        if name is not None and name.kind is Kind.SERVER and name.daemon == daemon and program:
            servers.setdefault(str(name), []).append(Found(process, program))
    return servers


def _program(arguments: list[str]) -> str:
    """Return what runs: a program that this backend starts; "" for anything else that mentions one of our paths."""
    if arguments[0].startswith("postgres:"):
        return _BACKEND
    program = Path(arguments[0]).name
    shells = [shell for shell in (_WATCHDOG, *_COPYING) if shell in arguments]
    if program == "sh" and shells:
        return shells[0]
    if "-D" in arguments:  # whatever stands first: some systems start programs through wrappers
        return _POSTMASTER
    return program if program in {*_COPYING, "rm"} else ""


def end(name: str, areas: Collection[Path], daemon: str, account: Account) -> int:
    """End all processes of a server and wait until they are gone; return how many are left after all limits.

    A postmaster gets SIGQUIT, ends its children and is cleared up after by its watchdog; what is left after
    ``QUIT_LIMIT`` gets SIGKILL. New ones are looked for until there are none: a shell becomes a postmaster, a
    postmaster has children.
    """
    told: set[int] = set()
    started = time.monotonic()
    while found := find(areas, daemon, account).get(name, []):
        late = time.monotonic() - started
        programs = {each.program for each in found}
        if late > QUIT_LIMIT + KILL_LIMIT:
            return len(found)
        if late > (QUIT_LIMIT if _POSTMASTER in programs else ORPHAN_LIMIT):
            _kill(found)
        for each in found:
            # without a postmaster, a busy backend does not end for as long as it is busy
            if each.program in _COPYING or (each.program == _BACKEND and _POSTMASTER not in programs):
                _signal(each.process, signal.SIGKILL)
            elif each.program == _POSTMASTER and each.process.pid not in told:
                told.add(each.process.pid)
                _signal(each.process, signal.SIGQUIT)
        _wait([each.process for each in found], _ROUND)
    return 0


def _kill(found: Iterable[Found]) -> None:
    """Kill these and their children, found before: a killed one's children are nobody's, and hard to find then."""
    processes = {each.process for each in found}
    for process in tuple(processes):
        with contextlib.suppress(psutil.Error):
            processes.update(process.children(recursive=True))
    for process in processes:
        _signal(process, signal.SIGKILL)


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.Error):  # psutil makes sure that the number still means this process
        process.send_signal(number)


def _wait(processes: list[psutil.Process], limit: float) -> None:
    end_at = time.monotonic() + limit
    while processes and time.monotonic() < end_at:
        processes = [process for process in processes if _lives(process)]
        time.sleep(_PAUSE)


def _lives(process: psutil.Process) -> bool:
    try:
        if not process.is_running():
            return False
        if process.status() != psutil.STATUS_ZOMBIE:
            return True
        if process.ppid() == os.getpid():  # orphans are ours to collect when the daemon is a container's first process
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process.pid, os.WNOHANG)
    except psutil.Error:
        pass
    return False
