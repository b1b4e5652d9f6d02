"""What to send and what an answer means, without I/O: the part that both clients share.

Each call is a generator, an `Exchange`: it yields a `Request`, is sent the `Answer` or the `Failure` it met, and
returns what the call is for, or raises. Whoever runs it does the I/O, and nothing else.
"""

import json
import math
import os
import uuid
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Final, Literal, TypeVar
from urllib.parse import quote

from leasedb import _models
from leasedb._discovery import Address, default_holder, in_container, pid_space
from leasedb._errors import (
    DaemonUnreachableError,
    HolderNotFoundError,
    IdempotencyInProgressError,
    InvalidRequestError,
    LeasedbError,
    LeaseEndedError,
    LeaseNotFoundError,
    ServerNotFoundError,
    UnexpectedAnswerError,
    from_problem,
)
from leasedb._models import Demand, Health, LeaseRecord, LeaseSummary, Pool, Readiness, Servers

T = TypeVar("T")
Pid = int | Literal["auto"] | None

_TIMEOUT: Final = 15.0  # seconds for a call that the daemon answers from memory
_SYNC_TIMEOUT: Final = 120.0  # a drop may wait for a checkpoint, and for others' drops
_DEFAULT_WAIT: Final = 60.0  # what the daemon takes for `wait` when it is left out
_REPEAT_AFTER: Final = 0.2  # seconds, while an earlier request with our key is still being answered
_LONGEST_KEY: Final = 255
_CONFLICT: Final = 409


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request. ``timeout`` and ``pause``, to be waited before it is sent, are in seconds."""

    method: str
    path: str
    params: tuple[tuple[str, str], ...] = ()
    json: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout: float = _TIMEOUT
    pause: float = 0.0

    def content(self) -> bytes | None:
        return None if self.json is None else json.dumps(self.json, separators=(",", ":")).encode()

    def all_headers(self) -> dict[str, str]:
        return {**self.headers, **({} if self.json is None else {"Content-Type": "application/json"})}


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer; the names of ``headers`` are looked up in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Breach(Enum):
    """How a request failed without an answer."""

    NO_CONNECTION = "no connection"
    BROKEN = "broken"
    TIMED_OUT = "timed out"


@dataclass(frozen=True, slots=True)
class Failure:
    kind: Breach
    reason: str


Exchange = Generator[Request, Answer | Failure, T]


class Wire:
    """The calls of one client to one daemon."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._sends_pid: bool | None = None  # None: not known yet whether our pids mean something to the daemon
        self._their_space: str | None = None  # the daemon's pid_space; None: not asked yet

    # --- leases ---

    def acquire(
        self,
        *,
        template: str,
        ttl: float | None,
        wait: float | None,
        holder: str | None,
        labels: Mapping[str, str] | None,
        postgres: str | None,
        pid: Pid,
        idempotency_key: str | None,
    ) -> Exchange[LeaseRecord]:
        body: dict[str, Any] = {
            "template": template,
            "ttl": _seconds("ttl", ttl),
            "wait": _seconds("wait", wait),
            "holder": default_holder() if holder is None else holder,
            "labels": dict(labels) if labels else None,
            "postgres": postgres,
            "pid": (yield from self._own_pid()) if pid == "auto" else pid,
        }
        request = Request(
            "POST",
            "/leases",
            json={name: value for name, value in body.items() if value is not None},
            headers={"Idempotency-Key": _key(idempotency_key)},
            timeout=(_DEFAULT_WAIT if wait is None else wait) + _TIMEOUT,
        )
        try:
            return (yield from self._call(request, _models.lease_record))
        except HolderNotFoundError:
            if pid != "auto":
                raise
        # Loopback, and yet not our machine: a daemon in a container with its port published here.
        self._sends_pid = False
        body["pid"] = None
        request = replace(request, json={name: value for name, value in body.items() if value is not None})
        return (yield from self._call(request, _models.lease_record))

    def _own_pid(self) -> Exchange[int | None]:
        if self._sends_pid is None and self.address.loopback:
            ours = pid_space()
            if ours and self._their_space is None:
                yield from self.health()
            theirs = self._their_space
            self._sends_pid = ours == theirs if ours and theirs else not in_container()
        return os.getpid() if self._sends_pid else None

    def get(self, lease_id: str) -> Exchange[LeaseRecord]:
        return self._call(Request("GET", _lease_path(lease_id)), _models.lease_record)

    def leases(
        self, *, state: str | None, holder: str | None, labels: Mapping[str, str] | None
    ) -> Exchange[list[LeaseSummary]]:
        given = [(name, value) for name, value in (("state", state), ("holder", holder)) if value is not None]
        return self._call(Request("GET", "/leases", params=(*given, *_label_params(labels))), _models.lease_summaries)

    def renew(self, lease_id: str, ttl: float | None, timeout: float = _TIMEOUT) -> Exchange[LeaseRecord]:
        """Renew; an error that says the lease has ended also carries how, when the daemon still knows."""
        body = None if ttl is None else {"ttl": _seconds("ttl", ttl)}
        request = Request("POST", f"{_lease_path(lease_id)}/renew", json=body, timeout=timeout)
        try:
            return (yield from self._call(request, _models.lease_record))
        except LeaseEndedError as error:
            try:
                error.lease = yield from self.get(lease_id)
            except LeasedbError:
                error.lease = None
            raise

    def release(self, lease_id: str, *, sync: bool) -> Exchange[None]:
        return self._call(Request("DELETE", _lease_path(lease_id), **_sync(sync)), _nothing)

    def release_all(self, labels: Mapping[str, str], *, sync: bool) -> Exchange[int]:
        if not labels:
            raise InvalidRequestError("release_all needs at least one label.", hint="It releases what has all of them.")
        options = _sync(sync)
        options["params"] = (*_label_params(labels), *options.get("params", ()))
        return self._call(Request("DELETE", "/leases", **options), lambda data: int(data["released"]))

    # --- servers, stock, health ---

    def servers(self) -> Exchange[Servers]:
        return self._call(Request("GET", "/servers"), _models.servers)

    def server_logs(self, server_id: str, lines: int) -> Exchange[str]:
        path = f"/servers/{_segment(server_id, ServerNotFoundError)}/logs"
        return self._call(Request("GET", path, params=(("lines", str(lines)),)), str, text=True)

    def pool(self) -> Exchange[Pool]:
        return self._call(Request("GET", "/pool"), _models.pool)

    def expect(self, count: int, *, template: str, holder: str | None, ttl: float | None) -> Exchange[Demand]:
        body = {
            "template": template,
            "count": count,
            "holder": default_holder() if holder is None else holder,
            "ttl": _seconds("ttl", ttl),
        }
        given = {name: value for name, value in body.items() if value is not None}
        return self._call(Request("PUT", "/demand", json=given), _models.demand)

    def health(self) -> Exchange[Health]:
        health = yield from self._call(Request("GET", "/healthz"), _models.health)
        self._their_space = health.pid_space
        return health

    def ready(self) -> Exchange[Readiness]:
        return self._call(Request("GET", "/readyz"), _models.readiness)

    # --- what an answer means ---

    def _call(self, request: Request, read: Callable[[Any], T], *, text: bool = False) -> Exchange[T]:
        """Send once, and once more over a new connection; every call of the contract may be repeated.

        A lease is never taken twice: the repeated POST carries the same key, and waits for the first one's answer.
        """
        reply = yield request
        if isinstance(reply, Failure) and reply.kind is not Breach.TIMED_OUT:
            reply = yield request
        for _ in range(int(request.timeout / _REPEAT_AFTER)):
            if isinstance(reply, Failure) or not _in_progress(reply):
                break
            reply = yield replace(request, pause=_REPEAT_AFTER)
        if isinstance(reply, Failure):
            raise self._unreachable(request, reply)
        if not 200 <= reply.status < 300:  # noqa: PLR2004 - what HTTP calls success
            raise self._error(request, reply)
        try:
            return read(reply.body.decode() if text else json.loads(reply.body) if reply.body else None)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise self._unexpected(request, reply) from None

    def _error(self, request: Request, answer: Answer) -> LeasedbError:
        try:
            problem = json.loads(answer.body)
        except ValueError:
            problem = None
        if not isinstance(problem, dict) or "code" not in problem:
            return self._unexpected(request, answer)
        return from_problem(answer.status, problem, answer.headers.get("retry-after"))

    def _unexpected(self, request: Request, answer: Answer) -> UnexpectedAnswerError:
        kind = answer.headers.get("content-type", "").partition(";")[0] or "no content type"
        start = " ".join(answer.body[:200].decode("utf-8", "replace").split())[:80]
        shown = f": {start!r}" if start else ""
        return UnexpectedAnswerError(
            f"What answers at {self.address.url} is not a leasedb daemon that this client understands: "
            f"{request.method} {request.path} got HTTP {answer.status}, {kind}{shown}.",
            status=answer.status,
            hint="Set LEASEDB_URL to the daemon's address, or start one on another port: leasedb serve --port PORT",
        )

    def _unreachable(self, request: Request, failure: Failure) -> DaemonUnreachableError:
        url, call = self.address.url, f"{request.method} {request.path}"
        if failure.kind is Breach.TIMED_OUT:
            return DaemonUnreachableError(
                f"The daemon at {url} did not answer {call} within {request.timeout:g} s.",
                hint="Its log may say why; 'leasedb doctor' checks it.",
            )
        where = "" if self.address.loopback else " there"
        hint = f"Start one{where} with: leasedb serve (or set LEASEDB_URL to where one runs)"
        if failure.kind is Breach.BROKEN:
            return DaemonUnreachableError(f"The daemon at {url} broke off {call}: {failure.reason}.", hint=hint)
        return DaemonUnreachableError(f"No leasedb daemon answers at {url}: {failure.reason}.", hint=hint)


