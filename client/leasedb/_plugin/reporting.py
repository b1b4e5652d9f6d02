"""What a person reads: the header, what is known of a failed test's database, the summary."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest

import leasedb
from leasedb._plugin.names import ALL
from leasedb._plugin.run import Run, Tally, Use

# errors of fixtures, and the test they hit first
_SEEN: Final = pytest.StashKey[dict[int, tuple[BaseException, str]]]()
_PACKAGE: Final = str(Path(leasedb.__file__).parent)
_OWN: Final = "leasedb "  # begins the application_name of our fixtures' connections


# --- before the first test ---


def header(run: Run) -> list[str]:
    """Return who serves, for the lines under "collected"."""
    try:
        client = run.client()
        health, servers = client.health(), client.servers()
    except leasedb.LeasedbError as error:
        return [f"leasedb: {error}"]
    versions = next((server.versions for server in servers.servers if server.versions), None)
    served = f", Postgres {versions['postgres']}, vector {versions['vector']}" if versions else ""
    lines = [f"leasedb: {health.version} at {client.url}, {servers.backend}{served}"]
    if run.choices.database_url is not None:
        lines.append(f"leasedb: on the server that {run.choices.database_url[1]} names")
    if log := client.log:
        lines.append(f"leasedb: log {log}")
    return lines


def strangers(config: pytest.Config, items: list[pytest.Item]) -> list[str]:
    """Return what to say of fixtures that another installed plugin has under our names: nobody has chosen who wins.

    What a conftest.py or a module of the suite puts in a fixture's place it puts there on purpose.
    """
    installed = {
        _top(str(getattr(plugin, "__name__", ""))) for plugin, _ in config.pluginmanager.list_plugin_distinfo()
    }
    found: dict[str, str] = {}
    for item in items:
        for name, definitions in getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", {}).items():
            if name not in ALL or name in found:
                continue
            homes = [str(getattr(one.func, "__module__", "")) for one in definitions]
            homes = [home for home in homes if _top(home) in installed]
            others = [home for home in homes if _top(home) != "leasedb"]
            if others and len(homes) > len(others):
                winner = "leasedb's" if _top(homes[-1]) == "leasedb" else f"that of {homes[-1]}"
                found[name] = f"leasedb: {name} is a fixture of {others[-1]} too; {winner} is used"
    return list(found.values())


def _top(module: str) -> str:
    return module.partition(".")[0]


# --- after a failure ---


def note(run: Run, item: pytest.Item, call: pytest.CallInfo[Any], report: pytest.TestReport) -> None:
    """Add to a report what is known of the databases of its test."""
    if call.when == "setup" and call.excinfo is not None:
        _shorten(item, call.excinfo, report)
    names = ALL.intersection(getattr(item, "fixturenames", ()))
    if not names:
        return
    if report.failed and "ScopeMismatch" in str(report.longrepr or ""):
        text = (
            "The fixtures of leasedb last as long as one test. For a wider fixture take pg_session_lease (one database "
            "per worker), or let pg_lease live longer with leasedb_scope in the ini file or --leasedb-scope."
        )
        report.sections.append(("leasedb", text))
    if report.when == "teardown" or not report.failed:
        return
    told = set()  # a lease may be there by way of several fixtures
    for use in run.uses:
        if use.fixtures & names:
            use.failed = use.failed or item.nodeid
            if use.lease.id not in told:
                told.add(use.lease.id)
                report.sections.append(("leasedb", "\n".join(_findings(run, item, use))))


def _shorten(item: pytest.Item, error: pytest.ExceptionInfo[BaseException], report: pytest.TestReport) -> None:
    """Show the traceback of a failed build once, not again for each test that wanted the template."""
    if not any(str(entry.path).startswith(_PACKAGE) for entry in error.traceback):
        return
    seen = item.config.stash.setdefault(_SEEN, {})
    _, first = seen.setdefault(id(error.value), (error.value, item.nodeid))
    if report.failed and not isinstance(error.value, pytest.fail.Exception):
        text = f"{type(error.value).__name__}: {error.value}"
        if first != item.nodeid:
            report.longrepr = f"leasedb: {text} (its traceback is at {first})"
        else:
            vars(report)["leasedb_error"] = text  # for the process that hears of several workers


def _findings(run: Run, item: pytest.Item, use: Use) -> Iterator[str]:
    lease = use.lease
    postgres = lease.versions.get("postgres")
    yield f"database  {lease.database} (lease {lease.id} of {lease.template}, Postgres {postgres})"
    if lost := run.lost(lease):
        yield f"lost      {lost}"
        return
    if use.mode == "rollback":
        yield "content   rolled back; to look at it, run the test with --leasedb-mode=fresh --leasedb-keep=failed"
        return
    with suppress(ImportError):  # without psycopg there is no looking
        from leasedb._plugin.looking import look  # noqa: PLC0415 - only where it is needed

        yield from look(lease.dsn, _OWN).lines()
    if run.choices.keep == "no":
        yield "kept      no; run again with --leasedb-keep=failed to look at it afterwards"
    elif use.shared is not None:
        which = "it, once no other test uses it" if use.mode == "fresh" else "a copy of it"
        yield f"kept      {which}; see the end of the run"
    elif _kept(run, item, use):
        yield f"kept      for an hour; look at it with: leasedb psql {lease.id}"
        yield f"url       {lease.dsn}"
    else:
        yield run.tally.kept[-1][1]


def _kept(run: Run, item: pytest.Item, use: Use) -> bool:
    if use.kept is None:
        use.kept = run.keeps(use.lease, item.nodeid)
    return use.kept


# --- at the end ---


def packed(run: Run, session: pytest.Session) -> dict[str, Any]:
    """Return what a worker of pytest-xdist tells, as the plain values that it can send."""
    first = run.announced is not None and run.announced.speaks
    lines = [*header(run), *strangers(session.config, session.items)] if first else []
    to_come = run.announced.counts() if run.announced is not None else {}
    return {"tally": run.tally.packed(), "header": lines, "holder": run.holder, "to_come": to_come}


def summary(terminal: pytest.TerminalReporter, run: Run | None, told: list[dict[str, Any]]) -> None:
    """Write the line of the run, and where to find what was kept."""
    tally = Tally() if run is None else run.tally
    for worker in told:
        tally.add(Tally.unpacked(worker["tally"]))
        for line in worker["header"]:
            terminal.write_line(line)
    if tally.leases or tally.resets:
        parts = [f"{_count(tally.leases, 'lease')} in {_seconds(tally.waited)}"]
        if tally.resets:
            parts.append(_count(tally.resets, "reset"))
        slowest = ", ".join(f"{_short(nodeid)} {_seconds(took)}" for took, nodeid in tally.slowest)
        terminal.write_line(f"leasedb: {', '.join(parts)}; slowest: {slowest}")
    if tally.kept:
        terminal.section("leasedb: kept databases", sep="-")
        for nodeid, dsn, lease in tally.kept:
            terminal.write_line(f"{nodeid}\n    {dsn}")
            if lease:
                terminal.write_line(f"    leasedb psql {lease}")
        if any(lease for _, _, lease in tally.kept):
            terminal.write_line("They stay for an hour: leasedb kept lists them, leasedb kept --drop-all ends them.")


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def _short(nodeid: str) -> str:
    return nodeid.rpartition("/")[2]
