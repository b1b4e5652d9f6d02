"""The client's findings as text for people: the status, the doctor's list."""

import importlib
import importlib.metadata
import importlib.util
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import leasedb
from leasedb._client import Client
from leasedb._discovery import autostart_wanted, can_start, find_address
from leasedb._errors import LeasedbError, NotFoundError, NotReadyError
from leasedb._models import CloningWay, Health, LeaseSummary, Pool, Server, Servers
from leasedb._tables import count, cut, duration, size, table
from leasedb._template import Templates
from leasedb._template_showing import template_notes

INSTALL = "pip install 'leasedb[server,embedded]'"
_BACKENDS = frozenset({"container", "embedded", "existing"})
_FAILED_SHOWN = 5  # templates
_MANY = 0.8  # the part of a server's connections from which on it is worth a note


@dataclass(frozen=True, slots=True)
class Status:
    """All that `leasedb status` shows. ``not_ready`` says why the daemon does not lease; empty when it does.

    An older daemon tells of no templates. ``log`` is None where the daemon was not started in the background here.
    """

    url: str
    health: Health
    not_ready: str
    servers: Servers
    pool: Pool
    leases: list[LeaseSummary]
    templates: Templates
    log: str | None


def ask_status(client: Client) -> Status:
    not_ready = ""
    health = client.health()
    try:
        client.ready()
    except NotReadyError as error:
        not_ready = error.detail
    templates = Templates()
    with suppress(NotFoundError):
        templates = client.templates()
    leases = client.leases(state="active")
    log = None if client.log is None else str(client.log)
    return Status(client.url, health, not_ready, client.servers(), client.pool(), leases, templates, log)


def status_lines(status: Status, now: datetime | None = None) -> list[str]:
    health, servers = status.health, status.servers
    condition = f"not ready: {status.not_ready}" if status.not_ready else "asleep" if status.pool.asleep else "ready"
    return [
        f"daemon   {status.url}, leasedb {health.version}, pid {health.pid}, {condition}",
        *([] if status.log is None else [f"log      {status.log}"]),
        f"backend  {servers.backend}" + (f": {servers.reason}" if servers.reason else ""),
        _pool_line(status.pool),
        "",
        *_server_lines(servers, status.pool),
        *(f"note on {server.id}: {note}" for server in servers.servers for note in _notes(server)),
        *_template_lines(status),
        "",
        *_lease_lines(status.leases, now or datetime.now(UTC)),
    ]


def _pool_line(pool: Pool) -> str:
    wanted = sum(_targets(pool).values())
    parts = [
        f"{pool.ready} of {wanted} ready" if wanted else f"{pool.ready} ready",
        f"{pool.making} being made" if pool.making else "",
        f"{pool.leased} leased",
        f"{pool.condemned} being dropped" if pool.condemned else "",
        f"{pool.waiting} waiting",
    ]
    most = "no limit" if pool.max is None else f"at most {pool.max}"
    return f"pool     {', '.join(part for part in parts if part)} ({most})"


def _targets(pool: Pool) -> dict[str, int]:
    """Return how many databases of each template shall be ready; an older daemon says it for each server only."""
    if pool.demand:
        return {demand.template: demand.target for demand in pool.demand}
    targets: dict[str, int] = {}
    for share in pool.per:
        targets[share.template] = targets.get(share.template, 0) + share.target
    return targets


def _server_lines(servers: Servers, pool: Pool) -> list[str]:
    if not servers.servers:
        return ["no servers: the next lease starts one" if pool.asleep else "no servers"]
    rows = [["SERVER", "STATE", "ADDRESS", "POSTGRES", "VECTOR", "READY", "LEASED", "FILES", "ERROR"]]
    for server in servers.servers:
        versions = server.versions or {}
        rows.append(
            [
                server.id,
                server.state,
                "-" if server.port is None else f"{server.host}:{server.port}",
                versions.get("postgres", "-"),
                versions.get("vector", "-"),
                str(server.databases.ready),
                str(server.databases.leased),
                _files(server),
                cut(server.error),
            ]
        )
    if not any(server.error for server in servers.servers):
        rows = [row[:-1] for row in rows]
    return table(rows)


def _files(server: Server) -> str:
    """Say where the next database's files go; servers that start and older daemons do not tell."""
    if server.port is None or not server.place:
        return "-"
    if server.place == "none":
        return "full"
    return "memory" if server.memory is not None and server.place == "main" else "disk"


def _notes(server: Server) -> Iterator[str]:
    yield from server.notes
    if server.memory is not None and server.place == "overflow":
        yield f"its {server.memory / 2**20:.0f} MB of memory are used up, further databases go to the disk"
    if server.connections is not None and server.connections.used >= _MANY * server.connections.most:
        used, most = server.connections.used, server.connections.most
        yield f"{used} of {most} connections are in use, leases wait when there are none"


