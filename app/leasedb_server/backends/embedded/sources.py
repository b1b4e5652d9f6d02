"""What servers are made from: the programs of one version, and the data directory prepared with them."""

import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from leasedb_server.backends.embedded.account import Account
from leasedb_server.backends.embedded.binaries import BUNDLED, Installation, find, missing
from leasedb_server.backends.embedded.prepared import Cache, clear
from leasedb_server.domain.edition import DEFAULT

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Source:
    """``cache`` has what was prepared with the installation."""

    installation: Installation
    cache: Cache


class Sources:
    """One source for each edition that was asked for. Everything here blocks, and is safe in threads.

    Args:
        place: the directory for what is prepared.
        daemon: the daemon's id.
        account: who runs Postgres.
        postgres: the default's major version; None for what is there.
        pg_bin: the folder with the default's programs; None for the ones of the wheel.
    """

    def __init__(self, place: Path, daemon: str, account: Account, postgres: str | None, pg_bin: Path | None) -> None:
        self.place = place
        self.account = account
        self._daemon = daemon
        self._postgres = postgres
        self._pg_bin = pg_bin
        self._lock = threading.Lock()
        self._found: dict[str, Source] = {}

    def get(self, edition: str) -> Source:
        """Return what servers of the edition are made from, as it was found the first time if it is still there.

        Raises:
            BackendUnavailableError, OSError, subprocess.TimeoutExpired: there is nothing that works.
        """
        found = self._found.get(edition)
        return found if found and Path(found.installation.postgres).exists() else self.look(edition)

    def look(self, edition: str) -> Source:
        """Find it anew, since an operator may have repaired something after the last time; see `get`."""
        if edition != DEFAULT and edition == self.major:
            return self.get(DEFAULT)
        asked = (self._postgres, self._pg_bin) if edition == DEFAULT else (edition, None)
        installation = find(*asked, self.account, self.place)
        with self._lock:
            source = self._found.get(edition)
            if source is None or source.installation != installation:
                cache = Cache(self.place, self._daemon, self.account, installation)
                source = self._found[edition] = Source(installation, cache)
            return source

    @property
    def major(self) -> str | None:
        """The default's version, None as long as it was not found."""
        default = self._found.get(DEFAULT)
        return str(default.installation.major) if default else None

    def installed(self) -> tuple[str, ...]:
        """Return the versions that there are programs of, the newest first."""
        there = {major for major in BUNDLED if not missing(major)} | ({self.major} if self.major else set())
        return tuple(sorted(there, key=int, reverse=True))

    def available(self, versions: Iterable[str]) -> tuple[str, ...]:
        """Return those versions that there are programs of; the log tells what keeps the others away."""
        there = []
        for version in versions:
            if version != self.major and (why := missing(version)):
                log.warning("callers cannot have Postgres %s, which LEASEDB_VERSIONS names: %s", version, why)
            else:
                there.append(version)
        return tuple(there)

    def clear(self) -> None:
        """Remove what an earlier run of this daemon did not seal."""
        with self._lock:
            clear(self.place, self._daemon, self.account, [source.cache for source in self._found.values()])

    def close(self, limit: float) -> None:
        """Let each new directory be sealed within ``limit`` seconds. No start may be under way any more."""
        for source in list(self._found.values()):
            source.cache.close(limit)
