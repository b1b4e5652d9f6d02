"""Group j: a whole server for one lease, kept warm and not."""

import secrets
import time
from dataclasses import dataclass, field, replace

import psycopg

from benchmarks.bench import THINK, Bench, Live, progress, reason
from benchmarks.machine import BenchmarkError
from benchmarks.outcome import Group, Mark, Outcome, Panel, Row, Table, left_out
from benchmarks.samples import MILLISECONDS, Samples
from benchmarks.schemas import FIFTY
from benchmarks.sources import Source

_SOURCES = ("embedded", "Docker")
_LIMIT = 60.0  # seconds
_POLL = 0.01
_HOW = """
`POST /leases` with `{"server": "exclusive"}`, 20 ms after nothing was under way: the answer brings a superuser's
login to a server of its own, with a database cloned from a template; the server is thrown away when the lease ends.
Warm: `--pool-exclusive 1`, and that one server is ready; none warm: a server is started for the request, of a daemon
with a token, without which embedded gives nobody a superuser then. With 50 tables: the template (of the figures of
resets) is brought to the new server, and cloned there. First query: connecting included. Again: from the release
until the next server is warm. The kinds of each backend take turns.
"""


@dataclass(slots=True)
class _Found:
    lease: Samples = field(default_factory=Samples)
    query: Samples = field(default_factory=Samples)
    again: Samples = field(default_factory=Samples)

    def row(self, name: str) -> Row:
        return Row(name, [self.lease.spread, self.query.middle, self.again.middle])


def warm_name(title: str) -> str:
    return f"{title}: a whole server, warm"


def tables_name(title: str) -> str:
    return f"{title}: a whole server with 50 tables, warm"


def cold_name(title: str) -> str:
    return f"{title}: a whole server, none warm"


def _names(title: str) -> list[str]:
    return [warm_name(title), tables_name(title), cold_name(title)]


def measure(bench: Bench) -> Outcome:
    rows, marks = list[Row](), list[Mark]()
    for title in _SOURCES:
        progress(f"whole servers, {title}")
        found = {name: _Found() for name in _names(title)}
        try:
            _measure(bench, bench.source(title), title, found)
        except (BenchmarkError, psycopg.Error) as error:
            rows += [left_out(name, reason(error)) for name in found]
            continue
        for name, each in found.items():
            rows.append(each.row(name))
            label, lease = name.replace("a whole server", "server"), each.lease
            marks.append(Mark(label, lease.median * MILLISECONDS, lease.most * MILLISECONDS, ours=True))
    head = ["exclusive lease", "`POST /leases`, median (range)", "first query", "warm again after"]
    panel = Panel("A whole server (median, line to the slowest)", "ms", marks)
    return Outcome([Table("Whole servers", head, rows, [_HOW])], [panel])


def _measure(bench: Bench, source: Source, title: str, found: dict[str, _Found]) -> None:
    few = ("--pool-ready", "2", "--pool-ready-max", "2")
    secured = replace(source, environment={**source.environment, "LEASEDB_TOKEN": secrets.token_hex(16)})
    with bench.daemon(source, *few, "--pool-exclusive", "1") as live, bench.daemon(secured, *few) as cold:
        live.template(FIFTY.key, FIFTY.sql)
        live.quiet(_LIMIT)
        _until(live, servers=2)
        for _ in range(bench.pick(6, 2)):
            _once(live, found[warm_name(title)], warm=2)
            _once(live, found[tables_name(title)], warm=2, template=FIFTY.key)
            _once(cold, found[cold_name(title)], warm=1)


def _once(live: Live, found: _Found, *, warm: int, template: str = "base") -> None:
    live.quiet(_LIMIT)
    time.sleep(THINK)
    with found.lease.timed():
        lease = live.lease(server="exclusive", template=template)
    with found.query.timed(), psycopg.connect(lease["dsn"]) as connection:
        connection.execute("SELECT '[1,2,3]'::vector <-> '[3,2,1]'::vector")
    with (found.again if warm > 1 else Samples()).timed():
        live.release(lease)
        _until(live, servers=warm, without=lease["server"])


def _until(live: Live, *, servers: int, without: str = "") -> None:
    """Wait until so many servers are ready, and this one is gone."""
    end = time.monotonic() + _LIMIT
    while True:
        found = live.get("/servers")["servers"]
        states = {each["id"]: each["state"] for each in found}
        if without not in states and list(states.values()) == ["ready"] * servers:
            return
        if time.monotonic() > end:
            raise BenchmarkError(f"{servers} servers were not ready within {_LIMIT:g} s: {states}")
        time.sleep(_POLL)


_ROWS = [name for title in _SOURCES for name in _names(title)]
GROUP = Group("exclusive", "a whole server for one lease, kept warm and not", _ROWS, measure)
