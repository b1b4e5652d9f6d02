"""The HTTP side of the stand-in: requests noted, faults played, answers written."""

import json
import socket
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

STATUS = {
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


Reply = tuple[int, Any, dict[str, str]]  # status, body, headers


class Problem(Exception):  # noqa: N818 - RFC 9457's word
    def __init__(self, code: str, detail: str, *, headers: dict[str, str] | None = None, **more: Any) -> None:
        super().__init__(detail)
        self.status = STATUS[code]
        self.headers = headers or {}
        title = code.replace("-", " ").capitalize()
        self.body = {"title": title, "status": self.status, "detail": detail, "code": code, "hint": "Do this."} | more


def as_time(instant: float | None) -> str | None:
    if instant is None:
        return None
    return datetime.fromtimestamp(instant, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass
class Seen:
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
    content_type: str = "application/problem+json"
    headers: dict[str, str] = field(default_factory=dict)


class Answering(Protocol):
    """What answers the requests."""

    seen: list[Seen]

    def next_fault(self) -> Fault | None: ...

    def answer(self, seen: Seen) -> Reply: ...


class WireServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, port: int, stand_in: Answering) -> None:
        self.stand_in = stand_in
        self.connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Handler)

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
        stand_in = self.server.stand_in
        parts = urlsplit(self.path)
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        text = headers.get("content-type") == "application/sql"
        body = raw.decode() if text else json.loads(raw) if raw else None
        seen = Seen(self.command, parts.path, parse_qs(parts.query), body, headers)
        stand_in.seen.append(seen)
        fault = stand_in.next_fault()
        if fault is not None and fault.kind == "none":
            fault = None
        if fault is not None and fault.kind == "hang-up":
            self.close_connection = True
            return
        if fault is not None and fault.kind == "answer":
            self._answer(fault.status, fault.body, fault.content_type, fault.headers)
            return
        try:
            status, answer, more = stand_in.answer(seen)
        except Problem as problem:
            if fault is None:
                body = json.dumps(problem.body).encode()
                self._answer(problem.status, body, "application/problem+json", problem.headers)
            return
        if fault is not None:
            self.close_connection = True
        elif isinstance(answer, str):
            self._answer(status, answer.encode(), "text/plain; charset=utf-8", more)
        else:
            self._answer(status, b"" if answer is None else json.dumps(answer).encode(), "application/json", more)

    do_GET = do_POST = do_DELETE = do_PUT = _handle  # noqa: N815 - the names http.server looks for

    def _answer(self, status: int, body: bytes, content_type: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
