"""Runs of pytest where no daemon was started by anybody."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from tests.client.plugin_runs import Checkouts, finished
from tests.conftest import EMBEDDED
from tests.daemons import free_port, open_directory
from tests.waiting import until

TWELVE = """
import pytest
@pytest.mark.parametrize("n", range(12))
def test_it(pg_conn, n):
    pg_conn.execute("create table t (x int)")
    pg_conn.commit()
"""


@dataclass
class Machine:
    """A machine where no daemon runs yet, as far as the runs are concerned that get its variables."""

    directory: Path
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def state_dir(self) -> Path:
        return self.directory / "state"

    @property
    def log(self) -> Path:
        return self.state_dir / "daemon.log"

    @property
    def env(self) -> dict[str, str]:
        return {
            "LEASEDB_AUTOSTART": "1",
            "LEASEDB_STATE_DIR": str(self.state_dir),
            "LEASEDB_BACKEND": "embedded",
            "LEASEDB_IDLE_EXIT": "2",
        }

    @property
    def starts(self) -> int:
        return self.log.read_text().count(f" at {self.url}, for process ")

    def daemon(self) -> psutil.Process | None:
        """Return the daemon that has the state directory, if one runs."""
        try:
            process = psutil.Process(json.loads((self.state_dir / "daemon.lock").read_text())["pid"])
            return process if str(self.port) in process.cmdline() else None
        except (FileNotFoundError, psutil.NoSuchProcess):  # a zombie is none, too
            return None

    def gone(self) -> bool:
        return self.daemon() is None

    def end(self) -> None:
        """Stop the daemon, or what a killed one left, and delete the directory."""
        if daemon := self.daemon():
            daemon.send_signal(signal.SIGTERM)
            until(self.gone, 30, "the daemon to end")
        shutil.rmtree(self.directory)


@pytest.fixture
def machine() -> Iterator[Machine]:
    if not EMBEDDED:
        pytest.skip("needs Postgres from a wheel: pip install 'leasedb[embedded]'")
    made = Machine(open_directory(), free_port())
    yield made
    made.end()


def test_it_works_by_itself_in_two_checkouts_at_once(machine: Machine, checkouts: Checkouts):
    """Started once over all workers of both; told in the header where its log is; gone when nobody needs it."""
    both = [checkouts.make(name, machine.url, **machine.env) for name in ("one", "two")]
    for checkout in both:
        checkout.write(test_twelve=TWELVE)
    runs = [checkout.start("-n3") for checkout in both]
    for result in map(finished, runs):
        result.assert_outcomes(passed=12)
        result.stdout.fnmatch_lines([f"leasedb: 0.1.0 at {machine.url}, embedded, *", f"leasedb: log {machine.log}"])
    assert machine.starts == 1
    until(machine.gone, 30, "the daemon to end for want of work")
    assert "idle" in machine.log.read_text()

    # and it is started again by the next one
    both[0].run().assert_outcomes(passed=12)
    assert machine.starts == 2


def test_a_daemon_that_is_killed_in_mid_run_is_started_again(machine: Machine, checkouts: Checkouts):
    """By the next test, which has its database; and those that had one before go on.

    What the environment says of other servers, which libpq would heed, stands in the way of none of this.
    """
    others = {"PGSSLMODE": "require", "PGHOSTADDR": "192.0.2.1", "PGSERVICE": "none"}
    checkout = checkouts.make("one", machine.url, **machine.env, **others)
    checkout.write(
        test_killed="""
        import os, signal
        def test_zero(leasedb_client, pg_reset):
            os.kill(leasedb_client.health().pid, signal.SIGKILL)
        def test_same(pg_reset, pg_conn):
            assert pg_conn.execute("select 1").fetchone() == (1,)
        def test_one(leasedb_client, pg_session_lease):
            os.kill(leasedb_client.health().pid, signal.SIGKILL)
        def test_two(pg_conn, pg_lease):
            assert pg_conn.execute("select 1").fetchone() == (1,)
        def test_three(pg_reset, pg_conn):
            assert pg_conn.execute("select 1").fetchone() == (1,)
        """
    )
    result = checkout.run()
    result.assert_outcomes(passed=5)
    assert machine.starts == 3


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [(["--leasedb-no-start"], {}), ([], {"LEASEDB_AUTOSTART": "0"}), (["-o", "leasedb_no_start=true"], {})],
    ids=["option", "environment", "ini"],
)
def test_nothing_is_started_where_that_is_not_wanted(checkouts: Checkouts, tmp_path, arguments, variables):
    machine = Machine(tmp_path, free_port())
    checkout = checkouts.make("one", machine.url, **machine.env | variables)
    checkout.write(test_two="def test_one(pg_lease): pass\ndef test_two(pg_reset): pass")
    result = checkout.run(*arguments)
    result.assert_outcomes(errors=2)
    said = f"leasedb: No leasedb daemon answers at {machine.url}: Connection refused."
    again = "leasedb: no database can be had, see the first error (test_two.py::test_one)"
    # before the tests in short, and whole with the first one
    result.stdout.fnmatch_lines([said, f"{said} Start one with: leasedb serve*", again])
    assert not machine.state_dir.exists()


HUNDRED = """
import pytest
@pytest.mark.parametrize("n", range(100))
def test_it(pg_lease, n): pass
def test_without(): pass
"""


@pytest.mark.parametrize("workers", [[], ["-n2"]])
def test_where_nothing_can_serve(checkouts: Checkouts, tmp_path, workers):
    """It fails at once: the daemon is tried once for each process, not for each test; the first one says why not."""
    machine = Machine(tmp_path, free_port())
    nowhere = {"LEASEDB_PG_BIN": str(tmp_path / "nowhere")}
    checkout = checkouts.make("one", machine.url, **machine.env | nowhere)
    checkout.write(test_hundred=HUNDRED)
    result = checkout.run(*workers)
    result.assert_outcomes(errors=100, passed=1)
    said = [line for line in result.outlines if line.startswith("leasedb: No daemon could be started at ")]
    again = [
        line for line in result.outlines if line.startswith("leasedb: no database can be had, see the first error")
    ]
    assert (len(said), len(again)) == (1 + 1, 99)  # in the header, and once more with all that there is to say
    assert f"{tmp_path}/nowhere" in result.stdout.str()
    assert "Traceback" not in result.stdout.str()
    assert machine.starts <= 1 + len(workers) * 2
    assert str(machine.log) in result.stdout.str()


def test_where_nothing_can_serve_tests_may_be_skipped(checkouts: Checkouts, tmp_path):
    machine = Machine(tmp_path, free_port())
    nowhere = {"LEASEDB_PG_BIN": str(tmp_path / "nowhere")}
    checkout = checkouts.make("one", machine.url, **machine.env | nowhere)
    checkout.write(test_hundred=HUNDRED, test_others="def test_one(pg_rollback): pass\ndef test_two(pg_env): pass")
    result = checkout.run("--leasedb-optional", "-rs")
    result.assert_outcomes(passed=1, skipped=102)
    result.stdout.fnmatch_lines(["SKIPPED * leasedb: No daemon could be started at *"])
    assert result.ret == 0


def test_what_is_installed_decides_whether_one_can_be_started(checkouts: Checkouts, tmp_path):
    """The client alone, without the daemon's package: said with what to install."""
    machine = Machine(tmp_path, free_port())
    checkout = checkouts.make("one", machine.url, **machine.env)
    (tmp_path / "without" / "leasedb_server").mkdir(parents=True)
    (tmp_path / "without" / "leasedb_server" / "__init__.py").write_text(
        "raise ModuleNotFoundError('No module named fastapi', name='fastapi')"
    )
    path = os.pathsep.join([str(tmp_path / "without"), checkout.env["PYTHONPATH"]])
    checkout.env = {**checkout.env, "PYTHONPATH": path}
    checkout.write(test_one="def test_one(pg_lease): pass")
    result = checkout.run()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["leasedb: No daemon could be started at *pip install 'leasedb[[]server*"])


def test_another_program_has_the_port(checkouts: Checkouts, tmp_path):
    from http.server import BaseHTTPRequestHandler, HTTPServer  # noqa: PLC0415
    from threading import Thread  # noqa: PLC0415

    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as other:
        thread = Thread(target=other.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            machine = Machine(tmp_path, other.server_address[1])
            checkout = checkouts.make("one", machine.url, **machine.env)
            checkout.write(test_one="def test_one(pg_lease): pass")
            result = checkout.run()
            result.assert_outcomes(errors=1)
            result.stdout.fnmatch_lines([f"leasedb: What answers at {machine.url} is not a leasedb daemon *"])
        finally:
            other.shutdown()
            thread.join()
    assert not machine.log.exists()
    with pytest.raises(httpx.ConnectError):
        httpx.get(machine.url)
