"""A small daemon that speaks the wire contract on a real port and keeps everything in memory.

Its databases do not exist: the DSNs lead nowhere. What it adds to the contract is that a test can make it break off
connections, answer with any error, or die and come back, and can look at what was sent.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections import deque
from typing import Any, Self

import psutil

from leasedb._discovery import pid_space
from tests.client.described import described_login, described_server
from tests.client.stand_in_templates import StandInTemplates
from tests.client.wire_server import Fault, Problem, Reply, Seen, WireServer, as_time

MAX_TTL = 86400.0


class StandIn(StandInTemplates):
    """The daemon. ``with StandIn() as daemon: daemon.url``.

    Args:
        most: the most databases leased at a time.
        token: bearer token to ask for.
        space: ``pid_space`` of its health; None: that of this process.
        pids: whether the processes of its clients are its own to see.
        max_life: seconds after which a lease cannot be renewed any more.
        old: speak as the first daemons did, which took no announcements and told less of themselves.
    """

    def __init__(
        self,
        *,
        most: int = 100,
        token: str = "",
        space: str | None = None,
        pids: bool = True,
        max_life: float = MAX_TTL,
        old: bool = False,
    ) -> None:
        self.most, self.token, self.pids, self.max_life, self.old = most, token, pids, max_life, old
        self.space = pid_space() if space is None else space
        self.leases: dict[str, dict[str, Any]] = {}
        self.keys: dict[str, tuple[Any, str]] = {}
        self.seen: list[Seen] = []
        self.faults: deque[Fault] = deque()
        self.ready_problem = ""
        self.asleep = False
        self.to_come: dict[tuple[str, str], int] = {}  # announced leases by holder and template
        self.server_now: dict[str, Any] = {}  # what differs from what `described_server` says
        self.waiting = 0
        self.port = 0
        self._state = threading.Condition()
        super().__init__()
        self._server: WireServer | None = None

    # --- life ---

    def start(self) -> None:
        self._server = WireServer(self.port, self)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), name="stand-in", daemon=True).start()

    def stop(self) -> None:
        """Die: nobody gets an answer any more, open connections break."""
        server, self._server = self._server, None
        if server is None:
            return
        server.shutdown()
        server.server_close()
        for connection in list(server.connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    # --- what tests do to it ---

    def next_fault(self) -> Fault | None:
        try:
            return self.faults.popleft()
        except IndexError:
            return None

    def fail(self, code: str, times: int = 1, headers: dict[str, str] | None = None, **more: Any) -> None:
        problem = Problem(code, f"Detail of {code}.", **more)
        body = json.dumps(problem.body).encode()
        self.faults.extend(Fault("answer", problem.status, body, headers=headers or {}) for _ in range(times))

    def sent(self, method: str, path: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.method == method and seen.path == path]

    def active(self) -> list[dict[str, Any]]:
        with self._state:
            self._expire()
            return [lease for lease in self.leases.values() if lease["state"] == "active"]

    def end(self, lease_id: str, state: str, reason: str) -> None:
        with self._state:
            self._end(self.leases[lease_id], state, reason)

    # --- the contract ---

    def answer(self, seen: Seen) -> Reply:  # noqa: PLR0911 - a table of routes
        segments = seen.path.strip("/").split("/")
        if segments == ["healthz"]:
            body = {"status": "ok", "version": "0.1.0", "pid": os.getpid(), "pid_space": self.space, "news": 1}
            return 200, body, {}
        if segments == ["readyz"]:
            if self.ready_problem:
                raise Problem("not-ready", self.ready_problem)
            status, servers = ("asleep", 0) if self.asleep else ("ready", 1)
            return 200, {"status": status, "backend": "stand-in", "servers": servers, "ready": 10 * servers}, {}
        if self.token and seen.headers.get("authorization") != f"Bearer {self.token}":
            raise Problem("unauthorized", "The token is missing or wrong.")
        with self._state:
            self._expire()
            match segments:
                case ["leases"]:
                    return self._answer_leases(seen)
                case ["leases", ident, *more]:
                    return self._answer_lease(seen, self._lease(ident), more)
                case ["templates"] if not self.old:
                    return self.answer_templates()
                case ["templates", name, *more] if not self.old:
                    return self.answer_template(seen, name, more)
                case _:
                    return self._answer_stock(seen, segments)

    def _answer_leases(self, seen: Seen) -> Reply:
        if seen.method == "POST":
            lease = self._acquire(seen.body or {}, seen.headers.get("idempotency-key"))
            return 201, self._wire_lease(lease), {"Location": f"/leases/{lease['id']}"}
        labels = dict(label.split(":", 1) for label in seen.query.get("label", ()))
        found = self._matching(labels, seen.query)
        if seen.method == "GET":
            return 200, {"leases": [self._summary(lease) for lease in found]}, {}
        if not labels:
            raise Problem("invalid-request", "A label is needed.")
        active = [lease for lease in found if lease["state"] == "active"]
        for lease in active:
            self._end(lease, "released", "released")
        return 200, {"released": len(active)}, {}

    def _answer_lease(self, seen: Seen, lease: dict[str, Any], more: list[str]) -> Reply:
        if more:
            self.active_lease(lease["id"])
        if more == ["reset"]:
            return self.answer_reset(lease, seen.body)
        if more == ["template"]:
            return self.answer_branch(lease, seen.body)
        if more == ["renew"]:
            self._grant(lease, float((seen.body or {}).get("ttl", 300)))
        elif seen.method == "DELETE":
            if lease["state"] == "active":
                self._end(lease, "released", "released")
            return 204, None, {}
        return 200, self._wire_lease(lease), {}

    def _answer_stock(self, seen: Seen, segments: list[str]) -> Reply:
        match segments:
            case ["servers"]:
                servers = [] if self.asleep else [described_server(old=self.old, now=self.server_now)]
                return 200, {"backend": "stand-in", "reason": "nothing is real here", "servers": servers}, {}
            case ["servers", "s1", "logs"]:
                return 200, "".join(f"line {n}\n" for n in range(int(seen.query["lines"][0]))), {}
            case ["servers", ident, "logs"]:
                raise Problem("server-not-found", f"There is no server {ident}.")
            case ["pool"]:
                return 200, self._pool(), {}
            case ["demand"] if not self.old:
                return 200, self._expect(seen.body), {}
        raise Problem("not-found", f"There is no {seen.path}.")

    def _pool(self) -> dict[str, Any]:
        leased = len([lease for lease in self.leases.values() if lease["state"] == "active"])
        share = {"server": "s1", "template": "base", "ready": 10, "making": 0, "leased": leased, "target": 12}
        counts = {"ready": 10, "making": 0, "leased": leased, "condemned": 0, "waiting": self.waiting}
        known = counts | {"max": self.most, "per": [] if self.asleep else [share]}
        if self.old:
            return known
        hinted = sum(count for (_, template), count in self.to_come.items() if template == "base")
        demand = {"template": "base", "target": 12, "rate": 0.52, "hinted": hinted, "peak": 9.4, "later": 1}
        return known | {"demand": [demand], "asleep": self.asleep}

    def _expect(self, body: dict[str, Any]) -> dict[str, Any]:
        template, holder, count = body.get("template", "base"), body.get("holder", ""), body["count"]
        if not 0 <= count <= 10_000:
            raise Problem("invalid-request", f"count: {count} is not 0 to 10000.")
        known = {
            f"{name}@{image or postgres}" if image or postgres else name for name, postgres, image in self.templates
        }
        if template not in known:
            raise Problem("unknown-template", f"There is no template {template!r}.")
        self.to_come[holder, template] = count
        until = as_time(time.time() + body.get("ttl", 300))
        return {"template": template, "holder": holder, "count": count, "expires_at": until, "target": max(12, count)}

    def _acquire(self, body: dict[str, Any], key: str | None) -> dict[str, Any]:
        news = set() if self.old else {"image", "server", "database", "user"}
        unknown = set(body) - {"template", "ttl", "wait", "holder", "pid", "labels", "postgres"} - news
        if unknown:
            errors = [{"field": name, "message": "unknown"} for name in unknown]
            raise Problem("invalid-request", "Unknown fields.", errors=errors)
        ttl = body.get("ttl", 300)
        if isinstance(ttl, bool) or not isinstance(ttl, int | float) or not 0 < ttl <= MAX_TTL:
            errors = [{"field": "ttl", "message": "more than 0"}]
            raise Problem("invalid-request", f"ttl: {ttl} is not a number of seconds up to 86400.", errors=errors)
        if body.get("postgres", "18") not in {"17", "18"}:
            raise Problem("version-unavailable", f"Postgres {body['postgres']} is not served.")
        template = body.get("template", "base")
        asked = self.templates.get((template, body.get("postgres"), body.get("image")))
        if template != "base" and (asked is None or asked["state"] != "sealed"):
            raise Problem("unknown-template", f"There is no template {template!r}.")
        pid = body.get("pid")
        if pid is not None and not (self.pids and _lives(pid)):
            raise Problem("holder-not-found", f"There is no process {pid} here.")
        if key in self.keys:
            before, ident = self.keys[key]
            if before != body:
                raise Problem("idempotency-mismatch", "This key belongs to another request.")
            return self.leases[ident]
        self._wait_for_room(float(body.get("wait", 60)))
        lease = self._new(body, float(ttl))
        announced = (lease["holder"]["name"], lease["template"])
        self.to_come[announced] = max(0, self.to_come.get(announced, 0) - 1)
        if key is not None:
            self.keys[key] = (body, lease["id"])
        return lease

    def _wait_for_room(self, wait: float) -> None:
        end = time.monotonic() + wait
        self.waiting += 1
        position = self.waiting
        try:
            while len([lease for lease in self.leases.values() if lease["state"] == "active"]) >= self.most:
                if time.monotonic() >= end:
                    detail = f"No database came free within {wait:g} s."
                    raise Problem("pool-exhausted", detail, headers={"Retry-After": "7"}, position=position)
                self._state.wait(0.02)
                self._expire()
        finally:
            self.waiting -= 1

    def _new(self, body: dict[str, Any], ttl: float) -> dict[str, Any]:
        ident, now = uuid.uuid4().hex[:13], time.time()
        lease = {
            "id": ident,
            "state": "active",
            "template": body.get("template", "base"),
            "server": "s1",
            "backend": "stand-in",
            "versions": {"postgres": "18.4", "vector": "0.8.1"},
            "holder": {"name": body.get("holder", ""), "pid": body.get("pid")},
            "labels": body.get("labels", {}),
            "created_at": now,
            "expires_at": now,
            "max_expires_at": now + self.max_life,
            "ttl": ttl,
            "ended_at": None,
            "end_reason": "",
            "some_later_field": {"unknown": True},
            "server_kind": body.get("server", "shared"),
            "builds": None,
            "image": body.get("image"),
            "asked": {name: body.get(name) for name in ("postgres", "image", "database", "user")},
        }
        self._grant(lease, ttl)
        self.leases[ident] = lease
        return lease

    def _grant(self, lease: dict[str, Any], ttl: float) -> None:
        now = time.time()
        lease["expires_at"] = min(now + ttl, lease["max_expires_at"])
        lease["ttl"] = lease["expires_at"] - now

    def _expire(self) -> None:
        for lease in self.leases.values():
            if lease["state"] != "active":
                continue
            pid = lease["holder"]["pid"]
            if lease["expires_at"] <= time.time():
                self._end(lease, "expired", "its ttl was over")
            elif pid is not None and not _lives(pid):
                self._end(lease, "released", f"its holder, process {pid}, has ended")

    def _end(self, lease: dict[str, Any], state: str, reason: str) -> None:
        lease.update(state=state, end_reason=reason, ended_at=time.time())
        self.build_ended(lease["id"])
        self._state.notify_all()

    # --- what templates need of leases ---

    def leases_on(self, entry: dict[str, Any]) -> list[dict[str, Any]]:
        mine = {"postgres": entry["postgres"], "image": entry["image"]}
        return [
            lease
            for lease in self.leases.values()
            if (lease["state"], lease["template"]) == ("active", entry["name"])
            and mine.items() <= lease["asked"].items()
        ]

    def begin_build(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        given = {key: body[key] for key in ("holder", "pid", "labels", "postgres", "image") if key in body}
        lease = self._new(given | {"template": body.get("parent", "base")}, float(body.get("ttl", 300)))
        lease["builds"] = name
        return lease

    def end_build(self, lease_id: str) -> None:
        self._end(self.leases[lease_id], "released", "its build ended")

    def active_lease(self, ident: str) -> dict[str, Any]:
        lease = self._lease(ident)
        if lease["state"] != "active":
            raise Problem("lease-lost" if lease["state"] == "lost" else "lease-ended", lease["end_reason"])
        return lease

    def look_at_leases(self) -> None:
        self._expire()

    def shown(self, lease: dict[str, Any]) -> dict[str, Any]:
        return self._wire_lease(lease)

    def _lease(self, ident: str) -> dict[str, Any]:
        if ident not in self.leases:
            raise Problem("lease-not-found", f"There is no lease {ident}.")
        return self.leases[ident]

    def _matching(self, labels: dict[str, str], query: dict[str, list[str]]) -> list[dict[str, Any]]:
        state, holder = query.get("state", [None])[0], query.get("holder", [None])[0]
        return [
            lease
            for lease in self.leases.values()
            if labels.items() <= lease["labels"].items()
            and state in {None, lease["state"]}
            and holder in {None, lease["holder"]["name"]}
        ]

    def _summary(self, lease: dict[str, Any]) -> dict[str, Any]:
        times = {name: as_time(lease[name]) for name in ("created_at", "expires_at", "max_expires_at", "ended_at")}
        return lease | times

    def _wire_lease(self, lease: dict[str, Any]) -> dict[str, Any]:
        return self._summary(lease) | described_login(lease, old=self.old)


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
