"""What lies outside the daemon and outlives it: servers, time, processes; and what can go wrong there."""

import asyncio
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

from leasedb_server.domain.errors import LeasedbError
from leasedb_server.domain.lease import Instant


class KilledError(BaseException):
    """The daemon was killed with -9: nothing it does from now on has an effect."""


class _OneTurn:
    """Lets the other tasks of the loop go first, as a real call over a socket does."""

    def __await__(self) -> Generator[None, None, None]:
        yield


class Fuse:
    """Counts the steps of one daemon's life, and kills it at step number ``blows_at``, counted from 1."""

    def __init__(self, blows_at: int | None = None, blew: Callable[[], object] = lambda: None) -> None:
        self.blows_at = blows_at
        self.blew = blew  # called when it blows
        self.steps: list[str] = []

    @property
    def blown(self) -> bool:
        return self.blows_at is not None and len(self.steps) >= self.blows_at

    def step(self, what: str) -> None:
        if self.blown:
            raise KilledError
        self.steps.append(what)
        if self.blown:
            self.blew()
            raise KilledError(what)


class FakeClock:
    """Time that passes when told to."""

    def __init__(self, now: Instant = 1_000_000.0) -> None:
        self._now = now

    def now(self) -> Instant:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds


class FakeProcesses:
    """Process numbers and when each process started."""

    def __init__(self) -> None:
        self.started: dict[int, Instant] = {}

    def started_at(self, pid: int) -> Instant | None:
        return self.started.get(pid)


@dataclass(slots=True)
class FakeLogin:
    password: str = field(repr=False)
    may_log_in: bool = True


@dataclass(slots=True)
class FakeDatabase:
    owner: str | None  # None: the administrator
    template: bool = False
    used: bool = False  # somebody has been inside
    admits: bool = True  # connections
    content: str = ""  # whatever tests write into it; clones have it too
    maker: str | None = None  # the login that owns what is in it, which a reset took from that login's database


@dataclass(slots=True, eq=False)
class FakeSession:
    login: str
    database: str
    ended: bool = False


@dataclass(slots=True)
class FakeServer:
    """A running Postgres. ``answers`` is False for one that hangs: it takes its place and says nothing."""

    name: str
    port: int
    alive: bool = True
    answers: bool = True
    databases: dict[str, FakeDatabase] = field(default_factory=dict)
    logins: dict[str, FakeLogin] = field(default_factory=dict)
    sessions: list[FakeSession] = field(default_factory=list)
    opened_up: bool = False  # admits every login to every database: it is leased as a whole
    major: str | None = None  # version of Postgres, where it is not the usual one

    def log_in(self, database: str, login: str, password: str) -> FakeSession:
        """Connect as a lease's holder does; raises PermissionError or ConnectionError when it is not let in."""
        if not (self.alive and self.answers):
            raise ConnectionError(self.name)
        role, target = self.logins.get(login), self.databases.get(database)
        if role is None or not role.may_log_in or role.password != password:
            raise PermissionError(f"password authentication failed for user {login}")
        if target is None or not target.admits or not (self.opened_up or target.owner == login):
            raise PermissionError(f"no CONNECT on {database}")
        target.used = True
        self.sessions.append(session := FakeSession(login, database))
        return session

    def end_sessions(self, database: str, login: str | None) -> int:
        ended = [one for one in self.sessions if one.database == database or one.login == login]
        for session in ended:
            session.ended = True
            self.sessions.remove(session)
        return len(ended)


class FakeWorld:
    """All servers there are, of every daemon and of none, and the fuse of the daemon that acts now."""

    def __init__(self) -> None:
        self.servers: dict[str, FakeServer] = {}
        self.fuse = Fuse()
        self._port = 50_000

    async def step(self, what: str) -> None:
        await _OneTurn()
        self.fuse.step(what)

    def add(self, name: str) -> FakeServer:
        self._port += 1
        self.servers[name] = server = FakeServer(name, self._port)
        return server

    def at(self, port: int) -> FakeServer | None:
        return next((server for server in self.servers.values() if server.port == port), None)


@dataclass
class Faults:
    """What goes wrong, by the name of a method: an error to raise, and how often (None: until taken out)."""

    errors: dict[str, list[LeasedbError]] = field(default_factory=dict)
    always: dict[str, LeasedbError] = field(default_factory=dict)
    hanging: set[str] = field(default_factory=set)  # these go on when they are let go
    lost_answers: dict[str, list[LeasedbError]] = field(default_factory=dict)  # raised once everything is done
    only: Callable[..., bool] = field(default=lambda *_: True)  # sees the arguments of the call
    _held: list[asyncio.Future[None]] = field(default_factory=list)

    def let_go(self) -> None:
        """Let what hangs go on."""
        self.hanging.clear()
        while self._held:
            self._held.pop().set_result(None)

    async def meet(self, method: str, *arguments: object) -> None:
        if not self.only(*arguments):
            return
        if method in self.hanging:
            self._held.append(held := asyncio.get_running_loop().create_future())
            await held
        if self.errors.get(method):
            raise self.errors[method].pop(0)
        if method in self.always:
            raise self.always[method]

    def answer(self, method: str) -> None:
        """Raise when the answer to what was done is lost."""
        if self.lost_answers.get(method):
            raise self.lost_answers[method].pop(0)
