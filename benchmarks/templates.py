"""Group i: what templates cost to build, seal, keep and bring to another server; and their first use."""

import contextlib
import json
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import psycopg

from benchmarks.bench import Bench, Live, progress, reason, stored
from benchmarks.machine import BenchmarkError
from benchmarks.outcome import Group, Mark, Outcome, Panel, Row, Table, left_out
from benchmarks.running import daemon, first_lease, keep_alive
from benchmarks.samples import NOTHING, Samples, megabytes
from benchmarks.schemas import DIMENSIONS, DOCUMENTS, FIFTY, GIGABYTE, ONE, Schema

ROOT = Path(__file__).parents[1]
PROCESSES = 8
_ROOM = 8 * 1024**3  # bytes: twice 1 GB as a template and as kept files, and clones
_LIMIT = 120.0  # seconds
_POLL = 0.003
_EXACTLY = ("--pool-ready", "1", "--pool-ready-max", "1", "--template-budget", "12GB")
_HOW = f"""
Embedded, one ready database of each template; the templates one after the other, once each or medians. Built of SQL:
from `PUT /templates/{{name}}` to its answer. Built by the caller: `POST /templates/{{name}}/build`, the same SQL over
psycopg in the build lease, `POST .../seal`; sealing is the last of these alone. Kept: from the answer to the `PUT`
until its files are in the state directory; databases are cloned from it meanwhile. Brought to another server: the
daemon was stopped and started, and when the template is first asked for, the new server's copy is made of the files;
a lease then takes a clone more. 50 tables: {DOCUMENTS:,} rows of vector({DIMENSIONS}) with an HNSW index in one of
them; most of what it takes to build is that index.
"""
_USE = """
A process of its own, like a suite's first: `client.template()` with a function that builds the 50 tables in a lease,
then a lease of the template and a query; Python's start not counted. Built: how many of the processes were asked to
build. The processes at once begin together, with a template that nobody has built. From the daemon's start: until the
answer to the first `POST /leases` of the template, asked again every 3 ms until somebody listens; the daemon and its
server were stopped in between, and the template's files brought back. Medians of {}.
"""

FIRST = "first run of a suite"
AGAIN = "second run of it"
RESTARTED = "second run, the daemon stopped and started in between"
AT_ONCE = f"{PROCESSES} processes at once, each the first"


def size_name(schema: Schema) -> str:
    return f"a template of {schema.name}"


def measure(bench: Bench) -> Outcome:
    costs, marks = _costs(bench)
    return Outcome([costs, _uses(bench)], [Panel("Making a template", "s", marks, logarithmic=True)])


# --- what they cost ---


@dataclass(slots=True)
class _Cost:
    size: int = 0
    built: Samples = field(default_factory=Samples)
    by_caller: Samples = field(default_factory=Samples)
    sealed: Samples = field(default_factory=Samples)
    kept: Samples = field(default_factory=Samples)
    brought: Samples = field(default_factory=Samples)

    @property
    def parts(self) -> list[Samples]:
        return [self.built, self.by_caller, self.sealed, self.kept, self.brought]


def _costs(bench: Bench) -> tuple[Table, list[Mark]]:
    rows, marks = list[Row](), list[Mark]()
    for schema, times in ((ONE, bench.pick(3, 1)), (FIFTY, 1), (GIGABYTE, 1)):
        name = size_name(schema)
        progress(name)
        free = shutil.disk_usage(bench.place.path).free
        if schema is GIGABYTE and (bench.quick or free < _ROOM):
            why = "not with --quick" if bench.quick else f"needs {_ROOM // 1024**3} GB of room"
            rows.append(left_out(name, why))
            continue
        try:
            cost = _cost(bench, schema, times)
        except (BenchmarkError, psycopg.Error) as error:
            rows.append(left_out(name, reason(error)))
            continue
        rows.append(Row(name, [megabytes(cost.size), *(part.middle for part in cost.parts)]))
        labels = ("built of SQL", "", "sealed", "kept", "brought to a server")
        marks += [
            Mark(f"{schema.name}: {label}", part.median, ours=True)
            for label, part in zip(labels, cost.parts, strict=True)
            if label and part
        ]
    head = ["template", "size", "built of SQL", "built by the caller", "sealing", "kept", "brought to another server"]
    return Table("What a template costs", head, rows, [_HOW]), marks


def _cost(bench: Bench, schema: Schema, times: int) -> _Cost:
    """Build a template twice as often as told, each time under a name of its own, and start the daemon again."""
    cost, state_dir = _Cost(), bench.place.new_directory()
    with bench.daemon(bench.source("embedded"), *_EXACTLY, state_dir=state_dir) as live:
        for number in range(times):
            name = f"{schema.key}-{number}"
            live.quiet(_LIMIT)
            with cost.built.timed():
                template = live.template(name, schema.sql)
            with cost.kept.timed():
                live.until_kept(name)
            cost.size = int(template["bytes"])
            _built_by_caller(live, f"{name}-built", schema, cost)
            live.until_kept(f"{name}-built")
            live.quiet(_LIMIT)
            # one of each two is enough to be brought to the next server
            live.delete(f"/templates/{name}-built")
            live.quiet(_LIMIT, full=False)
    with bench.daemon(bench.source("embedded"), *_EXACTLY, state_dir=state_dir) as live:
        for number in range(times):
            live.quiet(_LIMIT)
            cost.brought.seconds.append(_brought(live, f"{schema.key}-{number}"))
    return cost


