"""The async forms of the fixtures, for pytest-asyncio and anyio.

What is set up is set up by the fixture of the same name without `_async`; here a test's event loop gets its own view of
it, or its own connection to it. Both plugins run async fixtures in the loop of the test, each in its own way.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from types import ModuleType
from typing import Any, Final

import pytest

import leasedb
from leasedb._plugin.fixtures import NOT_TAKEN_BACK, transaction_async

Form = Callable[[leasedb.Lease, pytest.Stash], AbstractAsyncContextManager[Any]]
LEASES: Final = pytest.StashKey[dict[str, leasedb.Lease]]()  # of a test, by the name of the form that wants one


@asynccontextmanager
async def _lease(lease: leasedb.Lease, _stash: pytest.Stash) -> AsyncIterator[leasedb.AsyncLease]:
    from leasedb._async_lease import AsyncLease  # noqa: PLC0415 - only where it is needed

    address = lease._line.address  # noqa: SLF001 - the same lease, seen from an event loop
    async with leasedb.AsyncClient(address.url, address.token) as client:
        # renewed by the one that is set up; this one is a view of it
        yield AsyncLease(client._line, lease.record, heartbeat=False)  # noqa: SLF001 - as above


@asynccontextmanager
async def _conn(lease: leasedb.Lease, _stash: pytest.Stash) -> AsyncIterator[Any]:
    from leasedb._plugin.connecting import connect_async, shortcut  # noqa: PLC0415 - it needs psycopg

    connection = await connect_async(lease.dsn, "pg_conn_async", **shortcut(lease))
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def _pool(lease: leasedb.Lease, _stash: pytest.Stash) -> AsyncIterator[Any]:
    from leasedb._plugin.connecting import pool_async, shortcut  # noqa: PLC0415 - it needs psycopg_pool

    async with pool_async(lease.dsn, **shortcut(lease)) as pool:
        yield pool


@asynccontextmanager
async def _engine(lease: leasedb.Lease, _stash: pytest.Stash) -> AsyncIterator[Any]:
    from leasedb._plugin.connecting import engine_async, shortcut  # noqa: PLC0415 - it needs SQLAlchemy

    async with engine_async(lease.urls["sqlalchemy"], connect_args=shortcut(lease)) as engine:
        yield engine


@asynccontextmanager
async def _rollback(lease: leasedb.Lease, stash: pytest.Stash) -> AsyncIterator[Any]:
    from leasedb._plugin.rollback_async import AsyncRollback  # noqa: PLC0415 - it needs psycopg

    rollback = AsyncRollback(lease.dsn)
    try:
        yield await rollback.begin()
    finally:
        why = await rollback.end()
        await rollback.close()
        if why is not None:
            stash[NOT_TAKEN_BACK] = why


FORMS: Final[dict[str, Form]] = {
    "pg_lease_async": _lease,
    "pg_session_lease_async": _lease,
    "pg_reset_async": _lease,
    "pg_truncate_async": _lease,
    "pg_conn_async": _conn,
    "pg_pool_async": _pool,
    "pg_engine_async": _engine,
    "pg_rollback_async": _rollback,
}


def awaited(request: pytest.FixtureRequest, lease: leasedb.Lease) -> Any:
    """Return the async form of the fixture that asks, set up in the loop of the test by the plugin that runs it."""
    name = str(request.fixturename)
    request.node.stash.setdefault(LEASES, {})[name] = lease
    decorate: Any
    if "anyio_backend" in request.fixturenames:
        plugin, decorate = "anyio", pytest.fixture
        backend: Any = request.getfixturevalue("anyio_backend")
        backend = backend if isinstance(backend, str) else backend[0]
        if backend != "asyncio":
            raise pytest.fail.Exception(
                f"leasedb: {name} works on asyncio, and this test runs on {backend}: have your fixture anyio_backend "
                "return 'asyncio'.",
                pytrace=False,
            )
    elif request.config.pluginmanager.hasplugin("asyncio"):
        import pytest_asyncio  # noqa: PLC0415 - an optional one

        scope = _loop_scope(request)
        plugin, decorate = f"asyncio_{scope}", partial(pytest_asyncio.fixture, loop_scope=scope)
    else:
        raise pytest.fail.Exception(
            f"leasedb: {name} is for async tests: pip install pytest-asyncio, or mark the test with anyio.",
            pytrace=False,
        )
    fixture = f"_leasedb_{plugin}_{name}"
    return _asked_for(request, fixture, lambda: decorate(name=fixture)(_function(name, FORMS[name])))


def rollback(request: pytest.FixtureRequest) -> leasedb.Lease:
    """Return the worker's lease, with a transaction that has ended by the time this is torn down.

    By way of a fixture, for `pg_rollback_async` is torn down before what it asks for.
    """

    def held(request: pytest.FixtureRequest, pg_template: Any) -> Iterator[leasedb.Lease]:
        with transaction_async(request, pg_template) as lease:
            yield lease

    fixture = "_leasedb_rollback"
    lease: leasedb.Lease = _asked_for(request, fixture, lambda: pytest.fixture(name=fixture)(held))
    return lease


def _asked_for(request: pytest.FixtureRequest, fixture: str, make: Callable[[], Any]) -> Any:
    """Return the value of a fixture that is made when it is first asked for: pytest lists all in many an error.

    It is registered in a module, for that is where pytest looks for fixtures, whatever its version.
    """
    plugins = request.config.pluginmanager
    if not plugins.hasplugin(fixture):
        module = ModuleType(fixture)
        setattr(module, fixture, make())
        plugins.register(module, fixture)
    return request.getfixturevalue(fixture)


def _loop_scope(request: pytest.FixtureRequest) -> str:
    """Return which loop of pytest-asyncio the test runs in; what is opened in another one cannot be used there."""
    marker = request.node.get_closest_marker("asyncio")
    told = marker.kwargs.get("loop_scope") or marker.kwargs.get("scope") if marker is not None else None
    with suppress(ValueError):  # an older one has no such option
        told = told or request.config.getini("asyncio_default_test_loop_scope")
    return str(told or "function")


def _function(name: str, form: Form) -> Callable[..., Any]:
    """Return an async generator; each fixture gets one of its own, for pytest-asyncio marks those that are its."""

    async def fixture(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
        stash = request.node.stash
        async with form(stash[LEASES][name], stash) as value:
            yield value

    return fixture
