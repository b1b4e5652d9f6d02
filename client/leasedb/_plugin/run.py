"""What one process of a run holds: the client, what it told the daemon, what it noticed."""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

import pytest

import leasedb
from leasedb._discovery import autostart_wanted, find_address
from leasedb._plugin.asking import Asking
from leasedb._plugin.choices import NAME, Choices, Wishes, is_path
from leasedb._plugin.releasing import Releases
from leasedb._plugin.waiting import showing_warnings

if TYPE_CHECKING:
    from leasedb._plugin.announcing import Announcements
    from leasedb._plugin.sharing import Shared

BASE: Final = "base"
_NO_NAME: Final = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST_LABEL: Final = 255  # characters the daemon takes
# A suite at capacity shall get slower, not red: longer than the daemon's default, short enough to end a deadlock.
_WAIT: Final = 600.0  # seconds
_SLOWEST: Final = 5
_LONGEST_PATH: Final = 200  # characters; what is longer is SQL, and the system would refuse to look for it
KEPT_FOR: Final = 3600.0  # seconds

# Nobody can serve, or not to us: with --leasedb-optional a reason to skip.
NO_DATABASE: Final = (
    leasedb.DaemonUnreachableError,
    leasedb.DaemonStartError,
    leasedb.BackendUnavailableError,
    leasedb.ServerStartError,
    leasedb.NotReadyError,
)


@dataclass
class Tally:
    """What the summary tells, of one process."""

    leases: int = 0
    waited: float = 0.0  # seconds
    resets: int = 0
    slowest: list[tuple[float, str]] = field(default_factory=list)  # seconds and test
    kept: list[tuple[str, str, str]] = field(default_factory=list)  # test, DSN and the command that looks at it
    not_kept: dict[str, int] = field(default_factory=dict)  # how many, by the reason
    to_list: str = ""  # the command that lists what is kept

    def leased(self, seconds: float, nodeid: str) -> None:
        self.leases += 1
        self.waited += seconds
        self.slow(seconds, nodeid)

    def reset(self, seconds: float, nodeid: str) -> None:
        self.resets += 1
        self.slow(seconds, nodeid)

    def slow(self, seconds: float, nodeid: str) -> None:
        self._merge([(seconds, nodeid)])

    def add(self, other: Tally) -> None:
        self.leases += other.leases
        self.waited += other.waited
        self.resets += other.resets
        self._merge(other.slowest)
        self.kept += other.kept
        for reason, count in other.not_kept.items():
            self.not_kept[reason] = self.not_kept.get(reason, 0) + count
        self.to_list = self.to_list or other.to_list

    def _merge(self, more: list[tuple[float, str]]) -> None:
        longest: dict[str, float] = {}  # a test may wait for several
        for seconds, nodeid in [*self.slowest, *more]:
            longest[nodeid] = max(seconds, longest.get(nodeid, 0.0))
        self.slowest = sorted(((seconds, nodeid) for nodeid, seconds in longest.items()), reverse=True)[:_SLOWEST]

    def packed(self) -> dict[str, Any]:
        """Return plain values, for another process."""
        return asdict(self)

    @classmethod
    def unpacked(cls, values: dict[str, Any]) -> Self:
        return cls(**values)


@dataclass(eq=False)
class Use:
    """A lease in the hands of tests.

    Attributes:
        fixtures: the names of those through which a test comes to it.
        mode: how it is kept clean.
        shared: set where other tests use it too.
        failed: the first test that failed with it.
        kept: whether it stays after the run; None while that was not tried.
    """

    lease: leasedb.Lease
    fixtures: frozenset[str]
    mode: str
    shared: Shared | None = None
    failed: str = ""
    kept: bool | None = None


