"""Everything the daemon knows to exist, in memory, with the look-ups that the request path needs.

The one place where the present state lies: use cases put new values in, indexes follow. Not a store: what has to
survive is written to the store first.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Final

from leasedb_server.domain.database import Database, DatabaseState
from leasedb_server.domain.lease import Instant, Lease
from leasedb_server.domain.pool import NEVER, ServerView, Stock, View
from leasedb_server.domain.server import Server, ServerState
from leasedb_server.domain.template import Copy, CopyState, Template, TemplateState, is_base

ENDED_KEPT: Final = 1000  # ended leases that can still be asked about


class Inventory:
    """Servers, templates, databases and leases by id."""

    def __init__(self) -> None:
        self.servers: dict[str, Server] = {}
        self.templates: dict[str, Template] = {}  # by key; without the built-in ones
        self.copies: dict[str, Copy] = {}
        self.databases: dict[str, Database] = {}
        self.leases: dict[str, Lease] = {}
        self.crowded: set[str] = set()  # servers with too few connections left to lease more there
        self._gone: dict[str, Server] = {}
        self._active: dict[str, Lease] = {}
        self.held: Counter[str] = Counter()  # active leases by their holder's key
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._by_key: dict[str, str] = {}
        self._referred: set[str] = set()  # databases that a lease in here speaks of
        self._ready: dict[tuple[str, str], OrderedDict[str, None]] = {}
        self._condemned: dict[str, OrderedDict[str, None]] = {}
        self._counts: Counter[tuple[str, str, DatabaseState]] = Counter()
        self._spares: dict[str, str] = {}  # spare databases by their partners: each release asks for one
        self._taken_from: dict[str, set[str]] = {}  # by their partners, databases with content that resets took away
        self._used: set[str] = set()

    def __repr__(self) -> str:
        return f"Inventory({len(self.servers)} servers, {len(self.databases)} databases, {len(self._active)} leases)"

    # --- putting in ---

    def put_server(self, server: Server) -> None:
        if server.state is ServerState.GONE:
            self.servers.pop(server.id, None)
            self._gone[server.id] = server
        else:
            self.servers[server.id] = server

    def put_template(self, template: Template) -> None:
        if template.state is not TemplateState.GONE:
            self.templates[template.key] = template
        elif (known := self.templates.get(template.key)) and known.id == template.id:
            del self.templates[template.key]

    def put_copy(self, copy: Copy) -> None:
        if copy.state is CopyState.GONE:
            self.copies.pop(copy.id, None)
        else:
            self.copies[copy.id] = copy

    def put_database(self, database: Database) -> None:
        """Take the database's new value in. A database that is gone stays while a lease of it can be asked about."""
        old = self.databases.get(database.id)
        if old is not None:
            self._count(old, -1)
            self._ready.get((old.server_id, old.template), OrderedDict()).pop(old.id, None)
            self._condemned.get(old.server_id, OrderedDict()).pop(old.id, None)
            if old.partner and self._spares.get(old.partner) == old.id:
                del self._spares[old.partner]
        self._take(database)
        self.databases[database.id] = database
        self._count(database, +1)
        if database.state is DatabaseState.SPARE and database.partner:
            self._spares[database.partner] = database.id
        if database.state is DatabaseState.READY:
            self._ready.setdefault((database.server_id, database.template), OrderedDict())[database.id] = None
        elif database.state is DatabaseState.CONDEMNED:
            self._condemned.setdefault(database.server_id, OrderedDict())[database.id] = None
        elif database.state is DatabaseState.GONE and database.id not in self._referred:
            self.drop_database(database.id)

    def drop_database(self, database_id: str) -> None:
        """Forget a database that is gone and that no lease refers to."""
        database = self.databases.pop(database_id, None)
        if database is not None:
            self._count(database, -1)

    def put_lease(self, lease: Lease) -> None:
        self._hold(lease)
        self.leases[lease.id] = lease
        self._referred.add(lease.database_id)
        if lease.idempotency_key:
            self._by_key[lease.idempotency_key] = lease.id
        if lease.active:
            self._active[lease.id] = lease
            return
        self._active.pop(lease.id, None)
        self._ended[lease.id] = None
        while len(self._ended) > ENDED_KEPT:
            self._forget(next(iter(self._ended)))

    def forget_ended(self, before: Instant) -> None:
        """Forget leases that ended before the instant."""
        while self._ended:
            lease = self.leases[next(iter(self._ended))]
            if lease.ended_at is None or lease.ended_at >= before:
                break
            self._forget(lease.id)
        remembered = {database.server_id for database in self.databases.values()}
        self._gone = {server_id: server for server_id, server in self._gone.items() if server_id in remembered}

    # --- looking up ---

    def take_ready(self, template: str) -> Database | None:
        """Return a ready database of the template (its key), of the server with the fewest leases, or None.

        It stays where it is; among servers with as many leases the one with most ready databases is taken.
        """
        choice: tuple[int, int, str] | None = None
        for (server_id, name), ready in self._ready.items():
            if ready and name == template and self.serves(server_id) and server_id not in self.crowded:
                load = (self._counts[server_id, template, DatabaseState.LEASED], -len(ready), next(iter(ready)))
                choice = load if choice is None else min(choice, load)
        return self.databases[choice[2]] if choice else None

    def ready_on(self, server_id: str, template: str) -> Database | None:
        """Return the server's newest ready database of the template, or None."""
        ready = self._ready.get((server_id, template))
        return self.databases[next(reversed(ready))] if ready else None

    def ready_from(self, template: str) -> list[Database]:
        """Return all ready databases of the template with this key."""
        return [self.databases[ident] for (_, key), ready in self._ready.items() if key == template for ident in ready]

    def ready_of(self, server_id: str) -> list[Database]:
        """Return the server's ready databases, of all templates."""
        return [
            self.databases[name] for (owner, _), ready in self._ready.items() if owner == server_id for name in ready
        ]

    def ready_servers(self) -> list[Server]:
        return [server for server in self.servers.values() if server.state is ServerState.READY]

    def serves(self, server_id: str) -> bool:
        """Tell whether the server is ready, and not one that is leased as a whole."""
        server = self.servers.get(server_id)
        return server is not None and server.state is ServerState.READY and not server.exclusive

    def active_leases(self) -> list[Lease]:
        return list(self._active.values())

    def lease_by_key(self, key: str) -> Lease | None:
        lease_id = self._by_key.get(key)
        return self.leases.get(lease_id) if lease_id else None

    def databases_of(self, server_id: str) -> list[Database]:
        """Return the server's databases that are not gone."""
        return [
            database
            for database in self.databases.values()
            if database.server_id == server_id and database.state is not DatabaseState.GONE
        ]

    def sealed_on(self, server_id: str, template: str) -> Copy | None:
        """Return the server's copy of the template with this key, or None."""
        for copy in self.copies.values():
            if (copy.server_id, copy.template, copy.state) == (server_id, template, CopyState.SEALED):
                return copy
        return None

    def known_templates(self) -> set[str]:
        """Return the keys of the templates that are kept ready: sealed ones, with a copy on a server or without."""
        built_in = {
            copy.template
            for copy in self.copies.values()
            if copy.state is CopyState.SEALED and is_base(copy.template) and self.serves(copy.server_id)
        }
        return built_in | {key for key, template in self.templates.items() if template.sealed}

    def copies_of(self, server_id: str) -> list[Copy]:
        return [copy for copy in self.copies.values() if copy.server_id == server_id]

    def copies_from(self, template: str) -> list[Copy]:
        """Return all copies of the template with this key."""
        return [copy for copy in self.copies.values() if copy.template == template]

    def leases_from(self, template: str) -> int:
        """Return how many databases of the template with this key are leased."""
        return sum(
            number
            for (_, name, state), number in self._counts.items()
            if name == template and state is DatabaseState.LEASED
        )

    def used(self, template: str, now: Instant) -> None:
        """Take note that the template with this key was of use."""
        if found := self.templates.get(template):
            self.templates[template] = replace(found, used_at=now)
            self._used.add(template)

    def used_since(self) -> list[Template]:
        """Return the templates that were used since this was asked last."""
        used, self._used = self._used, set()
        return [self.templates[key] for key in used if key in self.templates]

    def spare_for(self, database_id: str) -> Database | None:
        """Return the database that this one's reset has begun with, or None."""
        spare = self._spares.get(database_id)
        return self.databases.get(spare) if spare else None

    def stripped(self, database_id: str) -> bool:
        """Tell whether something is still there that a reset took from the database: its login owns what is in it."""
        return database_id in self._taken_from

    def count(self, server_id: str, template: str, state: DatabaseState) -> int:
        return self._counts[server_id, template, state]

    def counts_of(self, server_id: str) -> Counter[DatabaseState]:
        counts: Counter[DatabaseState] = Counter()
        for (owner, _, state), number in self._counts.items():
            if owner == server_id:
                counts[state] += number
        return counts

    def counts_of_all(self) -> Counter[DatabaseState]:
        counts: Counter[DatabaseState] = Counter()
        for (_, _, state), number in self._counts.items():
            counts[state] += number
        return counts

    def server_of(self, database: Database) -> Server:
        """Return the database's server, also one that is gone while a lease on it can be asked about."""
        return self.servers.get(database.server_id) or self._gone[database.server_id]

    def leased_servers(self) -> list[Server]:
        """Return the servers that active leases are on."""
        ids = {self.databases[lease.database_id].server_id for lease in self._active.values()}
        return [server for server in self.servers.values() if server.id in ids]

    def left_behind(self) -> list[Server]:
        """Return the servers that are gone and that have templates still."""
        left = {copy.server_id for copy in self.copies.values()}
        return [server for server in self._gone.values() if server.id in left]

    def view(self, waiting: Mapping[str, int], retry: Mapping[str, Instant], start_retry_at: Instant) -> View:
        """Return what the planner looks at; ``retry`` tells by id of a server or database when to try again."""
        shared = [server for server in self.servers.values() if not server.exclusive]
        servers = tuple(self._server_view(server, retry.get(server.id, NEVER)) for server in shared)
        return View(servers, dict(waiting), start_retry_at, drop_retry_at=retry)

    def _server_view(self, server: Server, retry_at: Instant) -> ServerView:
        states, counts = DatabaseState, self.counts_of(server.id)
        copied = {copy.template for copy in self.copies_of(server.id) if copy.state is CopyState.SEALED}
        templates = copied | {template for owner, template, _ in self._counts if owner == server.id}
        return ServerView(
            id=server.id,
            state=server.state,
            edition=server.edition,
            stock={
                name: Stock(
                    ready=self.count(server.id, name, states.READY),
                    making=self.count(server.id, name, states.MAKING),
                    leased=self.count(server.id, name, states.LEASED),
                    copied=name in copied,
                )
                for name in templates
            },
            condemned=tuple(self._condemned.get(server.id, ())),
            dropping=counts[states.DROPPING],
            spares=counts[states.SPARE],
            retry_at=retry_at,
        )

    def _hold(self, lease: Lease) -> None:
        old = self._active.get(lease.id)
        before = old.holder.key if old else None
        after = lease.holder.key if lease.active else None
        if before == after:
            return
        if after is not None:
            self.held[after] += 1
        if before is not None:
            self.held[before] -= 1
            if not self.held[before]:
                del self.held[before]

    def _take(self, database: Database) -> None:
        if database.partner is None or database.partner == database.id:
            return
        if database.state is not DatabaseState.GONE:
            self._taken_from.setdefault(database.partner, set()).add(database.id)
        elif taken := self._taken_from.get(database.partner):
            taken.discard(database.id)
            if not taken:
                del self._taken_from[database.partner]

    def _count(self, database: Database, by: int) -> None:
        key = (database.server_id, database.template, database.state)
        self._counts[key] += by
        if not self._counts[key]:
            del self._counts[key]

    def _forget(self, lease_id: str) -> None:
        self._ended.pop(lease_id)
        lease = self.leases.pop(lease_id)
        self._referred.discard(lease.database_id)
        if lease.idempotency_key and self._by_key.get(lease.idempotency_key) == lease_id:
            del self._by_key[lease.idempotency_key]
        database = self.databases.get(lease.database_id)
        if database is not None and database.state is DatabaseState.GONE:
            self.drop_database(database.id)


def with_labels(leases: Iterable[Lease], labels: Mapping[str, str]) -> Iterator[Lease]:
    """Yield the leases that carry all of the labels."""
    wanted = labels.items()
    return (lease for lease in leases if wanted <= lease.labels.items())
