"""The same client, awaited."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from leasedb._async_lease import AsyncLease
from leasedb._async_templating import AsyncTemplateMethods
from leasedb._discovery import find_daemon
from leasedb._exchange import Pid
from leasedb._models import Demand, Health, LeaseSummary, Pool, Readiness, Servers
from leasedb._protocol import Terms
from leasedb._recipe import Recipes, edition_of
from leasedb._template import Template, key_of
from leasedb._transport import AsyncLine

if TYPE_CHECKING:
    from leasedb._starting import Starter


class AsyncClient(AsyncTemplateMethods):
    """A leasedb daemon, over one pool of connections. Belongs to one event loop.

        async with AsyncClient() as client, client.lease() as lease:
            await psycopg.AsyncConnection.connect(lease.dsn)

    Args:
        url: where the daemon listens; ``LEASEDB_URL``, else http://127.0.0.1:7432, when left out.
        token: what it asks for, if anything; when left out ``LEASEDB_TOKEN``, and on this machine that of leasedb.toml.
        autostart: start a daemon in the background when a lease, a template or an announcement is asked for and none
            answers. When left out: where ``url`` is left out too, the address is one of this machine, and
            ``LEASEDB_AUTOSTART`` is not 0.

    Raises:
        InvalidAddressError: when one of them cannot be used.
    """

    def __init__(
        self, url: str | None = None, token: str | None = None, *, autostart: "bool | Starter | None" = None
    ) -> None:
        self._line = AsyncLine(*find_daemon(url, token, autostart))
        self._recipes = Recipes()

    def __repr__(self) -> str:
        return f"<AsyncClient of {self.url}>"

    @property
    def url(self) -> str:
        return self._line.address.url

    @property
    def log(self) -> Path | None:
        """The log file of the daemon, where it was started in the background and has answered; else None."""
        return self._line.log

    async def acquire(
        self,
        template: Template | str = "base",
        *,
        ttl: float | None = None,
        wait: float | None = None,
        holder: str | None = None,
        labels: Mapping[str, str] | None = None,
        postgres: str | None = None,
        image: str | None = None,
        server: Literal["shared", "exclusive"] = "shared",
        database: str | None = None,
        user: str | None = None,
        pid: Pid = "auto",
        heartbeat: bool = True,
        idempotency_key: str | None = None,
    ) -> AsyncLease:
        """Take a lease on a fresh database; wait in line when none is free.

        Args:
            template: what the database is a clone of, a name or what `template` returned; "base" is empty but for the
                extension `vector`. One that `template` made here and that is gone is made again, once.
            ttl: seconds until the lease ends unless it is renewed; the daemon's default (300) when left out.
            wait: seconds to wait for a database at most, 0 to 3600; the daemon's default (60) when left out.
            holder: who asks, for those who read the list of leases; the user, the host and the folder when left out.
            labels: at most 32, to find and release leases by.
            postgres: the major version wanted, such as "18", among those the daemon is allowed to serve.
            image: the image of the server wanted, likewise.
            server: "exclusive" for a whole server with a superuser login, which is thrown away afterwards.
            database: name of the database on an exclusive server; a made-up one when left out.
            user: name of the login on an exclusive server, likewise.
            pid: the process with which the lease ends. "auto": this one, when the daemon runs among the same
                processes; None: none.
            heartbeat: renew the lease in the background until it is released or this client is closed.
            idempotency_key: two calls with the same key get the same lease; a new key when left out.

        Raises:
            PoolExhaustedError: no database came free within ``wait``.
            DaemonUnreachableError: nothing answers.
            DaemonStartError: nothing answers, and no daemon could be started.
            LeasedbError: the daemon refused, for the reason told.
        """
        name, postgres, image = edition_of(template, postgres, image)
        terms = Terms(
            template=name,
            ttl=ttl,
            wait=wait,
            holder=holder,
            labels=labels,
            postgres=postgres,
            image=image,
            server=server,
            database=database,
            user=user,
            pid=pid,
            idempotency_key=idempotency_key,
        )
        return AsyncLease(self._line, await self._leased(terms), heartbeat=heartbeat)

    @asynccontextmanager
    async def lease(
        self,
        template: Template | str = "base",
        *,
        ttl: float | None = None,
        wait: float | None = None,
        holder: str | None = None,
        labels: Mapping[str, str] | None = None,
        postgres: str | None = None,
        image: str | None = None,
        server: Literal["shared", "exclusive"] = "shared",
        database: str | None = None,
        user: str | None = None,
        pid: Pid = "auto",
        heartbeat: bool = True,
        idempotency_key: str | None = None,
    ) -> AsyncIterator[AsyncLease]:
        """Take a lease for the length of a `async with` block. Takes and raises what `acquire` does."""
        lease = await self.acquire(
            template,
            ttl=ttl,
            wait=wait,
            holder=holder,
            labels=labels,
            postgres=postgres,
            image=image,
            server=server,
            database=database,
            user=user,
            pid=pid,
            heartbeat=heartbeat,
            idempotency_key=idempotency_key,
        )
        async with lease:
            yield lease

    async def expect(
        self, count: int, template: Template | str = "base", *, holder: str | None = None, ttl: float | None = None
    ) -> Demand:
        """Announce so many leases of a template, so that the daemon has databases ready when they come.

        Each lease of the same holder and template counts one down; a new announcement replaces the holder's last one.

        Args:
            count: of the leases to come, 0 to 10000; 0 takes an announcement back.
            template: what they will be clones of.
            holder: who will ask, with the same words as in `acquire`; the same default.
            ttl: seconds after which the rest is not believed any more; the daemon's default (300) when left out.

        Raises:
            UnknownTemplateError: there is no such template.
            LeasedbError: the daemon refused, for the reason told; NotFoundError: it is too old for announcements.
        """
        return await self._line.run(self._line.wire.expect(count, template=key_of(template), holder=holder, ttl=ttl))

    async def get(self, lease_id: str) -> AsyncLease:
        """Return a lease by its id, ended ones for ten minutes too. It is not renewed in the background.

        Raises:
            LeaseNotFoundError: there is none.
        """
        return AsyncLease(self._line, await self._line.run(self._line.wire.get(lease_id)), heartbeat=False)

    async def leases(
        self,
        *,
        state: str | None = None,
        holder: str | None = None,
        labels: Mapping[str, str] | None = None,
        kept: bool | None = None,
    ) -> list[LeaseSummary]:
        """List leases: of one state (active, released, expired, lost), of one holder, with all of these labels.

        With ``kept``, those that are kept to be looked at, see `AsyncLease.keep`; or, if it is False, the others.
        """
        return await self._line.run(self._line.wire.leases(state=state, holder=holder, labels=labels, kept=kept))

    async def renew(self, lease_id: str, ttl: float | None = None) -> AsyncLease:
        """Let a lease live ``ttl`` seconds from now; the daemon's default when left out. See `AsyncLease.renew`."""
        return AsyncLease(self._line, await self._line.run(self._line.wire.renew(lease_id, ttl)), heartbeat=False)

    async def release(self, lease_id: str, *, sync: bool = False) -> None:
        """Release a lease by its id; an ended one is no error. With ``sync``, return only once the database is gone.

        Raises:
            LeaseNotFoundError: there is none.
        """
        await self._line.run(self._line.wire.release(lease_id, sync=sync))

    async def release_all(self, labels: Mapping[str, str], *, sync: bool = False) -> int:
        """Release all active leases that have all of these labels, at least one, and return how many there were."""
        return await self._line.run(self._line.wire.release_all(labels, sync=sync))

    async def servers(self) -> Servers:
        """List the servers, and why they come from where they come from."""
        return await self._line.run(self._line.wire.servers())

    async def server_logs(self, server_id: str, lines: int = 200) -> str:
        """Return the last lines a server logged.

        Raises:
            ServerNotFoundError: there is no such server.
        """
        return await self._line.run(self._line.wire.server_logs(server_id, lines))

    async def pool(self) -> Pool:
        """Return the stock of databases."""
        return await self._line.run(self._line.wire.pool())

    async def start(self) -> Health:
        """Make sure that a daemon answers, and start it when none does and ``autostart`` allows; ready or not.

        Raises:
            DaemonStartError: it could not be started; the message says why.
            IncompatibleDaemonError: it is of another version, which this client does not understand.
            DaemonUnreachableError: none answers, and none is to be started.
        """
        return await self._line.run(self._line.wire.start())

    async def health(self) -> Health:
        """Return that the daemon lives, ready or not."""
        return await self._line.run(self._line.wire.health())

    async def ready(self) -> Readiness:
        """Return that the daemon leases at once.

        Raises:
            NotReadyError: it lives, but does not yet or cannot; the message says why.
        """
        return await self._line.run(self._line.wire.ready())

    async def close(self) -> None:
        """Stop renewing and close the connections. Leases not released end with this process or their time."""
        await self._line.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
