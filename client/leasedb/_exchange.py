"""One request and what its answer means, without I/O.

Each call is a generator, an `Exchange`: it yields a `Request`, is sent the `Answer` or the `Failure` it met, and
returns what the call is for, or raises. Whoever runs it does the I/O, and nothing else.
"""

import json
import math
import os
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Final, Literal, Protocol, TypeVar
from urllib.parse import quote

from leasedb import _models
from leasedb._compatibility import check
from leasedb._discovery import Address, in_container, pid_space
from leasedb._errors import (
    DaemonUnreachableError,
    HolderNotFoundError,
    IdempotencyInProgressError,
    InvalidRequestError,
    LeasedbError,
    ShuttingDownError,
    UnexpectedAnswerError,
    from_problem,
)
from leasedb._models import Health

T = TypeVar("T")
Pid = int | Literal["auto"] | None

TIMEOUT: Final = 15.0  # seconds for a call that the daemon answers from memory
DEFAULT_WAIT: Final = 60.0  # what the daemon takes for `wait` when it is left out
_REPEAT_AFTER: Final = 0.2  # seconds, while an earlier request with our key is still being answered
_LONGEST_KEY: Final = 255
_STOPPING_LIMIT: Final = 10.0  # seconds that a daemon which stops may go on answering so
_MOST_LOST: Final = 2  # daemons that end while one request is made
_CONFLICT: Final = 409
_UNAVAILABLE: Final = 503


class Text(Protocol):
    """A long body, which is read while it is sent."""

    @property
    def size(self) -> int:
        """Bytes that `chunks` yields."""

    def chunks(self) -> Iterator[bytes]: ...


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request. ``timeout`` and ``pause``, to be waited before it is sent, are in seconds.

    ``start``: make sure that a daemon runs, after the pause.
    """

    method: str
    path: str
    params: tuple[tuple[str, str], ...] = ()
    json: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout: float = TIMEOUT
    pause: float = 0.0
    text: Text | None = None
    start: bool = False

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


class Calls:
    """What the calls of one client to one daemon have in common."""

    def __init__(self, address: Address, *, starts: bool = False) -> None:
        self.address = address
        self._starts = starts  # a daemon where none runs
        self._sends_pid: bool | None = None  # None: not known yet whether our pids mean something to the daemon
        self._their_space: str | None = None  # the daemon's pid_space; None: not asked yet
        self.neighbour: int | None = None  # the daemon's pid, where it is one among ours

    def health(self) -> Exchange[Health]:
        return self._met((yield from self._call(Request("GET", "/healthz"), _models.health)))

    def start(self) -> Exchange[Health]:
        """Make sure that a daemon answers which we understand."""
        health = yield from self._call(Request("GET", "/healthz"), _models.health, starts=True)
        check(health, self.address.url)
        return self._met(health)

    def _met(self, health: Health) -> Health:
        self._their_space = health.pid_space
        self.neighbour = health.pid if self._among_ours(health.pid_space) else None
        return health

    def _among_ours(self, theirs: str | None) -> bool:
        """Tell whether a pid means the same to the daemon and to us."""
        ours = pid_space()
        return self.address.loopback and (ours == theirs if ours and theirs else not in_container())

    def _call_as(self, holder: Pid, request: Request, read: Callable[[Any], T]) -> Exchange[T]:
        """Send a request with a process as the holder of what it asks for."""
        pid = (yield from self._own_pid()) if holder == "auto" else holder
        try:
            return (yield from self._call(_with_pid(request, pid), read, starts=True))
        except HolderNotFoundError:
            if holder != "auto":
                raise
        # Loopback, and yet not our machine: a daemon in a container with its port published here.
        self._sends_pid = False
        return (yield from self._call(_with_pid(request, None), read, starts=True))

    def _own_pid(self) -> Exchange[int | None]:
        if self._sends_pid is None and self.address.loopback:
            ours = pid_space()
            if ours and self._their_space is None:
                yield from self.start()
            self._sends_pid = self._among_ours(self._their_space)
        return os.getpid() if self._sends_pid else None

    def _call(
        self,
        request: Request,
        read: Callable[[Any], T],
        *,
        text: bool = False,
        done: tuple[type[LeasedbError], ...] = (),
        starts: bool = False,
    ) -> Exchange[T]:
        """Send once, and once more over a new connection; every call of the contract may be repeated.

        A lease is never taken twice: the repeated POST carries the same key, and waits for the first one's answer.

        Args:
            request: what to send.
            read: makes the result of the answer's body.
            text: the body is text, not JSON.
            done: errors that say, when the request was repeated, that the first one was carried out.
            starts: a daemon may be started for it.
        """
        reply = yield request
        repeated = isinstance(reply, Failure) and reply.kind is not Breach.TIMED_OUT
        if repeated:
            reply = yield request
        if starts and self._starts:
            reply = yield from _started(request, reply)
        for _ in range(int(request.timeout / _REPEAT_AFTER)):
            if isinstance(reply, Failure) or not _in_progress(reply):
                break
            reply = yield replace(request, pause=_REPEAT_AFTER)
        if isinstance(reply, Failure):
            raise self._unreachable(request, reply)
        try:
            if not 200 <= reply.status < 300:  # noqa: PLR2004 - what HTTP calls success
                error = self._error(request, reply)
                if not (repeated and isinstance(error, done)):
                    raise error
                return read(None)
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


def nothing(_data: object) -> None:
    """Read an answer that says nothing."""


def given(body: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what was not given."""
    return {name: value for name, value in body.items() if value is not None}


