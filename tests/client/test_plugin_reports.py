"""What the plugin tells: before the first test, with a failure, at the end."""

import re

import pytest

pytest_plugins = ["pytester"]

FAILING = """
import psycopg, pytest, threading
def test_fine(pg_conn): pass

def test_leaves_rows(pg_lease):
    with psycopg.connect(pg_lease.dsn) as connection:
        connection.execute("create table product as select generate_series(1, 3)")
        connection.execute("create table empty (x int)")
    assert not "sold"

def test_leaks_a_session(pg_lease, request):
    leaked = psycopg.connect(pg_lease.dsn, application_name="shop")
    request.addfinalizer(leaked.close)
    leaked.execute("create table t (x int)")
    leaked.commit()
    leaked.execute("lock table t")
    other = psycopg.connect(pg_lease.dsn, autocommit=True)
    request.addfinalizer(other.close)
    waiting = threading.Thread(target=lambda: pytest.raises(psycopg.Error, other.execute, "insert into t values (1)"))
    waiting.start()
    request.addfinalizer(waiting.join)
    request.addfinalizer(other.cancel)
    query = "select 1 from pg_locks where not granted"
    while leaked.execute(query).fetchone() is None: pass
    assert 0

@pytest.fixture
def table(pg_conn):
    pg_conn.execute("create table made (x int)")
    pg_conn.commit()
    pg_conn.execute("nonsense")
def test_broken_in_a_fixture(table): pass

def test_fails_without(): assert 0

@pytest.mark.leasedb(mode="rollback")
def test_rolled_back(pg_conn): assert 0
"""


def test_before_and_after(run, daemon):
    plain = "def test_one(pg_lease): pass\ndef test_two(pg_reset): pass\ndef test_three(pg_reset): pass"
    result = run(plain, url=daemon.url)
    result.assert_outcomes(passed=3)
    result.stdout.re_match_lines(
        [
            "collected 3 items",
            rf"leasedb: 0\.1\.0 at {daemon.url}, embedded, Postgres 18\.\d+, vector \d.*",
            r"leasedb: 2 leases in \d.* m?s, 2 resets; slowest: .*the session of main [\d.]+ m?s.*",
        ]
    )
    quiet = run(None, "-q", url=daemon.url)
    assert " at http" not in quiet.stdout.str()
    quiet.stdout.fnmatch_lines(["leasedb: 2 leases in *"])
    without = run("def test_one(): pass", url=daemon.url)
    assert "leasedb:" not in without.stdout.str()


def test_with_xdist_it_is_told_once(run, daemon):
    many = "import pytest\n@pytest.mark.parametrize('n', range(8))\ndef test_it(pg_reset, pg_session_lease, n): pass"
    result = run(many, "-n2", url=daemon.url)
    result.assert_outcomes(passed=8)
    told = [line for line in result.outlines if line.startswith("leasedb: ")]
    assert len(told) == 2
    assert told[0].startswith(f"leasedb: 0.1.0 at {daemon.url}, embedded, Postgres ")
    assert re.match(r"leasedb: [12] leases? in .*, 8 resets; slowest: .*", told[1])
    assert told[1].count(" ms") + told[1].count(" s,") >= 5


def test_what_is_known_of_a_failed_test_s_database(run, daemon):
    result = run(FAILING, url=daemon.url)
    result.assert_outcomes(passed=1, failed=4, errors=1)
    parts = re.split(r"^_{3,} (?:ERROR at setup of )?(\w+) _{3,}$", result.stdout.str(), flags=re.MULTILINE)
    told = dict(zip(parts[1::2], parts[2::2], strict=True))

    rows = told["test_leaves_rows"]
    assert re.search(r"^-+ leasedb -+$", rows, re.MULTILINE)
    assert re.search(r"^database  leasedb_\w+ \(lease \w+ of base, Postgres 18", rows, re.MULTILINE)
    assert re.search(r"^  product  3$", rows, re.MULTILINE)
    assert "  1 table without rows" in rows
    assert "sessions still open" not in rows
    assert "kept      no; run again with --leasedb-keep=failed" in rows

    leak = told["test_leaks_a_session"]
    assert re.search(r"^  \d+ shop: idle in transaction for [\d.]+ s: select 1 from pg_locks", leak, re.MULTILINE)
    assert re.search(r"^  (\d+) waits for \d+ \(table t\) since [\d.]+ s: insert into t", leak, re.MULTILINE)

    assert "  1 table without rows" in told["test_broken_in_a_fixture"]
    assert " sessions still open" not in told["test_broken_in_a_fixture"]  # the fixture's own is no leak
    assert "database " not in told["test_fails_without"]
    assert "content   rolled back; to look at it, run" in told["test_rolled_back"]


@pytest.mark.parametrize("workers", [[], ["-n2"]])
def test_where_nothing_can_serve_there_is_no_more_to_tell(run, workers):
    result = run("def test_one(pg_lease): pass", *workers, url="http://127.0.0.1:1")
    result.assert_outcomes(errors=1)
    assert "leases in" not in result.stdout.str()
    assert "kept" not in result.stdout.str()
