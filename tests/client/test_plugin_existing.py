"""A server that is there already: with its URL in the environment, every fixture leases from it."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from tests.client.plugin_runs import Checkout, Checkouts
from tests.contracts import places
from tests.contracts.places import Place
from tests.daemons import free_port, open_directory
from tests.waiting import until

TESTS = """
import os, psycopg, pytest
PORT = os.environ["EXPECTED_PORT"]
@pytest.fixture(scope="session")
def pg_template(): return "create table product (name text)"
@pytest.mark.parametrize("n", range(3))
def test_fresh(pg_conn, pg_lease, pg_env, n):
    assert pg_lease.backend == "existing"
    assert os.environ["PGPORT"] == str(pg_conn.info.port) == PORT
    pg_conn.execute("insert into product values ('tea')")
    assert pg_conn.execute("select count(*), '[1,2]'::vector <-> '[1,2]' from product").fetchone() == (1, 0)
    pg_conn.commit()
@pytest.mark.parametrize("n", range(2))
def test_reset(pg_reset, n):
    with psycopg.connect(pg_reset.dsn) as connection:
        assert str(connection.info.port) == PORT
        connection.execute("alter table product add x int")
@pytest.mark.parametrize("n", range(2))
def test_rollback(pg_rollback, n):
    assert pg_rollback.execute("insert into product values ('tea') returning 1").fetchone() == (1,)
def test_truncate(pg_truncate): pass
"""


@pytest.fixture(scope="module")
def lent() -> Iterator[Place]:
    with places.place("existing") as ready:
        yield ready


@pytest.fixture
def state_dir() -> Iterator[Path]:
    directory = open_directory()
    yield directory / "state"
    until(lambda: daemons(directory) == [], 30, "daemons to end for want of work")
    shutil.rmtree(directory)


def daemons(directory: Path) -> list[psutil.Process]:
    """Return the processes of daemons that have their state there."""
    found = []
    for log in directory.glob("state/**/started.pid"):
        try:
            process = psutil.Process(int(log.read_text()))
            found += [process] if "leasedb.cli" in process.cmdline() else []
        except psutil.NoSuchProcess:
            continue
    return found


def content(place: Place) -> set[str]:
    query = "SELECT datname FROM pg_database UNION ALL SELECT rolname FROM pg_roles"
    with psycopg.connect(place.admin_dsn) as admin:
        return {name for (name,) in admin.execute(query)}


def checkout_at(checkouts: Checkouts, lent: Place, state_dir: Path, **variables: str) -> Checkout:
    """Return a folder whose runs would start a daemon elsewhere, were it not for the server that is lent."""
    port = re.search(r":(\d+)/", lent.settings["EXISTING_DSN"])
    variables |= {
        "LEASEDB_AUTOSTART": variables.get("LEASEDB_AUTOSTART", "1"),
        "LEASEDB_STATE_DIR": str(state_dir),
        "LEASEDB_IDLE_EXIT": "2",
        "LEASEDB_BACKEND": "embedded",
        "EXPECTED_PORT": port[1] if port else "",
    }
    checkout = checkouts.make("shop", f"http://127.0.0.1:{free_port()}", **variables)
    checkout.write(test_existing=TESTS)
    return checkout


def test_every_fixture_uses_it(checkouts, lent, state_dir):
    """Two runs share what was built there; and what stays is the template, and the login that owns it."""
    before = content(lent)
    checkout = checkout_at(checkouts, lent, state_dir, LEASEDB_DATABASE_URL=lent.settings["EXISTING_DSN"])
    result = checkout.run("-n2")
    result.assert_outcomes(passed=8)
    result.stdout.fnmatch_lines(["leasedb: 0.1.0 at http://127.0.0.1:*, existing, Postgres *"])
    result.stdout.fnmatch_lines(["leasedb: on the server that LEASEDB_DATABASE_URL names", "leasedb: log *daemon.log"])
    assert "lender:lent" not in result.stdout.str()
    checkout.run().assert_outcomes(passed=8)
    until(lambda: daemons(state_dir.parent) == [], 30, "the daemon to end for want of work")
    left = content(lent) - before
    assert {re.sub(r"^leasedb_[a-z0-9]+_([a-z])_.*", r"\1", name) for name in left} <= {"t", "d"}, left


def test_by_the_variable_that_the_ini_file_names(checkouts, lent, state_dir):
    checkout = checkout_at(checkouts, lent, state_dir, POSTGRES_URL=lent.settings["EXISTING_DSN"])
    (checkout.folder / "pytest.ini").write_text("[pytest]\nleasedb_database_url = POSTGRES_URL\n")
    result = checkout.run()
    result.assert_outcomes(passed=8)
    result.stdout.fnmatch_lines(["leasedb: on the server that POSTGRES_URL names"])


def test_what_is_kept_is_found_by_the_commands_that_are_told(checkouts, lent, state_dir):
    """On the daemon of that server, which is not the one that the command line would ask; its URL is SQLAlchemy's."""
    url = lent.settings["EXISTING_DSN"].replace("postgresql://", "postgresql+psycopg://")
    checkout = checkout_at(checkouts, lent, state_dir, LEASEDB_DATABASE_URL=url)
    checkout.write(test_existing="def test_it(pg_lease): assert 0")
    result = checkout.run("--leasedb-keep=failed")
    result.assert_outcomes(failed=1)
    at = re.search(r"leasedb: 0\.1\.0 at (\S+), existing", result.stdout.str())[1]
    lease = re.search(rf"\n    leasedb psql (\w+) --url {at}\n", result.stdout.str())[1]
    result.stdout.fnmatch_lines([f"They stay for an hour: 'leasedb kept --url {at}' lists them, *--drop-all."])
    for arguments, told in ((["kept"], lease), (["kept", "--drop-all"], "dropped 1 lease")):
        command = [sys.executable, "-m", "leasedb.cli", *arguments, "--url", at]
        done = subprocess.run(command, env=dict(checkout.env), capture_output=True, text=True, check=True)
        assert told in done.stdout


