"""Starting a daemon in the background: once over all processes, apart from the one that needs it, with its own log."""

import contextlib
import fcntl
import hashlib
import http.client
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import leasedb
from leasedb._belongings import clear_failed, free_port, is_free, keep_port, kept_port, kept_token, port_of
from leasedb._discovery import Address
from leasedb._errors import DaemonStartError
from leasedb._statedir import Patience, alone, default_state_dir, file_settings, is_locked, make, usable

_log = logging.getLogger("leasedb")

_LIMIT: Final = 600.0  # seconds: the first start of all may pull an image
_LET_GO: Final = 60.0  # seconds for a daemon that stops: it drains for 5 and cleans up for 20
_PAUSE: Final = 0.03  # seconds between two looks
_PROBE: Final = 2.0  # seconds for a daemon to say how it is
_IDLE_EXIT: Final = "600"  # seconds
_EXISTING_LIMIT: Final = "20"  # seconds: it is up, or nearly so, or its address is wrong
_LOG_MAX: Final = 2**20  # bytes
_TAIL: Final = 8192  # bytes of a log that are looked at
_MOST_LINES: Final = 12
_SAID: Final = "leasedb: "  # how the daemon's last words begin
_OK, _UNAVAILABLE = 200, 503
# What belongs to the run of tests that happens to be the first, not to a daemon that outlives it.
_NOT_PASSED_ON: Final = ("PYTEST_", "COV_CORE_", "COVERAGE_PROCESS_", "PYTHONWARNINGS")
# In between, so that the daemon is nobody's child: whoever started it need not wait for its end, and finds it not when
# it waits for its own children. A mask that blocks signals would make a daemon that cannot be stopped.
_LAUNCH: Final = """\
import os, sys
file, command = int(sys.argv[1]), sys.argv[2:]
pid = os.posix_spawn(command[0], command, os.environ, setsigmask=[])
os.ftruncate(file, 0)
os.pwrite(file, str(pid).encode(), 0)
"""


class _Found(Enum):
    """What is at the address."""

    NOBODY = "nobody"
    STARTING = "a daemon that is not ready, or stops"
    READY = "a daemon"
    OTHER = "something else"


