"""Who Postgres runs as, and how commands are run as that user."""

import os
import pwd
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leasedb_server.domain.errors import BackendUnavailableError

# What a command of ours may see of the daemon's environment: enough to find programs and libraries, no PG*, no secret.
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
_TAIL_LINES = 8


@dataclass(frozen=True, slots=True)
class Account:
    """A user of this machine. ``switched`` when it is not the daemon's own and commands have to change to it."""

    name: str
    uid: int
    gid: int
    switched: bool

    @classmethod
    def for_postgres(cls) -> "Account":
        """Return the daemon's own user, or an unprivileged one when that is root: Postgres refuses to run as root.

        Raises:
            BackendUnavailableError: when the daemon is root and there is no user to change to.
        """
        uid = os.geteuid()
        if uid != 0:
            return cls(_name_of(uid), uid, os.getegid(), switched=False)
        for name in ("postgres", "nobody"):
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                continue
            return cls(name, entry.pw_uid, entry.pw_gid, switched=True)
        raise BackendUnavailableError(
            "The daemon runs as root, which Postgres refuses, and there is neither a user 'postgres' nor 'nobody'.",
            hint="Run the daemon as an ordinary user, or create one: useradd --system postgres.",
        )

    @property
    def change(self) -> dict[str, Any]:
        """The arguments of `subprocess.Popen` that change to this user; all groups of the daemon are given up."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if self.switched else {}

    def run(self, command: Sequence[str], *, text: str = "", timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a command to its end as this user, with ``text`` as its input; output and errors are kept.

        Raises:
            OSError: when the command cannot be run: missing, not reachable for this user, not for this machine.
            subprocess.TimeoutExpired: after ``timeout`` seconds; the command was killed.
        """
        return subprocess.run(  # noqa: S603 - commands are built here, never from a request
            command,
            input=text,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout,
            check=False,
            cwd="/",
            env=environment(),
            start_new_session=True,
            **self.change,
        )


def environment() -> dict[str, str]:
    """Return the environment of everything this backend runs.

    LC_ALL=C keeps Postgres's messages as they are parsed here; TZ=UTC spares initdb the search for a time zone.
    """
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return {"PATH": os.defpath, **passed_on, "LC_ALL": "C", "TZ": "UTC"}


def last_lines(text: str, count: int = _TAIL_LINES) -> str:
    """Return the last lines that say something, oldest first."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(lines[-count:]) or "(no output)"


def said(done: subprocess.CompletedProcess[str], count: int = _TAIL_LINES) -> str:
    """Return the last lines of a command's errors, or of its output when it told none."""
    return last_lines(done.stderr if done.stderr.strip() else done.stdout, count)


def remove(path: Path, account: Account) -> str:
    """Delete a file or a directory as this user; return why that did not work, or an empty text."""
    try:
        done = account.run(["rm", "-rf", str(path)])
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return said(done) if done.returncode else ""


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # a container run with --user and a bare number
        return str(uid)
