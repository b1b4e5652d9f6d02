"""A daemon in memory, for the unit tests of programs that use leasedb."""

import json
import os
import threading
import time
from collections import deque
from typing import Any, Final, Self

import leasedb
from leasedb._discovery import pid_space
from leasedb.testing._bodies import DEMAND, LEASE, STATES, TTL, checked, key_of, labels_of, one_of
from leasedb.testing._leases import DEFAULT_TTL, LeaseBook
from leasedb.testing._logins import Login, described_server, nowhere
from leasedb.testing._templates import TemplateBook
from leasedb.testing._wire import (
    STATUS,
    Fault,
    Problem,
    ReceivedRequest,
    Reply,
    WireServer,
    as_time,
    invalid,
    nothing_at,
)

MAJORS: Final = frozenset({"17", "18"})
_KEPT_FOR: Final = 3600.0  # seconds that a lease is kept when nothing is said
_MOST_LINES: Final = 10_000
_READY: Final = 10


class FakeDaemon:
    """A leasedb daemon on a port of its own, in this process, that speaks HTTP as the real one does.

        with FakeDaemon() as daemon, leasedb.Client(daemon.url) as client:
            with client.lease(labels={"run": "7"}):
                assert [lease["labels"] for lease in daemon.active()] == [{"run": "7"}]
            assert daemon.active() == []

    Leases, templates and whatever else is asked for is kept in memory; a test can look at it, have answers fail, end
    leases, and take the daemon away and bring it back. There is no Postgres: the DSNs lead nowhere, SQL is not run, and
    a template is sealed as soon as it is asked for (unless its SQL has a line with ``fail here``).

    Args:
        most: how many leases may be active at once; whoever comes then waits, and gets ``pool-exhausted``.
        token: bearer token to ask for; none when empty.
        dsn: a URL of a real database that all leases lead to, ``postgresql://user:password@host:port/database``. It
            is one database for all, and nothing cleans it.
        keep_max: how many leases may be kept at once.

    Attributes:
        requests: what was asked so far, in order: `ReceivedRequest`.
        port: where it listens; the same again after `stop` and `start`.
    """

    def __init__(self, *, most: int = 100, token: str = "", dsn: str | None = None, keep_max: int = 10) -> None:
        self.token = token
        self.port = 0
        self.requests: list[ReceivedRequest] = []
        self._login = None if dsn is None else Login.of(dsn)
        self._state = threading.Condition()
        self._book = LeaseBook(most=most, keep_max=keep_max, state=self._state, ended=self._lease_ended)
        self._templates = TemplateBook(self._book, shown=self._whole, state=self._state)
        self._faults: deque[Fault] = deque()
        self._to_come: dict[tuple[str, str], int] = {}  # announced leases by holder and template
        self._server: WireServer | None = None

    def __repr__(self) -> str:
        return f"<FakeDaemon at {self.url}, {len(self.active())} leases>"

    # --- life ---

    @property
    def url(self) -> str:
        """What to give a client, once it was started."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Begin to answer; with what there was, when it was stopped before."""
        self._server = WireServer(self.port, self)
        self.port = self._server.server_address[1]
        self._server.run()

    def stop(self) -> None:
        """Vanish as a daemon does that is killed: nobody gets an answer any more, and open connections break."""
        server, self._server = self._server, None
        if server is not None:
            server.break_off()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    # --- for tests ---

    @property
    def leases(self) -> dict[str, dict[str, Any]]:
        """All leases there were, by id; with the fields of the wire, but times in seconds since the epoch."""
        return self._book.entries

    def active(self) -> list[dict[str, Any]]:
        """Return those leases that go on, once what is due by now has ended."""
        with self._state:
            self._book.look()
            return self._book.active()

    def end(self, lease_id: str, state: str = "expired", reason: str = "its time ran out") -> None:
        """End a lease under its holder's feet: ``state`` is released, expired, or lost when its server died."""
        with self._state:
            self._book.end(self._book.entries[lease_id], state, reason)

    def fail(self, code: str, times: int = 1, *, headers: dict[str, str] | None = None, **more: Any) -> None:
        """Have the next requests, whichever they are, answered with an error.

        Args:
            code: as in docs/errors.md, such as "pool-exhausted" or "store-failed".
            times: how many requests.
            headers: of the answers, such as ``{"Retry-After": "7"}``.
            more: further members of the answers, such as ``position=3`` or ``hint="..."``.

        Raises:
            ValueError: there is no such code.
        """
        if code not in STATUS:
            raise ValueError(f"{code!r} is no code of an answer; there are {', '.join(sorted(STATUS))}")
        problem = Problem(code, f"Detail of {code}.", headers=headers, **more)
        body = json.dumps(problem.body).encode()
        self._faults.extend(Fault("answer", problem.status, body, headers=problem.headers) for _ in range(times))

    def sent(self, method: str, path: str) -> list[ReceivedRequest]:
        """Return the requests with this method to this path."""
        return [request for request in self.requests if (request.method, request.path) == (method, path)]

    # --- the contract: what the HTTP side asks of it ---

    def next_fault(self) -> Fault | None:
        """Return what stands in the way of the next answer; not for tests."""
        try:
            return self._faults.popleft()
        except IndexError:
            return None

    def answer(self, request: ReceivedRequest) -> Reply:
        """Return the answer to a request; not for tests.

        Raises:
            Problem: when it is an error.
        """
        segments = request.path.strip("/").split("/")
        if segments in (["healthz"], ["readyz"]) and request.method == "GET":
            return 200, self._health() if segments == ["healthz"] else self._readiness(), {}
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            raise Problem("unauthorized", "The token is missing or wrong.")
        with self._state:
            self._book.look()
            return self._answer(request, segments)

    def _answer(self, request: ReceivedRequest, segments: list[str]) -> Reply:
        match segments:
            case ["leases"]:
                return self._answer_leases(request)
            case ["leases", ident]:
                return self._answer_lease(request, ident)
            case ["leases", ident, verb]:
                return self._act(request, ident, verb)
            case ["templates"]:
                return self._templates.answer_all()
            case ["templates", name, *more]:
                return self._templates.answer_one(request, name, more)
        return self._answer_stock(request, segments)

    def _health(self) -> dict[str, Any]:
        return {"status": "ok", "version": leasedb.__version__, "pid": os.getpid(), "pid_space": pid_space()}

    def _readiness(self) -> dict[str, Any]:
        return {"status": "ready", "backend": "fake", "servers": 1, "ready": _READY}

    # --- leases ---

    def _answer_leases(self, request: ReceivedRequest) -> Reply:
        match request.method:
            case "POST":
                lease = self._acquire(request)
                return 201, self._whole(lease), {"Location": f"/leases/{lease['id']}"}
            case "GET":
                return 200, {"leases": [self._summary(lease) for lease in self._matching(request)]}, {}
            case "DELETE":
                if not request.query.get("label"):
                    raise Problem("invalid-request", "'label' is missing: not everybody's leases are released at once.")
                active = [lease for lease in self._matching(request) if lease["state"] == "active"]
                for lease in active:
                    self._book.end(lease, "released", "released by its holder")
                return 200, {"released": len(active)}, {}
        raise nothing_at(request, "GET", "POST", "DELETE")

    def _answer_lease(self, request: ReceivedRequest, ident: str) -> Reply:
        match request.method:
            case "GET":
                return 200, self._whole(self._book.get(ident)), {}
            case "DELETE":
                self._book.end(self._book.get(ident), "released", "released by its holder")
                return 204, None, {}
        raise nothing_at(request, "GET", "DELETE")

    def _act(self, request: ReceivedRequest, ident: str, verb: str) -> Reply:
        match request.method, verb:
            case "GET", "hold":
                self._book.get_active(ident)
                server = self._server  # it may be started again before this one's reader is found to be gone
                return 200, self._book.hold(ident, lambda: self._server is not server), {}
            case "POST", "renew":
                body = checked(request.body, TTL)
                self._book.grant(lease := self._book.get_active(ident), float(body.get("ttl", DEFAULT_TTL)))
                return 200, self._whole(lease), {}
            case "POST", "keep":
                body = checked(request.body, TTL)
                self._book.keep(lease := self._book.get_active(ident), float(body.get("ttl", _KEPT_FOR)))
                return 200, self._whole(lease), {}
            case "POST", "reset":
                return self._templates.answer_reset(self._book.get_active(ident), request.body)
            case "POST", "template":
                return self._templates.answer_branch(self._book.get_active(ident), request.body)
            case _, "hold":
                raise nothing_at(request, "GET")
            case _, "renew" | "keep" | "reset" | "template":
                raise nothing_at(request, "POST")
        raise nothing_at(request)

    def _acquire(self, request: ReceivedRequest) -> dict[str, Any]:
        key, body = key_of(request), checked(request.body, LEASE)
        exclusive = body.get("server") == "exclusive"
        if not exclusive and body.keys() & {"database", "user"}:
            raise invalid("body", "names can be chosen only with server: exclusive")
        if body.get("postgres", "18") not in MAJORS:
            raise Problem("version-unavailable", f"Postgres {body['postgres']} is not served here.")
        self._templates.check_sealed(body)
        pid = body.get("pid")
        if pid is not None and not self._book.sees(pid):
            raise Problem("holder-not-found", f"There is no process {pid} on the daemon's machine.")
        with self._book.keyed(key, body) as earlier:
            if earlier is not None:
                return earlier
            self._book.wait_for_room(float(body.get("wait", 60)))
            lease = self._book.new(body)
            if key is not None:
                self._book.keys[key] = (body, lease["id"])
        announced = (lease["holder"]["name"], lease["template"])
        self._to_come[announced] = max(0, self._to_come.get(announced, 0) - 1)
        return lease

    def _matching(self, request: ReceivedRequest) -> list[dict[str, Any]]:
        state, kept = one_of(request, "state", *sorted(STATES)), one_of(request, "kept", "true", "false")
        holder, labels = one_of(request, "holder"), labels_of(request)
        return [
            lease
            for lease in self._book.entries.values()
            if labels.items() <= lease["labels"].items()
            and state in {None, lease["state"]}
            and holder in {None, lease["holder"]["name"]}
            and kept in {None, "true" if lease["kept"] else "false"}
        ]

    def _lease_ended(self, lease_id: str) -> None:
        self._templates.lease_ended(lease_id)

    def _summary(self, lease: dict[str, Any]) -> dict[str, Any]:
        times = {name: as_time(lease[name]) for name in ("created_at", "expires_at", "max_expires_at", "ended_at")}
        return {name: value for name, value in lease.items() if name not in {"asked", "resets"}} | times

    def _whole(self, lease: dict[str, Any]) -> dict[str, Any]:
        return self._summary(lease) | self._told(lease)

    def _told(self, lease: dict[str, Any]) -> dict[str, Any]:
        """Return what a lease has about its login."""
        if self._login is not None:
            return self._login.told()
        return nowhere(lease["id"]).told()

    # --- stock ---

    def _answer_stock(self, request: ReceivedRequest, segments: list[str]) -> Reply:
        match request.method, segments:
            case "GET", ["servers"]:
                return 200, self._servers(), {}
            case "GET", ["servers", ident, "logs"]:
                lines = _lines(request)
                if ident != "s1":
                    raise Problem("server-not-found", f"There is no server {ident!r}.")
                return 200, "".join(f"line {number}\n" for number in range(lines)), {}
            case "GET", ["pool"]:
                return 200, self._pool(), {}
            case "PUT", ["demand"]:
                return 200, self._expect(checked(request.body, DEMAND, "count")), {}
            case _, ["servers"] | ["servers", _, "logs"] | ["pool"]:
                raise nothing_at(request, "GET")
            case _, ["demand"]:
                raise nothing_at(request, "PUT")
        raise nothing_at(request)

    def _servers(self) -> dict[str, Any]:
        servers = [described_server(len(self._book.active()))]
        return {"backend": "fake", "reason": "nothing is real here", "servers": servers}

    def _pool(self) -> dict[str, Any]:
        counts = {"ready": _READY, "making": 0, "leased": len(self._book.active())}
        hinted = sum(count for (_, template), count in self._to_come.items() if template == "base")
        return {
            **counts,
            "condemned": 0,
            "waiting": self._book.waiting,
            "max": self._book.most,
            "asleep": False,
            "demand": [{"template": "base", "target": _READY, "rate": 0.0, "hinted": hinted, "peak": 0.0}],
            "per": [{"server": "s1", "template": "base", **counts, "target": _READY}],
        }

    def _expect(self, body: dict[str, Any]) -> dict[str, Any]:
        template, holder, count = body.get("template", "base"), body.get("holder", ""), body["count"]
        if template not in self._templates.names():
            raise Problem("unknown-template", f"There is no template {template!r}.")
        self._to_come[holder, template] = count
        until = as_time(time.time() + body.get("ttl", DEFAULT_TTL))
        target = max(_READY, count)
        return {"template": template, "holder": holder, "count": count, "expires_at": until, "target": target}


def _lines(request: ReceivedRequest) -> int:
    text = request.query.get("lines", ["200"])[-1]
    if not text.isdecimal() or not 1 <= int(text) <= _MOST_LINES:
        raise invalid("lines", f"not a number from 1 to {_MOST_LINES}")
    return int(text)
