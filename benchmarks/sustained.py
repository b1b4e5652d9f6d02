"""Group c: leases per second without end, beside the loop that clones and drops by hand on such a server."""

import asyncio
import itertools
import json
import threading
import time
from dataclasses import dataclass, field
from statistics import median

from psycopg import sql

from benchmarks import raw
from benchmarks.bench import EMPTY, Bench, Live, progress, reason
from benchmarks.machine import BenchmarkError
from benchmarks.outcome import Group, Mark, Outcome, Panel, Row, Table, left_out
from benchmarks.raw import Raw
from benchmarks.running import BODY
from benchmarks.samples import NOTHING, Samples

_BODY = json.dumps(BODY).encode()
_SOURCES = ("embedded", "Docker")
CLIENTS = (1, 2)
WORK = 0.02  # seconds
_numbers = itertools.count()
_HOW = """
The pool has the default size and is full at first. Per second: while clients ask. Until all is settled: counted on
until every released database is dropped and the pool is full again, so that each lease has paid for one clone and one
drop. Raw loop: `CREATE DATABASE ... TEMPLATE ... STRATEGY FILE_COPY` and `DROP DATABASE` by the superuser over as
many connections as there are clients, on a second server of the same settings and place, without logins and with
nothing revoked; both take turns. Ratio: settled to raw. Work: 20 ms pass between lease and release, as in a test; the
work bounds that rate, and what counts is the lease's p99.
"""


@dataclass(slots=True)
class Rate:
    """Rounds of leasing and releasing; each ends when all was dropped and made anew."""

    answered: list[float] = field(default_factory=list)  # per second, while clients asked
    settled: list[float] = field(default_factory=list)  # per second, until the pool was as before
    lease: Samples = field(default_factory=Samples)


def row_name(title: str, clients: int, work: float = 0.0) -> str:
    who = "1 client" if clients == 1 else f"{clients} clients"
    return f"{title}, {who}{f', {work * 1000:.0f} ms of work' if work else ''}"


def measure(bench: Bench) -> Outcome:
    rows: list[Row] = []
    marks: list[Mark] = []
    for title in _SOURCES:
        progress(f"sustained leasing, {title}")
        try:
            rows += _source(bench, title, marks)
        except BenchmarkError as error:
            rows += [left_out(name, reason(error)) for name in _names(title)]
    head = ["lease and release", "per second", "until all is settled", "raw loop", "ratio", "lease", "samples"]
    notes = [_HOW]
    panel = Panel("Lease and release without end, all settled", "per second", marks)
    return Outcome([Table("Without end", head, rows, notes)], [panel])


def _source(bench: Bench, title: str, marks: list[Mark]) -> list[Row]:
    source, rows = bench.source(title), list[Row]()
    seconds, rounds = bench.pick(2.5, 1.0), bench.pick(3, 1)
    with bench.daemon(source) as live, bench.daemon(source, *EMPTY) as other:
        for clients in CLIENTS:
            ours, by_hand = Rate(), list[float]()
            one_round(live, clients, seconds / 4, 0.0, Rate())  # not counted: the pool learns what is asked of it
            for _ in range(rounds):
                one_round(live, clients, seconds, 0.0, ours)
                by_hand.append(_raw(other, clients, seconds))
            rate, theirs = median(ours.settled), median(by_hand)
            cells = [f"{median(ours.answered):.0f}", f"{rate:.0f}", f"{theirs:.0f}", f"{rate / theirs:.2f}"]
            rows.append(Row(row_name(title, clients), [*cells, ours.lease.pair, str(len(ours.lease))]))
            marks.append(Mark(f"leasedb, {row_name(title, clients)}", rate, ours=True))
            marks.append(Mark(f"raw loop, {row_name(title, clients)}", theirs))
        for clients in CLIENTS:
            ours = Rate()
            one_round(live, clients, seconds * rounds / 2, WORK, ours)
            cells = [f"{ours.answered[0]:.0f}", NOTHING, NOTHING, NOTHING]
            rows.append(Row(row_name(title, clients, WORK), [*cells, ours.lease.pair, str(len(ours.lease))]))
    return rows


def one_round(live: Live, clients: int, seconds: float, work: float, rate: Rate) -> None:
    """Lease and release for so many seconds, then wait until the pool is as it was."""
    live.quiet()
    before = len(rate.lease)
    end = time.monotonic() + seconds

    async def leasing(client: Raw) -> None:
        while time.monotonic() < end:
            with rate.lease.timed():
                answer = await client.call("POST", "/leases", _BODY)
            if work:
                await asyncio.sleep(work)
            await client.call("DELETE", f"/leases/{json.loads(answer)['id']}")

    started = time.perf_counter()
    raw.run(raw.all_at_once(live.url, clients, leasing))
    asked = time.perf_counter()
    live.quiet(limit=60.0)
    count = len(rate.lease) - before
    rate.answered.append(count / (asked - started))
    rate.settled.append(count / (time.perf_counter() - started))


def _raw(live: Live, connections: int, seconds: float) -> float:
    """Return how many databases per second are cloned and dropped by hand."""
    base, failures, counts = live.copy(), list[BaseException](), list[int]()
    logins = [live.administrator() for _ in range(connections)]
    end = time.monotonic() + seconds

    def work(number: int) -> None:
        count = 0
        try:
            while time.monotonic() < end:
                name = sql.Identifier(f"by_hand_{next(_numbers)}")
                clone = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY")
                logins[number].execute(clone.format(name, sql.Identifier(base)))
                logins[number].execute(sql.SQL("DROP DATABASE {}").format(name))
                count += 1
        except Exception as error:  # noqa: BLE001 - raised below, where somebody hears it
            failures.append(error)
        counts.append(count)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(connections)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - started
    for login in logins:
        login.close()
    if failures:
        raise BenchmarkError(f"the raw loop: {failures[0]}") from failures[0]
    return sum(counts) / took


def _names(title: str) -> list[str]:
    return [row_name(title, clients, work) for work in (0.0, WORK) for clients in CLIENTS]


_ROWS = [name for title in _SOURCES for name in _names(title)]
GROUP = Group("sustained", "lease and release per second, beside a raw loop of clone and drop", _ROWS, measure)
