"""The stand-in's templates: names, states and who waits for whom. SQL is not run; a line with ``fail here`` fails."""

import re
import threading
import time
import uuid
from typing import Any

from tests.client.wire_server import Problem, Reply, Seen, as_time

FAILS = "fail here"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
Key = tuple[str, str | None, str | None]  # name, postgres, image


class StandInTemplates:
    """The part of the stand-in that is about templates."""

    _state: threading.Condition

    def __init__(self) -> None:
        base = {"fingerprint": "builtin", "state": "sealed", "origin": "builtin", "bytes": 7_800_000, "kept": True}
        self.templates: dict[Key, dict[str, Any]] = {("base", None, None): self._entry(("base", None, None), **base)}
        self.sessions: list[dict[str, Any]] = []  # on whatever database is asked about
        self.built = 0  # how often SQL was run or a build began
        self.build_keys: dict[str, tuple[Key, str]] = {}
        self.waiting_for_builds = 0

    def evict(self, name: str) -> None:
        with self._state:
            for key in [key for key in self.templates if key[0] == name]:
                del self.templates[key]

    def leases_on(self, entry: dict[str, Any]) -> list[dict[str, Any]]:
        raise NotImplementedError

    def begin_build(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        raise NotImplementedError

    def end_build(self, lease_id: str) -> None:
        raise NotImplementedError

    def active_lease(self, ident: str) -> dict[str, Any]:
        raise NotImplementedError

    def shown(self, lease: dict[str, Any]) -> dict[str, Any]:
        raise NotImplementedError

    # --- what comes in ---

    def answer_templates(self) -> Reply:
        found = [self._wire(entry) for entry in self.templates.values()]
        return 200, {"templates": found, "bytes": 7_800_000 * len(found), "budget": 4 * 10**9}, {}

    def answer_template(self, seen: Seen, name: str, more: list[str]) -> Reply:
        if not _NAME.fullmatch(name):
            raise Problem("invalid-request", f"{name!r} is no name of a template.")
        match seen.method, more:
            case "GET", []:
                return 200, self._wire(self._there(self._key(name, seen))), {}
            case "DELETE", []:
                entry = self._there(self._key(name, seen))
                if name == "base":
                    raise Problem("template-builtin", "'base' stays.")
                if self.leases_on(entry) or entry["state"] == "building":
                    raise Problem("template-in-use", f"There are leases on {name!r}.")
                del self.templates[self._key(name, seen)]
                return 204, None, {}
            case "PUT", []:
                return self._put(name, seen)
            case "POST", ["build"]:
                return self._build(name, seen)
            case "POST", ["seal"]:
                return self._seal(name, seen.body)
            case "POST", ["abandon"]:
                return self._abandon(name, seen.body)
        raise Problem("not-found", f"There is no {seen.path}.")

    def answer_reset(self, lease: dict[str, Any], body: dict[str, Any]) -> Reply:
        template = body.get("template", lease["template"])
        if not any(name == template for name, _, _ in self.templates):
            raise Problem("unknown-template", f"There is no template {template!r}.")
        lease["resets"] = [*lease.get("resets", []), template]
        ended, self.sessions = len(self.sessions), []
        return 200, self.shown(lease) | {"ended_sessions": ended}, {}

    def answer_branch(self, lease: dict[str, Any], body: dict[str, Any]) -> Reply:
        name = body.get("name") or f"branch-{uuid.uuid4().hex[:8]}"
        fingerprint = body.get("fingerprint") or uuid.uuid4().hex
        key = (name, lease["asked"]["postgres"], lease["asked"]["image"])
        if key in self.templates:
            there = self.templates[key]["fingerprint"]
            raise Problem("template-exists", f"There is {name!r}.", fingerprint=there, requested=fingerprint)
        self._check_sessions(force=body.get("force", False))
        until = None if body.get("name") else lease["id"]
        made = self._entry(key, fingerprint=fingerprint, state="sealed", origin="branch", until_lease=until)
        self.templates[key] = made | {"parent": lease["template"]}
        return 201, self._wire(self.templates[key]), {}

    # --- building ---

    def _put(self, name: str, seen: Seen) -> Reply:
        if isinstance(seen.body, str):
            options: dict[str, Any] = {option: values[0] for option, values in seen.query.items()}
            options |= {"sql": seen.body}
        else:
            options = seen.body
        fingerprint = options.get("fingerprint") or f"sql:{options.get('parent')}:{hash(options['sql'])}"
        key = (name, options.get("postgres"), options.get("image"))
        if there := self._settled(key, fingerprint, options):
            return 200, self._wire(there), {}
        self.built += 1
        entry = self._entry(key, fingerprint=fingerprint, parent=options.get("parent", "base"), origin="sql")
        self.templates[key] = entry
        lines = options["sql"].split("\n")
        failing = next((number for number, line in enumerate(lines, 1) if FAILS in line), None)
        if failing is None:
            entry |= {"state": "sealed", "bytes": 7_800_000 + len(options["sql"]), "notes": ["1 statement left out"]}
            self._state.notify_all()
            return 201, self._wire(entry), {}
        error = {
            "message": f'syntax error at or near "{FAILS}"',
            "sqlstate": "42601",
            "statement": "\n".join(lines[: failing - 1]).count(";") + 1,
            "line": failing,
            "sql": lines[failing - 1].strip() + "\nsecond line",
        }
        entry |= {"state": "failed", "error": error}
        self._state.notify_all()
        raise Problem("sql-failed", "Statement failed.", **error)

    def _build(self, name: str, seen: Seen) -> Reply:
        key_sent = seen.headers.get("idempotency-key")
        if key_sent in self.build_keys:
            key, ident = self.build_keys[key_sent]
            lease = self.shown(self.active_lease(ident))
            return 201, {"status": "building", "template": self._wire(self.templates[key]), "lease": lease}, {}
        body = seen.body
        key = (name, body.get("postgres"), body.get("image"))
        if there := self._settled(key, body["fingerprint"], body):
            return 200, {"status": "sealed", "template": self._wire(there), "lease": None}, {}
        self.built += 1
        lease = self.begin_build(name, body)
        self.templates[key] = self._entry(
            key,
            fingerprint=body["fingerprint"],
            parent=body.get("parent", "base"),
            origin="build",
            progress=f"being built by {body.get('holder', '')}",
            builder=lease["id"],
        )
        if key_sent:
            self.build_keys[key_sent] = (key, lease["id"])
        found = self._wire(self.templates[key])
        return 201, {"status": "building", "template": found, "lease": self.shown(lease)}, {}

    def _seal(self, name: str, body: dict[str, Any]) -> Reply:
        entry = self._built_by(name, body["lease"])
        if entry["state"] == "sealed":
            raise Problem("template-sealed", f"{name!r} is sealed.")
        self._check_sessions(force=body.get("force", False))
        entry |= {"state": "sealed", "progress": "", "bytes": 9_000_000}
        self.end_build(body["lease"])
        return 200, self._wire(entry), {}

    def _abandon(self, name: str, body: dict[str, Any]) -> Reply:
        entry = self._built_by(name, body["lease"])
        if "error" in body:
            told = {"message": body["error"], "sqlstate": None, "statement": None, "line": None, "sql": None}
            entry |= {"state": "failed", "error": told, "progress": ""}
        self.end_build(body["lease"])
        return 204, None, {}

    def build_ended(self, lease_id: str) -> None:
        """Forget what was being built in a lease that has ended."""
        for key, entry in list(self.templates.items()):
            if entry["builder"] == lease_id and entry["state"] == "building":
                del self.templates[key]

    def _settled(self, key: Key, fingerprint: str, options: dict[str, Any]) -> dict[str, Any] | None:
        """Return the template when it is there, after waiting for its builder; None when it is to be built."""
        name, parent = key[0], options.get("parent", "base")
        if name == "base":
            raise Problem("template-builtin", "'base' is built in.")
        if parent == name:
            raise Problem("template-cycle", f"{name!r} cannot be built upon itself.")
        if (parent, *key[1:]) not in self.templates and parent != "base":
            raise Problem("parent-missing", f"There is no template {parent!r}.")
        end, waited = time.monotonic() + float(options.get("wait", 60)), False
        while (entry := self.templates.get(key)) is not None:
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
            self.waiting_for_builds += 1
            self._state.wait(0.02)
            self.waiting_for_builds -= 1
            self.look_at_leases()
        return None

    def look_at_leases(self) -> None:
        raise NotImplementedError

    def _built_by(self, name: str, lease_id: str) -> dict[str, Any]:
        entries = [entry for (found, _, _), entry in self.templates.items() if found == name]
        if not entries:
            raise Problem("template-not-found", f"There is no template {name!r}.")
        for entry in entries:
            if entry["builder"] == lease_id:
                if entry["state"] == "building":
                    self.active_lease(lease_id)
                return entry
        raise Problem("not-the-builder", f"Lease {lease_id} does not build {name!r}.")

    def _check_sessions(self, *, force: bool) -> None:
        if self.sessions and not force:
            raise Problem("sessions-open", "Sessions are open.", sessions=self.sessions)
        self.sessions = []

    def _there(self, key: Key) -> dict[str, Any]:
        if key not in self.templates:
            raise Problem("template-not-found", f"There is no template {key[0]!r}.")
        return self.templates[key]

    def _key(self, name: str, seen: Seen) -> Key:
        return name, seen.query.get("postgres", [None])[0], seen.query.get("image", [None])[0]

    def _entry(self, key: Key, **more: Any) -> dict[str, Any]:
        name, postgres, image = key
        known = {"name": name, "postgres": postgres, "image": image, "parent": None, "state": "building"}
        empty = {"bytes": None, "kept": False, "progress": "", "error": None, "notes": [], "until_lease": None}
        times = {"created_at": time.time(), "used_at": time.time(), "builder": None}
        return known | empty | times | {"ready": 0, "later": [1]} | more

    def _wire(self, entry: dict[str, Any]) -> dict[str, Any]:
        times = {name: as_time(entry[name]) for name in ("created_at", "used_at")}
        shown = {name: value for name, value in entry.items() if name != "builder"}
        return shown | times | {"leases": len(self.leases_on(entry))}
