"""Group d: a hundred tests, each on a fresh database, in the ways people have."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

import docker
from docker.models.containers import Container

from benchmarks.bench import EMPTY, Bench, Live, progress, reason
from benchmarks.machine import BenchmarkError
from benchmarks.outcome import Group, Mark, Outcome, Panel, Row, Table, left_out
from benchmarks.samples import NOTHING, Samples
from benchmarks.server import installation
from benchmarks.sources import Source
from leasedb_server.backends.embedded.account import Account

ROOT = Path(__file__).parents[1]
TESTS, TESTS_QUICK = 100, 20
_LIMIT = 90.0  # seconds for one run of one way
_SLOW = 25.0  # seconds; a way that takes more is run once, and not with two workers
_LOUD = 12  # last lines shown of a run that failed
_CONTAINER_LABEL = "pytest_databases"
_WITHOUT_SCHEMA = {"leased", "by_hand", "by_hand_template", "testcontainers"}
_HOW = """
Real runs of pytest in processes of their own, each way in turns, without think time. Five tables and 15 rows; each
test writes three rows, reads them with a join, and fails where the database is not fresh. Whole run: the command from
start to end with all that it starts itself; one test: setup, call and teardown in the serial runs; no pytest: the
median of the same in a bare loop. The schema is applied once in a template where a way has templates, else in each
test; leasedb's templates of one's own are not there yet, so its like is the first row by hand. leasedb's daemons run
already with full pools, as they are used; the plugin announces its tests. The server of the ways by hand, of
`TRUNCATE` and of the rollback runs already too, with leasedb's settings on the same file system. A test that is
rolled back cannot commit, and these last two ways never give a fresh database. Last column: all of them without a
schema, so that nothing but database, login, connection and one question is measured.
"""


@dataclass(frozen=True, slots=True)
class Way:
    """One way of giving tests databases.

    Args:
        name: of the row.
        schema: when the schema is applied.
        plugin: the module of suites/ with the fixture `db`; None for tests that need none.
        way: of suites/ways.py, for the plugin by_way and for the loop without pytest; None where there is no loop.
        needs: "pool 120", "pool 10": one of our daemons; "server": a running server; "image"; "programs".
        package: the peer's distribution.
        plugins: further pytest plugins it needs.
    """

    name: str
    schema: str
    plugin: str | None
    way: str | None
    needs: str = ""
    package: str | None = None
    plugins: tuple[str, ...] = ()


WAYS = (
    Way("pytest alone, no database", "-", None, None),
    Way("leasedb, pool of 120", "each test", "by_leasedb", "leased", "pool 120", plugins=("leasedb.pytest_plugin",)),
    Way(
        "leasedb, pool of ten at first",
        "each test",
        "by_leasedb",
        "leased",
        "pool 10",
        plugins=("leasedb.pytest_plugin",),
    ),
    Way("`CREATE DATABASE` by hand", "each test", "by_way", "by_hand", "server"),
    Way("`CREATE DATABASE ... TEMPLATE` by hand", "template", "by_way", "by_hand_template", "server"),
    Way("testcontainers, container per session", "template", "by_way", "testcontainers", "image", "testcontainers"),
    Way(
        "pytest-postgresql",
        "template",
        "by_pytest_postgresql",
        None,
        "programs",
        "pytest-postgresql",
        ("pytest_postgresql.plugin",),
    ),
    Way(
        "pytest-databases",
        "template",
        "by_pytest_databases",
        None,
        "image",
        "pytest-databases",
        ("pytest_databases._service", "pytest_databases.docker.postgres"),
    ),
    Way("`TRUNCATE` between tests", "once", "by_way", "truncated", "server"),
    Way("rollback after each test", "once", "by_way", "rolled_back", "server"),
)


@dataclass(slots=True)
class _Found:
    serial: Samples = field(default_factory=Samples)  # the whole command
    parallel: Samples = field(default_factory=Samples)
    test: Samples = field(default_factory=Samples)  # one test with its fixtures, of the serial runs
    loop: list[float] = field(default_factory=list)  # medians of one test without pytest
    empty: list[float] = field(default_factory=list)  # seconds for all, without pytest and without a schema
    error: str = ""

    def row(self, way: Way) -> Row:
        if self.error:
            return left_out(way.name, self.error)
        loop = f"{median(self.loop) * 1000:.1f} ms" if self.loop else NOTHING
        wholes = [f"{each.median:.2f} s" if each else NOTHING for each in (self.serial, self.parallel)]
        empty = f"{median(self.empty):.2f} s" if self.empty else NOTHING
        return Row(way.name, [way.schema, *wholes, self.test.pair, loop, empty])


def measure(bench: Bench) -> Outcome:
    found = {way.name: _Found() for way in WAYS}
    image = _image(bench)
    embedded = bench.source("embedded")
    with (
        bench.daemon(embedded, "--pool-ready", "120", "--pool-max", "200") as full,
        bench.daemon(embedded, *EMPTY) as server,
    ):
        ground = _Ground(bench, full, server, image)
        end = time.monotonic() + bench.pick(150.0, 30.0)
        for number in range(bench.pick(3, 1)):
            for way in WAYS:
                each = found[way.name]
                slow = sum(each.serial.seconds + each.parallel.seconds) > _SLOW
                if each.error or (number and (slow or time.monotonic() > end)):
                    continue
                progress(f"{bench.pick(TESTS, TESTS_QUICK)} tests: {way.name}")
                try:
                    _measure(ground, way, each)
                except (BenchmarkError, subprocess.TimeoutExpired) as error:
                    each.error = reason(error)
                    print(error, file=sys.stderr)
    return _outcome(found, bench, image)


def _outcome(found: Mapping[str, _Found], bench: Bench, image: Source | str) -> Outcome:
    count = bench.pick(TESTS, TESTS_QUICK)
    head = [f"{count} tests", "schema applied", "whole run", "with two workers", "one test, median / p99", "no pytest"]
    head += [f"{count} empty databases, no pytest"]
    rows = [found[way.name].row(way) for way in WAYS]
    runs = max(len(each.serial) for each in found.values())
    peers = ", ".join(f"{way.package} {_version(way.package)}" for way in WAYS if way.package)
    where = image.about if isinstance(image, Source) else "no engine"
    notes = [
        _HOW,
        f"Peers as their documentation has them: {peers}; containers on {where}; medians of up to {runs} runs.",
    ]
    marks = []
    for way in WAYS[1:]:
        each = found[way.name]
        if each.serial:
            marks.append(
                Mark(
                    way.name.replace("`", "").replace("DATABASE ... ", "... "),
                    each.serial.median,
                    ours=way.name.startswith("leasedb"),
                )
            )
    return Outcome(
        [Table(f"{count} tests on fresh databases", head, rows, notes)],
        [Panel(f"{count} tests, serial, whole run", "s", marks)],
    )


def _no_ryuk() -> bool:
    return os.environ.get("TESTCONTAINERS_RYUK_DISABLED", "true").lower() == "true"


@dataclass(frozen=True, slots=True)
class _Ground:
    """What the ways stand on."""

    bench: Bench
    full: Live
    server: Live
    image: Source | str

    def environment(self, way: Way) -> dict[str, str]:
        """Return what the way's processes see.

        Raises:
            BenchmarkError: when something is missing here.
        """
        common = {
            **self.bench.place.environment,
            "PYTHONPATH": str(ROOT),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # each run loads what it needs, and nobody else's plugins
            "SUITE_TESTS": str(self.bench.pick(TESTS, TESTS_QUICK)),
            "SUITE_WAY": way.way or "",
        }
        match way.needs.split():
            case ["server"]:
                return {**common, "SUITE_DSN": self.server.conninfo()}
            case ["image"]:
                if isinstance(self.image, str):
                    raise BenchmarkError(self.image)
                engine = {"SUITE_IMAGE": self.image.image or "", "DOCKER_HOST": self.image.address or ""}
                return {**common, **engine, "TESTCONTAINERS_RYUK_DISABLED": "true" if _no_ryuk() else "false"}
        return common

    @contextlib.contextmanager
    def pool(self, way: Way) -> Iterator[dict[str, str]]:
        """Yield how a way's next run finds leasedb; a pool of ten is that of a daemon that has learned nothing."""
        match way.needs:
            case "pool 120":
                self.full.quiet(60.0)
                yield {"LEASEDB_URL": self.full.url}
            case "pool 10":
                with self.bench.daemon(self.bench.source("embedded")) as live:
                    live.quiet()
                    yield {"LEASEDB_URL": live.url}
            case _:
                yield {}


