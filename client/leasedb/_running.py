"""Running a command while a lease is held: its terminal, its signals, its exit code."""

import contextlib
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import Final

_FORWARDED: Final = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
_KEYBOARD: Final = frozenset({signal.SIGINT, signal.SIGQUIT})
_NOT_FOUND: Final = 127
_NOT_EXECUTABLE: Final = 126
_BY_SIGNAL: Final = 128  # plus the signal's number, as shells have it
# What libpq would rather believe than PGHOST and its kin.
MISLEADING: Final = frozenset(
    {
        "PGCHANNELBINDING",
        "PGGSSENCMODE",
        "PGHOSTADDR",
        "PGREQUIREAUTH",
        "PGREQUIRESSL",
        "PGSERVICE",
        "PGSSLMODE",
        "PGSSLNEGOTIATION",
        "PGTARGETSESSIONATTRS",
    }
)


class CommandError(Exception):
    """The command could not be started; ``exit_code`` is what a shell would give."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def lease_environment(env: Mapping[str, str], lease_id: str) -> dict[str, str]:
    """Return this process's environment with a lease's in place of whatever database it pointed to."""
    kept = {name: value for name, value in os.environ.items() if name not in MISLEADING}
    return {**kept, **env, "LEASEDB_LEASE_ID": lease_id}


def _leave(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(_BY_SIGNAL + number)


@contextlib.contextmanager
def orderly_end() -> Iterator[None]:
    """Leave the block by SystemExit when asked to end, so that what it holds is given back.

    Signals that `supervise` began to block stay blocked until the end of the block, so that a second Ctrl-C does not
    break off the release.
    """
    waited = _waited()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    for number in (signal.SIGTERM, signal.SIGHUP):
        if number in waited:
            signal.signal(number, _leave)
    # With its default action, which is to be ignored, macOS would not keep a blocked SIGCHLD for us.
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    try:
        yield
    finally:
        blocked = waited & signal.pthread_sigmask(signal.SIG_BLOCK, ())
        while pending := blocked & signal.sigpending():
            signal.sigwait(pending)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _waited() -> set[signal.Signals]:
    """Return the signals that concern the command; one that was ignored when we started (nohup) stays ignored."""
    heard = {number for number in _FORWARDED if signal.getsignal(number) is not signal.SIG_IGN}
    return {signal.SIGCHLD, *heard}


def supervise(command: Sequence[str], env: Mapping[str, str]) -> int:
    """Run the command in the foreground, pass signals on to it, and return its exit code (128+n for signal n).

    It shares our process group, and so the terminal with all its keys: Ctrl-C reaches it without us, Ctrl-Z stops both.
    Call it inside `orderly_end`.

    Raises:
        CommandError: it could not be started.
    """
    waited = _waited()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, waited)
    try:
        # Python ignores SIGPIPE and SIGXFSZ for itself; the command shall not inherit that.
        pid = os.posix_spawnp(
            command[0], list(command), env, setsigmask=mask, setsigdef=[signal.SIGPIPE, signal.SIGXFSZ]
        )
    except FileNotFoundError:
        raise CommandError(f"{command[0]}: command not found", _NOT_FOUND) from None
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise CommandError(f"{command[0]}: cannot be run: {reason}", _NOT_EXECUTABLE) from None
    while True:
        number, from_terminal = _next_signal(waited)
        if number == signal.SIGCHLD:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else _BY_SIGNAL - code
        elif not from_terminal:
            os.kill(pid, number)  # not reaped yet, so the pid is still its own


def _next_signal(waited: set[signal.Signals]) -> tuple[int, bool]:
    """Wait for a signal; tell which, and whether the terminal sent it to the whole group, the command included."""
    wait_for_info = getattr(signal, "sigwaitinfo", None)  # not on macOS
    if wait_for_info is not None:
        info = wait_for_info(waited)
        return info.si_signo, info.si_code > 0  # a kill() has 0 or less: sigaction(2)
    number = signal.sigwait(waited)
    return number, number in _KEYBOARD and _in_foreground()


def _in_foreground() -> bool:
    try:
        with open("/dev/tty", "rb") as terminal:  # noqa: PTH123 - a device, not a path
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:
        return False
