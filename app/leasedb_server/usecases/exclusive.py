"""Servers that are leased as a whole, kept warm in a pool of their own, and thrown away afterwards."""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, Final

from leasedb_server.domain.database import Database, DatabaseState
from leasedb_server.domain.errors import (
    ExclusiveUnavailableError,
    LeasedbError,
    PoolExhaustedError,
    ServerUnreachableError,
    ShuttingDownError,
)
from leasedb_server.domain.lease import Lease
from leasedb_server.domain.names import Kind, Name, new_ident, new_password
from leasedb_server.domain.server import Server, ServerState
from leasedb_server.domain.setbacks import Setbacks
from leasedb_server.domain.waiting import LONGEST
from leasedb_server.ports import Clock, DatabaseAdmin
from leasedb_server.usecases.asking import CallerGone, CallerGoneError, LeaseRequest
from leasedb_server.usecases.copies import Copies
from leasedb_server.usecases.leasing import Leasing
from leasedb_server.usecases.ledger import Ledger
from leasedb_server.usecases.making import Making
from leasedb_server.usecases.serving import Serving

log = logging.getLogger(__name__)

MOST_BEYOND: Final = 8  # servers at once, beyond those that are kept warm: the next callers wait
START: Final = "start of an exclusive server"
Work = Coroutine[None, None, object]


@dataclass(slots=True, eq=False)
class _Waiter:
    edition: str
    server: "asyncio.Future[Server]"