@pytest.mark.parametrize(
    ("variables", "ini", "said"),
    [
        (
            {},
            "postgresql://me:secret@db/x",
            "leasedb_database_url takes the name of an environment variable, such as *",
        ),
        ({"SHOP_URL": "mysql+pymysql://me:secret@db/x"}, "SHOP_URL", "SHOP_URL has a URL that begins with mysql://, *"),
        ({"LEASEDB_DATABASE_URL": "sqlite:///secret.db"}, "", "LEASEDB_DATABASE_URL has a URL that begins with *"),
    ],
)
def test_what_is_no_url_of_a_server(checkouts, variables, ini, said):
    checkout = checkouts.make("shop", "http://127.0.0.1:1", **variables)
    (checkout.folder / "pytest.ini").write_text(f"[pytest]\nleasedb_database_url = {ini}\n")
    checkout.write(test_one="def test_one(pg_lease): pass")
    result = checkout.run("-n2")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines([f"ERROR: leasedb: {said}"])
    assert "secret" not in result.stdout.str()
    assert "INTERNALERROR" not in result.stdout.str()


def test_a_server_that_is_not_there(checkouts, tmp_path):
    port = free_port()
    dsn = f"postgresql+psycopg://me:secret@127.0.0.1:{port}/postgres"
    variables = {"LEASEDB_AUTOSTART": "1", "LEASEDB_STATE_DIR": str(tmp_path / "state"), "LEASEDB_START_TIMEOUT": "1"}
    checkout = checkouts.make("shop", "http://127.0.0.1:1", LEASEDB_DATABASE_URL=dsn, **variables)
    checkout.write(test_one="def test_one(pg_lease): pass\ndef test_two(pg_conn): pass")
    result = checkout.run()
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["leasedb: No daemon could be started at *"])
    assert f"{port}" in result.stdout.str()
    assert "secret" not in result.stdout.str()
    result = checkout.run("--leasedb-optional")
    result.assert_outcomes(skipped=2)
    result = checkout.run("--leasedb-no-start")
    serve = "LEASEDB_BACKEND=existing LEASEDB_EXISTING_DSN=$LEASEDB_DATABASE_URL leasedb serve --port "
    result.stdout.fnmatch_lines([f"leasedb: No leasedb daemon answers at *: {serve}*"])
