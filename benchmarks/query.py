"""Group b: from the request for a lease to the answer of its first query."""

import contextlib
import time
from dataclasses import dataclass, field

import httpx
import psycopg
from psycopg.conninfo import make_conninfo

from benchmarks.bench import THINK, Bench, Live, progress, reason
from benchmarks.machine import BenchmarkError
from benchmarks.outcome import Group, Mark, Outcome, Panel, Row, Table, left_out
from benchmarks.running import BODY, keep_alive
from benchmarks.samples import MILLISECONDS, Samples

QUERY = "SELECT '[1,2,3]'::vector <-> '[3,2,1]'"
_WAYS = ("TCP", "Unix socket")
_SOURCES = ("embedded", "Docker")
_HOW = """
A lease is asked for with httpx 20 ms after the pool was full and quiet, psycopg connects with its login, and `vector`
answers a distance; TCP and socket take turns. Connecting again: the same login, without a query.
"""


@dataclass(frozen=True, slots=True)
class _Parts:
    whole: Samples = field(default_factory=Samples)
    lease: Samples = field(default_factory=Samples)
    connect: Samples = field(default_factory=Samples)
    query: Samples = field(default_factory=Samples)
    second: Samples = field(default_factory=Samples)

    def row(self, name: str) -> Row:
        parts = " + ".join(f"{part.median * MILLISECONDS:.2f}" for part in (self.lease, self.connect, self.query))
        return Row(name, [self.whole.pair, f"{parts} ms", self.second.pair, str(len(self.whole))])


def measure(bench: Bench) -> Outcome:
    rows: list[Row] = []
    marks: list[Mark] = []
    for title in _SOURCES:
        progress(f"lease to first query, {title}")
        try:
            with bench.daemon(bench.source(title)) as live, keep_alive() as client:
                found = _source(live, client, bench.pick(80, 12), bench.pick(25.0, 5.0))
        except BenchmarkError as error:
            rows += [left_out(row_name(title, way), reason(error)) for way in _WAYS]
            continue
        for way in _WAYS:
            name, parts = row_name(title, way), found.get(way)
            if parts is None:
                rows.append(left_out(name, "the lease names no socket"))
                continue
            rows.append(parts.row(name))
            marks.append(Mark(name, parts.whole.median * MILLISECONDS, parts.whole.p99 * MILLISECONDS, ours=True))
    head = ["lease to first query", "median / p99", "medians: lease + connect + query", "connecting again", "samples"]
    notes = [_HOW]
    return Outcome([Table("Lease to first query", head, rows, notes)], [Panel("Lease to first query", "ms", marks)])


def row_name(title: str, way: str) -> str:
    return f"{title}, {way}"


def _source(live: Live, client: httpx.Client, count: int, limit: float) -> dict[str, _Parts]:
    found: dict[str, _Parts] = {}
    _once(live, client, "TCP", _Parts())  # caches, and the bytecode of psycopg
    ways = _WAYS if live.lease().get("socket") else _WAYS[:1]
    live.release_all()
    end = time.monotonic() + limit
    for _ in range(count):
        for way in ways:
            _once(live, client, way, found.setdefault(way, _Parts()))
        if time.monotonic() > end:
            break
    return found


def _once(live: Live, client: httpx.Client, way: str, parts: _Parts) -> None:
    live.quiet()
    time.sleep(THINK)
    with parts.whole.timed():
        with parts.lease.timed():
            lease = client.post(f"{live.url}/leases", json=BODY).raise_for_status().json()
        dsn = make_conninfo(lease["dsn"], host=lease["socket"]) if way != "TCP" else lease["dsn"]
        with parts.connect.timed():
            connection = psycopg.connect(dsn)
        with parts.query.timed():
            connection.execute(QUERY).fetchone()
    with contextlib.closing(connection), parts.second.timed():
        psycopg.connect(dsn).close()
    live.release(lease)


_ROWS = [row_name(title, way) for title in _SOURCES for way in _WAYS]
GROUP = Group("query", "from the request for a lease to the answer of its first query", _ROWS, measure)
