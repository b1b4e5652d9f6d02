"""The fake daemon's templates: names, states and who waits for whom. SQL is not run; lines with ``fail here`` fail."""

import re
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any, Final

from leasedb.testing._bodies import ABANDON, BRANCH, BUILD, RESET, SEAL, SQL, checked
from leasedb.testing._leases import LeaseBook
from leasedb.testing._wire import Problem, ReceivedRequest, Reply, as_time, invalid, nothing_at

FAILS: Final = "fail here"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_GLANCE: Final = 0.02  # seconds between two looks at what may have changed by time alone
_SIZE: Final = 7_800_000  # bytes of an empty database

Key = tuple[str, str | None, str | None]  # name, postgres, image
Entry = dict[str, Any]


class TemplateBook:
    """All templates by name and edition. Whoever calls has ``state``.

    Args:
        leases: where build leases are entered.
        shown: makes an answer of a lease.
        state: guards everything.
    """

    def __init__(self, leases: LeaseBook, *, shown: Callable[[Entry], Entry], state: threading.Condition) -> None:
        base = {"fingerprint": "builtin", "state": "sealed", "origin": "builtin", "bytes": _SIZE, "kept": True}
        self.entries: dict[Key, Entry] = {("base", None, None): self._entry(("base", None, None), **base)}
        self.sessions: list[dict[str, Any]] = []  # on whatever database is asked about
        self.notes: tuple[str, ...] = ()  # of what is built of SQL
        self.built = 0  # how often SQL was run or a build began
        self.build_keys: dict[str, tuple[Key, str]] = {}
        self.waiting = 0  # for somebody else's build
        self._leases = leases
        self._shown = shown
        self._state = state

    def evict(self, name: str) -> None:
        for key in [key for key in self.entries if key[0] == name]:
            del self.entries[key]

    def names(self) -> set[str]:
        """Return what can be announced: "shop", or "shop@17"."""
        return {f"{name}@{image or postgres}" if image or postgres else name for name, postgres, image in self.entries}

    def check_sealed(self, body: Entry) -> None:
        """Do nothing when what a lease is asked for with is there to lease from."""
        template = body.get("template", "base")
        asked = self.entries.get((template, body.get("postgres"), body.get("image")))
        if template != "base" and (asked is None or asked["state"] != "sealed"):
            raise Problem("unknown-template", f"There is no template {template!r}.")

    def leases_on(self, entry: Entry) -> list[Entry]:
        mine = {"postgres": entry["postgres"], "image": entry["image"]}
        return [
            lease
            for lease in self._leases.active()
            if lease["template"] == entry["name"] and mine.items() <= lease["asked"].items()
        ]

    # --- what comes in ---

    def answer_all(self) -> Reply:
        found = [self.shown(entry) for entry in self.entries.values()]
        return 200, {"templates": found, "bytes": _SIZE * len(found), "budget": 4 * 10**9}, {}

    def answer_one(self, request: ReceivedRequest, name: str, more: list[str]) -> Reply:
        if not _NAME.fullmatch(name):
            raise invalid("name", f"{name!r} is no name of a template")
        match request.method, more:
            case "GET", []:
                return 200, self.shown(self._there(self._key(name, request))), {}
            case "DELETE", []:
                entry = self._there(self._key(name, request))
                if name == "base":
                    raise Problem("template-builtin", "'base' stays.")
                if self.leases_on(entry) or entry["state"] == "building":
                    raise Problem("template-in-use", f"There are leases on {name!r}.")
                del self.entries[self._key(name, request)]
                return 204, None, {}
            case "PUT", []:
                return self._put(name, request)
            case "POST", ["build"]:
                return self._build(name, request)
            case "POST", ["seal"]:
                return self._seal(name, checked(request.body, SEAL, "lease"))
            case "POST", ["abandon"]:
                return self._abandon(name, checked(request.body, ABANDON, "lease"))
        raise nothing_at(request)

    def answer_reset(self, lease: Entry, sent: Any) -> Reply:
        body = checked(sent, RESET)
        template = body.get("template", lease["template"])
        if not any(name == template for name, _, _ in self.entries):
            raise Problem("unknown-template", f"There is no template {template!r}.")
        lease["resets"] = [*lease.get("resets", []), template]
        ended, self.sessions = len(self.sessions), []
        return 200, self._shown(lease) | {"ended_sessions": ended}, {}

    def answer_branch(self, lease: Entry, sent: Any) -> Reply:
        body = checked(sent, BRANCH)
        name = body.get("name") or f"branch-{uuid.uuid4().hex[:8]}"
        fingerprint = body.get("fingerprint") or uuid.uuid4().hex
        key = (name, lease["asked"]["postgres"], lease["asked"]["image"])
        if key in self.entries:
            there = self.entries[key]["fingerprint"]
            raise Problem("template-exists", f"There is {name!r}.", fingerprint=there, requested=fingerprint)
        self._check_sessions(force=body.get("force", False))
        until = None if body.get("name") else lease["id"]
        made = self._entry(key, fingerprint=fingerprint, state="sealed", origin="branch", until_lease=until)
        self.entries[key] = made | {"parent": lease["template"]}
        return 201, self.shown(self.entries[key]), {}

    # --- building ---

    def _put(self, name: str, request: ReceivedRequest) -> Reply:
        if isinstance(request.body, str):
            options: Entry = {option: values[0] for option, values in request.query.items()}
            options |= {"sql": request.body}
        else:
            options = checked(request.body, SQL, "sql")
        fingerprint = options.get("fingerprint") or f"sql:{options.get('parent')}:{hash(options['sql'])}"
        key = (name, options.get("postgres"), options.get("image"))
        if there := self._settled(key, fingerprint, options):
            return 200, self.shown(there), {}
        self.built += 1
        entry = self._entry(key, fingerprint=fingerprint, parent=options.get("parent", "base"), origin="sql")
        self.entries[key] = entry
        lines = options["sql"].split("\n")
        failing = next((number for number, line in enumerate(lines, 1) if FAILS in line), None)
        if failing is None:
            entry |= {"state": "sealed", "bytes": _SIZE + len(options["sql"]), "notes": list(self.notes)}
            self._state.notify_all()
            return 201, self.shown(entry), {}
        error = {
            "message": f'syntax error at or near "{FAILS}"',
            "sqlstate": "42601",
            "statement": "\n".join(lines[: failing - 1]).count(";") + 1,
            "line": failing,
            "sql": lines[failing - 1].strip() + "\nsecond line",
            "hint": "Mend the statement and send the text again; nothing of it was kept.",
        }
        entry |= {"state": "failed", "error": error}
        self._state.notify_all()
        raise Problem("sql-failed", "Statement failed.", **error)

    def _build(self, name: str, request: ReceivedRequest) -> Reply:
        key_sent = request.headers.get("idempotency-key")
        if key_sent in self.build_keys:
            key, ident = self.build_keys[key_sent]
            lease = self._shown(self._leases.get_active(ident))
            return 201, {"status": "building", "template": self.shown(self.entries[key]), "lease": lease}, {}
        body = checked(request.body, BUILD, "fingerprint")
        key = (name, body.get("postgres"), body.get("image"))
        if there := self._settled(key, body["fingerprint"], body):
            return 200, {"status": "sealed", "template": self.shown(there), "lease": None}, {}
        self.built += 1
        lease = self._begin(name, body)
        self.entries[key] = self._entry(
            key,
            fingerprint=body["fingerprint"],
            parent=body.get("parent", "base"),
            origin="build",
            progress=f"being built by {body.get('holder', '')}",
            builder=lease["id"],
        )
        if key_sent:
            self.build_keys[key_sent] = (key, lease["id"])
        found = self.shown(self.entries[key])
        return 201, {"status": "building", "template": found, "lease": self._shown(lease)}, {}

    def _seal(self, name: str, body: Entry) -> Reply:
        entry = self._built_by(name, body["lease"])
        if entry["state"] == "sealed":
            raise Problem("template-sealed", f"{name!r} is sealed.")
        self._check_sessions(force=body.get("force", False))
        entry |= {"state": "sealed", "progress": "", "bytes": 9_000_000}
        self._end(body["lease"])
        return 200, self.shown(entry), {}

    def _abandon(self, name: str, body: Entry) -> Reply:
        entry = self._built_by(name, body["lease"])
        if "error" in body:
            told = dict.fromkeys(("sqlstate", "statement", "line", "sql"))
            hint = "Mend what failed and build again; whoever asks next becomes the builder."
            entry |= {"state": "failed", "error": {"message": body["error"], **told, "hint": hint}, "progress": ""}
        self._end(body["lease"])
        return 204, None, {}

    def lease_ended(self, lease_id: str) -> None:
        """Forget what was being built in a lease that has ended, and what was to last as long as it."""
        for key, entry in list(self.entries.items()):
            building = entry["builder"] == lease_id and entry["state"] == "building"
            if building or (entry["until_lease"] == lease_id and not self.leases_on(entry)):
                del self.entries[key]

    def _begin(self, name: str, body: Entry) -> Entry:
        given = {key: body[key] for key in ("holder", "pid", "labels", "postgres", "image", "ttl") if key in body}
        return self._leases.new(given | {"template": body.get("parent", "base")}, builds=name)

    def _end(self, lease_id: str) -> None:
        self._leases.end(self._leases.get(lease_id), "released", "its build ended")

    def _settled(self, key: Key, fingerprint: str, options: Entry) -> Entry | None:
        """Return the template when it is there, after waiting for its builder; None when it is to be built."""
        name, parent = key[0], options.get("parent", "base")
        if name == "base":
            raise Problem("template-builtin", "'base' is built in.")
        if parent == name:
            raise Problem("template-cycle", f"{name!r} cannot be built upon itself.")
        there = self.entries.get(key, {})
        known = there.get("state") == "sealed" and there["fingerprint"] == options.get("fingerprint")
        if not known and (parent, *key[1:]) not in self.entries and parent != "base":
            raise Problem("parent-missing", f"There is no template {parent!r}.")
        end, waited = time.monotonic() + float(options.get("wait", 60)), False
        while (entry := self.entries.get(key)) is not None:
            if entry["fingerprint"] != fingerprint and entry["state"] != "failed":
                there = entry["fingerprint"]
                raise Problem("template-exists", f"There is {name!r}.", fingerprint=there, requested=fingerprint)
            if entry["state"] == "sealed":
                return entry
            if entry["state"] == "failed":
                if waited:
                    raise Problem("build-failed", "It failed.", error=entry["error"])
                return None
            if time.monotonic() >= end:
                headers = {"Retry-After": "1"}
                raise Problem("template-building", "Not yet.", headers=headers, progress=entry["progress"])
            waited = True
            self.waiting += 1
            self._state.wait(_GLANCE)
            self.waiting -= 1
            self._leases.look()
        return None

    def _built_by(self, name: str, lease_id: str) -> Entry:
        self._leases.get(lease_id)
        entries = [entry for (found, _, _), entry in self.entries.items() if found == name]
        if not entries:
            raise Problem("template-not-found", f"There is no template {name!r}.")
        for entry in entries:
            if entry["builder"] == lease_id:
                if entry["state"] == "building":
                    self._leases.get_active(lease_id)
                return entry
        raise Problem("not-the-builder", f"Lease {lease_id} does not build {name!r}.")

    def _check_sessions(self, *, force: bool) -> None:
        if self.sessions and not force:
            raise Problem("sessions-open", "Sessions are open.", sessions=self.sessions)
        self.sessions = []

    def _there(self, key: Key) -> Entry:
        if key not in self.entries:
            raise Problem("template-not-found", f"There is no template {key[0]!r}.")
        return self.entries[key]

    def _key(self, name: str, request: ReceivedRequest) -> Key:
        return name, request.query.get("postgres", [None])[0], request.query.get("image", [None])[0]

    def _entry(self, key: Key, **more: Any) -> Entry:
        name, postgres, image = key
        known = {"name": name, "postgres": postgres, "image": image, "parent": None, "state": "building"}
        empty: Entry = {"bytes": None, "kept": False, "progress": "", "error": None, "notes": [], "until_lease": None}
        times = {"created_at": time.time(), "used_at": time.time(), "builder": None}
        return known | empty | times | {"ready": 0} | more

    def shown(self, entry: Entry) -> Entry:
        times = {name: as_time(entry[name]) for name in ("created_at", "used_at")}
        shown = {name: value for name, value in entry.items() if name != "builder"}
        return shown | times | {"leases": len(self.leases_on(entry))}