def segment(ident: str, missing: type[LeasedbError]) -> str:
    """Return an id as one segment of a path; what cannot be one would reach another route."""
    try:
        quoted = quote(ident, safe="")
    except UnicodeEncodeError:  # from a command line whose bytes are no text
        quoted = ""
    if quoted in {"", ".", ".."}:
        raise missing(f"{ident!r} is not an id.", hint="'leasedb status' lists leases and templates.")
    return quoted


def seconds(name: str, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise InvalidRequestError(f"{name!r} is {value}, which JSON cannot say.", hint="Give a number of seconds.")
    return value


def key_header(given_key: str | None) -> dict[str, str]:
    """Return the header that makes repeating a request harmless; with a new key when none is given."""
    key = str(uuid.uuid4()) if given_key is None else given_key
    if not 1 <= len(key) <= _LONGEST_KEY or not all("!" <= character <= "~" for character in key):
        raise InvalidRequestError("The idempotency_key has to be 1 to 255 visible ASCII characters.", hint="")
    return {"Idempotency-Key": key}


def _with_pid(request: Request, pid: int | None) -> Request:
    return request if pid is None else replace(request, json={**(request.json or {}), "pid": pid})


def _started(request: Request, reply: Answer | Failure) -> Exchange[Answer | Failure]:
    """Send the request to a daemon that is started for it, if the reply says that none runs, or no longer will.

    A daemon that stops, having had nothing to do for long say, answers so for a moment, and then breaks off or refuses.
    """
    lost = 0
    for _ in range(int(_STOPPING_LIMIT / _REPEAT_AFTER)):
        if isinstance(reply, Failure):
            # one that was just killed may break off twice: first the connection that was open, then a new one
            if reply.kind is Breach.TIMED_OUT or lost == _MOST_LOST:
                break
            lost += 1
            request = replace(request, start=True, pause=0.0)
        elif _shutting_down(reply):
            request = replace(request, start=True, pause=_REPEAT_AFTER)
        else:
            break
        reply = yield request
    return reply


def _shutting_down(answer: Answer) -> bool:
    return answer.status == _UNAVAILABLE and f'"{ShuttingDownError.code}"'.encode() in answer.body


def _in_progress(answer: Answer) -> bool:
    return answer.status == _CONFLICT and IdempotencyInProgressError.code.encode() in answer.body