def _measure(ground: _Ground, way: Way, found: _Found) -> None:
    """Run one way once: serial, with two workers, and without pytest."""
    if way.package and _version(way.package) == "?":
        raise BenchmarkError(f"{way.package} is not installed (extra dev)")
    with _guarded(ground, way) as (environment, prefix):
        runs = ((1, found.serial), (2, found.parallel))
        for workers, samples in ground.bench.pick(runs, runs[:1]):
            if workers > 1 and found.serial.most > _SLOW:
                break
            with ground.pool(way) as more:
                took, tests = _pytest(ground, way, {**environment, **more}, prefix, workers)
            samples.seconds.append(took)
            if workers == 1:
                found.test.seconds.extend(tests)
        if way.way is not None:
            found.loop.append(median(_loop(ground, way, environment, prefix)))
        if way.way in _WITHOUT_SCHEMA:
            found.empty.append(sum(_loop(ground, way, {**environment, "SUITE_EMPTY": "yes"}, prefix)))


def _loop(ground: _Ground, way: Way, environment: Mapping[str, str], prefix: list[str]) -> list[float]:
    """Return the seconds of each test without pytest."""
    command = [sys.executable, "-m", "benchmarks.suites.loop"]
    with ground.pool(way) as more:
        done = _run(command, {**environment, **more}, ground.bench.place.path, prefix)
    seconds: list[float] = json.loads(done.stdout)
    return seconds


