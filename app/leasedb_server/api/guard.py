"""What a request must be before any route sees it: from a known host, no foreign page, with the token, in JSON."""

import hmac
import ipaddress
import re
import socket
from collections.abc import Mapping
from typing import Final

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from leasedb_server.api.errors import (
    BodyTooLargeError,
    HostNotAllowedError,
    OriginNotAllowedError,
    UnauthorizedError,
    UnsupportedMediaTypeError,
    problem,
)
from leasedb_server.domain.errors import LeasedbError

BODY_LIMIT: Final = 64 * 1024  # bytes
SQL_LIMIT: Final = 16 * 1024**2  # bytes of a template's text as JSON, which has to fit into memory several times
RAW: Final = frozenset({"application/sql", "text/plain"})  # a template's text as it is, run while it comes
FORM: Final = "application/x-www-form-urlencoded"
TEMPLATES: Final = "/templates/"
OPEN_PATHS: Final = frozenset({"/healthz", "/readyz", "/docs", "/openapi.json"})  # say nothing worth a token
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?")
_OR_SQL: Final = "Send SQL text with the header Content-Type: application/sql; JSON with application/json."
LOCAL_NAMES: Final = frozenset({"localhost", "host.docker.internal", "host.containers.internal"})


class Guard:
    """ASGI middleware.

    Args:
        host: the name or address the daemon listens on; a known Host, too.
        token: what callers must send, or None.
        upload_max: bytes that the text of a template may have.
        forms: the paths that take a form as well as JSON.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        host: str,
        token: str | None,
        upload_max: int,
        forms: frozenset[str] = frozenset(),
    ) -> None:
        self._app = app
        self._forms = forms
        self._upload_max = upload_max
        self._token = token.encode() if token else None
        self._names = LOCAL_NAMES | {host.lower(), socket.gethostname().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            limit = self._check(scope, headers)
        except LeasedbError as error:
            await problem(error)(scope, receive, send)
            return
        if "content-length" not in headers and "transfer-encoding" in headers:
            receive = _limited(receive, limit)
        await self._app(scope, receive, send)

    def _check(self, scope: Scope, headers: Mapping[str, str]) -> int:
        """Return how many bytes the body may have."""
        host = headers.get("host", "")
        if not self._known(host):
            raise HostNotAllowedError(f"The Host header names {_name(host)!r}, which is not this daemon.")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise OriginNotAllowedError(f"The request comes from a page at {origin}.")
        if self._token is not None and scope["path"] not in OPEN_PATHS:
            scheme, _, sent = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(sent.strip().encode(), self._token):
                raise UnauthorizedError("This daemon asks for a token, and the one sent is missing or wrong.")
        length = headers.get("content-length", "0")
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        raw, limit = False, BODY_LIMIT
        template = scope["method"] == "PUT" and scope["path"].startswith(TEMPLATES)
        if template:
            raw = media_type in RAW
            limit = self._upload_max if raw else min(SQL_LIMIT, self._upload_max)
        if length.isdecimal() and int(length) > limit:
            raise BodyTooLargeError(f"The body has {length} bytes; {limit} are allowed.", hint=_remedy(limit))
        has_body = length != "0" or "transfer-encoding" in headers
        form = media_type == FORM and scope["path"] in self._forms
        if has_body and media_type != "application/json" and not raw and not form:
            came = f"The body came as {media_type or 'no content type'}."
            raise UnsupportedMediaTypeError(came, hint=_OR_SQL if template else None)
        return limit

    def _known(self, host: str) -> bool:
        """Tell whether the Host can be ours. An address always can: DNS rebinding needs a name to rebind."""
        if _HOST.fullmatch(host) is None:
            return False
        name = _name(host)
        if name in self._names or name.endswith(".localhost"):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _name(host: str) -> str:
    """Return the host without its port and without the brackets of IPv6."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _remedy(limit: int) -> str | None:
    if limit == BODY_LIMIT:
        return None
    if limit == SQL_LIMIT:
        return "Send the text as it is, with the header Content-Type: application/sql."
    return "Raise LEASEDB_TEMPLATE_UPLOAD_MAX, or build with POST /templates/{name}/build and psql."


def _limited(receive: Receive, limit: int) -> Receive:
    """Count a body that came without its length; the framework turns the exception into our answer."""
    seen = 0

    async def counting() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise HTTPException(413)
        return message

    return counting