def _built_by_caller(live: Live, name: str, schema: Schema, cost: _Cost) -> None:
    live.quiet(_LIMIT)
    with cost.by_caller.timed():
        lease = live.post(f"/templates/{name}/build", fingerprint=secrets.token_hex(8), ttl=600)["lease"]
        with contextlib.closing(psycopg.connect(lease["dsn"], autocommit=True)) as connection:
            connection.execute(schema.sql)
        with cost.sealed.timed():
            live.post(f"/templates/{name}/seal", lease=lease["id"], force=True)


def _brought(live: Live, name: str) -> float:
    """Have a template brought to a server that has none of it; return the seconds that took.

    The daemon's own book is read: it says before each act what is going to be done, and after it that it was.
    """
    end, begun = time.monotonic() + _LIMIT, None
    with stored(live.state_dir) as store:
        live.client.put(f"{live.url}/demand", json={"template": name, "count": 1}).raise_for_status()
        while time.monotonic() < end:
            rows = store.execute("SELECT state FROM copy WHERE template = ? AND state <> 'gone'", [name]).fetchall()
            if rows and begun is None:
                begun = perf_counter()
            if begun is not None and rows == [("sealed",)]:
                return perf_counter() - begun
            time.sleep(_POLL)
    raise BenchmarkError(f"the template {name} did not come to the new server: {live.running.last_lines()}")


# --- their first use ---


@dataclass(slots=True)
class _Use:
    builds: list[int] = field(default_factory=list)
    template: Samples = field(default_factory=Samples)
    lease: Samples = field(default_factory=Samples)
    whole: Samples = field(default_factory=Samples)
    start: Samples = field(default_factory=Samples)  # of the daemon, until a lease of the template

    def row(self, name: str) -> Row:
        built = " / ".join(sorted({str(number) for number in self.builds})) or NOTHING
        return Row(name, [built, self.template.middle, self.lease.middle, self.whole.middle, self.start.middle])

    def add(self, answers: list[dict[str, Any]]) -> None:
        """Take in what processes answered that began at once: of each part the slowest."""
        self.builds.append(sum(answer["builds"] for answer in answers))
        self.template.seconds.append(max(answer["template"] for answer in answers))
        self.lease.seconds.append(max(answer["lease"] for answer in answers))
        self.whole.seconds.append(max(answer["whole"] for answer in answers))


def _uses(bench: Bench) -> Table:
    names = (FIRST, AGAIN, RESTARTED, AT_ONCE)
    found = {name: _Use() for name in names}
    embedded, times = bench.source("embedded"), bench.pick(2, 1)
    progress("the first use of a template")
    for _ in range(times):
        state_dir, fingerprint = bench.place.new_directory(), secrets.token_hex(8)
        with bench.daemon(embedded, state_dir=state_dir) as live:
            live.quiet()
            answers = _processes(bench, live.url, fingerprint, 1)
            template = str(answers[0]["name"])
            found[FIRST].add(answers)
            live.quiet()
            found[AGAIN].add(_processes(bench, live.url, fingerprint, 1))
            live.until_kept(template)
            live.quiet()
            found[AT_ONCE].add(_processes(bench, live.url, secrets.token_hex(8), PROCESSES))
        started = perf_counter()
        with daemon(bench.place, embedded, state_dir) as running, keep_alive() as client:
            lease = first_lease(running, template=template)
            found[RESTARTED].start.seconds.append(perf_counter() - started)
            client.delete(f"{running.url}/leases/{lease['id']}").raise_for_status()
            found[RESTARTED].add(_processes(bench, running.url, fingerprint, 1))
    head = ["use", "built", "`client.template()`", "lease", "both and a query", "from the daemon's start to a lease"]
    how = _USE.format("one run" if times == 1 else f"{times} runs")
    return Table("The first use of a template", head, [found[name].row(name) for name in names], [how])


def _processes(bench: Bench, url: str, fingerprint: str, count: int) -> list[dict[str, Any]]:
    """Run so many processes that begin at once; return what each took."""
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(_process(bench, url, fingerprint)) for _ in range(count)]
        for process in running:
            assert process.stdout is not None, "a pipe was asked for"
            if process.stdout.readline().strip() != "ready":
                raise BenchmarkError(f"a process did not begin: {process.communicate(timeout=_LIMIT)[1]}")
        for process in running:
            assert process.stdin is not None, "a pipe was asked for"
            process.stdin.write("\n")
            process.stdin.flush()
        return [_answer(process) for process in running]


def _answer(process: "subprocess.Popen[str]") -> dict[str, Any]:
    said, complaints = process.communicate(timeout=_LIMIT)
    if process.returncode:
        raise BenchmarkError(f"a process that uses a template failed: {complaints}")
    answer: dict[str, Any] = json.loads(said)
    return answer


@contextlib.contextmanager
def _process(bench: Bench, url: str, fingerprint: str) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.suites.first_use", fingerprint],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=bench.place.path,
        env={**bench.place.environment, "PYTHONPATH": str(ROOT), "LEASEDB_URL": url},
    )
    try:
        with process:
            yield process
    finally:
        if process.poll() is None:
            process.kill()


_ROWS = [*(size_name(schema) for schema in (ONE, FIFTY, GIGABYTE)), FIRST, AGAIN, RESTARTED, AT_ONCE]
GROUP = Group("templates", "building, sealing, keeping and bringing templates, and their first use", _ROWS, measure)
