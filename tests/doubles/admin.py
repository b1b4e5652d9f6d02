"""An administrator that says to fake servers what the real one says to Postgres."""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace

from leasedb_server.domain.cloning import Strategy
from leasedb_server.domain.database import Database
from leasedb_server.domain.errors import ServerRefusedError, ServerUnreachableError, SessionsOpenError
from leasedb_server.domain.names import daemon_prefix
from leasedb_server.domain.server import Endpoint, Versions
from leasedb_server.domain.sessions import SessionInfo
from leasedb_server.ports import Pulse, Survey
from tests.doubles.world import FakeDatabase, FakeLogin, FakeServer, FakeWorld, Faults

VERSIONS = Versions("18.1", "0.8.1")
DUPLICATE_DATABASE, DUPLICATE_LOGIN, UNKNOWN_DATABASE = "42P04", "42710", "3D000"
UNKNOWN_LOGIN, STILL_OWNS, NOT_SUPPORTED = "42704", "2BP01", "0A000"
NOT_WHOLE = "58030"
EMPTY_SIZE = 7_000_000  # bytes of a database with nothing in it


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
        self.sql_notes: tuple[str, ...] = ()
        self.layouts: dict[str, str] = {}  # by server; of others it follows from the versions
        self._ports: dict[str, int] = {}

    async def open(self, server_id: str, endpoint: Endpoint, within: float) -> None:
        await self._meet("open", server_id)
        server = self.world.at(endpoint.port)
        if server is None or not (server.alive and server.answers):
            raise ServerUnreachableError(f"The server at port {endpoint.port} did not answer within {within:g} s.")
        self._ports[server_id] = endpoint.port
        await self.beat(server_id)

    async def survey(self, server_id: str, daemon: str, also: frozenset[str] = frozenset()) -> Survey:
        await self._meet("survey", server_id)
        server, prefix = self._server(server_id), daemon_prefix(daemon)
        databases = frozenset(name for name in server.databases if name.startswith(prefix) or name in also)
        refused = {name for name, login in server.logins.items() if not login.may_log_in}
        return Survey(
            databases,
            frozenset(name for name in server.logins if name.startswith(prefix) or name in also),
            self.notes,
            frozenset(name for name in databases if not server.databases[name].admits or name in refused),
        )

    async def create_base(self, server_id: str, database: str) -> Versions:
        await self._meet("create_base", server_id, database)
        self._create(server_id, database, None)
        await self.world.step("base created")
        if self.vector_fails:
            raise ServerRefusedError("'vector' computes a wrong distance: None.", sqlstate="XX000")
        self._seal(server_id, database)
        await self.world.step("base sealed")
        return self._versions(server_id)

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
            self._create(server_id, database.name, database.login, server.databases[template_database].content)
            if overflow:
                self.overflowed.add(database.name)
            self.used.append(strategy)
            await self.world.step("database created")

    async def fence(self, server_id: str, database: Database) -> int:
        await self._meet("fence", server_id, database.name)
        server = self._server(server_id)
        if database.login not in server.logins:
            raise ServerRefusedError(f"role {database.login} does not exist", sqlstate=UNKNOWN_LOGIN)
        return await self._shut(server_id, database)

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

    async def reset(self, server_id: str, database: Database, spare: Database) -> int:
        await self._meet("reset", server_id, database.name, spare.name)
        if not self._database(server_id, spare.name).admits:
            return 0
        self._database(server_id, database.name)
        ended = await self._shut(server_id, database)
        there = self._server(server_id).databases
        used, fresh = there[database.name], there[spare.name]
        there[database.name], there[spare.name] = fresh, used
        fresh.owner, used.owner, used.admits = database.login, spare.login, False
        used.maker = database.login if used.content != fresh.content else None
        self._server(server_id).logins[database.login] = FakeLogin(database.password)
        await self.world.step("content exchanged")
        self.faults.answer("reset")
        return ended

    async def reopen(self, server_id: str, database: Database) -> None:
        await self._meet("reopen", server_id, database.name)
        await self._reopen(server_id, database)

    async def seal(self, server_id: str, database: Database, template_database: str, *, force: bool) -> int:
        await self._meet("seal", server_id, database.name, template_database)
        there = self._server(server_id).databases
        if database.name in there or template_database not in there:
            self._database(server_id, database.name)
            await self._empty(server_id, database, force=force)
            self._database(server_id, database.name).owner = None
            await self.world.step("database handed over")
            there = self._server(server_id).databases
            there[template_database] = there.pop(database.name)
            self._seal(server_id, template_database)
            await self.world.step("database sealed")
        with contextlib.suppress(ServerRefusedError):  # it goes with what a reset took away
            self._drop_login(server_id, database.login)
        await self.world.step("login dropped")
        self.faults.answer("seal")
        return self._size(server_id, template_database)

    async def branch(
        self, server_id: str, database: Database, template_database: str, strategy: Strategy, *, force: bool
    ) -> int:
        await self._meet("branch", server_id, database.name, template_database)
        del strategy
        there = self._server(server_id).databases
        if template_database not in there or not there[template_database].template:
            there.pop(template_database, None)
            content = self._database(server_id, database.name).content
            await self._empty(server_id, database, force=force)
            self._create(server_id, template_database, None, content)
            await self.world.step("branch cloned")
            await self._reopen(server_id, database)
            self._seal(server_id, template_database)
            await self.world.step("branch sealed")
        self.faults.answer("branch")
        return self._size(server_id, template_database)

    async def run_sql(
        self, server_id: str, database: Database, text: AsyncIterator[str], progress: Callable[[str], None]
    ) -> tuple[str, ...]:
        await self._meet("run_sql", server_id, database.name)
        async for part in text:
            self._database(server_id, database.name).content += part
            progress("statement 1, line 1")
            await self.world.step("sql run")
        return self.sql_notes

    async def layout(self, server_id: str) -> str:
        versions = self._versions(server_id)
        return self.layouts.get(server_id, f"pages of {versions.postgres}")

    async def export_copy(self, server_id: str, template_database: str) -> AsyncIterator[bytes]:
        await self._meet("export_copy", server_id, template_database)
        for part in ("<", self._database(server_id, template_database).content, ">"):
            yield part.encode()
            await self.world.step("part exported")

    async def import_copy(self, server_id: str, template_database: str, content: AsyncIterator[bytes]) -> int:
        await self._meet("import_copy", server_id, template_database)
        there = self._server(server_id).databases
        if template_database not in there or not there[template_database].template:
            there.pop(template_database, None)
            self._create(server_id, template_database, None)
            await self.world.step("database created")
            arrived = ""
            async for part in content:
                arrived += part.decode()
                await self.world.step("part imported")
            if not (arrived.startswith("<") and arrived.endswith(">")):
                self._server(server_id).databases.pop(template_database)
                raise ServerRefusedError(f"the files of {template_database} are not whole", sqlstate=NOT_WHOLE)
            self._database(server_id, template_database).content = arrived[1:-1]
            self._seal(server_id, template_database)
            await self.world.step("template imported")
        self.faults.answer("import_copy")
        return self._size(server_id, template_database)

    async def open_up(self, server_id: str) -> None:
        await self._meet("open_up", server_id)
        self._server(server_id).opened_up = True
        await self.world.step("server opened up")

    async def create_exclusive(
        self, server_id: str, template_database: str, database: Database, strategy: Strategy
    ) -> None:
        await self._meet("create_exclusive", server_id, database.name)
        del strategy
        server = self._server(server_id)
        if database.login in server.logins:
            raise ServerRefusedError(f"role {database.login} already exists", sqlstate=DUPLICATE_LOGIN)
        self._create(server_id, database.name, None, self._database(server_id, template_database).content)
        await self.world.step("database created")
        server = self._server(server_id)
        server.logins[database.login] = FakeLogin(database.password)
        server.databases[database.name].owner = database.login
        await self.world.step("login created")

    async def reset_exclusive(
        self, server_id: str, template_database: str, database: Database, keep: frozenset[str]
    ) -> int:
        await self._meet("reset_exclusive", server_id, database.name)
        server = self._server(server_id)
        content = self._database(server_id, template_database).content
        ended = len(server.sessions)
        for name in [name for name in server.databases if name not in keep]:
            del server.databases[name]
            server.end_sessions(name, None)
            await self.world.step("database dropped")
        server = self._server(server_id)
        server.logins = {database.login: FakeLogin(database.password)}
        self._create(server_id, database.name, database.login, content)
        await self.world.step("database created")
        return ended

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

    async def _shut(self, server_id: str, database: Database) -> int:
        self._server(server_id).logins[database.login].may_log_in = False
        self._database(server_id, database.name).admits = False
        await self.world.step("login refused")
        return self._server(server_id).end_sessions(database.name, database.login)

    async def _reopen(self, server_id: str, database: Database) -> None:
        there = self._database(server_id, database.name)
        there.admits, there.owner = True, database.login
        self._server(server_id).logins[database.login].may_log_in = True
        await self.world.step("login let in")

    async def _empty(self, server_id: str, database: Database, *, force: bool) -> None:
        open_now = [session for session in self._server(server_id).sessions if session.database == database.name]
        if open_now and not force:
            sessions = tuple(
                SessionInfo(number, "fake", "idle", None, "") for number, _ in enumerate(open_now, start=1)
            )
            raise SessionsOpenError(f"{len(sessions)} sessions are open on {database.name}.", sessions=sessions)
        await self._shut(server_id, database)

    def _versions(self, server_id: str) -> Versions:
        major = self._server(server_id).major
        return replace(self.versions, postgres=f"{major}.1") if major else self.versions

    def _database(self, server_id: str, name: str) -> FakeDatabase:
        found = self._server(server_id).databases.get(name)
        if found is None:
            raise ServerRefusedError(f"database {name} does not exist", sqlstate=UNKNOWN_DATABASE)
        return found

    def _seal(self, server_id: str, name: str) -> None:
        database = self._database(server_id, name)
        database.template, database.admits, database.owner = True, False, None

    def _size(self, server_id: str, name: str) -> int:
        return EMPTY_SIZE + len(self._database(server_id, name).content)

    def _create(self, server_id: str, database: str, owner: str | None, content: str = "") -> None:
        server = self._server(server_id)
        if database in server.databases:
            raise ServerRefusedError(f"database {database} already exists", sqlstate=DUPLICATE_DATABASE)
        server.databases[database] = FakeDatabase(owner, content=content)

    def _drop_login(self, server_id: str, login: str) -> None:
        server = self._server(server_id)
        if owned := [name for name, database in server.databases.items() if login in {database.owner, database.maker}]:
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
