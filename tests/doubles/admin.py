"""An administrator that says to fake servers what the real one says to Postgres."""

import contextlib
from collections import Counter
from collections.abc import Iterator

from leasedb_server.domain.cloning import Strategy
from leasedb_server.domain.database import Database
from leasedb_server.domain.errors import ServerRefusedError, ServerUnreachableError
from leasedb_server.domain.names import daemon_prefix
from leasedb_server.domain.server import Endpoint, Versions
from leasedb_server.ports import Pulse, Survey
from tests.doubles.world import FakeDatabase, FakeLogin, FakeServer, FakeWorld, Faults

VERSIONS = Versions("18.1", "0.8.1")
DUPLICATE_DATABASE, DUPLICATE_LOGIN, UNKNOWN_DATABASE = "42P04", "42710", "3D000"
UNKNOWN_LOGIN, STILL_OWNS, NOT_SUPPORTED = "42704", "2BP01", "0A000"


class FakeAdmin:
    """Says to the servers of a `FakeWorld` what `PostgresAdmin` says to real ones, statement by statement."""

    def __init__(self, world: FakeWorld) -> None:
        self.world = world
        self.faults = Faults()
        self.calls: list[tuple[str, ...]] = []
        self.at_work: Counter[str] = Counter()  # statements under way that make or drop, by server
        self.most_at_work: Counter[str] = Counter()
        self.versions = VERSIONS
        self.notes: tuple[str, ...] = ()
        self.vector_fails = False
        self.pulse = Pulse(connections=1, most=100)
        self.ways = (Strategy.COPY, Strategy.LOG)
        self.unsupported: set[Strategy] = set()
        self.used: list[Strategy] = []  # of the clones made
        self.overflowed: set[str] = set()  # databases whose files lie elsewhere
        self._ports: dict[str, int] = {}

    async def open(self, server_id: str, endpoint: Endpoint, within: float) -> None:
        await self._meet("open", server_id)
        server = self.world.at(endpoint.port)
        if server is None or not (server.alive and server.answers):
            raise ServerUnreachableError(f"The server at port {endpoint.port} did not answer within {within:g} s.")
        self._ports[server_id] = endpoint.port
        await self.beat(server_id)

    async def survey(self, server_id: str, daemon: str) -> Survey:
        await self._meet("survey", server_id)
        server, prefix = self._server(server_id), daemon_prefix(daemon)
        return Survey(
            frozenset(name for name in server.databases if name.startswith(prefix)),
            frozenset(name for name in server.logins if name.startswith(prefix)),
            self.notes,
        )

    async def create_base(self, server_id: str, database: str) -> Versions:
        await self._meet("create_base", server_id, database)
        self._create(server_id, database, None)
        await self.world.step("base created")
        if self.vector_fails:
            raise ServerRefusedError("'vector' computes a wrong distance: None.", sqlstate="XX000")
        self._server(server_id).databases[database].template = True
        await self.world.step("base sealed")
        return self.versions

    async def strategies(self, server_id: str) -> tuple[Strategy, ...]:
        self._server(server_id)
        return self.ways

    async def create_database(
        self, server_id: str, template_database: str, database: Database, strategy: Strategy, *, overflow: bool = False
    ) -> None:
        with self._working(server_id):
            await self._meet("create_database", server_id, database.name)
            server = self._server(server_id)
            if database.login in server.logins:
                raise ServerRefusedError(f"role {database.login} already exists", sqlstate=DUPLICATE_LOGIN)
            server.logins[database.login] = FakeLogin(database.password)
            await self.world.step("login created")
            server = self._server(server_id)
            if template_database not in server.databases:
                raise ServerRefusedError(f"template {template_database} does not exist", sqlstate=UNKNOWN_DATABASE)
            if strategy in self.unsupported:
                raise ServerRefusedError(f"cannot clone by {strategy} here", sqlstate=NOT_SUPPORTED)
            self._create(server_id, database.name, database.login)
            if overflow:
                self.overflowed.add(database.name)
            self.used.append(strategy)
            await self.world.step("database created")

    async def fence(self, server_id: str, database: Database) -> int:
        await self._meet("fence", server_id, database.name)
        server = self._server(server_id)
        if database.login not in server.logins:
            raise ServerRefusedError(f"role {database.login} does not exist", sqlstate=UNKNOWN_LOGIN)
        server.logins[database.login].may_log_in = False
        await self.world.step("login refused")
        return self._server(server_id).end_sessions(database.name, database.login)

    async def drop(self, server_id: str, name: str, login: str | None) -> None:
        with self._working(server_id):
            await self._meet("drop", server_id, name)
            server = self._server(server_id)
            server.databases.pop(name, None)
            server.end_sessions(name, None)
            await self.world.step("database dropped")
            if login:
                self._drop_login(server_id, login)
                await self.world.step("login dropped")

    async def drop_login(self, server_id: str, login: str) -> None:
        await self._meet("drop_login", server_id, login)
        self._drop_login(server_id, login)
        await self.world.step("login dropped")

    async def beat(self, server_id: str) -> Pulse:
        await self._meet("beat", server_id)
        self._server(server_id)
        return self.pulse

    async def tidy(self, server_id: str) -> None:
        await self._meet("tidy", server_id)
        self._server(server_id)

    async def close(self, server_id: str) -> None:
        await self._meet("close", server_id)
        self._ports.pop(server_id, None)

    async def _meet(self, method: str, *arguments: str) -> None:
        self.calls.append((method, *arguments))
        await self.world.step(method)
        await self.faults.meet(method, *arguments)

    def _server(self, server_id: str) -> FakeServer:
        if server_id not in self._ports:
            raise ServerUnreachableError(f"There is no connection to server {server_id}.")
        server = self.world.at(self._ports[server_id])
        if server is None or not (server.alive and server.answers):
            raise ServerUnreachableError(f"Server {server_id} cannot be reached.")
        return server

    def _create(self, server_id: str, database: str, owner: str | None) -> None:
        server = self._server(server_id)
        if database in server.databases:
            raise ServerRefusedError(f"database {database} already exists", sqlstate=DUPLICATE_DATABASE)
        server.databases[database] = FakeDatabase(owner)

    def _drop_login(self, server_id: str, login: str) -> None:
        server = self._server(server_id)
        if owned := [name for name, database in server.databases.items() if database.owner == login]:
            raise ServerRefusedError(f"role {login} owns {', '.join(owned)}", sqlstate=STILL_OWNS)
        server.logins.pop(login, None)

    @contextlib.contextmanager
    def _working(self, server_id: str) -> Iterator[None]:
        self.at_work[server_id] += 1
        self.most_at_work[server_id] = max(self.most_at_work[server_id], self.at_work[server_id])
        try:
            yield
        finally:
            self.at_work[server_id] -= 1