class Starter:
    """Starts the daemon of one address where none answers.

    Args:
        url: http, and an address of this machine.
        settings: what differs from the defaults, by the names in leasedb.toml, such as ``{"pool_ready": "5"}``.
        state_dir: where the daemon keeps its state, and its log.
        passing: take that away again where nothing comes of the start.
    """

    def __init__(self, url: str, *, settings: Mapping[str, str] = {}, state_dir: Path, passing: bool = False) -> None:
        self._url = url
        self._settings = dict(settings)
        self._state_dir = state_dir
        self._passing = passing

    @classmethod
    def at(cls, address: Address) -> "Starter":
        """Return the starter of the daemon that `leasedb serve` would be, at this address."""
        settings = {} if address.token is None else {"token": address.token}
        return cls(address.url, settings=settings, state_dir=default_state_dir())

    @classmethod
    def for_server(cls, dsn: str) -> "Starter":
        """Return the starter of a daemon that leases from an existing Postgres, one for each DSN.

        Raises:
            DaemonStartError: the state directory cannot be used.
        """
        name = f"existing-{hashlib.sha256(dsn.encode()).hexdigest()[:12]}"
        patience = {} if os.environ.get("LEASEDB_START_TIMEOUT") else {"start_timeout": _EXISTING_LIMIT}
        settings = {"backend": "existing", "existing_dsn": dsn, **patience}
        return cls._beside(name, settings, passing=True)  # the DSN may be mistyped

    @classmethod
    def for_whole_servers(cls) -> "Starter":
        """Return the starter of a daemon that leases whole servers on every backend, to this user alone: by a token.

        Raises:
            DaemonStartError: the state directory cannot be used.
        """
        return cls._beside("exclusive", {"pool_exclusive": "1"}, secret=True)

    @classmethod
    def _beside(
        cls, name: str, settings: Mapping[str, str], *, secret: bool = False, passing: bool = False
    ) -> "Starter":
        """Return the starter of another daemon than the default one, in a folder of its state directory.

        Its port is the same in all processes, and each time, unless somebody else has taken it meanwhile.
        """
        default = default_state_dir()
        with usable(default):
            make(default)
        looking = cls("", settings=settings, state_dir=default / name)
        with alone(looking._state_dir, Patience(_LIMIT, threading.Event())):
            url = f"http://127.0.0.1:{looking._port()}"
            more = {"token": kept_token(looking._state_dir)} if secret else {}
            return cls(url, settings={**settings, **more}, state_dir=looking._state_dir, passing=passing)

    def __repr__(self) -> str:
        return f"<Starter of {self.url} in {self._state_dir}>"  # settings may be secrets

    @property
    def url(self) -> str:
        return self._url

    @property
    def token(self) -> str | None:
        """What the daemon asks for, if anything."""
        return self._settings.get("token")

    @property
    def log(self) -> Path:
        """The file that a daemon started here writes its log to."""
        return self._state_dir / "daemon.log"

    @property
    def _started(self) -> Path:
        return self._state_dir / "started.pid"

    def start(self, given_up: threading.Event | None = None) -> None:
        """Return once a daemon answers; start it when none does. However many call this, in whatever processes, one is.

        Args:
            given_up: when it is set, return soon, whatever answers.

        Raises:
            DaemonStartError: it could not be started; the message has the daemon's own words.
        """
        patience = Patience(_LIMIT, given_up or threading.Event())
        if self._look() in {_Found.READY, _Found.OTHER}:
            return
        with alone(self._state_dir, patience):
            self._bring_up(patience)

    def started(self, pid: int) -> bool:
        """Tell whether this process is the daemon that was started here last, and so writes the log."""
        try:
            return int(self._started.read_bytes()) == pid
        except (OSError, ValueError):
            return False

    def _bring_up(self, patience: Patience) -> None:
        letting_go = Patience(_LET_GO, patience.given_up)
        while patience.lasts():
            match self._look():
                case _Found.READY | _Found.OTHER:  # what answers is the caller's to judge
                    return
                case _Found.STARTING:
                    pass  # somebody else's: by hand, or of a process that was killed while it waited as we do
                case _Found.NOBODY:
                    stopping = self._held(port_of(self.url)) and letting_go.lasts()
                    if not stopping and self._spawn(patience):
                        return
            if said := patience.news(lambda: f"waiting for the daemon at {self.url}, which is not ready, or stops"):
                _log.warning("%s (log: %s)", said, self.log)
            patience.pause()
        if not patience.given_up.is_set():
            raise self._too_slow()

    def _spawn(self, patience: Patience) -> bool:
        """Start the daemon and wait until it is ready; False: it has ended, but another one is there."""
        since, lifeline = self._launch()
        try:
            while patience.lasts():
                if self._look() in {_Found.READY, _Found.OTHER}:
                    _log.info("started a daemon at %s, see %s", self.url, self.log)
                    return True
                if _broken(lifeline):
                    break
                if said := patience.news(lambda: self._last_words(since)):
                    _log.warning("starting a daemon: %s (log: %s)", said, self.log)
                patience.pause()
            else:
                return False
        finally:
            os.close(lifeline)
        if self._look() is not _Found.NOBODY:
            return False
        words = self._words(since)
        raise self._failed(words, clear_failed(self._state_dir, self.log) if self._passing else self.log)

    def _launch(self) -> tuple[int, int]:
        """Start the process.

        Returns:
            Where its words begin in the log, and the end of a pipe whose other end breaks when the process ends.
        """
        if not sys.executable:
            raise DaemonStartError(
                "No daemon can be started: this program does not know its own Python.",
                hint="Start one with: leasedb serve",
            )
        # -P: the folder that it starts in is no place to import from
        command = [sys.executable, "-P", "-m", "leasedb.cli", "serve", *self._where()]
        with contextlib.ExitStack() as stack, contextlib.ExitStack() as undo:
            with usable(self._state_dir):
                if self._passing and (port := port_of(self.url)):
                    keep_port(self._state_dir, port)  # the directory may have been taken away since it was chosen
                log, since = self._begin_log()
                stack.callback(os.close, log)
                # The daemon has this file open, and so locked, from its first moment to its last.
                started = os.open(self._started, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                stack.callback(os.close, started)
                with contextlib.suppress(BlockingIOError):  # another hangs, and this one will say so
                    fcntl.flock(started, fcntl.LOCK_EX | fcntl.LOCK_NB)
                ours, theirs = os.pipe()
            stack.callback(os.close, theirs)
            undo.callback(os.close, ours)
            try:
                subprocess.run(  # noqa: S603 - our own program
                    [sys.executable, "-I", "-S", "-c", _LAUNCH, str(started), *command],
                    env=self._environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(theirs, started),
                    start_new_session=True,  # no Ctrl-C of this terminal, nor its end
                    check=True,
                )
            except subprocess.CalledProcessError:
                raise self._failed(self._words(since), self.log) from None
            except OSError as error:
                raise self._failed(f"{sys.executable} cannot be run: {error.strerror}.", self.log) from None
            undo.pop_all()
        os.set_blocking(ours, False)
        return since, ours

    def _begin_log(self) -> tuple[int, int]:
        """Open the log, and return where the words of the daemon to be started will begin."""
        with contextlib.suppress(FileNotFoundError):
            if self.log.stat().st_size > _LOG_MAX:
                self.log.replace(self.log.with_name("daemon.log.1"))
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            now = datetime.now().astimezone().isoformat(timespec="seconds")
            start = f"--- {now} leasedb {leasedb.__version__} at {self.url}, for process {os.getpid()} ---\n"
            os.write(log, start.encode())  # finds out whether the disk has room, too
            return log, os.fstat(log).st_size
        except OSError:
            os.close(log)
            raise

    def _where(self) -> list[str]:
        parts = urlsplit(self.url)
        return ["--host", parts.hostname or "", "--port", str(port_of(self.url))]

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_PASSED_ON)}
        if not kept.get("LEASEDB_IDLE_EXIT") and "idle_exit" not in file_settings():
            kept["LEASEDB_IDLE_EXIT"] = _IDLE_EXIT
        # not as arguments, which all users of the machine can read
        given = {**self._settings, "state_dir": str(self._state_dir)}
        return kept | {f"LEASEDB_{name.upper()}": value for name, value in given.items()}

    # --- looking ---

    def _look(self) -> _Found:
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.hostname or "", port_of(self.url), timeout=_PROBE)
        try:
            connection.request("GET", "/readyz")
            answer = connection.getresponse()
            status, body = answer.status, answer.read()
        except TimeoutError:
            return _Found.STARTING  # it listens before it answers
        except OSError:
            return _Found.NOBODY
        except http.client.HTTPException:
            return _Found.OTHER
        finally:
            connection.close()
        if status == _UNAVAILABLE and b'"code"' in body:
            return _Found.STARTING
        return _Found.READY if status == _OK else _Found.OTHER

    def _held(self, port: int | None) -> bool:
        """Tell whether a daemon of this port has the state directory: it stops, or has only just been started."""
        if is_locked(self._state_dir / "daemon.lock"):
            return port_of(str(self._holder().get("url"))) in {port, None}
        return is_locked(self._started)

    def _holder(self) -> Mapping[str, Any]:
        """Return what the daemon that held the state directory last says of itself."""
        try:
            holder = json.loads((self._state_dir / "daemon.lock").read_bytes())
        except (OSError, ValueError):
            return {}
        return holder if isinstance(holder, dict) else {}

    def _port(self) -> int:
        """Return the port that was chosen for this state directory; a new one where another program has that."""
        port = kept_port(self._state_dir)
        if not port or not (self._held(port) or is_free(port)):
            # whatever became of the file, a daemon that runs here is at its port, and keeps any other from starting
            running = is_locked(self._state_dir / "daemon.lock")
            port = (port_of(str(self._holder().get("url"))) if running else None) or free_port()
            keep_port(self._state_dir, port)
        return port

    def _words(self, since: int) -> str:
        """Return what the daemon said last, since this start of it: its reason for ending where it has told one."""
        try:
            with self.log.open("rb") as log:
                end = log.seek(0, os.SEEK_END)
                log.seek(max(since, end - _TAIL))
                lines = log.read().decode("utf-8", "replace").rstrip().splitlines()
        except OSError:
            return ""
        told = [number for number, line in enumerate(lines) if line.startswith(_SAID)]
        return "\n".join(lines[told[-1] :] if told else lines[-_MOST_LINES:]).removeprefix(_SAID)

    def _last_words(self, since: int) -> str:
        return self._words(since).rpartition("\n")[2].rstrip(". ") or "it has said nothing yet"

    def _failed(self, words: str, log: Path) -> DaemonStartError:
        detail = f"No daemon could be started at {self.url}. {words or 'It said nothing.'}"
        return DaemonStartError(detail, hint=f"(Its log: {log})")

    def _too_slow(self) -> DaemonStartError:
        return DaemonStartError(
            f"The daemon at {self.url} was not ready within {_LIMIT:g} s.", hint=f"Its log may say why: {self.log}"
        )


def _broken(lifeline: int) -> bool:
    try:
        return not os.read(lifeline, 1)
    except BlockingIOError:
        return False
