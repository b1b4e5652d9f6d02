"""The database of a failed test stays, for somebody to look at."""

import re

import psycopg
import pytest

from tests.client.stand_in import StandIn
from tests.daemons import RealDaemon

pytest_plugins = ["pytester"]

FAILING = """
import pytest
FILL = "create table if not exists left_behind as select 1 as x"
def test_passes(pg_conn): pass
def test_fails(pg_conn):
    pg_conn.execute(FILL)
    pg_conn.commit()
    assert 0
@pytest.fixture
def broken(pg_conn):
    pg_conn.execute(FILL)
    pg_conn.commit()
    raise OSError
def test_broken(broken): pass
"""
SHARED = """
import psycopg, pytest
FILL = "create table left_behind as select 1 as x"
def test_reset(pg_reset):
    with psycopg.connect(pg_reset.dsn) as connection: connection.execute(FILL)
    assert 0
def test_truncate(pg_truncate):
    with psycopg.connect(pg_truncate.dsn) as connection: connection.execute(FILL)
    assert 0
def test_clean_again(pg_reset):
    with psycopg.connect(pg_reset.dsn) as connection:
        assert connection.execute("select to_regclass('left_behind')").fetchone() == (None,)
def test_session(pg_session_lease):
    with psycopg.connect(pg_session_lease.dsn) as connection: connection.execute(FILL)
    assert 0
"""


@pytest.fixture
def kept(daemon: RealDaemon):
    """The leases that are kept, by their test; none of them stays when the test is done."""

    def leases() -> dict[str, str]:
        found = daemon.get("/leases?state=active&kept=true")["leases"]
        return {lease["labels"].get("pytest", "").rpartition(":")[2]: lease["id"] for lease in found}

    assert leases() == {}
    yield leases
    for lease in daemon.get("/leases?state=active&kept=true")["leases"]:
        daemon.release(lease)


def shown(output: str) -> dict[str, tuple[str, str]]:
    """Return URL and lease of what the end of a run says is kept, by test."""
    _, _, section = output.partition("leasedb: kept databases")
    found = re.findall(r"^\S+?::(\w+)\n    (postgresql://\S+)\n    leasedb psql (\w+)$", section, re.MULTILINE)
    return {name: (dsn, lease) for name, dsn, lease in found}


def content(dsn: str) -> list[tuple[int]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute("select x from left_behind").fetchall()


@pytest.mark.parametrize("workers", [[], ["-n2"]])
def test_of_a_failed_test(run, daemon, kept, cli, workers):
    result = run(FAILING, "--leasedb-keep=failed", *workers, url=daemon.url)
    result.assert_outcomes(passed=1, failed=1, errors=1)
    told = shown(result.stdout.str())
    assert {name: lease for name, (_, lease) in told.items()} == kept()
    assert set(told) == {"test_fails", "test_broken"}
    assert result.stdout.str().count("kept      for an hour, see the end of the run") == 2
    for dsn, lease in told.values():
        assert result.stdout.str().count(lease) == 2  # in the report of the failure, too
        assert result.stdout.str().count(dsn) == 1
        assert content(dsn) == [(1,)]
    # and by the command line, which ends it
    listed = cli(daemon.url, "kept").stdout
    for name, (_, lease) in told.items():
        assert re.search(rf"^{lease} .*::{name} ", listed, re.MULTILINE)
    assert cli(daemon.url, "kept", "--drop-all").returncode == 0
    assert kept() == {}


def test_always(run, daemon, kept):
    source = """
        def test_passes(pg_conn):
            pg_conn.execute("create table left_behind as select 1 as x")
            pg_conn.commit()
        def test_session(pg_session_lease): pass
        def test_without(): pass
        """
    result = run(source, "--leasedb-keep=always", url=daemon.url)
    result.assert_outcomes(passed=3)
    told = shown(result.stdout.str())
    result.stdout.fnmatch_lines(["the session's database", "    leasedb psql *"])
    assert content(told["test_passes"][0]) == [(1,)]
    assert len(kept()) == 2


def test_of_a_database_that_others_use(run, daemon, kept):
    result = run(SHARED, "--leasedb-keep=failed", url=daemon.url)
    result.assert_outcomes(passed=1, failed=3)
    told = shown(result.stdout.str())
    assert set(told) == {"test_reset", "test_truncate", "test_session"}
    for dsn, _ in told.values():
        assert content(dsn) == [(1,)]
    result.stdout.fnmatch_lines(["kept      a copy of it, see the end of the run"])
    result.stdout.fnmatch_lines(["kept      the worker's database will be kept when the run ends"])


def test_none_without_the_option(run, daemon, kept):
    result = run(SHARED + FAILING, url=daemon.url)
    result.assert_outcomes(passed=2, failed=4, errors=1)
    assert kept() == {}
    assert "kept databases" not in result.stdout.str()


def test_no_more_than_the_quota(run, stand_in):
    stand_in._book.keep_max = 2
    many = "import pytest\n@pytest.mark.parametrize('n', range(4))\ndef test_it(pg_lease, n): assert 0"
    result = run(many, "--leasedb-keep=failed")
    result.assert_outcomes(failed=4)
    assert len(stand_in.active()) == 2
    assert result.stdout.str().count("leasedb psql") == 2
    assert result.stdout.str().count("kept      no, see the end of the run") == 2
    assert result.stdout.str().count("2 leases are kept") == 1
    result.stdout.fnmatch_lines(["*kept databases*", "2 more were not kept: 2 leases are kept*", "They stay for an *"])
    # without the reports of failures it is all there
    brief = run(None, "--leasedb-keep=failed", "--tb=no", "-q", "-n2")
    brief.stdout.fnmatch_lines(["*kept databases*", "2 more were not kept: 2 leases are kept*"])


def test_a_daemon_that_is_too_old_to_keep_any(run):
    with StandIn(old=True) as daemon:
        result = run("def test_it(pg_lease): assert 0", "--leasedb-keep=failed", url=daemon.url)
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["1 was not kept: *"])
        assert daemon.active() == []
