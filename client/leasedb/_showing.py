"""The client's findings as text for people: tables, durations, the doctor's list."""

import importlib
import importlib.metadata
import importlib.util
import platform
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import leasedb
from leasedb._client import Client
from leasedb._errors import LeasedbError, NotReadyError
from leasedb._models import Health, LeaseSummary, Pool, Servers

INSTALL = "pip install 'leasedb[server,embedded]'"
_BACKENDS = frozenset({"container", "embedded", "existing"})
_LONGEST_CELL = 60


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows, the first one being the head, with their columns aligned, cut to the terminal's width if any."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if not sys.stdout.isatty():
        return lines
    width = shutil.get_terminal_size().columns
    return [line if len(line) <= width else f"{line[: width - 1]}…" for line in lines]


def duration(seconds: float) -> str:
    """Return seconds as "48s", "4m 48s", "3h 05m" or "2d 03h"; never negative."""
    whole = max(0, round(seconds))
    minutes, seconds_left = divmod(whole, 60)
    hours, minutes_left = divmod(minutes, 60)
    days, hours_left = divmod(hours, 24)
    if days:
        return f"{days}d {hours_left:02}h"
    if hours:
        return f"{hours}h {minutes_left:02}m"
    return f"{minutes}m {seconds_left:02}s" if minutes else f"{whole}s"


def count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_CELL else f"{text[: _LONGEST_CELL - 1]}…"


@dataclass(frozen=True, slots=True)
class Status:
    """All that `leasedb status` shows. ``not_ready`` says why the daemon does not lease; empty when it does."""

    url: str
    health: Health
    not_ready: str
    servers: Servers
    pool: Pool
    leases: list[LeaseSummary]


def ask_status(client: Client) -> Status:
    not_ready = ""
    health = client.health()
    try:
        client.ready()
    except NotReadyError as error:
        not_ready = error.detail
    return Status(client.url, health, not_ready, client.servers(), client.pool(), client.leases(state="active"))


def status_lines(status: Status, now: datetime | None = None) -> list[str]:
    health, pool = status.health, status.pool
    most = "no limit" if pool.max is None else f"at most {pool.max}"
    stock = f"{pool.ready} ready, {pool.making} being made, {pool.leased} leased, {pool.condemned} being dropped"
    return [
        f"daemon   {status.url}, leasedb {health.version}, pid {health.pid}, "
        + (f"not ready: {status.not_ready}" if status.not_ready else "ready"),
        f"backend  {status.servers.backend}" + (f": {status.servers.reason}" if status.servers.reason else ""),
        f"pool     {stock}, {count(pool.waiting, 'request')} waiting ({most})",
        "",
        *_server_lines(status.servers),
        *(f"note on {server.id}: {note}" for server in status.servers.servers for note in server.notes),
        "",
        *_lease_lines(status.leases, now or datetime.now(UTC)),
    ]


def _server_lines(servers: Servers) -> list[str]:
    if not servers.servers:
        return ["no servers"]
    rows = [["SERVER", "STATE", "ADDRESS", "POSTGRES", "VECTOR", "READY", "LEASED", "ERROR"]]
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
                _cut(server.error),
            ]
        )
    if not any(server.error for server in servers.servers):
        rows = [row[:-1] for row in rows]
    return table(rows)


def _lease_lines(leases: Sequence[LeaseSummary], now: datetime) -> list[str]:
    if not leases:
        return ["no active leases"]
    rows = [["LEASE", "TEMPLATE", "AGE", "LEFT", "PID", "HOLDER", "LABELS"]]
    rows += [
        [
            lease.id,
            lease.template,
            duration((now - lease.created_at).total_seconds()),
            duration((lease.expires_at - now).total_seconds()),
            "-" if lease.holder.pid is None else str(lease.holder.pid),
            _cut(lease.holder.name) or "-",
            _cut(" ".join(f"{key}={value}" for key, value in sorted(lease.labels.items()))),
        ]
        for lease in leases
    ]
    return table(rows)


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
    return [*findings, daemon, *backends], serves


def _examine_daemon(client: Client, own_version: str) -> Finding:
    try:
        health = client.health()
        ready = client.ready()
    except LeasedbError as error:
        return Finding("daemon", False, str(error))
    text = (
        f"{client.url}: leasedb {health.version}, pid {health.pid}, {ready.backend}, {count(ready.servers, 'server')}, "
        f"{count(ready.ready, 'database')} ready"
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
