"""Real runs of pytest whose tests get their databases in one way or another, and the same tests without pytest."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import docker
from docker.models.containers import Container

from benchmarks.bench import Bench, Live
from benchmarks.machine import BenchmarkError
from benchmarks.server import installation
from benchmarks.sources import Source
from leasedb_server.backends.embedded.account import Account

ROOT = Path(__file__).parents[1]
SUITES = ROOT / "benchmarks" / "suites"
TESTS, TESTS_QUICK = 100, 20
_LIMIT = 90.0  # seconds for one run of one way
_LOUD = 12  # last lines shown of a run that failed
_CONTAINER_LABEL = "pytest_databases"


@dataclass(frozen=True, slots=True)
class Way:
    """One way of giving tests databases.

    Args:
        name: of the row.
        schema: when the schema is applied.
        plugin: the module of suites/ with the fixture `db`; None for tests that need none.
        way: of suites/ways.py, for the plugin by_way and for the loop without pytest; None where there is no loop.
        needs: "pool": the daemon that runs already; "new pool": a daemon that has learned nothing; "server": a running
            server; "image"; "programs".
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

    @property
    def ours(self) -> bool:
        return self.needs.endswith("pool")

    @property
    def version(self) -> str:
        """That of the peer's distribution; "?" when it is not installed."""
        try:
            return version(self.package) if self.package else "?"
        except PackageNotFoundError:
            return "?"


@dataclass(frozen=True, slots=True)
class Recorded:
    """What one test took, in seconds; see suites/recorder.py."""

    setup: float = 0.0
    call: float = 0.0
    teardown: float = 0.0
    passed: bool = False

    @property
    def whole(self) -> float:
        return self.fixtures + self.call

    @property
    def fixtures(self) -> float:
        return self.setup + self.teardown


def recorded(file: Path) -> list[Recorded]:
    """Return the tests of a run, in their order, and delete the file; none when the run did not come to its end."""
    try:
        found = json.loads(file.read_text())
    except FileNotFoundError:
        return []
    file.unlink()
    return [Recorded(**each) for each in found]


def _no_ryuk() -> bool:
    return os.environ.get("TESTCONTAINERS_RYUK_DISABLED", "true").lower() == "true"


@dataclass(frozen=True, slots=True)
class Ground:
    """What the ways stand on.

    Args:
        full: the daemon of the ways that need a "pool".
        server: a daemon that makes nothing, whose server is used by hand.
        image: of containers; a text says why there is none.
        schema: as subject.py knows it.
    """

    bench: Bench
    full: Live
    server: Live
    image: Source | str
    schema: str = "shop"

    def environment(self, way: Way) -> dict[str, str]:
        """Return what the way's processes see.

        Raises:
            BenchmarkError: when something is missing here.
        """
        if way.package and way.version == "?":
            raise BenchmarkError(f"{way.package} is not installed (extra dev)")
        common = {
            **self.bench.place.environment,
            "PYTHONPATH": str(ROOT),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # each run loads what it needs, and nobody else's plugins
            "SUITE_TESTS": str(self.bench.pick(TESTS, TESTS_QUICK)),
            "SUITE_SCHEMA": self.schema,
            "SUITE_WAY": way.way or "",
        }
        match way.needs:
            case "server":
                return {**common, "SUITE_DSN": self.server.conninfo()}
            case "image":
                if isinstance(self.image, str):
                    raise BenchmarkError(self.image)
                engine = {"SUITE_IMAGE": self.image.image or "", "DOCKER_HOST": self.image.address or ""}
                return {**common, **engine, "TESTCONTAINERS_RYUK_DISABLED": "true" if _no_ryuk() else "false"}
        return common

    @contextlib.contextmanager
    def pool(self, way: Way) -> Iterator[dict[str, str]]:
        """Yield how a way's next run finds leasedb; a pool of ten is that of a daemon that has learned nothing."""
        match way.needs:
            case "pool":
                self.full.quiet(60.0)
                yield {"LEASEDB_URL": self.full.url}
            case "new pool":
                with self.bench.daemon(self.bench.source("embedded")) as live:
                    live.quiet()
                    yield {"LEASEDB_URL": live.url}
            case _:
                yield {}


def loop(ground: Ground, way: Way, environment: Mapping[str, str], prefix: list[str]) -> list[float]:
    """Return the seconds of each test without pytest."""
    command = [sys.executable, "-m", "benchmarks.suites.loop"]
    with ground.pool(way) as more:
        done = run(command, {**environment, **more}, ground.bench.place.path, prefix)
    seconds: list[float] = json.loads(done.stdout)
    return seconds


@contextlib.contextmanager
def guarded(ground: Ground, way: Way) -> Iterator[tuple[dict[str, str], list[str]]]:
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
def _programs(ground: Ground) -> Iterator[tuple[dict[str, str], list[str]]]:
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


def run_pytest(
    ground: Ground, way: Way, environment: Mapping[str, str], prefix: list[str], workers: int
) -> tuple[float, list[Recorded]]:
    """Return the seconds of the whole command, and the tests."""
    folder = Path(environment.get("SUITE_FOLDER", ground.bench.place.path))
    record = (folder / "record" if "SUITE_FOLDER" in environment else folder) / "record.json"
    plugins = ["benchmarks.suites.recorder", *way.plugins]
    if way.plugin:
        plugins.append(f"benchmarks.suites.{way.plugin}")
    tests = SUITES / ("test_subject.py" if way.plugin else "test_nothing.py")
    temporary = folder / "pytest"
    command = [*pytest_command(folder, tests, plugins, workers), f"--basetemp={temporary}"]
    started = time.perf_counter()
    run(command, {**environment, "SUITE_RECORD": str(record)}, folder, prefix)
    took = time.perf_counter() - started
    tests_run = recorded(record)
    shutil.rmtree(temporary, ignore_errors=True)
    if len(tests_run) != int(environment["SUITE_TESTS"]):
        raise BenchmarkError(f"{len(tests_run)} tests ran instead of {environment['SUITE_TESTS']}")
    return took, tests_run


def pytest_command(folder: Path, tests: Path, plugins: Iterable[str], workers: int = 1) -> list[str]:
    """Return how a file of tests is run with these plugins, as the project in a folder."""
    more = ["-pxdist.plugin", "-n", str(workers)] if workers > 1 else []
    command = [sys.executable, "-m", "pytest", "-q", "--import-mode=importlib", "-c", os.devnull]
    return [*command, f"--rootdir={folder}", *(f"-p{name}" for name in plugins), *more, str(tests)]


def run(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, prefix: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end.

    Raises:
        BenchmarkError: when it failed; with the last lines it said.
    """
    done = subprocess.run(
        [*prefix, *command], env=environment, cwd=folder, capture_output=True, text=True, timeout=_LIMIT, check=False
    )
    if done.returncode:
        raise BenchmarkError(f"{command[2]} failed with exit code {done.returncode}:\n{last_lines(done)}")
    return done


def last_lines(done: subprocess.CompletedProcess[str]) -> str:
    return "\n".join((done.stdout + done.stderr).strip().splitlines()[-_LOUD:])
