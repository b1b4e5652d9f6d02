"""Group a: a lease out of a full pool, beside a bare FastAPI POST with one commit."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import httpx

from benchmarks import raw
from benchmarks.bench import THINK, Bench, Live, progress
from benchmarks.outcome import Group, Mark, Outcome, Panel, Row, Table
from benchmarks.raw import Raw
from benchmarks.running import BODY, Running, keep_alive, yardstick
from benchmarks.samples import MILLISECONDS, Samples

_BODY = json.dumps(BODY).encode()
CLIENTS = (1, 8, 32)
_KEPT = 2.0  # seconds; a server closes a connection that nobody uses for long
THINKING = "warm `POST /leases`"
THINKING_HTTPX = "the same asked with httpx"
_HOW = """
The pool has enough databases for every burst, so this is the path of a request: nothing is made for it. First two
rows: the pool is full and nothing is under way, 20 ms pass, then one asks; leases and bare requests take turns.
Further down as fast as clients can. While clients only lease, nothing else is under way; while they release too,
databases are dropped and made on the same processors. All clients are one process and speak HTTP over kept
connections, with httpx where it says so and else with a client that does as little as possible. Bare: FastAPI, one
row of the same width committed to SQLite for each request; beside a release, a second request that updates it.
"""


def burst_name(clients: int) -> str:
    return f"{_clients(clients)} leasing at once, back to back"


def loop_name(clients: int) -> str:
    return f"{_clients(clients)} leasing and releasing, back to back"


def _clients(clients: int) -> str:
    return "1 client" if clients == 1 else f"{clients} clients"


@dataclass(slots=True)
class Pair:
    """The two kinds of request, side by side."""

    lease: Samples = field(default_factory=Samples)
    bare: Samples = field(default_factory=Samples)
    release: Samples = field(default_factory=Samples)

    def row(self, name: str) -> Row:
        ratio = f"{self.lease.median / self.bare.median:.2f} / {self.lease.p99 / self.bare.p99:.2f} times"
        return Row(name, [self.lease.pair, self.bare.pair, ratio, self.release.pair, str(len(self.lease))])


def measure(bench: Bench) -> Outcome:
    progress("warm leases")
    pool = bench.pick(160, 64)
    size = ("--pool-ready", str(pool), "--pool-max", str(pool))
    found: dict[str, Pair] = {}
    with yardstick(bench.place) as bare, bench.daemon(bench.source("embedded"), *size) as live:
        with keep_alive() as client:
            bare.answered(client, "/rows")
        live.quiet()
        found[THINKING] = raw.run(_thinking(live, bare, bench.pick(250, 40), bench.pick(30.0, 6.0)))
        found[THINKING_HTTPX] = _thinking_httpx(live, bare, bench.pick(100, 20), bench.pick(14.0, 4.0))
        for clients in CLIENTS:
            found[burst_name(clients)] = Pair()
            found[loop_name(clients)] = Pair()
        for _ in range(bench.pick(3, 2)):
            for clients in CLIENTS:
                _burst(live, bare, clients, pool // clients, found[burst_name(clients)])
                _loop(live, bare, clients, pool // 2 // clients, found[loop_name(clients)])
    head = ["median / p99", "lease", "bare `POST`", "ratio", "release, fenced", "samples"]
    notes = [_HOW]
    table = Table("A lease from a full pool", head, [pair.row(name) for name, pair in found.items()], notes)
    shown = {"1 client, 20 ms between": THINKING, "8 clients": burst_name(8), "32 clients": burst_name(32)}
    marks = []
    for label, name in shown.items():
        pair = found[name]
        marks.append(_mark(f"lease, {label}", pair.lease, ours=True))
        marks.append(_mark(f"bare POST, {label}", pair.bare, ours=False))
    return Outcome([table], [Panel("A lease from a full pool (median, line to p99)", "ms", marks)])


def _mark(label: str, samples: Samples, *, ours: bool) -> Mark:
    return Mark(label, samples.median * MILLISECONDS, samples.p99 * MILLISECONDS, ours)


async def thinking(
    live: Live,
    count: int,
    limit: float,
    between: Callable[[], Awaitable[None]] | None = None,
    *,
    full: bool = True,
    template: str = "base",
) -> Pair:
    """Measure lone requests of a daemon whose pool is full; ``between`` runs after each.

    Without ``full`` it is enough that nothing is under way.
    """
    pair, client = Pair(), await Raw.open(live.url)
    body = json.dumps({**BODY, "template": template}).encode()
    for _ in range(5):  # connections, caches
        await client.call("DELETE", f"/leases/{(await client.post('/leases', body))['id']}")
    end = time.monotonic() + limit
    while len(pair.lease) < count and (time.monotonic() < end or not pair.lease):
        asked = time.monotonic()
        live.quiet(60.0, full=full)
        if time.monotonic() - asked > _KEPT:
            client.close()
            client = await Raw.open(live.url)
            await client.call("GET", "/healthz")
        await asyncio.sleep(THINK)
        with pair.lease.timed():
            answer = await client.call("POST", "/leases", body)
        lease = json.loads(answer)
        with pair.release.timed():
            await client.call("DELETE", f"/leases/{lease['id']}")
        if between is not None:
            await between()
    client.close()
    return pair


async def _thinking(live: Live, bare: Running, count: int, limit: float) -> Pair:
    client, samples = await Raw.open(bare.url), Samples()
    for _ in range(5):
        await client.call("POST", "/rows", _BODY)

    async def row() -> None:
        live.quiet()
        await asyncio.sleep(THINK)
        with samples.timed():
            await client.call("POST", "/rows", _BODY)

    pair = await thinking(live, count, limit, row)
    client.close()
    return Pair(pair.lease, samples, pair.release)


def _thinking_httpx(live: Live, bare: Running, count: int, limit: float) -> Pair:
    pair = Pair()

    def post(client: httpx.Client, url: str) -> httpx.Response:
        return client.post(url, json=BODY).raise_for_status()

    with keep_alive() as leasing, keep_alive() as adding:
        for _ in range(5):
            post(adding, f"{bare.url}/rows")
            live.release(post(leasing, f"{live.url}/leases").json())
        end = time.monotonic() + limit
        while len(pair.lease) < count and time.monotonic() < end:
            live.quiet()
            time.sleep(THINK)
            with pair.lease.timed():
                answer = post(leasing, f"{live.url}/leases")
            lease = answer.json()
            with pair.release.timed():
                leasing.delete(f"{live.url}/leases/{lease['id']}").raise_for_status()
            live.quiet()
            time.sleep(THINK)
            with pair.bare.timed():
                post(adding, f"{bare.url}/rows")
    return pair


def _burst(live: Live, bare: Running, clients: int, each: int, pair: Pair) -> None:
    """Take the whole pool, and give it back when nobody looks at the time."""

    def posting(path: str, samples: Samples) -> Callable[[Raw], Awaitable[None]]:
        async def work(client: Raw) -> None:
            for _ in range(each):
                with samples.timed():
                    await client.call("POST", path, _BODY)

        return work

    live.quiet()
    raw.run(raw.all_at_once(live.url, clients, posting("/leases", pair.lease)))
    live.release_all()
    live.quiet()
    raw.run(raw.all_at_once(bare.url, clients, posting("/rows", pair.bare)))


def _loop(live: Live, bare: Running, clients: int, each: int, pair: Pair) -> None:
    async def leasing(client: Raw) -> None:
        for _ in range(each):
            with pair.lease.timed():
                answer = await client.call("POST", "/leases", _BODY)
            lease = json.loads(answer)
            with pair.release.timed():
                await client.call("DELETE", f"/leases/{lease['id']}")

    async def adding(client: Raw) -> None:
        for _ in range(each):
            with pair.bare.timed():
                answer = await client.call("POST", "/rows", _BODY)
            await client.call("DELETE", f"/rows/{json.loads(answer)['id']}")

    live.quiet()
    raw.run(raw.all_at_once(live.url, clients, leasing))
    live.quiet()
    raw.run(raw.all_at_once(bare.url, clients, adding))


_ROWS = [THINKING, THINKING_HTTPX, *(name(clients) for clients in CLIENTS for name in (burst_name, loop_name))]
GROUP = Group("warm", "a lease from a full pool, beside a bare FastAPI POST with one commit", _ROWS, measure)
