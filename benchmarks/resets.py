"""Group h: a reset of schemas of several sizes, beside TRUNCATE and beside DROP and CREATE DATABASE by hand."""

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from benchmarks import raw
from benchmarks.bench import THINK, Bench, Live, progress
from benchmarks.machine import BenchmarkError
from benchmarks.outcome import Group, Mark, Outcome, Panel, Row, Table
from benchmarks.raw import Raw
from benchmarks.running import BODY, Running, yardstick
from benchmarks.samples import MILLISECONDS, NOTHING, Samples
from benchmarks.schemas import DIMENSIONS, DOCUMENTS, ENTRIES, FIFTY, MANY, ONE, Schema

Administrator = psycopg.Connection[Any]
_SCHEMAS = (ONE, FIFTY, MANY)
BARE = "a bare FastAPI `POST` in the same run"
_BODY = json.dumps(BODY).encode()
_BY_HAND_EVERY = 5  # rounds: it takes longest, and differs least
_numbers = itertools.count()
_HOW = f"""
One daemon has the three templates, and one lease of each; embedded. Before each reset the lease's login connects,
finds the template's rows and nothing else, and writes; its session stays open where the row says so. The stock is
full at the beginning of each round of six resets, and 20 ms pass before each. The client costs next to nothing; the
bare `POST`, as far from all else, tells what HTTP and one commit take. 50 tables: one of {DOCUMENTS:,} rows of
vector({DIMENSIONS}) with an HNSW index, one of ten rows, and 48 of {ENTRIES} rows each that refer to each other; 500
tables: 500 such of ten rows. By hand, by the superuser on the same server, on clones of the same templates, in turns:
`TRUNCATE ... RESTART IDENTITY CASCADE` of all tables, which leaves them empty and not as they were; and `DROP
DATABASE`, `WITH (FORCE)` where a session is open, and `CREATE DATABASE ... TEMPLATE ... STRATEGY FILE_COPY`, without
login and connection. Back to back: one client resets again and again, from a full stock on, which the daemon enlarges
as it learns.
"""


@dataclass(slots=True)
class _Found:
    reset: Samples = field(default_factory=Samples)
    truncate: Samples = field(default_factory=Samples)
    anew: Samples = field(default_factory=Samples)
    rates: list[float] = field(default_factory=list)  # resets per second, back to back

    def row(self, name: str) -> Row:
        rate = f"{median(self.rates):.0f} per second" if self.rates else NOTHING
        cells = [self.reset.pair, self.truncate.middle, self.anew.middle, rate, str(len(self.reset))]
        return Row(name, cells)


_Key = tuple[Schema, bool]  # whether a session is open
_KINDS: list[_Key] = [(schema, idle) for schema in _SCHEMAS for idle in (False, True)]


@dataclass(frozen=True, slots=True)
class _Round:
    """What is measured again and again."""

    live: Live
    leases: dict[Schema, dict[str, Any]]
    found: dict[_Key, _Found]
    bare: Samples


def row_name(schema: Schema, *, idle: bool) -> str:
    return f"reset of {schema.name}{', with an idle session' if idle else ''}"


def measure(bench: Bench) -> Outcome:
    progress("resets")
    found = {kind: _Found() for kind in _KINDS}
    bare = Samples()
    with yardstick(bench.place) as yard, bench.daemon(bench.source("embedded")) as live:
        for schema in _SCHEMAS:
            live.template(schema.key, schema.sql)
        leases = {schema: live.lease(template=schema.key, ttl=3600) for schema in _SCHEMAS}
        live.quiet(60.0)
        raw.run(_rounds(bench, _Round(live, leases, found, bare), yard))
        for schema in _SCHEMAS:
            for _ in range(bench.pick(3, 1)):
                rate = raw.run(_back_to_back(live, leases[schema], bench.pick(40, 12)))
                found[schema, False].rates.append(rate)
    rows = [found[schema, idle].row(row_name(schema, idle=idle)) for schema, idle in _KINDS]
    rows.append(Row(BARE, [bare.pair, NOTHING, NOTHING, NOTHING, str(len(bare))]))
    head = ["what is reset", "`POST /leases/{id}/reset`, median / p99", "`TRUNCATE` by hand"]
    head += ["`DROP` and `CREATE DATABASE` by hand", "back to back", "samples"]
    return Outcome([Table("Resets", head, rows, [_HOW])], [_panel(found)])


def _panel(found: dict[_Key, _Found]) -> Panel:
    marks = []
    for schema in _SCHEMAS:
        each, reset = found[schema, False], found[schema, False].reset
        marks.append(Mark(f"reset, {schema.name}", reset.median * MILLISECONDS, ours=True))
        marks.append(Mark(f"TRUNCATE, {schema.name}", each.truncate.median * MILLISECONDS))
        marks.append(Mark(f"DROP and CREATE, {schema.name}", each.anew.median * MILLISECONDS))
    return Panel("A reset by the schema (dot: median)", "ms", marks, logarithmic=True)


