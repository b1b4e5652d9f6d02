"""The measurements, each bounded in samples and in time."""

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import docker
import httpx
import psutil
import psycopg

from benchmarks.machine import BenchmarkError
from benchmarks.running import BODY, Running, Site, Source, daemon, first_lease, keep_alive
from benchmarks.samples import Samples

THINK = 0.02  # seconds between a quiet pool and the next request
QUIET_LIMIT = 15.0
_POLL = 0.003
_QUERY = "SELECT '[1,2,3]'::vector <-> '[3,2,1]'"
MEMORY_AFTER = 200  # leases


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured; seconds where nothing else is said."""

    pairs: int
    first_queries: int
    starts: int
    throughput: float
    limit: float  # for each series of samples


FULL = Effort(pairs=500, first_queries=60, starts=5, throughput=5.0, limit=45.0)
QUICK = Effort(pairs=40, first_queries=10, starts=2, throughput=1.0, limit=5.0)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes. ``pss`` shares out what several processes use together; None where the system does not tell."""

    rss: int
    pss: int | None
    leases: int = 0  # given before


@dataclass(slots=True)
class Figures:
    """What was measured on one source of servers."""

    versions: str
    post: Samples = field(default_factory=Samples)
    bare: Samples = field(default_factory=Samples)
    release: Samples = field(default_factory=Samples)
    first_query: Samples = field(default_factory=Samples)
    parts: tuple[Samples, Samples, Samples] = field(default_factory=lambda: (Samples(), Samples(), Samples()))
    daemon_memory: Memory | None = None
    server_memory: int | None = None
    rates: dict[int, tuple[float, Samples]] = field(default_factory=dict)  # by clients: per second, and each POST


def measure(running: Running, bare: Running, effort: Effort) -> Figures:
    """Measure a daemon that is up, side by side with the yardstick."""
    with keep_alive() as asking, keep_alive() as leasing, keep_alive() as yardstick:
        server = asking.get(f"{running.url}/servers").raise_for_status().json()["servers"][0]
        figures = Figures(f"Postgres {server['versions']['postgres']}, vector {server['versions']['vector']}")

        def quiet() -> None:
            _quiet(asking, running.url)

        warm = Warm(leasing, f"{running.url}/leases", yardstick, f"{bare.url}/rows", running.process.pid)
        warm.measure(figures, quiet, effort)
        _first_queries(figures, leasing, running.url, quiet, effort)
        quiet()
        figures.server_memory = _server_memory(running, server)
    for clients in (1, 8):
        figures.rates[clients] = _rate(running.url, clients, effort.throughput)
    return figures


@dataclass(frozen=True, slots=True)
class Warm:
    """The two kinds of POST, taking turns."""

    leasing: httpx.Client
    leases: str
    yardstick: httpx.Client
    rows: str
    pid: int  # of the daemon

    def measure(self, figures: Figures, quiet: Callable[[], None], effort: Effort) -> None:
        """Before each request the pool is full and nothing is under way, for both kinds alike."""
        for _ in range(10):  # connections, caches
            self._bare()
            _give_back(self.leasing, self.leases, self._lease().json())
        end = time.monotonic() + effort.limit
        while len(figures.post) < effort.pairs and time.monotonic() < end:
            quiet()
            with figures.post.timed():
                answer = self._lease()
            lease = answer.json()
            with figures.release.timed():
                _give_back(self.leasing, self.leases, lease)
            quiet()
            with figures.bare.timed():
                self._bare()
            if len(figures.post) <= MEMORY_AFTER:
                figures.daemon_memory = replace(_memory(self.pid), leases=len(figures.post))

    def _lease(self) -> httpx.Response:
        return self.leasing.post(self.leases, json=BODY).raise_for_status()

    def _bare(self) -> httpx.Response:
        return self.yardstick.post(self.rows, json=BODY).raise_for_status()


def _first_queries(
    figures: Figures, leasing: httpx.Client, url: str, quiet: Callable[[], None], effort: Effort
) -> None:
    lease_part, connect_part, query_part = figures.parts
    end = time.monotonic() + effort.limit
    while len(figures.first_query) < effort.first_queries and time.monotonic() < end:
        quiet()
        with figures.first_query.timed():
            with lease_part.timed():
                lease = leasing.post(f"{url}/leases", json=BODY).raise_for_status().json()
            with connect_part.timed():
                connection = psycopg.connect(lease["dsn"])
            with query_part.timed():
                connection.execute(_QUERY).fetchone()
        connection.close()
        _give_back(leasing, f"{url}/leases", lease)


def start_to_lease(place: Site, source: Source, state_dir: Path) -> float:
    """Return the seconds from the start of the daemon's process to the answer that carries the first lease."""
    started = perf_counter()
    with daemon(place, source, state_dir) as running:
        first_lease(running)
        return perf_counter() - started


def _rate(url: str, clients: int, seconds: float) -> tuple[float, Samples]:
    """Return how many leases per second were taken and given back, and how long each POST took."""
    posts, failures = Samples(), list[BaseException]()
    end = time.monotonic() + seconds

    def work() -> None:
        try:
            with keep_alive() as client:
                while time.monotonic() < end:
                    with posts.timed():
                        lease = client.post(f"{url}/leases", json=BODY).raise_for_status().json()
                    _give_back(client, f"{url}/leases", lease)
        except httpx.HTTPError as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(clients)]
    started = perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise BenchmarkError(f"{clients} clients at once: {failures[0]!r}") from failures[0]
    return len(posts) / (perf_counter() - started), posts


def _give_back(client: httpx.Client, leases: str, lease: dict[str, Any]) -> None:
    client.delete(f"{leases}/{lease['id']}").raise_for_status()


def _quiet(client: httpx.Client, url: str) -> None:
    """Return when the pool is full again and nothing is being made or dropped, and a little later."""
    end = time.monotonic() + QUIET_LIMIT
    while True:
        pool = client.get(f"{url}/pool").raise_for_status().json()
        full = pool["ready"] >= sum(stock["target"] for stock in pool["per"])
        if full and not pool["making"] and not pool["condemned"]:
            break
        if time.monotonic() > end:
            raise BenchmarkError(f"The pool of {url} did not fill within {QUIET_LIMIT:g} s: {pool}")
        time.sleep(_POLL)
    time.sleep(THINK)


def _memory(pid: int) -> Memory:
    process = psutil.Process(pid)
    with contextlib.suppress(AttributeError, psutil.AccessDenied):
        full = process.memory_full_info()
        return Memory(full.rss, full.pss)
    return Memory(process.memory_info().rss, None)


def _server_memory(running: Running, server: dict[str, Any]) -> int | None:
    """Return the bytes that the server's processes use with a full pool and nobody connected but the daemon."""
    if server["backend"] == "container":
        return _container_memory(server["name"])
    memories = [_memory(process.pid) for process in psutil.Process(running.process.pid).children(recursive=True)]
    shares = [memory.pss for memory in memories if memory.pss is not None]
    return sum(shares) if len(shares) == len(memories) else None


def _container_memory(name: str) -> int:
    """Return what ``docker stats`` shows: without what the kernel only caches of the container's files."""
    with contextlib.closing(docker.from_env()) as engine:
        stats: Any = engine.containers.get(name).stats(stream=False)
        memory = stats["memory_stats"]
    cached = memory["stats"].get("inactive_file", memory["stats"].get("total_inactive_file", 0))
    return int(memory["usage"] - cached)
