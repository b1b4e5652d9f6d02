"""What a person reads: the header, what is known of a failed test's database, the summary."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest

import leasedb
from leasedb._plugin import ALL, SESSION
from leasedb._plugin.fixtures import NoDatabase
from leasedb._plugin.run import Run, Tally, Use

_SEEN: Final = pytest.StashKey[dict[str, str]]()  # errors that many tests may have, and the test they hit first
_PACKAGE: Final = str(Path(leasedb.__file__).parent)
_BETWEEN: Final = str(contextlib.__file__)
_MISMATCH: Final = re.compile(r"ScopeMismatch: .*?scoped fixture (\w+)")


# --- before the first test ---


def header(run: Run) -> list[str]:
    """Return who serves, for the lines under "collected"."""
    try:
        client = run.client()
        health, servers = client.health(), client.servers()
    except leasedb.LeasedbError as error:
        return [f"leasedb: {_first_sentence(str(error))}"]  # whole at the first test that it keeps from its work
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


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.:]) *\n|(?<=\.) ", text, maxsplit=1)[0]


def _top(module: str) -> str:
    return module.partition(".")[0]


# --- after a failure ---


def without_our_frames(config: pytest.Config, error: pytest.ExceptionInfo[BaseException]) -> bool:
    """Take out of a traceback what is between a fixture and the function of the user's that it called.

    Returns:
        Whether the error came by way of this package.
    """
    paths = [str(entry.path) for entry in error.traceback]
    ours = [path.startswith(_PACKAGE) for path in paths]
    if any(ours) and not ours[-1] and not config.getoption("fulltrace"):
        error.traceback = error.traceback.filter(
            lambda entry: not str(entry.path).startswith((_PACKAGE, _BETWEEN)) and not entry.ishidden(error)
        )
    return any(ours)


def note(run: Run, item: pytest.Item, report: pytest.TestReport, error: BaseException, *, ours: bool) -> None:
    """Add to a report of a failure what is known of the databases of its test.

    Args:
        run: the test's.
        item: the test.
        report: what is added to.
        error: what it failed with.
        ours: the error came by way of this package.
    """
    if isinstance(error, NoDatabase):
        _tell_once(item, report, str(error), "leasedb: no database can be had, see the first error (")
    elif ours and report.when == "setup" and not isinstance(error, pytest.fail.Exception):
        text = f"leasedb: {type(error).__name__}: {error}"
        _tell_once(item, report, text, f"{text}\n(its traceback is at ")
    if mismatch := _MISMATCH.search(str(report.longrepr or "")):
        report.sections += [("leasedb", text) for text in _of_mismatch(mismatch[1])]
    if report.when == "teardown":
        return
    names = run.asking.fixtures(item)
    told = set()  # a lease may be there by way of several fixtures
    for use in run.uses:
        if use.fixtures & names:
            use.failed = use.failed or item.nodeid
            if use.lease.id not in told:
                told.add(use.lease.id)
                report.sections.append(("leasedb", "\n".join(_findings(run, item, use))))


def _tell_once(item: pytest.Item, report: pytest.TestReport, error: str, again: str) -> None:
    """Show an error whole for the first test it hits, for others ``again``, which that test's name ends."""
    first = item.config.stash.setdefault(_SEEN, {}).setdefault(error, item.nodeid)
    if first != item.nodeid:
        report.longrepr = f"{again}{first})"
    vars(report)["leasedb_error"] = [error, again]  # for the process that hears of several workers


def _of_mismatch(fixture: str) -> Iterator[str]:
    """Say what to do about a fixture that lives longer than one of ours, which it takes."""
    if fixture not in ALL:
        return
    if fixture == "pg_template":
        yield (
            'Give your pg_template scope="session": pg_session_lease, and pg_lease where leasedb_scope has it live '
            "longer than a test, are made of it once for many tests."
        )
    elif fixture in {"pg_lease", "pg_lease_async"}:
        yield (
            "pg_lease lasts as long as one test. For a wider fixture take pg_session_lease (one database per worker), "
            "or let pg_lease live longer with leasedb_scope in the ini file or --leasedb-scope."
        )
    else:
        yield (
            f"{fixture} lasts as long as one test, whatever leasedb_scope is. In a wider fixture connect by yourself: "
            "to pg_session_lease.dsn (one database per worker), or to pg_lease.dsn, and let pg_lease live longer with "
            "leasedb_scope in the ini file or --leasedb-scope."
        )


def _findings(run: Run, item: pytest.Item, use: Use) -> Iterator[str]:
    lease = use.lease
    postgres = lease.versions.get("postgres")
    yield f"database  {lease.database} (lease {lease.id} of {lease.template}, Postgres {postgres})"
    if lost := run.lost(lease):
        yield f"lost      {lost}"
        return
    if use.mode == "rollback":
        yield f"content   rolled back; to look at it, {_instead_of_rollback(item)}"
        return
    with suppress(ImportError):  # without psycopg there is no looking
        from leasedb._plugin.looking import look  # noqa: PLC0415 - only where it is needed

        yield from look(lease.dsn).lines()
    if run.choices.keep == "no":
        yield "kept      no; run again with --leasedb-keep=failed to look at it afterwards"
    elif use.shared is None:
        yield f"kept      {'for an hour' if _kept(run, item, use) else 'no'}, see the end of the run"
    elif use.mode != "fresh":
        yield "kept      a copy of it, see the end of the run"
    elif use.fixtures <= SESSION:
        yield "kept      the worker's database will be kept when the run ends"
    else:
        yield "kept      it will be, when the last of its tests has run"


def _instead_of_rollback(item: pytest.Item) -> str:
    """Say how to run the test without a transaction that takes everything back."""
    for fixture in ("pg_rollback", "pg_rollback_async"):
        if fixture in getattr(item, "fixturenames", ()):
            other = fixture.replace("rollback", "conn")
            return f"have the test use {other} in place of {fixture}, and run it with --leasedb-keep=failed"
    return "run the test with --leasedb-mode=fresh --leasedb-keep=failed"


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
    lines: list[str] = []
    for worker in told:
        tally.add(Tally.unpacked(worker["tally"]))
        lines += worker["header"] if terminal.config.get_verbosity() >= 0 else []
    if tally.leases or tally.resets:
        lines.append(_in_short(tally, terminal.config.get_terminal_writer().fullwidth))
    for line in ["", *lines] if lines else []:
        terminal.write_line(line)
    if tally.kept or tally.not_kept:
        terminal.section("leasedb: kept databases", sep="-")
        for nodeid, dsn, command in tally.kept:
            terminal.write_line(f"{nodeid}\n    {dsn}\n    {command}")
        for reason, count in tally.not_kept.items():
            more = f"{count} more" if tally.kept else str(count)
            terminal.write_line(f"{more} {'was' if count == 1 else 'were'} not kept: {reason}")
        if tally.kept:
            terminal.write_line(
                f"They stay for an hour: '{tally.to_list}' lists them, and ends them all with --drop-all."
            )


def _in_short(tally: Tally, width: int) -> str:
    """Return the line of the run, with as many of the slowest tests as fit, and more than three only if all do."""
    parts = [f"{_count(tally.leases, 'lease')} in {_seconds(tally.waited)}"]
    if tally.resets:
        parts.append(_count(tally.resets, "reset"))
    tests = [f"{nodeid} {_seconds(took)}" for took, nodeid in tally.slowest]
    for most in (len(tests), 3, 2, 1):
        line = f"leasedb: {', '.join(parts)}; slowest: {', '.join(tests[:most])}"
        if len(line) <= width:
            break
    return line


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"