@contextlib.contextmanager
def _guarded(ground: _Ground, way: Way) -> Iterator[tuple[dict[str, str], list[str]]]:
    """Yield environment and user for a way's processes, and see that nothing of it is left or touched."""
    environment, prefix = ground.environment(way), list[str]()
    if way.needs == "programs":
        with _programs(ground) as (more, prefix):
            yield {**environment, **more}, prefix
        return
    if way.needs != "image" or not isinstance(ground.image, Source):
        yield environment, prefix
        return
    with contextlib.closing(docker.DockerClient(base_url=ground.image.address)) as engine:

        def there(**filters: str) -> list[Container]:
            return engine.containers.list(all=True, ignore_removed=True, filters={**filters})

        before = {each.id for each in there()}
        if there(label=_CONTAINER_LABEL):
            # it stops every container with its label, whoever started it
            raise BenchmarkError("containers of pytest-databases are there that this benchmark did not start")
        try:
            yield environment, prefix
        finally:
            for each in there(ancestor=ground.image.image or ""):
                ours = _CONTAINER_LABEL in each.labels or "org.testcontainers" in each.labels
                if each.id not in before and ours:
                    each.remove(force=True, v=True)


@contextlib.contextmanager
def _programs(ground: _Ground) -> Iterator[tuple[dict[str, str], list[str]]]:
    """Yield what pytest-postgresql needs: pg_ctl, a user who may run it, places that this user can write to."""
    found, account = installation(ground.bench.place)
    folder = ground.bench.place.new_directory()
    folder.mkdir(mode=0o755)
    (folder / "sockets").mkdir()
    (folder / "record").mkdir()
    if account.switched:
        for path in (folder, folder / "sockets", folder / "record"):
            os.chown(path, account.uid, account.gid)
    more = {
        "SUITE_PG_CTL": str(found.folder / "pg_ctl"),
        "SUITE_SOCKETS": str(folder / "sockets"),
        "SUITE_FOLDER": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
        "USER": account.name,
    }
    try:
        yield more, _as(account)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _as(account: Account) -> list[str]:
    """Return what to put before a command so that it runs as this user, and can still read root's interpreter."""
    if not account.switched:
        return []
    reading = "+dac_read_search"
    user = (f"--reuid={account.uid}", f"--regid={account.gid}", "--clear-groups")
    return ["setpriv", *user, f"--inh-caps={reading}", f"--ambient-caps={reading}", "--"]


def _pytest(
    ground: _Ground, way: Way, environment: Mapping[str, str], prefix: list[str], workers: int
) -> tuple[float, list[float]]:
    """Return the seconds of the whole command, and of each test."""
    folder = Path(environment.get("SUITE_FOLDER", ground.bench.place.path))
    record = (folder / "record" if "SUITE_FOLDER" in environment else folder) / "record.json"
    plugins = ["benchmarks.suites.recorder", *way.plugins]
    if way.plugin:
        plugins.append(f"benchmarks.suites.{way.plugin}")
    if workers > 1:
        plugins.append("xdist.plugin")
    tests = ROOT / "benchmarks" / "suites" / ("test_shop.py" if way.plugin else "test_nothing.py")
    temporary = folder / "pytest"
    command = [sys.executable, "-m", "pytest", "-q", "--import-mode=importlib", "-c", os.devnull]
    command += [f"--rootdir={folder}", f"--basetemp={temporary}", *(f"-p{name}" for name in plugins), str(tests)]
    command += ["-n", str(workers)] if workers > 1 else []
    started = time.perf_counter()
    _run(command, {**environment, "SUITE_RECORD": str(record)}, folder, prefix)
    took = time.perf_counter() - started
    seconds: list[float] = json.loads(record.read_text())
    record.unlink()
    shutil.rmtree(temporary, ignore_errors=True)
    if len(seconds) != int(environment["SUITE_TESTS"]):
        raise BenchmarkError(f"{len(seconds)} tests ran instead of {environment['SUITE_TESTS']}")
    return took, seconds


def _run(
    command: list[str], environment: Mapping[str, str], folder: Path, prefix: list[str]
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end.

    Raises:
        BenchmarkError: when it failed; with the last lines it said.
    """
    done = subprocess.run(
        [*prefix, *command], env=environment, cwd=folder, capture_output=True, text=True, timeout=_LIMIT, check=False
    )
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-_LOUD:])
        raise BenchmarkError(f"{command[2]} failed with exit code {done.returncode}:\n{last}")
    return done


def _image(bench: Bench) -> Source | str:
    return bench.sources["Docker"]


def _version(package: str | None) -> str:
    try:
        return version(package) if package else "?"
    except PackageNotFoundError:
        return "?"


GROUP = Group(
    "peers", f"{TESTS} tests, each on a fresh database, in the ways people have", [w.name for w in WAYS], measure
)
