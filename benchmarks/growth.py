"""Group f: what a clone costs as its template grows, and that a lease does not."""

import contextlib
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from benchmarks import raw, warm
from benchmarks.bench import Bench, progress, reason
from benchmarks.machine import BenchmarkError, file_system
from benchmarks.outcome import Group, Mark, Outcome, Panel, Row, Table, left_out
from benchmarks.samples import MILLISECONDS, Samples
from benchmarks.server import server

Administrator = psycopg.Connection[Any]
_MEGABYTE = 1024**2
_ROOM = 8 * 1024**3  # bytes; 1 GB as a template and its files, three ready ones, and a file system on a loop device
_XFS = 4 * 1024**3
_READY = 3
_HOW = """
Medians of `CREATE DATABASE` by the superuser of a server that does nothing else, with leasedb's settings; the
template was just used, so it is in the kernel's cache. XFS: on a loop device whose file lies where the rest does;
shared blocks: `file_copy_method = clone` of Postgres 18. Last column: `POST /leases` of a template that was built that
big, 20 ms after its three ready databases were there; the empty one is the built-in template.
"""


@dataclass(frozen=True, slots=True)
class Size:
    """A template: so many megabytes of rows, or so many tables with a key and a text each."""

    name: str
    megabytes: int = 0
    tables: int = 0
    big: bool = False  # not with --quick


SIZES = (
    Size("8 MB (empty)"),
    Size("100 MB", megabytes=92),
    Size("1 GB", megabytes=1016, big=True),
    Size("50 tables", tables=50),
    Size("200 tables", tables=200, big=True),
    Size("1,000 tables", tables=1000, big=True),
)
_STRATEGIES = ("FILE_COPY", "WAL_LOG")
_SHARED = "FILE_COPY, file_copy_method = clone"


def measure(bench: Bench) -> Outcome:
    sizes, small = _fitting(bench)
    found: dict[tuple[str, str], Samples] = {}
    errors: dict[str, str] = {}
    where = bench.place.path
    progress("clones of growing templates")
    with server(bench.place, where / "growth") as dsn:
        _clones(bench, dsn, sizes, _STRATEGIES, found)
    try:
        with _xfs(where) as mounted, server(bench.place, mounted / "growth") as dsn:
            _clones(bench, dsn, sizes, ("FILE_COPY", _SHARED), found, prefix="XFS ")
    except BenchmarkError as error:
        errors["XFS "] = reason(error)
    leases, failure = _leases(bench, sizes)
    here = file_system(where)
    columns = [("", name) for name in _STRATEGIES] + [("XFS ", "FILE_COPY"), ("XFS ", _SHARED)]
    rows = []
    for size in SIZES:
        if size not in sizes:
            rows.append(left_out(size.name, small))
            continue
        cells = [found.get((f"{place}{name}", size.name), Samples()).middle for place, name in columns]
        rows.append(Row(size.name, [*cells, leases.get(size.name, Samples()).pair]))
    head = ["template", f"FILE_COPY, {here}", f"WAL_LOG, {here}", "FILE_COPY, XFS", "shared blocks, XFS"]
    notes = [_HOW]
    notes += [f"XFS: not measured: {text}." for text in errors.values()]
    notes += [f"The lease: not measured: {failure}."] if failure else []
    marks = []
    for size in sizes:
        if size.tables:
            continue
        for place, name in columns:
            samples = found.get((f"{place}{name}", size.name))
            if samples:
                label = "shared blocks, XFS" if name == _SHARED else f"{name}{', XFS' if place else ''}"
                marks.append(Mark(f"{size.name}: {label}", samples.median * MILLISECONDS))
        if lease := leases.get(size.name):
            marks.append(Mark(f"{size.name}: lease", lease.median * MILLISECONDS, ours=True))
    table = Table("How a clone grows with its template", [*head, "warm lease, median / p99"], rows, notes)
    return Outcome([table], [Panel("A clone by the template's size, and a lease", "ms", marks, logarithmic=True)])


def _fitting(bench: Bench) -> tuple[list[Size], str]:
    """Return the sizes that are measured, and why the others are not."""
    if bench.quick:
        return [size for size in SIZES if not size.big], "not with --quick"
    free = shutil.disk_usage(bench.place.path).free
    if free < _ROOM:
        why = f"needs {_ROOM // 1024**3} GB of room, {free / 1024**3:.1f} are free"
        return [size for size in SIZES if not size.big], why
    return list(SIZES), ""


