"""The HTTP side of the fake daemon: requests noted, faults played, answers written."""

import json
import select
import socket
import threading
from collections.abc import Generator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Protocol
from urllib.parse import parse_qs, urlsplit

STATUS: Final = {
    "invalid-request": 422,
    "malformed-json": 400,
    "unsupported-media-type": 415,
    "body-too-large": 413,
    "unauthorized": 401,
    "host-not-allowed": 403,
    "origin-not-allowed": 403,
    "not-found": 404,
    "method-not-allowed": 405,
    "lease-not-found": 404,
    "lease-ended": 410,
    "lease-lost": 410,
    "keep-quota": 409,
    "server-not-found": 404,
    "unknown-template": 422,
    "version-unavailable": 422,
    "holder-not-found": 422,
    "pool-exhausted": 503,
    "idempotency-mismatch": 422,
    "idempotency-in-progress": 409,
    "shutting-down": 503,
    "not-ready": 503,
    "internal-error": 500,
    "store-failed": 503,
    "server-unreachable": 503,
    "server-refused": 502,
    "backend-unavailable": 503,
    "server-start-failed": 503,
    "template-not-found": 404,
    "template-exists": 409,
    "sql-failed": 422,
    "parent-missing": 422,
    "template-cycle": 422,
    "upload-incomplete": 400,
    "template-builtin": 422,
    "template-building": 503,
    "templates-unavailable": 422,
    "template-too-large": 507,
    "build-failed": 422,
    "sessions-open": 409,
    "template-sealed": 409,
    "not-the-builder": 409,
    "template-in-use": 409,
    "exclusive-unavailable": 422,
}
PROBLEM: Final = "application/problem+json"
_TEXTS: Final = frozenset({"application/sql", "text/plain"})
_NO_CONTENT: Final = 204
_UNAVAILABLE: Final = 503
_UNAUTHORIZED: Final = 401

Lines = Generator[dict[str, Any] | None, None, None]  # None: nothing to say at present
Reply = tuple[int, Any, dict[str, str]]  # status, body (JSON, text, Lines or None), headers


class Problem(Exception):  # noqa: N818 - RFC 9457's word
    """An answer that is an error; ``more`` are its further members, ``hint`` among them."""

    def __init__(self, code: str, detail: str, *, headers: dict[str, str] | None = None, **more: Any) -> None:
        super().__init__(detail)
        self.status = STATUS[code]
        self.headers = dict(headers or {})
        if self.status == _UNAVAILABLE or code == "idempotency-in-progress":
            self.headers.setdefault("Retry-After", "1")
        if self.status == _UNAUTHORIZED:
            self.headers.setdefault("WWW-Authenticate", "Bearer")
        self.body = {
            "type": f"urn:leasedb:error:{code}",
            "title": code.replace("-", " ").capitalize(),
            "status": self.status,
            "detail": detail,
            "code": code,
            "hint": "leasedb.testing.FakeDaemon says so; docs/errors.md has what this code means.",
        } | more


def invalid(name: str, message: str) -> Problem:
    """Return the error for a field that cannot be what it is."""
    return Problem("invalid-request", f"{name}: {message}.", errors=[{"field": name, "message": message}])


