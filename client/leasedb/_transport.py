"""The I/O: runs exchanges over httpx. The only file that imports it."""

import asyncio
import importlib
import os
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import httpx

import leasedb
from leasedb._discovery import Address, can_start
from leasedb._errors import ClientClosedError
from leasedb._exchange import Answer, Breach, Exchange, Failure, Request
from leasedb._heartbeat import AsyncHeartbeat, Heartbeat
from leasedb._protocol import Wire

if TYPE_CHECKING:
    from leasedb._starting import Starter

T = TypeVar("T")

_CONNECT_LIMIT = 5.0  # seconds
# Requests that queue at capacity keep their connections: with a limit they would keep renewals from being sent.
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=30.0)
_CLOSE_LIMIT = 2.0  # seconds that `close` waits for releases whose callers were cancelled
_FAILURES = (httpx.HTTPError, httpx.InvalidURL, UnicodeError)  # the last one: a host name that IDNA refuses


class _Outgoing:
    """Makes what httpx sends of a request, with no header but those the daemon reads."""

    def __init__(self, address: Address) -> None:
        self._url = address.url
        self._headers = {"User-Agent": f"leasedb/{leasedb.__version__}"}
        if address.token is not None:
            self._headers["Authorization"] = f"Bearer {address.token}"

    def __call__(
        self, request: Request, stream: Callable[[Iterator[bytes]], Iterator[bytes] | AsyncIterator[bytes]]
    ) -> httpx.Request:
        limit = request.timeout
        timeout = {"connect": min(_CONNECT_LIMIT, limit), "read": limit, "write": limit, "pool": limit}
        headers = {**self._headers, **request.all_headers()}
        if request.text is not None:
            headers["Content-Length"] = str(request.text.size)  # not chunked: the daemon can refuse at once
        return httpx.Request(
            request.method,
            self._url + request.path,
            params=request.params or None,
            headers=headers,
            content=request.content() if request.text is None else stream(request.text.chunks()),
            extensions={"timeout": timeout},
        )


def _as_it_is(chunks: Iterator[bytes]) -> Iterator[bytes]:
    return chunks


async def _awaited(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
        yield chunk


def _options(address: Address) -> dict[str, Any]:
    return {
        "limits": _LIMITS,
        # Proxies of the environment are for other machines; certificates take 20 ms to load.
        "trust_env": not address.loopback,
        "verify": address.url.startswith("https:"),
    }


def _failure(error: Exception) -> Failure:
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.InvalidURL | UnicodeError):
        kind = Breach.NO_CONNECTION
    elif isinstance(error, httpx.TimeoutException):
        kind = Breach.TIMED_OUT
    else:
        kind = Breach.BROKEN
    return Failure(kind, _reason(error))


def _reason(error: BaseException) -> str:
    """Return the operating system's own words where there are any; libraries wrap them in several layers."""
    if isinstance(error, httpx.ConnectTimeout):
        return "no connection in time"
    told = str(error) or type(error).__name__
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, BaseExceptionGroup):
            inner = cast("BaseExceptionGroup[BaseException]", inner).exceptions[0]
        if isinstance(inner, OSError) and inner.strerror:
            own_numbers = isinstance(inner, socket.gaierror | ssl.SSLError)
            # asyncio says "Connect call failed (...)" where the system says "Connection refused"
            told = inner.strerror if own_numbers or not inner.errno else os.strerror(inner.errno)
        inner = inner.__cause__ or inner.__context__
    return told.rstrip(".")


def _starter(address: Address, autostart: "bool | Starter") -> "Starter":
    if not isinstance(autostart, bool):
        return autostart
    starter: Starter = importlib.import_module("leasedb._starting").Starter.at(address)  # most never need it
    return starter


def _log(wire: Wire, autostart: "bool | Starter") -> Path | None:
    if wire.neighbour is None or not can_start(wire.address):
        return None
    starter = _starter(wire.address, autostart)
    return starter.log if starter.started(wire.neighbour) else None