class Exclusives:
    """The pool of servers that are leased as a whole.

    Args:
        leasing: tells here when such a lease ends.
        setbacks: what failed lately.
        daemon: the daemon's id.
        warm: servers of the default edition to keep ready.
        secured: whether callers need a token.
        wake: tells upkeep that there is something to do.
    """

    def __init__(
        self,
        ledger: Ledger,
        admin: DatabaseAdmin,
        clock: Clock,
        *,
        serving: Serving,
        making: Making,
        copies: Copies,
        leasing: Callable[[], Leasing],
        setbacks: Setbacks,
        daemon: str,
        warm: int,
        secured: bool,
        wake: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._inventory = ledger.inventory
        self._admin = admin
        self._clock = clock
        self._serving = serving
        self._making = making
        self._copies = copies
        self._leasing = leasing
        self._setbacks = setbacks
        self._daemon = daemon
        self._warm = warm
        self._secured = secured
        self._wake = wake
        self._waiters: list[_Waiter] = []
        self._taken: set[str] = set()  # servers in somebody's hands
        self._ending: set[asyncio.Future[None]] = set()
        self._closing = False
        leasing().at_close.append(self.close)

    def __repr__(self) -> str:
        return f"Exclusives({len(self._servers())} servers, {len(self._waiters)} wait)"

    # --- acquiring ---

    async def acquire(self, request: LeaseRequest, caller_gone: CallerGone) -> Lease:
        """Lease a whole server: its superuser's login, and a database on it that is a clone of the template.

        Raises:
            LeasedbError: as documented for ``POST /leases``.
            CallerGoneError: when the caller hung up while it waited.
        """
        leasing = self._leasing()
        await leasing.until_taken_over(request.wait)
        request = leasing.checked(request)
        if self._serving.kind and not self._serving.backend.disposable:
            raise ExclusiveUnavailableError(
                f"No whole server can be leased here: the backend {self._serving.kind} lends one server to all."
            )
        if self._serving.kind and not (self._serving.backend.confined or self._secured or self._warm):
            raise ExclusiveUnavailableError(
                "No whole server can be leased here: its superuser may run programs as the user that all embedded"
                " servers run as, and whoever reaches the daemon's port may ask for one.",
                hint="Stop the daemon ('leasedb stop'), set LEASEDB_POOL_EXCLUSIVE=1 or LEASEDB_TOKEN, or"
                " LEASEDB_BACKEND=container where Docker or Podman is, and run again.",
            )
        return await leasing.once(request, caller_gone, self._lease)

    async def _lease(self, request: LeaseRequest, caller_gone: CallerGone) -> Lease:
        server = await self._server(request, caller_gone)
        gone = asyncio.ensure_future(caller_gone())
        try:
            with self._copies.held(request.stock):
                await self._copies.bring(server, request.stock)
                database = await self._create(server, request)
                _check_caller(gone)
                return await self._leasing().enter(database, request)
        except BaseException:
            with contextlib.suppress(LeasedbError):  # it is tried again
                await self.throw_away(server.id)
            raise
        finally:
            gone.cancel()

    async def _create(self, server: Server, request: LeaseRequest) -> Database:
        ident = new_ident()
        name = str(Name(self._daemon, Kind.DATABASE, ident))
        database = Database(
            ident, server.id, request.stock, request.database or name, request.user or name, new_password()
        )
        copy = self._inventory.sealed_on(server.id, request.stock)
        if copy is None:
            raise ServerUnreachableError(f"Template {request.template!r} is gone from its server.")
        await self._ledger.add_database(database)
        way = await self._making.way(server.id, request.stock)
        await self._admin.create_exclusive(server.id, copy.database, database, way)
        await self._ledger.put_database(database := database.to(DatabaseState.READY))
        self._inventory.put_database(database := database.to(DatabaseState.LEASED))
        return database

    async def _server(self, request: LeaseRequest, caller_gone: CallerGone) -> Server:
        """Return a server that nobody has, in turn."""
        end = asyncio.get_running_loop().time() + request.wait
        while True:
            server = await self._once(request, end, caller_gone)
            if self._inventory.servers.get(server.id) is server:
                return server
            self._taken.discard(server.id)  # it was lost after the hand-over and before this ran

    async def _once(self, request: LeaseRequest, end: float, caller_gone: CallerGone) -> Server:
        if self._closing:
            raise ShuttingDownError("The daemon is stopping and leases nothing any more.")
        waiter = _Waiter(request.edition, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        self.serve()
        self._wake()
        gone = asyncio.ensure_future(caller_gone())
        accepted = False
        try:
            either: set[asyncio.Future[Any]] = {waiter.server, gone}
            rest = max(0.0, end - asyncio.get_running_loop().time())
            await asyncio.wait(either, timeout=rest, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                raise CallerGoneError
            if not waiter.server.done():
                raise self._exhausted(request, waiter)
            server, accepted = waiter.server.result(), True
            return server
        finally:
            gone.cancel()
            self._waiters.remove(waiter)
            if not accepted and waiter.server.done() and not waiter.server.exception():
                self._taken.discard(waiter.server.result().id)
                self.serve()

    def _exhausted(self, request: LeaseRequest, waiter: _Waiter) -> PoolExhaustedError:
        place = [one for one in self._waiters if one.edition == waiter.edition].index(waiter) + 1
        trouble = self._setbacks.get(f"{START} {request.edition}")
        return PoolExhaustedError(
            f"No server came free within {request.wait:g} s: {len(self._servers())} are leased as a whole or starting,"
            f" at most {self._warm + MOST_BEYOND} may be, and this request was number {place} in line."
            f"{' The latest trouble: ' + trouble.error if trouble else ''}",
            retry_after=min(LONGEST, 5),
            position=place,
            hint="Wait longer with 'wait', or release leases; with LEASEDB_POOL_EXCLUSIVE a daemon keeps servers warm.",
        )

    def serve(self) -> None:
        """Hand servers to those who wait, the first come first."""
        for waiter in self._waiters:
            if waiter.server.done():
                continue
            idle = next((server for server in self._idle() if server.edition == waiter.edition), None)
            if idle is not None:
                self._taken.add(idle.id)
                waiter.server.set_result(idle)

    def close(self) -> None:
        """Refuse those who wait."""
        self._closing = True
        for waiter in self._waiters:
            if not waiter.server.done():
                waiter.server.set_exception(ShuttingDownError("The daemon is stopping and leases nothing any more."))

    # --- afterwards ---

    async def throw_away(self, server_id: str) -> None:
        """Take a server away; another is started in its place when it is needed.

        Raises:
            LeasedbError: when it could not be done now; it is tried again.
        """
        server = self._inventory.servers.get(server_id)
        if server is None or server.state is ServerState.STOPPING:
            return
        server = await self._serving.condemn(server)
        # Goes on when whoever asked for it has waited for too long.
        ending = asyncio.ensure_future(self._serving.stop(server))
        self._ending.add(ending)
        ending.add_done_callback(self._ended)
        await asyncio.shield(ending)
        self._taken.discard(server_id)

    def _ended(self, ending: asyncio.Future[None]) -> None:
        self._ending.discard(ending)
        error = None if ending.cancelled() else ending.exception()  # seen, also when nobody waits any more
        if error is not None:  # the server is lost then, and taken away later
            log.warning("a server that was leased as a whole could not be taken away: %s", error)
        self._wake()

    async def ended(self) -> None:
        """Return when nothing is being taken away any more."""
        await asyncio.gather(*self._ending, return_exceptions=True)

    async def reset(self, database: Database, stock: str) -> int:
        """Undo all that was done on the lease's server; return how many sessions were ended.

        Raises:
            LeasedbError: the lease may not be able to log in then, until it is reset again.
        """
        server = self._inventory.server_of(database)
        with self._copies.held(stock):
            copy = await self._copies.bring(server, stock)
            self._check_there(database)
            # Its own partner: whoever finds it so can tell that a reset has begun.
            await self._ledger.put_leased(begun := replace(database, partner=database.id))
            number = await self._clean(begun, copy.database)
        self._check_there(begun)
        await self._ledger.put_leased(replace(database, partner=None))
        return number

    def _check_there(self, database: Database) -> None:
        """Raise when the database went with its server meanwhile."""
        if self._inventory.databases.get(database.id) is not database:
            raise ServerUnreachableError(f"The server of database {database.name} was lost.")

    async def finish(self, database: Database) -> None:
        """End a reset that an earlier daemon began."""
        copy = self._inventory.sealed_on(database.server_id, database.template)
        if copy is None:
            raise ServerUnreachableError(f"Template {database.template!r} is gone from its server.")
        await self._clean(database, copy.database)
        await self._ledger.put_leased(replace(database, partner=None))

    async def _clean(self, database: Database, template_database: str) -> int:
        keep = frozenset(copy.database for copy in self._inventory.copies_of(database.server_id))
        return await self._admin.reset_exclusive(database.server_id, template_database, database, keep)

    # --- what is due ---

    async def due(self) -> AsyncIterator[Work]:
        """Write down what is going to be done so that servers are ready, now and for those to come; yield the rest."""
        now = self._clock.now()
        for server in self._servers():
            lost = server.state is ServerState.LOST
            setback = self._setbacks.get(server.id)
            if lost and (setback is None or setback.retry_at <= now):
                yield self._take_away(await self._serving.condemn(server))
        if not self._serving.kind or not self._serving.backend.disposable or self._closing:
            return
        wanted = Counter(waiter.edition for waiter in self._waiters if not waiter.server.done())
        wanted[""] = max(self._warm, wanted[""])
        room = self._warm + MOST_BEYOND - len(self._servers())
        for edition, number in sorted(wanted.items()):
            setback = self._setbacks.get(f"{START} {edition}")
            if setback is not None and setback.retry_at > now:
                continue
            coming = sum(server.edition == edition for server in [*self._idle(), *self._starting()])
            for _ in range(min(number - coming, room)):
                yield self._start(await self._serving.begin(edition, exclusive=True))
                room -= 1
        for edition in {server.edition for server in self._idle()}:
            idle = [server for server in self._idle() if server.edition == edition]
            for server in idle[wanted[edition] :]:
                self._taken.add(server.id)
                yield self._take_away(await self._serving.condemn(server))

    def _servers(self) -> list[Server]:
        return [server for server in self._inventory.servers.values() if server.exclusive]

    def _idle(self) -> list[Server]:
        return [
            server
            for server in self._servers()
            if server.state is ServerState.READY
            and server.id not in self._taken
            and not self._inventory.databases_of(server.id)
        ]

    def _starting(self) -> list[Server]:
        return [server for server in self._servers() if server.state is ServerState.STARTING]

    async def _start(self, server: Server) -> None:
        whose = f"{START} {server.edition}"
        try:
            await self._serving.bring_up(server)
        except LeasedbError as error:
            if self._setbacks.add(whose, str(error), self._clock.now()).count == 1:
                log.error("an exclusive server did not start: %s", error)
            return
        self._setbacks.clear(whose)
        self.serve()
        self._wake()

    async def _take_away(self, server: Server) -> None:
        try:
            await self._serving.stop(server)
        except LeasedbError as error:
            self._making.fail(server.id, "server %s could not be stopped: %s", server.id, error)
        else:
            self._setbacks.clear(server.id)
            self._taken.discard(server.id)
        self._wake()


def _check_caller(gone: asyncio.Future[object]) -> None:
    if gone.done():
        raise CallerGoneError
