"""The fake daemon's leases: given, renewed, kept, held and ended as the daemon does it, with nothing behind them."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from leasedb._discovery import process_lives
from leasedb.testing._bodies import MAX_TTL
from leasedb.testing._logins import VERSIONS
from leasedb.testing._wire import Lines, Problem, as_time

DEFAULT_TTL: Final = 300.0
_GLANCE: Final = 0.02  # seconds between two looks at what may have changed by time alone
_HELD_LINE: Final = 5.0  # seconds between two lines of a lease that is held

Entry = dict[str, Any]


class LeaseBook:
    """All leases by id. Whoever calls has ``state``, except of `hold`.

    Args:
        most: how many may be active at a time.
        keep_max: how many may be kept at a time.
        state: guards everything; told of each end.
        ended: called with the id of a lease that has ended.
    """

    def __init__(self, *, most: int, keep_max: int, state: threading.Condition, ended: Callable[[str], None]) -> None:
        self.most, self.keep_max = most, keep_max
        self.max_life = MAX_TTL  # seconds after which a lease cannot be renewed any more
        self.backend = "fake"
        self.entries: dict[str, Entry] = {}
        self.keys: dict[str, tuple[Any, str | None]] = {}  # body and lease; None: still being answered
        self.waiting = 0
        self._readers: dict[str, int] = {}
        self._state = state
        self._tell = ended

    def active(self) -> list[Entry]:
        return [entry for entry in self.entries.values() if entry["state"] == "active"]

    def get(self, ident: str) -> Entry:
        if ident not in self.entries:
            raise Problem("lease-not-found", f"There is no lease {ident!r}.")
        return self.entries[ident]

    def get_active(self, ident: str) -> Entry:
        entry = self.get(ident)
        if entry["state"] != "active":
            raise _ended(entry)
        return entry

    # --- giving ---

    @contextmanager
    def keyed(self, key: str | None, body: dict[str, Any]) -> Iterator[Entry | None]:
        """Keep a request from being answered twice; yields the lease of the first time, if there was one."""
        if key is None:
            yield None
            return
        if key in self.keys:
            before, ident = self.keys[key]
            if ident is None:
                raise Problem(
                    "idempotency-in-progress", "An earlier request with the same Idempotency-Key still waits."
                )
            if before != body:
                raise Problem("idempotency-mismatch", "The Idempotency-Key was used before, with another body.")
            yield self.get_active(ident)
            return
        self.keys[key] = (body, None)
        try:
            yield None
        finally:
            if self.keys[key][1] is None:
                del self.keys[key]

    def wait_for_room(self, wait: float) -> None:
        end = time.monotonic() + wait
        self.waiting += 1
        position = self.waiting
        try:
            while len(self.active()) >= self.most:
                if time.monotonic() >= end:
                    detail = f"No database came free within {wait:g} s: {self.most} may be leased at once."
                    raise Problem("pool-exhausted", detail, headers={"Retry-After": "7"}, position=position)
                self._state.wait(_GLANCE)
                self.look()
        finally:
            self.waiting -= 1

    def new(self, body: dict[str, Any], *, builds: str | None = None) -> Entry:
        """Enter a lease, as ``body`` asks for it."""
        ident, now = uuid.uuid4().hex[:13], time.time()
        entry = {
            "id": ident,
            "state": "active",
            "template": body.get("template", "base"),
            "server": "s1",
            "backend": self.backend,
            "versions": dict(VERSIONS),
            "holder": {"name": body.get("holder", ""), "pid": body.get("pid")},
            "labels": body.get("labels", {}),
            "created_at": now,
            "expires_at": now,
            "max_expires_at": now + self.max_life,
            "ttl": 0.0,
            "ended_at": None,
            "end_reason": "",
            "server_kind": body.get("server", "shared"),
            "builds": builds,
            "image": body.get("image"),
            "kept": False,
            "asked": {name: body.get(name) for name in ("postgres", "image", "database", "user")},
        }
        self.grant(entry, float(body.get("ttl", DEFAULT_TTL)))
        self.entries[ident] = entry
        return entry

    def grant(self, entry: Entry, ttl: float) -> None:
        """Let a lease live ``ttl`` seconds from now; one that is kept is only prolonged."""
        now = time.time()
        end = min(now + ttl, entry["max_expires_at"])
        entry["expires_at"] = max(end, entry["expires_at"]) if entry["kept"] else end
        entry["ttl"] = entry["expires_at"] - now

    def keep(self, entry: Entry, ttl: float) -> None:
        """Have a lease outlive its holder's process; the oldest kept one of somebody else makes room."""
        kept = [other for other in self.active() if other["kept"]]
        if not entry["kept"] and len(kept) >= self.keep_max:
            others = [other for other in kept if other["holder"]["name"] != entry["holder"]["name"]]
            if not others or not self.keep_max:
                raise Problem(
                    "keep-quota",
                    f"{len(kept)} leases are kept, and {self.keep_max} may be.",
                    hint="'leasedb kept' lists them, and with --drop ID or --drop-all gives them back. For more at "
                    "once, stop the daemon ('leasedb stop') and start it with a larger LEASEDB_KEEP_MAX.",
                )
            oldest = min(others, key=lambda other: other["created_at"])
            self.end(oldest, "released", "it made room for another that is kept")
        self.grant(entry, ttl)
        entry["kept"] = True
        entry["holder"]["pid"] = None

    # --- ending ---

    def look(self) -> None:
        """End what has come to its end by itself."""
        for entry in self.active():
            pid = entry["holder"]["pid"]
            if self._readers.get(entry["id"]):
                self.grant(entry, max(entry["ttl"], 1.0))
            if entry["expires_at"] <= time.time():
                self.end(entry, "expired", "its time ran out")
            elif pid is not None and not self.sees(pid):
                self.end(entry, "released", f"its holder's process {pid} ended")

    def end(self, entry: Entry, state: str, reason: str) -> None:
        if entry["state"] != "active":
            return
        entry.update(state=state, end_reason=reason, ended_at=time.time(), kept=False)
        self._tell(entry["id"])
        self._state.notify_all()

    def sees(self, pid: int) -> bool:
        """Tell whether a process lives."""
        return process_lives(pid)

    # --- holding ---

    def hold(self, ident: str, stopping: Callable[[], bool]) -> Lines:
        """Tell of a lease until it ends; the last reader who goes away ends it, unless it is kept."""
        with self._state:
            entry = self.get_active(ident)
            self._readers[ident] = self._readers.get(ident, 0) + 1
        try:
            told = float("-inf")
            while True:
                with self._state:
                    self.look()
                    ended = entry["state"] != "active"
                    line = {"id": ident, "state": entry["state"], "expires_at": as_time(entry["expires_at"])}
                if ended:
                    yield line | {"reason": entry["end_reason"]}
                    return
                due = time.monotonic() >= told + _HELD_LINE
                told = time.monotonic() if due else told
                yield line if due else None
                with self._state:
                    if entry["state"] == "active":
                        self._state.wait(_GLANCE)
        finally:
            with self._state:
                self._readers[ident] -= 1
                # a daemon that dies breaks connections, too: that is no news of whoever read
                if not self._readers[ident] and not entry["kept"] and not stopping():
                    self.end(entry, "released", "its holder hung up")


def _ended(entry: Entry) -> Problem:
    code = "lease-lost" if entry["state"] == "lost" else "lease-ended"
    return Problem(code, f"The lease {entry['id']} is {entry['state']}: {entry['end_reason']}.")