class Line:
    """The way to one daemon, shared by a client and its leases; safe to use from several threads.

    Args:
        address: of the daemon.
        autostart: whether, or by whom, it is started when it does not run.
    """

    def __init__(self, address: Address, autostart: "bool | Starter" = False) -> None:  # noqa: FBT002 - or who
        self.address = address
        self.wire = Wire(address, starts=bool(autostart))
        self._autostart = autostart
        self.heartbeat = Heartbeat()
        self._outgoing = _Outgoing(address)
        self._closed = False
        self._http: httpx.HTTPTransport | httpx.Client
        self._open()

    def _open(self) -> None:
        self._pid = os.getpid()
        options = _options(self.address)
        # To a daemon on this machine without httpx's cookies, redirects and proxies: a third of what a call costs us.
        self._http = httpx.HTTPTransport(**options) if self.address.loopback else httpx.Client(**options)

    def run(self, exchange: Exchange[T]) -> T:
        """Carry an exchange out.

        Raises:
            LeasedbError: as the exchange says.
        """
        try:
            request = next(exchange)
            while True:
                request = exchange.send(self._send(request))
        except StopIteration as done:
            return cast("T", done.value)

    def _send(self, request: Request) -> Answer | Failure:
        if self._closed:
            raise ClientClosedError("This client is closed.", hint="Use it inside its 'with' block.")
        if self._pid != os.getpid():
            # The parent's connections: two processes that read from one would take each other's answers. The old
            # client is not closed, for a lock in it may have been held by another thread when we were forked.
            self._parents = self._http
            self._open()
        if request.pause:
            time.sleep(request.pause)
        if request.start:
            _starter(self.address, self._autostart).start()
        try:
            return self._fetch(self._outgoing(request, _as_it_is))
        except _FAILURES as error:
            return _failure(error)

    def _fetch(self, request: httpx.Request) -> Answer:
        if isinstance(self._http, httpx.Client):
            response = self._http.send(request)
            return Answer(response.status_code, response.headers, response.content)
        response = self._http.handle_request(request)
        stream = cast("httpx.SyncByteStream", response.stream)
        try:
            return Answer(response.status_code, response.headers, b"".join(stream))
        finally:
            stream.close()

    @property
    def log(self) -> Path | None:
        return _log(self.wire, self._autostart)

    def close(self) -> None:
        """Stop renewing and close the connections; leases live on until their time is over."""
        if self._closed:
            return
        self._closed = True
        self.heartbeat.close()
        if self._pid == os.getpid():
            self._http.close()


class AsyncLine:
    """The way to one daemon, shared by a client and its leases; belongs to one event loop. Takes what `Line` does."""

    def __init__(self, address: Address, autostart: "bool | Starter" = False) -> None:  # noqa: FBT002 - or who
        self.address = address
        self.wire = Wire(address, starts=bool(autostart))
        self._autostart = autostart
        self.heartbeat = AsyncHeartbeat()
        self._outgoing = _Outgoing(address)
        self._closed = False
        options = _options(address)
        # as in `Line`
        self._http = httpx.AsyncHTTPTransport(**options) if address.loopback else httpx.AsyncClient(**options)
        self._unfinished: set[asyncio.Task[None]] = set()

    async def run(self, exchange: Exchange[T]) -> T:
        """Carry an exchange out.

        Raises:
            LeasedbError: as the exchange says.
        """
        try:
            request = next(exchange)
            while True:
                request = exchange.send(await self._send(request))
        except StopIteration as done:
            return cast("T", done.value)

    async def _send(self, request: Request) -> Answer | Failure:
        if self._closed:
            raise ClientClosedError("This client is closed.", hint="Use it inside its 'async with' block.")
        if request.pause:
            await asyncio.sleep(request.pause)
        if request.start:
            await self._start()
        try:
            if request.text is None:
                return await self._fetch(self._outgoing(request, _awaited))
            # its files are read to see how much they are
            return await self._fetch(await asyncio.to_thread(self._outgoing, request, _awaited))
        except _FAILURES as error:
            return _failure(error)

    async def _start(self) -> None:
        given_up = threading.Event()
        try:
            await asyncio.to_thread(_starter(self.address, self._autostart).start, given_up)
        finally:
            given_up.set()  # cancelled: a thread that waits on would keep the loop, and the program, from ending

    async def _fetch(self, request: httpx.Request) -> Answer:
        if isinstance(self._http, httpx.AsyncClient):
            response = await self._http.send(request)
            return Answer(response.status_code, response.headers, response.content)
        response = await self._http.handle_async_request(request)
        stream = cast("httpx.AsyncByteStream", response.stream)
        try:
            return Answer(response.status_code, response.headers, b"".join([part async for part in stream]))
        finally:
            await stream.aclose()

    async def see_through(self, work: Coroutine[Any, Any, None]) -> None:
        """Await work that goes on when the caller is cancelled, also again and again as anyio's scopes do."""
        task = asyncio.get_running_loop().create_task(work)
        self._unfinished.add(task)
        task.add_done_callback(self._unfinished.discard)
        await asyncio.shield(task)

    @property
    def log(self) -> Path | None:
        return _log(self.wire, self._autostart)

    async def close(self) -> None:
        """Stop renewing and close the connections; leases live on until their time is over."""
        if self._closed:
            return
        if self._unfinished:
            await asyncio.wait(self._unfinished, timeout=_CLOSE_LIMIT)
        self._closed = True
        await self.heartbeat.close()
        await self._http.aclose()