def _template_lines(status: Status) -> list[str]:
    """Say of each template what is wanted, why, and how long each server takes for a clone by the way it chose."""
    pool, templates = status.pool, {template.key: template for template in status.templates}
    targets, demands = _targets(pool), {demand.template: demand for demand in pool.demand}
    chosen = [way for server in status.servers.servers for way in server.cloning if way.chosen]
    rows = [["TEMPLATE", "SIZE", "WANTED", "READY", "PER SECOND", "ANNOUNCED", "CLONED IN"]]
    for key in dict.fromkeys([*templates, *targets]):
        template, demand = templates.get(key), demands.get(key)
        if template is not None and template.state != "sealed":
            continue  # has a line of its own
        rows.append(
            [
                key,
                "-" if template is None or template.bytes is None else size(template.bytes),
                str(targets.get(key, "-")),
                str(sum(share.ready for share in pool.per if share.template == key)),
                f"{demand.rate:.1f}" if demand else "-",
                str(demand.hinted) if demand else "-",
                ", ".join(_cloned(way) for way in chosen if way.template == key) or "-",
            ]
        )
    failed = sum(template.error is not None for template in status.templates)
    notes = list(template_notes(status.templates))
    if unsaid := max(0, failed - _FAILED_SHOWN):
        notes = notes[:-unsaid]
    lines = [
        *(table(rows) if len(rows) > 1 else ()),
        *(f"template {note}" for note in notes),
        *([f"and {unsaid} more that failed, see: leasedb template ls"] if unsaid else ()),
    ]
    return ["", *lines] if lines else []


def _cloned(way: CloningWay) -> str:
    return way.strategy if way.milliseconds is None else f"{way.milliseconds:.1f} ms ({way.strategy})"


def _lease_lines(leases: Sequence[LeaseSummary], now: datetime) -> list[str]:
    if not leases:
        return ["no active leases"]
    rows = [["LEASE", "TEMPLATE", "AGE", "LEFT", "PID", "HOLDER", "LABELS"]]
    rows += [
        [
            lease.id,
            _use(lease),
            duration((now - lease.created_at).total_seconds()),
            duration((lease.expires_at - now).total_seconds()),
            "-" if lease.holder.pid is None else str(lease.holder.pid),
            cut(lease.holder.name) or "-",
            cut(" ".join(f"{key}={value}" for key, value in sorted(lease.labels.items()))),
        ]
        for lease in leases
    ]
    return table(rows)


def _use(lease: LeaseSummary) -> str:
    """Say what a lease's database is, or becomes."""
    if lease.builds is not None:
        return f"builds {lease.builds}"
    kind = ", exclusive" if lease.server_kind == "exclusive" else ""
    return f"{lease.template}{kind}{', kept' if lease.kept else ''}"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's. ``ok`` is None for what is merely told."""

    name: str
    ok: bool | None
    text: str

    def __str__(self) -> str:
        mark = {True: "ok", False: "no", None: "--"}[self.ok]
        return f"{mark}  {self.name:<10} {self.text}"


def examine(client: Client) -> tuple[list[Finding], bool]:
    """Look at the daemon, this Python and, where the daemon's code is installed, at what each backend needs.

    Returns:
        The findings, and whether anything can serve: a daemon that is ready, or a backend one could be started with.
    """
    python = f"{platform.python_implementation()} {platform.python_version()}, {sys.executable}"
    findings = [
        Finding("python", None, f"{python}, {platform.platform(terse=True)}"),
        Finding("client", True, f"leasedb {leasedb.__version__}, httpx {importlib.metadata.version('httpx')}"),
    ]
    daemon = _examine_daemon(client, leasedb.__version__)
    backends = _examine_backends()
    serves = daemon.ok is True or any(finding.ok for finding in backends if finding.name in _BACKENDS)
    return [*findings, daemon, _examine_starting(client), *backends], serves


def _examine_starting(client: Client) -> Finding:
    address = find_address(client.url)
    if not can_start(address):
        return Finding("autostart", None, f"none is started at {client.url}: not http on this machine")
    if not autostart_wanted():
        return Finding("autostart", None, "off: LEASEDB_AUTOSTART")
    log = importlib.import_module("leasedb._starting").Starter.at(address).log
    return Finding("autostart", None, f"where no daemon answers, a lease starts one; its log is {log}")


def _examine_daemon(client: Client, own_version: str) -> Finding:
    try:
        health = client.health()
        ready = client.ready()
    except LeasedbError as error:
        return Finding("daemon", False, str(error))
    text = (
        f"{client.url}: leasedb {health.version}, pid {health.pid}, {ready.backend}, {count(ready.servers, 'server')}, "
        + ("asleep until the next lease" if ready.status == "asleep" else f"{count(ready.ready, 'database')} ready")
    )
    if health.version != own_version:
        text += f" (this client is {own_version})"
    return Finding("daemon", True, text)


def _examine_backends() -> list[Finding]:
    try:
        diagnosis = importlib.import_module("leasedb_server.cli").diagnose()
    except ModuleNotFoundError as error:
        return [Finding("server", False, f"'leasedb serve' cannot run here: {error.name} is missing. {INSTALL}")]
    except ImportError as error:
        return [Finding("server", False, f"'leasedb serve' cannot run here: {error}. {INSTALL}")]
    findings = [Finding("server", True, "'leasedb serve' can be run here")]
    return findings + [Finding(str(name), bool(ok), str(text)) for name, ok, text in diagnosis]