def _clones(
    bench: Bench,
    dsn: str,
    sizes: list[Size],
    strategies: tuple[str, ...],
    found: dict[tuple[str, str], Samples],
    *,
    prefix: str = "",
) -> None:
    with psycopg.connect(dsn, autocommit=True) as hands:
        for size in sizes:
            template = f"template_{secrets.token_hex(4)}"
            hands.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(template)))
            with psycopg.connect(make_conninfo(dsn, dbname=template), autocommit=True) as inside:
                inside.execute("CREATE EXTENSION vector")
                for statement in filling(size).splitlines():  # the server's table of locks is small
                    inside.execute(statement)
            hands.execute("CHECKPOINT")
            for name in strategies:
                samples = found.setdefault((f"{prefix}{name}", size.name), Samples())
                _time(hands, template, name, samples, count=bench.pick(12, 3), limit=bench.pick(4.0, 1.0))
            _drop(hands, template)


def _time(hands: Administrator, template: str, strategy: str, samples: Samples, *, count: int, limit: float) -> None:
    if strategy == _SHARED:
        try:
            hands.execute("SET file_copy_method = clone")
        except psycopg.Error:  # before Postgres 18, or built without it
            return
    keyword = sql.SQL("WAL_LOG" if strategy == "WAL_LOG" else "FILE_COPY")
    statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY {}")
    end = time.monotonic() + limit
    for number in range(count):
        if number and time.monotonic() > end:
            break
        name = f"clone_{secrets.token_hex(4)}"
        with samples.timed():
            hands.execute(statement.format(sql.Identifier(name), sql.Identifier(template), keyword))
        _drop(hands, name)
    hands.execute("RESET file_copy_method" if strategy == _SHARED else "SELECT")


def _drop(hands: Administrator, name: str) -> None:
    hands.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))


def filling(size: Size) -> str:
    """Return what makes a database this big: one row to a page, so that what is written is what is meant."""
    statements = []
    if size.megabytes:
        pages = size.megabytes * _MEGABYTE // 8192
        statements.append("CREATE TABLE filler (text text); ALTER TABLE filler ALTER text SET STORAGE PLAIN")
        statements.append(f"INSERT INTO filler SELECT repeat('x', 8100) FROM generate_series(1, {pages})")
    statements += [f"CREATE TABLE t{number} (id int PRIMARY KEY, text text)" for number in range(size.tables)]
    return "".join(f"{statement};\n" for statement in statements)


@contextlib.contextmanager
def _xfs(where: Path) -> Iterator[Path]:
    """Mount an XFS whose blocks files can share, on a file below ``where``.

    Raises:
        BenchmarkError: when that is not possible here.
    """
    if os.geteuid() != 0:
        raise BenchmarkError("only root can mount a loop device")
    if shutil.which("mkfs.xfs") is None:
        raise BenchmarkError("mkfs.xfs is not installed")
    image, point = where / "xfs.image", where / "xfs"
    try:
        with image.open("wb") as file:
            file.truncate(_XFS)
        point.mkdir(mode=0o755)
        for command in (["mkfs.xfs", "-q", str(image)], ["mount", "-o", "loop", str(image), str(point)]):
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
            if done.returncode:
                raise BenchmarkError(f"{command[0]}: {done.stderr.strip()}")
        try:
            point.chmod(0o777)
            yield point
        finally:
            subprocess.run(["umount", "--detach-loop", str(point)], capture_output=True, check=True, timeout=60)
    finally:
        image.unlink(missing_ok=True)


def _leases(bench: Bench, sizes: list[Size]) -> tuple[dict[str, Samples], str]:
    """Measure leases from templates of these sizes; return them by size, or why there are none."""
    found: dict[str, Samples] = {}
    progress("leases while templates grow")
    exactly = ("--pool-ready", str(_READY), "--pool-ready-max", str(_READY))
    failure = ""
    for size in sizes:
        try:
            with bench.daemon(bench.source("embedded"), *exactly) as live:
                name = "base"
                if text := filling(size):
                    name = str(live.template("grown", text)["name"])
                    live.until_kept(name)
                live.quiet(60.0)
                leasing = warm.thinking(live, bench.pick(60, 10), bench.pick(8.0, 3.0), template=name)
                found[size.name] = raw.run(leasing).lease
        except (BenchmarkError, psycopg.Error) as error:
            failure = f"{size.name}: {reason(error)}"
    return found, failure


_ROWS = [size.name for size in SIZES]
GROUP = Group("growth", "what a clone costs as its template grows, and that a lease does not", _ROWS, measure)
