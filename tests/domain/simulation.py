"""A pool on paper: carries out what the planner decides, in any order, while callers come and go and servers die."""

from collections import Counter
from dataclasses import dataclass, field

from leasedb_server.domain.database import DatabaseState
from leasedb_server.domain.pool import (
    Action,
    DropDatabase,
    MakeDatabase,
    ServerView,
    StartServer,
    Stock,
    StopServer,
    Surplus,
    Targets,
    View,
    plan,
)
from leasedb_server.domain.server import ServerState

TEMPLATES = ("base", "shop")
NOW = 1000.0
LATER = NOW + 5

S, D = ServerState, DatabaseState
_WHIMS = ("become quiet", "want", "fill up", "crowd", "fall asleep")


@dataclass
class PaperDatabase:
    id: str
    server: str
    template: str
    state: DatabaseState
    holder: int | None = None


@dataclass
class Pool:
    """Work under way is what is starting, stopping, making or dropping; it ends when it is told to."""

    targets: Targets
    templates: tuple[str, ...]
    workers: int = 2
    wanted: dict[str, int] = field(default_factory=dict)
    quiet: float = 60.0
    asleep: bool = False
    now: float = NOW
    full: set[str] = field(default_factory=set)
    crowded: set[str] = field(default_factory=set)
    servers: dict[str, ServerState] = field(default_factory=dict)
    retry_at: dict[str, float] = field(default_factory=dict)
    databases: dict[str, PaperDatabase] = field(default_factory=dict)
    waiting: list[tuple[int, str]] = field(default_factory=list)
    held: dict[int, str] = field(default_factory=dict)
    ever_held: set[str] = field(default_factory=set)
    number: int = 0
    most_servers: int = 0

    def __post_init__(self) -> None:
        self.most_servers = self.targets.servers

    def deeds(self) -> list[str]:
        return ["act", "act", "finish", "finish", "ask", "ask", "release", "die", "fail", "hang up", *_WHIMS]

    def do(self, deed: str, choice: int) -> None:
        getattr(self, f"_{deed.replace(' ', '_')}")(choice)
        self._serve()
        self.check()

    def view(self) -> View:
        servers = []
        for server, state in self.servers.items():
            of = [database for database in self.databases.values() if database.server == server]
            counts = Counter((database.template, database.state) for database in of)
            stock = {
                name: Stock(counts[name, D.READY], counts[name, D.MAKING], counts[name, D.LEASED])
                for name in self.templates
                if state is S.READY
            }
            condemned = tuple(database.id for database in of if database.state is D.CONDEMNED)
            dropping = sum(database.state is D.DROPPING for database in of)
            servers.append(
                ServerView(
                    server,
                    state,
                    stock,
                    condemned,
                    dropping,
                    self.retry_at.get(server, 0.0),
                    self.workers,
                    full=server in self.full,
                    crowded=server in self.crowded,
                )
            )
        waiting = Counter(template for _, template in self.waiting)
        return View(
            tuple(servers),
            waiting,
            self.retry_at.get("", 0.0),
            wanted=self.wanted,
            quiet=self.quiet,
            asleep=self.asleep,
        )

    # --- deeds ---

    def _act(self, _choice: int) -> None:
        for action in plan(self.view(), self.targets, self.now):
            self._begin(action)

    def _begin(self, action: Action) -> None:
        self.number += 1
        match action:
            case StartServer():
                self.servers[f"s{self.number}"] = S.STARTING
            case StopServer(server):
                assert self.servers[server] in {S.READY, S.LOST}
                self.servers[server] = S.STOPPING
                self._empty(server)
            case MakeDatabase(server, template):
                assert self.servers[server] is S.READY
                made = PaperDatabase(f"d{self.number}", server, template, D.MAKING)
                self.databases[made.id] = made
            case DropDatabase(database):
                assert self.databases[database].state is D.CONDEMNED
                self.databases[database].state = D.DROPPING
            case Surplus(server, template, count):
                ready = [
                    database
                    for database in self.databases.values()
                    if (database.server, database.template, database.state) == (server, template, D.READY)
                ]
                assert 0 < count <= len(ready)
                for database in ready[:count]:
                    database.state = D.CONDEMNED

    def _under_way(self) -> list[str]:
        servers = [server for server, state in self.servers.items() if state in {S.STARTING, S.STOPPING}]
        return servers + [d.id for d in self.databases.values() if d.state in {D.MAKING, D.DROPPING}]

    def _finish(self, choice: int) -> None:
        """Let one thing under way succeed."""
        if not (under_way := self._under_way()):
            return
        thing = under_way[choice % len(under_way)]
        if thing in self.servers:
            if self.servers[thing] is S.STARTING:
                self.servers[thing] = S.READY
            else:
                del self.servers[thing]
        elif self.databases[thing].state is D.MAKING:
            self.databases[thing].state = D.READY
        else:
            del self.databases[thing]

    def _fail(self, choice: int) -> None:
        """Let one thing under way fail."""
        if not (under_way := self._under_way()):
            return
        thing = under_way[choice % len(under_way)]
        if thing in self.servers:
            if self.servers[thing] is S.STARTING:
                del self.servers[thing]
                self.retry_at[""] = LATER
            else:
                self.servers[thing] = S.LOST
                self.retry_at[thing] = LATER
        else:
            self.databases[thing].state = D.CONDEMNED
            self.retry_at[self.databases[thing].server] = LATER

    def _ask(self, choice: int) -> None:
        self.number += 1
        self.waiting.append((self.number, self.templates[choice % len(self.templates)]))

    def _hang_up(self, choice: int) -> None:
        if self.waiting:
            self.waiting.pop(choice % len(self.waiting))

    def _release(self, choice: int) -> None:
        if self.held:
            holder = sorted(self.held)[choice % len(self.held)]
            self.databases[self.held.pop(holder)].state = D.CONDEMNED

    def _die(self, choice: int) -> None:
        if ready := [server for server, state in self.servers.items() if state is S.READY]:
            server = ready[choice % len(ready)]
            self.servers[server] = S.LOST
            self._empty(server)

    def _become_quiet(self, choice: int) -> None:
        self.quiet = (0.0, 0.5, 60.0)[choice % 3]

    def _want(self, choice: int) -> None:
        self.wanted[self.templates[choice % len(self.templates)]] = choice % 7

    def _fill_up(self, choice: int) -> None:
        if self.servers:
            self.full ^= {sorted(self.servers)[choice % len(self.servers)]}

    def _crowd(self, choice: int) -> None:
        if self.servers:
            self.crowded ^= {sorted(self.servers)[choice % len(self.servers)]}

    def _fall_asleep(self, _choice: int) -> None:
        self.asleep = not self.asleep

    def _empty(self, server: str) -> None:
        gone = {database.id for database in self.databases.values() if database.server == server}
        self.databases = {name: database for name, database in self.databases.items() if name not in gone}
        self.held = {holder: database for holder, database in self.held.items() if database not in gone}

    def _serve(self) -> None:
        """Hand ready databases to callers, as `Leasing.serve` does."""
        for holder, template in list(self.waiting):
            ready = (
                database
                for database in self.databases.values()
                if (database.template, database.state) == (template, D.READY)
                and self.servers[database.server] is S.READY
                and database.server not in self.crowded
            )
            if database := next(ready, None):
                assert database.id not in self.ever_held, "a database had a second holder"
                self.ever_held.add(database.id)
                database.state = D.LEASED
                self.held[holder] = database.id
                self.waiting.remove((holder, template))

    # --- what always holds ---

    def check(self) -> None:
        assert len(self.databases) <= self.targets.most
        assert len(self.servers) <= self.most_servers
        assert len(set(self.held.values())) == len(self.held)
        for server in self.servers.values():
            assert server is not S.GONE
        work = Counter(d.server for d in self.databases.values() if d.state in {D.MAKING, D.DROPPING})
        assert all(number <= self.workers for number in work.values())

    # --- and in the end ---

    def rest(self, most: int = 500) -> None:
        """Let everything under way and everything that is decided succeed, in a calm that lasts."""
        self.now, self.quiet, self.asleep = LATER, 60.0, False
        self.full.clear()
        self.crowded.clear()
        self._serve()
        for turn in range(most):
            before = self.view()
            self._act(0)
            self.check()
            self._serve()
            if not self._under_way() and self.view() == before:
                break
            self._finish(turn * 7)
            self._serve()
        else:
            raise AssertionError(f"never rests: {self}")
        assert plan(self.view(), self.targets, self.now) == []

    def check_rest(self) -> None:
        targets = self.targets
        assert list(self.servers.values()) == [S.READY] * targets.servers
        states = Counter(database.state for database in self.databases.values())
        assert set(states) <= {D.READY, D.LEASED}
        full = len(self.databases) == targets.most
        waited_for = {template for _, template in self.waiting}
        for template in self.templates:
            ready = sum(view.stock[template].ready for view in self.view().servers)
            wanted = self.wanted.get(template, targets.ready * targets.servers)
            assert ready >= wanted or full
            if template in self.wanted:
                assert ready <= (wanted + wanted // 4 + 2 if wanted else 0)
            if waited_for:
                assert full, "somebody waits although there is room"
                assert not ready, "somebody waits for the room that a ready database takes up"