class Run:
    """A run of pytest, in this process; with pytest-xdist each worker has one, of the same `id`."""

    def __init__(self, config: pytest.Config, choices: Choices) -> None:
        self.choices = choices
        self.config = config
        self.id = os.environ.get("PYTEST_XDIST_TESTRUNUID") or os.urandom(16).hex()
        self.worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
        self.holder = f"pytest {printable(config.rootpath.name)[:100]} {self.id[:8]}"
        self.project = _NO_NAME.sub("-", config.rootpath.name).strip("-._")[:40] or "project"
        self.tally = Tally()
        self.asking = Asking()
        self.uses: list[Use] = []  # the leases held at present
        self.releases = Releases()
        self.announced: Announcements | None = None
        self._client: leasedb.Client | None = None
        self._failure: leasedb.LeasedbError | None = None
        self._templates: dict[Hashable, leasedb.Template | str | Exception] = {}

    # --- the daemon ---

    @cached_property
    def starter(self) -> Any:
        """What starts a daemon for the server that everything is to be leased from; None where there is no such."""
        if self.choices.database_url is None:
            return None
        from leasedb._starting import Starter  # noqa: PLC0415 - few runs need it

        return Starter.for_server(self.choices.database_url[0])

    def client(self) -> leasedb.Client:
        """Return the client, for a daemon that answers; started here where need be.

        Raises:
            LeasedbError: there is none, and the second time at once.
        """
        if self._failure is not None:
            raise self._failure
        if self._client is None:
            try:
                self._client = self._connected()
            except leasedb.DaemonStartError as error:
                self._failure = error  # trying takes a while, and a hundred tests would each try
                raise
        return self._client

    def _connected(self) -> leasedb.Client:
        starter = self.starter
        if starter is None or self.choices.database_url is None:
            client = leasedb.Client(autostart=self.choices.start)
        else:
            allowed = self.choices.start is None and autostart_wanted()
            client = leasedb.Client(starter.url, autostart=starter if allowed else False)
        try:
            with showing_warnings(self.config):
                client.start()
        except leasedb.DaemonUnreachableError as error:
            client.close()
            if starter is None or self.choices.database_url is None:
                raise
            name, port = self.choices.database_url[1], urlsplit(starter.url).port
            serve = f"LEASEDB_BACKEND=existing LEASEDB_EXISTING_DSN=${name} leasedb serve --port {port}"
            hint = f"Start one for the server that {name} names, with: {serve}"
            raise leasedb.DaemonUnreachableError(error.detail, hint=hint) from None
        except BaseException:
            client.close()
            raise
        return client

    def close(self) -> None:
        self.releases.close()
        if self._client is not None:
            self._client.close()
            self._client = None

    # --- templates ---

    def template(self, source: object, wishes: Wishes) -> leasedb.Template | str:
        """Return the template that is meant: by its name, or made of SQL, paths or a function, once.

        Raises:
            LeasedbError, Exception: it could not be built; the same error for each test that wants it.
        """
        if isinstance(source, leasedb.Template):
            return source
        if isinstance(source, str):
            self._refuse_path(source)
            if NAME.fullmatch(source):
                return source
        layers = _layers(source)
        key = (layers, wishes.postgres, wishes.image)
        if key not in self._templates:
            try:
                self._templates[key] = self._made(layers, wishes)
            except Exception as error:  # noqa: BLE001 - of a function of the user's
                self._templates[key] = error
        found = self._templates[key]
        if isinstance(found, Exception):
            raise found
        return found

    def _made(self, layers: Sequence[Any], wishes: Wishes) -> leasedb.Template | str:
        found: leasedb.Template | str = BASE
        for layer in layers:
            if isinstance(layer, leasedb.Template):
                found = layer
                continue
            if isinstance(layer, str):
                self._refuse_path(layer)
            found = self.client().template(
                self.project, layer, parent=found, postgres=wishes.postgres, image=wishes.image, wait=_WAIT
            )
        return found

    def wished_template(self, wishes: Wishes, given: object) -> leasedb.Template | str:
        """Return the template of the command line or the marker, else the one that `pg_template` gives."""
        told = self.choices.told.template
        if told is not None or (wishes.template is not None and wishes.template != self.choices.written.template):
            given = wishes.template
        return self.template(given, wishes)

    def _refuse_path(self, text: str) -> None:
        if is_path(text) and (path := self._there(text)):
            raise leasedb.InvalidRequestError(
                f"pg_template gave the text {text!r}, and a text is SQL or the name of a template.",
                hint=f"For {path} have it return Path({text!r}), best with Path(__file__).parent / before it.",
            )

    def _there(self, text: str) -> Path | None:
        """Return the file or folder that a text may have been meant for."""
        if len(text) > _LONGEST_PATH:
            return None
        folders = (self.config.rootpath, self.config.invocation_params.dir)
        return next((folder / text for folder in folders if (folder / text).exists()), None)

    # --- leases ---

    def labels(self, nodeid: str) -> dict[str, str]:
        labels = {"run": self.id, "worker": self.worker, "pytest": printable(nodeid)[:_LONGEST_LABEL]}
        return {key: value for key, value in labels.items() if value}

    def acquire(self, wishes: Wishes, template: leasedb.Template | str, nodeid: str) -> leasedb.Lease:
        """Take a lease for a test, or for what comes when ``nodeid`` is empty."""
        exclusive = wishes.server == "exclusive"
        begin = time.perf_counter()
        try:
            lease = self.client().acquire(
                template,
                ttl=wishes.ttl,
                wait=_WAIT,
                holder=self.holder,
                labels=self.labels(nodeid),
                postgres=wishes.postgres,
                image=wishes.image,
                server="exclusive" if exclusive else "shared",
                database=wishes.database,
                user=wishes.user,
            )
        except leasedb.UnknownTemplateError as error:
            raise self._unknown(error, template) from None
        self.tally.leased(time.perf_counter() - begin, self.called(nodeid))
        if self.announced is not None and not exclusive:
            self.announced.taken(template)
        return lease

    def _unknown(self, error: leasedb.UnknownTemplateError, template: leasedb.Template | str) -> leasedb.LeasedbError:
        """Say of a template that is not there what to do in a suite of tests."""
        hint = f"'{self.command('template ls')}' lists those that are there"
        if isinstance(template, str) and (path := self._there(template)):
            hint += f"; to have {path} built, let pg_template return Path({template!r})"
        return leasedb.UnknownTemplateError(error.detail, hint=f"{hint}.")

    def command(self, words: str) -> str:
        """Return a command line of `leasedb` that finds the daemon of this run."""
        url = self.client().url
        try:
            found = find_address().url == url
        except leasedb.LeasedbError:
            found = False
        return f"leasedb {words}" if found else f"leasedb {words} --url {shlex.quote(url)}"

    def lost(self, lease: leasedb.Lease) -> str:
        """Return how a lease ended by itself; empty while it has not, as far as anybody knows."""
        if lease.lost_reason:
            return lease.lost_reason
        if lease.state != "active":
            return ""
        try:
            now = self.client().get(lease.id)
        except leasedb.DaemonUnreachableError:
            return ""  # a lease outlives a daemon that dies
        except leasedb.LeasedbError as error:
            return str(error)
        return "" if now.state == "active" else f"the lease is {now.state}: {now.record.end_reason or 'it has ended'}"

    def called(self, nodeid: str) -> str:
        """Return what a report calls a test, or what has none because it is for the whole run."""
        return nodeid or ("the session's database" + f" of {self.worker}" * (self.worker != "main"))

    def wants_kept(self, *, failed: bool) -> bool:
        return self.choices.keep == "always" or (self.choices.keep == "failed" and failed)

    def keeps(self, lease: leasedb.Lease, nodeid: str) -> bool:
        """Have a lease stay after the run for whoever wants to look at it; False where that cannot be."""
        try:
            lease.keep(KEPT_FOR)
        except leasedb.LeasedbError as error:
            self.not_kept(error)
            return False
        self.tally.kept.append((nodeid, lease.dsn, self.command(f"psql {lease.id}")))
        self.tally.to_list = self.command("kept")
        return True

    def not_kept(self, error: leasedb.LeasedbError) -> None:
        """Take note of what keeps a database from being kept."""
        self.tally.not_kept[str(error)] = self.tally.not_kept.get(str(error), 0) + 1


def _layers(source: object) -> tuple[Any, ...]:
    """Return what a template is made of, one thing upon the other.

    Raises:
        InvalidRequestError: nothing can be made of one of them.
    """
    layers = tuple(source) if isinstance(source, list | tuple) else (source,)
    for layer in layers:
        if not (isinstance(layer, leasedb.Template | str | Path) or callable(layer)):
            raise leasedb.InvalidRequestError(
                f"A template is named, or made of SQL, paths or a function, and not of {layer!r}.",
                hint="See pg_template in 'pytest --fixtures'.",
            )
    return layers


def printable(text: str) -> str:
    """Return text that JSON can carry; names of files may hold bytes that are no text."""
    return text.encode("utf-8", "replace").decode()