# --- ours ---


async def _rounds(bench: Bench, each: _Round, yard: Running) -> None:
    live = each.live
    with contextlib.ExitStack() as stack:
        hands = {schema: stack.enter_context(_by_hand(live, schema)) for schema in _SCHEMAS}
        client, other = await Raw.open(live.url), await Raw.open(yard.url)
        await other.call("POST", "/rows", _BODY)
        end, count = time.monotonic() + bench.pick(90.0, 12.0), bench.pick(100, 6)
        for number in range(count):
            if number and time.monotonic() > end:
                break
            live.quiet(60.0)
            for schema, idle in _KINDS:
                samples = each.found[schema, idle].reset if number else Samples()  # the first one fills caches
                await _once(client, each.leases[schema], samples, idle=idle)
            for _ in range(3):
                await asyncio.sleep(THINK)
                with each.bare.timed():
                    await other.call("POST", "/rows", _BODY)
            if number % _BY_HAND_EVERY == 0:
                live.quiet(60.0)
                for schema, idle in _KINDS:
                    hands[schema].once(each.found[schema, idle], idle=idle)
            await client.call("GET", "/healthz")  # a server closes a connection that nobody uses for long
        client.close()
        other.close()


async def _once(client: Raw, lease: dict[str, Any], samples: Samples, *, idle: bool) -> None:
    with contextlib.closing(psycopg.connect(lease["dsn"], autocommit=True)) as session:
        _use(session)
        if not idle:
            session.close()
        await asyncio.sleep(THINK)
        with samples.timed():
            answer = await client.call("POST", f"/leases/{lease['id']}/reset", b"{}")
    ended = json.loads(answer)["ended_sessions"]
    if idle and ended != 1:  # one that was just closed may still be on its way out, and counts then
        raise BenchmarkError(f"the reset ended {ended} sessions instead of 1")


async def _back_to_back(live: Live, lease: dict[str, Any], count: int) -> float:
    """Return resets per second of a client that asks for the next one at once."""
    live.quiet(60.0)
    client = await Raw.open(live.url)
    started = time.perf_counter()
    for _ in range(count):
        await client.call("POST", f"/leases/{lease['id']}/reset", b"{}")
    took = time.perf_counter() - started
    client.close()
    return count / took


def _use(session: Administrator) -> None:
    """Do what a test does, and find out whether the database was fresh."""
    row = session.execute("SELECT count(*), max(id) FROM account").fetchone()
    if row != (10, 10):
        raise BenchmarkError(f"the database is not as its template: {row}")
    session.execute("INSERT INTO account (name) VALUES ('one more')")


# --- by hand ---


@dataclass(frozen=True, slots=True)
class _Hands:
    """A clone that is made, emptied and dropped by the superuser."""

    live: Live
    administrator: Administrator
    name: str
    template: str

    def create(self) -> None:
        clone = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY")
        self.administrator.execute(clone.format(sql.Identifier(self.name), sql.Identifier(self.template)))

    def drop(self, *, force: bool) -> None:
        words = sql.SQL("DROP DATABASE {} WITH (FORCE)" if force else "DROP DATABASE {}")
        self.administrator.execute(words.format(sql.Identifier(self.name)))

    def once(self, found: _Found, *, idle: bool) -> None:
        with contextlib.ExitStack() as stack:
            if idle:
                stack.enter_context(contextlib.closing(self._session()))
            with contextlib.closing(self._session()) as inside:
                _use(inside)
                tables = inside.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
                names = sql.SQL(", ").join(sql.Identifier(name) for (name,) in tables.fetchall())
                time.sleep(THINK)
                with found.truncate.timed():
                    inside.execute(sql.SQL("TRUNCATE {} RESTART IDENTITY CASCADE").format(names))
            time.sleep(THINK)
            with found.anew.timed():
                self.drop(force=idle)
                self.create()

    def _session(self) -> Administrator:
        return psycopg.connect(make_conninfo(self.live.conninfo(), dbname=self.name), autocommit=True)


@contextlib.contextmanager
def _by_hand(live: Live, schema: Schema) -> Iterator[_Hands]:
    with live.administrator() as administrator:
        hands = _Hands(live, administrator, f"by_hand_{next(_numbers)}", live.copy(schema.key))
        hands.create()
        try:
            yield hands
        finally:
            hands.drop(force=True)


_ROWS = [*(row_name(schema, idle=idle) for schema, idle in _KINDS), BARE]
GROUP = Group("resets", "a reset of small and large schemas, beside `TRUNCATE` and cloning by hand", _ROWS, measure)
