"""The I/O: runs exchanges over httpx. The only file that imports it."""

import asyncio
import os
import socket
import ssl
import time
from collections.abc import Coroutine
from typing import Any, TypeVar, cast

import httpx

import leasedb
from leasedb._discovery import Address
from leasedb._errors import ClientClosedError
from leasedb._heartbeat import AsyncHeartbeat, Heartbeat
from leasedb._protocol import Answer, Breach, Exchange, Failure, Request, Wire

T = TypeVar("T")

_CONNECT_LIMIT = 5.0  # seconds
# Requests that queue at capacity keep their connections: with a limit they would keep renewals from being sent.
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=30.0)
_CLOSE_LIMIT = 2.0  # seconds that `close` waits for releases whose callers were cancelled
_FAILURES = (httpx.HTTPError, httpx.InvalidURL, UnicodeError)  # the last one: a host name that IDNA refuses


def _options(address: Address) -> dict[str, Any]:
    headers = {"User-Agent": f"leasedb/{leasedb.__version__}"}
    if address.token is not None:
        headers["Authorization"] = f"Bearer {address.token}"
    return {
        "headers": headers,
        "limits": _LIMITS,
        # Proxies of the environment are for other machines; certificates take 20 ms to load.
        "trust_env": not address.loopback,
        "verify": address.url.startswith("https:"),
    }


def _arguments(address: Address, request: Request) -> dict[str, Any]:
    return {
        "method": request.method,
        "url": address.url + request.path,
        "params": request.params or None,
        "content": request.content(),
        "headers": request.all_headers(),
        "timeout": httpx.Timeout(request.timeout, connect=min(_CONNECT_LIMIT, request.timeout)),
    }


def _answer(response: httpx.Response) -> Answer:
    return Answer(response.status_code, response.headers, response.content)


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


class Line:
    """The way to one daemon, shared by a client and its leases; safe to use from several threads."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.wire = Wire(address)
        self.heartbeat = Heartbeat()
        self._closed = False
        self._open()

    def _open(self) -> None:
        self._pid = os.getpid()
        self._http = httpx.Client(**_options(self.address))

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
        try:
            return _answer(self._http.request(**_arguments(self.address, request)))
        except _FAILURES as error:
            return _failure(error)

    def close(self) -> None:
        """Stop renewing and close the connections; leases live on until their time is over."""
        if self._closed:
            return
        self._closed = True
        self.heartbeat.close()
        if self._pid == os.getpid():
            self._http.close()


class AsyncLine:
    """The way to one daemon, shared by a client and its leases; belongs to one event loop."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.wire = Wire(address)
        self.heartbeat = AsyncHeartbeat()
        self._closed = False
        self._http = httpx.AsyncClient(**_options(address))
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
        try:
            return _answer(await self._http.request(**_arguments(self.address, request)))
        except _FAILURES as error:
            return _failure(error)

    async def see_through(self, work: Coroutine[Any, Any, None]) -> None:
        """Await work that goes on when the caller is cancelled, also again and again as anyio's scopes do."""
        task = asyncio.get_running_loop().create_task(work)
        self._unfinished.add(task)
        task.add_done_callback(self._unfinished.discard)
        await asyncio.shield(task)

    async def close(self) -> None:
        """Stop renewing and close the connections; leases live on until their time is over."""
        if self._closed:
            return
        if self._unfinished:
            await asyncio.wait(self._unfinished, timeout=_CLOSE_LIMIT)
        self._closed = True
        await self.heartbeat.close()
        await self._http.aclose()