def _in_progress(answer: Answer) -> bool:
    return answer.status == _CONFLICT and IdempotencyInProgressError.code.encode() in answer.body


def _nothing(_data: object) -> None:
    return None


def _sync(sync: bool) -> dict[str, Any]:  # noqa: FBT001 - the wire's own word
    return {"params": (("sync", "true"),), "timeout": _SYNC_TIMEOUT} if sync else {}


def _label_params(labels: Mapping[str, str] | None) -> list[tuple[str, str]]:
    return [("label", f"{key}:{value}") for key, value in (labels or {}).items()]


def _segment(ident: str, missing: type[LeasedbError]) -> str:
    """Return an id as one segment of a path; what cannot be one would reach another route."""
    if ident in {"", ".", ".."}:
        raise missing(f"{ident!r} is not an id.")
    return quote(ident, safe="")


def _lease_path(lease_id: str) -> str:
    return f"/leases/{_segment(lease_id, LeaseNotFoundError)}"


def _seconds(name: str, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise InvalidRequestError(f"{name!r} is {value}, which JSON cannot say.", hint="Give a number of seconds.")
    return value


def _key(given: str | None) -> str:
    key = str(uuid.uuid4()) if given is None else given
    if not 1 <= len(key) <= _LONGEST_KEY or not all("!" <= character <= "~" for character in key):
        raise InvalidRequestError("The idempotency_key has to be 1 to 255 visible ASCII characters.", hint="")
    return key