def as_time(instant: float | None) -> str | None:
    """Return RFC 3339 in UTC, with milliseconds."""
    if instant is None:
        return None
    return datetime.fromtimestamp(instant, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """What was asked of the fake daemon.

    Attributes:
        query: the values of each parameter.
        body: read as JSON, or the text of SQL; None when there was none.
        headers: by their names in lower case.
    """

    method: str
    path: str
    query: dict[str, list[str]]
    body: Any
    headers: dict[str, str]


@dataclass
class Fault:
    """What to do instead of answering the next request: ``hang-up`` before or ``hang-up-after`` it was carried out.

    ``none``: answer it after all, for a fault of a later one.
    """

    kind: str = "answer"
    status: int = 500
    body: bytes = b""
    content_type: str = PROBLEM
    headers: dict[str, str] = field(default_factory=dict)


def nothing_at(request: ReceivedRequest, *methods: str) -> Problem:
    """Return the error for a path that is not there, or is there for other ``methods`` only."""
    where = f"{request.method} {request.path}"
    if methods:
        return Problem("method-not-allowed", f"{where} is not offered.", headers={"Allow": ", ".join(methods)})
    return Problem("not-found", f"There is nothing at {where}.")


class Answering(Protocol):
    """What answers the requests."""

    requests: list[ReceivedRequest]

    def next_fault(self) -> Fault | None: ...

    def answer(self, request: ReceivedRequest) -> Reply: ...


class WireServer(ThreadingHTTPServer):
    """Listens on 127.0.0.1, on any free port when ``port`` is 0."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, port: int, answering: Answering) -> None:
        self.answering = answering
        self.connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Handler)

    def run(self) -> None:
        threading.Thread(target=self.serve_forever, args=(0.01,), name="leasedb-fake-daemon", daemon=True).start()

    def break_off(self) -> None:
        """Listen no more, and break the connections there are."""
        self.shutdown()
        self.server_close()
        for connection in list(self.connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: WireServer

    def log_message(self, *_args: Any) -> None:
        """Say nothing."""

    def _handle(self) -> None:
        answering = self.server.answering
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request, problem = self._received(raw)
        answering.requests.append(request)
        fault = answering.next_fault()
        if fault is not None and fault.kind == "none":
            fault = None
        if fault is not None and fault.kind == "hang-up":
            self.close_connection = True
            return
        if fault is not None and fault.kind == "answer":
            self._write(fault.status, fault.body, fault.content_type, fault.headers)
            return
        try:
            if problem is not None:
                raise problem
            reply = answering.answer(request)
        except Problem as refused:
            if fault is None:
                self._write(refused.status, json.dumps(refused.body).encode(), PROBLEM, refused.headers)
            return
        if fault is not None:
            self.close_connection = True
        else:
            self._reply(*reply)

    do_GET = do_POST = do_DELETE = do_PUT = do_PATCH = _handle  # noqa: N815 - the names http.server looks for

    def _received(self, raw: bytes) -> tuple[ReceivedRequest, Problem | None]:
        parts = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        body, problem = None, None
        if kind in _TEXTS and parts.path.startswith("/templates/"):
            body = raw.decode()
        elif raw and kind != "application/json":
            problem = Problem("unsupported-media-type", "The body is not declared as JSON.")
        elif raw:
            try:
                body = json.loads(raw)
            except ValueError:
                problem = Problem("malformed-json", "The body could not be read as JSON.")
        return ReceivedRequest(self.command, parts.path, parse_qs(parts.query), body, headers), problem

    def _reply(self, status: int, body: Any, headers: dict[str, str]) -> None:
        if isinstance(body, Generator):
            self._stream(status, body, headers)
        elif isinstance(body, str):
            self._write(status, body.encode(), "text/plain; charset=utf-8", headers)
        else:
            self._write(status, b"" if body is None else json.dumps(body).encode(), "application/json", headers)

    def _write(self, status: int, body: bytes, content_type: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != _NO_CONTENT:
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, status: int, lines: Lines, headers: dict[str, str]) -> None:
        """Write lines as they come, until there are no more or the caller has hung up."""
        self.close_connection = True
        try:
            self.send_response(status)
            for name, value in {**headers, "Content-Type": "application/x-ndjson", "Connection": "close"}.items():
                self.send_header(name, value)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for line in lines:
                if self._hung_up():
                    return
                if line is not None:
                    text = json.dumps(line).encode() + b"\n"
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(text), text))
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            return
        finally:
            lines.close()

    def _hung_up(self) -> bool:
        readable, _, _ = select.select([self.connection], [], [], 0)
        return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)
