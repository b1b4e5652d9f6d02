"""Groups e and f: many ready databases, a thousand live leases, several servers."""

import shutil
import time
from statistics import median

from benchmarks import memory, raw, warm
from benchmarks.bench import Bench, Live, progress, reason
from benchmarks.machine import BenchmarkError
from benchmarks.outcome import Group, Mark, Outcome, Panel, Row, Table, left_out
from benchmarks.samples import MILLISECONDS, megabytes
from benchmarks.sustained import Rate, one_round

THOUSAND = 1000
READY = (10, 100, THOUSAND)
SERVERS = (1, 2, 4)
LEASED = "1,000 leased"
_EACH = 10 * 1024**2  # bytes on disk for one database, and some
_FILL_LIMIT = 120.0
_HOW = """
Embedded; one client with 20 ms between a quiet pool and the next request. With 1,000 leased at most 100 more exist,
and nobody is connected to the leased ones.
"""


def ready_name(count: int) -> str:
    return f"{count:,} ready"


def servers_name(count: int) -> str:
    return "1 server" if count == 1 else f"{count} servers"


def measure(bench: Bench) -> Outcome:
    rows, marks = list[Row](), list[Mark]()
    small = _too_small(bench)
    for count in READY:
        progress(f"{ready_name(count)} databases")
        names = [ready_name(count), LEASED] if count == THOUSAND else [ready_name(count)]
        if count == THOUSAND and small:
            rows += [left_out(name, small) for name in names]
            continue
        try:
            rows += _ready(bench, count, marks)
        except BenchmarkError as error:
            rows += [left_out(name, reason(error)) for name in names]
    head = ["databases", "warm lease, median / p99", "release", "daemon's memory", "servers' memory", "filled in"]
    notes = [_HOW]
    progress("several servers")
    spread = [_servers(bench, count) for count in SERVERS]
    more = ["servers", "lease and release per second, 2 clients", "lease meanwhile", "servers' memory", "filled in"]
    told = ["Embedded, ten ready on each; rates until all is settled. They share this machine's processors."]
    return Outcome(
        [Table("Many databases", head, rows, notes), Table("Several servers", more, spread, told)],
        [Panel("A lease with many databases (median, line to p99)", "ms", marks)],
    )


def _too_small(bench: Bench) -> str:
    if bench.quick:
        return "not with --quick"
    free, needed = shutil.disk_usage(bench.place.path).free, 1100 * _EACH
    return f"needs {needed / 1024**3:.0f} GB of room, {free / 1024**3:.1f} are free" if free < needed else ""


def _ready(bench: Bench, count: int, marks: list[Mark]) -> list[Row]:
    began = time.perf_counter()
    most = 1100 if count == THOUSAND else max(100, count + 10)
    flags = ("--pool-ready", str(count), "--pool-ready-max", str(count), "--pool-max", str(most))
    with bench.daemon(bench.source("embedded"), *flags) as live:
        live.quiet(_FILL_LIMIT)
        filled = f"{time.perf_counter() - began:.1f} s"
        rows = [_row(bench, live, ready_name(count), filled, marks)]
        if count == THOUSAND:
            rows.append(_leased(bench, live, marks))
    return rows


def _leased(bench: Bench, live: Live, marks: list[Mark]) -> Row:
    """Lease a thousand; the pool then wants a thousand more, and has room for a hundred."""
    began = time.perf_counter()
    for _ in range(THOUSAND):
        live.lease(ttl=3600)
    taken = f"taken in {time.perf_counter() - began:.1f} s"
    return _row(bench, live, LEASED, taken, marks, full=False)


def _row(bench: Bench, live: Live, name: str, filled: str, marks: list[Mark], *, full: bool = True) -> Row:
    pair = raw.run(warm.thinking(live, bench.pick(120, 20), bench.pick(15.0, 3.0), full=full))
    marks.append(Mark(name, pair.lease.median * MILLISECONDS, pair.lease.p99 * MILLISECONDS, ours=True))
    servers = megabytes(memory.of_servers(live))
    return Row(name, [pair.lease.pair, pair.release.pair, memory.daemon_text(live), servers, filled])


def _servers(bench: Bench, count: int) -> Row:
    began = time.perf_counter()
    try:
        with bench.daemon(bench.source("embedded"), "--pool-servers", str(count)) as live:
            end = time.monotonic() + _FILL_LIMIT
            while len(live.get("/pool")["per"]) < count and time.monotonic() < end:
                time.sleep(0.01)
            live.quiet(_FILL_LIMIT)
            filled = f"{time.perf_counter() - began:.1f} s"
            one_round(live, 2, bench.pick(1.0, 0.5), 0.0, Rate())  # not counted: the pool learns what is asked of it
            rate = Rate()
            for _ in range(bench.pick(3, 1)):
                one_round(live, 2, bench.pick(3.0, 1.0), 0.0, rate)
            used = megabytes(memory.of_servers(live))
            return Row(servers_name(count), [f"{median(rate.settled):.0f}", rate.lease.pair, used, filled])
    except BenchmarkError as error:
        return left_out(servers_name(count), reason(error))


_ROWS = [*(ready_name(count) for count in READY), LEASED, *(servers_name(count) for count in SERVERS)]
GROUP = Group("many", "many ready databases, a thousand live leases, several servers", _ROWS, measure)
