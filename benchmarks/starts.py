"""Group e: starts, cold and cached, a further server, and memory."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import psycopg
from psycopg.conninfo import make_conninfo

from benchmarks import memory
from benchmarks.bench import Bench, progress, reason
from benchmarks.machine import BenchmarkError
from benchmarks.outcome import Group, Mark, Outcome, Panel, Row, Table, left_out
from benchmarks.running import daemon, first_lease, keep_alive, yardstick
from benchmarks.samples import Samples, megabytes
from benchmarks.sources import Source
from leasedb_server.backends.container import ContainerBackend, ContainerSettings
from leasedb_server.backends.embedded import EmbeddedBackend, EmbeddedSettings
from leasedb_server.domain.errors import LeasedbError
from leasedb_server.domain.names import Kind, Name, new_daemon_id, new_ident
from leasedb_server.domain.server import Endpoint
from leasedb_server.ports import ServerBackend

_SOURCES = ("embedded", "Docker", "Podman")
BARE = "a bare FastAPI and SQLModel app, start to first answer"
_QUERY_LIMIT = 30.0
_POLL = 0.002
_HOW = """
From before the process is created until the answer to the first `POST`, asked again every 3 ms until somebody
listens. Cold: a state directory that does not exist and nothing prepared, but the image is there; cached: a later
start of the same. The kinds of start of one backend take turns with the bare app. A further server: the backend
alone, with everything prepared.
"""


def cold(title: str) -> str:
    return f"{title}: daemon start to first lease, cold"


def cached(title: str) -> str:
    return f"{title}: the same, cached"


def further(title: str) -> str:
    return f"{title}: a further server, start to first query"


def sizes(title: str) -> str:
    return f"{title}, pool of ten"


def measure(bench: Bench) -> Outcome:
    count, limit = bench.pick(6, 1), bench.pick(32.0, 5.0)
    found: dict[str, Samples] = {BARE: Samples()}
    failures: dict[str, str] = {}
    rows: list[Row] = []
    _start_bare(bench, Samples())  # not counted: bytecode
    for title in _SOURCES:
        progress(f"starts, {title}")
        try:
            rows.append(_one_source(bench, title, found, count, limit))
        except (BenchmarkError, LeasedbError, psycopg.Error) as error:
            failures[title] = reason(error)
            rows.append(left_out(sizes(title), reason(error)))
    names = [BARE, *(name(title) for title in _SOURCES for name in (cold, cached, further))]
    lines = [
        Row(name, [found[name].spread])
        if found.get(name)
        else left_out(name, failures.get(name.partition(":")[0], "no time was left"))
        for name in names
    ]
    notes = [_HOW]
    marks = [
        Mark(_label(name), found[name].median, found[name].most, ours=name != BARE) for name in names if found.get(name)
    ]
    head = ["backend", "daemon", "its servers", "files of a ready database"]
    text = [
        "Resident after the first lease, and the servers' share. Of a container the engine counts files in memory in."
    ]
    return Outcome(
        [Table("Starting", ["start", "median (range)"], lines, notes), Table("Memory", head, rows, text)],
        [Panel("Starting (median, line to the slowest)", "s", marks)],
    )


def _label(name: str) -> str:
    """Return a row's name short enough for the plot."""
    short = name.replace("daemon start to first lease, ", "").replace("the same, ", "")
    return short.replace(", start to first answer", "").replace(", start to first query", "")


def _one_source(bench: Bench, title: str, found: dict[str, Samples], count: int, limit: float) -> Row:
    source, end = bench.source(title), time.monotonic() + limit
    if source.image is None:
        start(bench, source, bench.place.new_directory())  # not counted: it leaves the bytecode of all modules
    for name in (cold(title), cached(title), further(title)):
        found[name] = Samples()
    for number in range(count):
        if number and time.monotonic() > end:
            break
        fresh = bench.place.new_directory()
        _forget(bench, source, fresh)
        found[cold(title)].seconds.append(start(bench, source, fresh))
        found[cached(title)].seconds.append(start(bench, source, fresh))
        _start_bare(bench, found[BARE])
    asyncio.run(_further(bench, source, found[further(title)], count))
    with bench.daemon(source) as live:
        live.quiet()
        with live.administrator() as hands:
            row = hands.execute("SELECT pg_database_size(%s::name)", [live.copy()]).fetchone()
        assert row is not None, "an aggregate without an answer"
        cells = [memory.daemon_text(live), megabytes(memory.of_servers(live)), megabytes(row[0])]
    return Row(sizes(title), cells)


def start(bench: Bench, source: Source, state_dir: Path) -> float:
    """Return the seconds from the start of the daemon's process to the answer that carries the first lease."""
    started = perf_counter()
    with daemon(bench.place, source, state_dir) as running:
        first_lease(running)
        return perf_counter() - started


def _start_bare(bench: Bench, samples: Samples) -> None:
    started = perf_counter()
    with yardstick(bench.place, "bare_start.py") as bare, keep_alive() as client:
        bare.answered(client, "/things")
        samples.seconds.append(perf_counter() - started)


def _forget(bench: Bench, source: Source, state_dir: Path) -> None:
    """Take away what an engine keeps so that servers start quickly."""
    if source.address is not None:
        command = [sys.executable, "-m", "leasedb.cli", "clean", "--state-dir", str(state_dir), *source.flags]
        subprocess.run(
            command,
            env={**bench.place.environment, **source.environment},
            cwd=bench.place.path,
            capture_output=True,
            timeout=60,
            check=False,
        )


async def _further(bench: Bench, source: Source, samples: Samples, count: int) -> None:
    name = new_daemon_id()
    folder = bench.place.new_directory()
    backend: ServerBackend
    if source.image is None:
        backend = EmbeddedBackend(EmbeddedSettings(daemon=name, root=folder / "servers"))
    else:
        backend = ContainerBackend(ContainerSettings(daemon=name, image=source.image, engine=source.address))
    folder.mkdir(mode=0o711)
    try:
        await backend.check(lambda _line: None, fetch=False)
        await _started(backend, name, Samples())  # not counted: it prepares
        for _ in range(count):
            await _started(backend, name, samples)
    finally:
        await backend.sweep(frozenset())
        await backend.close()


async def _started(backend: ServerBackend, daemon_id: str, samples: Samples) -> None:
    server = str(Name(daemon_id, Kind.SERVER, new_ident()))
    with samples.timed():
        endpoint = await backend.start(server)
        await asyncio.to_thread(_answered, endpoint)
    await backend.stop(server)


def _answered(endpoint: Endpoint) -> None:
    end = time.monotonic() + _QUERY_LIMIT
    login = {name: getattr(endpoint, name) for name in ("host", "port", "user", "password", "dbname")}
    dsn = make_conninfo(**login)
    while True:
        try:
            with psycopg.connect(dsn, connect_timeout=3) as connection:
                connection.execute("SELECT 1")
        except psycopg.OperationalError:
            if time.monotonic() > end:
                raise
            time.sleep(_POLL)
        else:
            return


_STARTS: list[Callable[[str], str]] = [cold, cached, further, sizes]
_ROWS = [BARE, *(name(title) for title in _SOURCES for name in _STARTS)]
GROUP = Group("starts", "starts of the daemon and of servers, cold and cached, and memory", _ROWS, measure)
