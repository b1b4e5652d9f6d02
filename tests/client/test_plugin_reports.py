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
def test_rolled_back_by_fixture(pg_rollback): assert 0
"""


def test_before_and_after(run, daemon):
    plain = "def test_one(pg_lease): pass\ndef test_two(pg_reset): pass\ndef test_three(pg_reset): pass"
    result = run(plain, url=daemon.url)
    result.assert_outcomes(passed=3)
    result.stdout.re_match_lines(
        [
            "collected 3 items",
            rf"leasedb: 0\.1\.0 at {daemon.url}, embedded, Postgres 18\.\d+, vector \d.*",
            r"leasedb: 2 leases in \d.* m?s, 2 resets; slowest: (.*::test_\w+|the session's database) [\d.]+ m?s.*",
        ]
    )
    quiet = run(None, "-q", url=daemon.url)
    assert " at http" not in quiet.stdout.str() + run(None, "-q", "-n2", url=daemon.url).stdout.str()
    quiet.stdout.fnmatch_lines(["leasedb: 2 leases in *"])
    wide = run(None, url=daemon.url, COLUMNS="300")
    [line] = [line for line in wide.outlines if line.startswith("leasedb: 2 leases in ")]
    # whole names, each once although test_two waited for a lease and a reset
    shown = re.findall(r"(?:; slowest: |, )(.+?) [\d.]+ m?s", line.partition(", 2 resets")[2])
    name = "test_before_and_after.py::test_"
    assert sorted(shown) == [f"{name}one", f"{name}three", f"{name}two", "the session's database"]
    without = run("def test_one(): pass", url=daemon.url)
    assert "leasedb:" not in without.stdout.str()


BY_NAME = """
import psycopg, pytest, unittest

def fill(lease):
    with psycopg.connect(lease.dsn) as connection:
        connection.execute("create table if not exists left_behind as select 1 as x")
    return lease

def test_in_its_body(request):
    fill(request.getfixturevalue("pg_lease"))
    assert 0

@pytest.fixture(autouse=True)
def marked(request):
    if request.node.get_closest_marker("wants_one"):
        fill(request.getfixturevalue("pg_reset"))
@pytest.mark.wants_one
def test_in_a_fixture(): assert 0

@pytest.fixture(scope="session")
def filled(request): return fill(request.getfixturevalue("pg_session_lease"))
def test_in_a_wider_fixture(filled): assert 0
def test_in_a_wider_fixture_again(filled): assert 0

class TestClass:
    @pytest.fixture(scope="class", autouse=True)
    def asked(self, request): fill(request.getfixturevalue("pg_session_lease"))
    def test_first_of_a_class(self): assert 0
    def test_second_of_a_class(self): assert 0

class Cases(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def given(self, pg_lease): self.lease = fill(pg_lease)
    def test_unittest_fails(self): self.fail()
    def test_unittest_errs(self): raise OSError
    def test_unittest_part_fails(self):
        for one in (1, 2):
            with self.subTest(one): self.assertEqual(one, 2)

def test_uses_none(): assert 0
"""


def test_however_a_test_came_to_its_database(run, daemon):
    result = run(BY_NAME, "-W", "ignore::pytest.PytestUnknownMarkWarning", "--leasedb-keep=failed", url=daemon.url)
    parts = re.split(r"^_{3,} (?:\w+\.)?(\w+) .*_{3,}$", result.stdout.str(), flags=re.MULTILINE)
    told = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert set(told) == set(re.findall(r"test_\w+", BY_NAME))
    for name, report in told.items():
        assert report.count("  left_behind  1") == (name != "test_uses_none"), name
    kept = result.stdout.str().partition("leasedb: kept databases")[2].partition("They stay")[0]
    others = {"test_in_a_wider_fixture_again", "test_first_of_a_class", "test_second_of_a_class"}  # are not the first
    for name in told:
        assert kept.count(f"::{name}\n") == (name not in {"test_uses_none", *others}), name
    for lease in daemon.get("/leases?state=active&kept=true")["leases"]:
        daemon.release(lease)


def test_with_xdist_it_is_told_once(run, daemon):
    many = "import pytest\n@pytest.mark.parametrize('n', range(8))\ndef test_it(pg_reset, pg_session_lease, n): pass"
    result = run(many, "-n2", url=daemon.url)
    result.assert_outcomes(passed=8)
    told = [line for line in result.outlines if line.startswith("leasedb: ")]
    assert len(told) == 2
    assert told[0].startswith(f"leasedb: 0.1.0 at {daemon.url}, embedded, Postgres ")
    assert re.match(r"leasedb: [12] leases? in .*, 8 resets; slowest: .*", told[1])
    assert told[1].count("::test_it[") + told[1].count("the session's database of gw") == 1  # as many as fit
    wide = [line for line in run(None, "-n2", url=daemon.url, COLUMNS="400").outlines if "; slowest: " in line]
    assert wide[0].count("::test_it[") + wide[0].count("the session's database of gw") == 5


def test_what_is_known_of_a_failed_test_s_database(run, daemon):
    result = run(FAILING, url=daemon.url)
    result.assert_outcomes(passed=1, failed=5, errors=1)
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
    assert "rolled back; to look at it, run the test with --leasedb-mode=fresh" in told["test_rolled_back"]
    by_name = told["test_rolled_back_by_fixture"]
    assert "rolled back; to look at it, have the test use pg_conn in place of pg_rollback, and run it" in by_name


@pytest.mark.parametrize("workers", [[], ["-n2"]])
def test_why_nothing_can_serve_is_told_once(run, stand_in, workers):
    stand_in.fail("backend-unavailable", 100)
    source = """
        import pytest
        @pytest.mark.parametrize("n", range(5))
        def test_it(pg_lease, n): pass
        """
    result = run(source, *workers)
    result.assert_outcomes(errors=5)
    report = result.stdout.str().partition("short test summary")[0]
    assert report.count("leasedb: Detail of backend-unavailable. Do this.") == 1
    assert (
        len(re.findall(r"leasedb: no database can be had, see the first error \(test_\S+::test_it\[\d\]\)", report))
        == 4
    )
    assert "NoDatabase" not in result.stdout.str()
    # and the header keeps to the first sentence
    result = run(None, url="http://127.0.0.1:1")
    lines = [line for line in result.outlines if line.startswith("leasedb: No leasedb daemon answers")]
    assert [line.endswith("Connection refused.") for line in lines] == [True, False]


@pytest.mark.parametrize("arguments", [[], ["-s"], ["-q"], ["-n1"], ["-pno:terminal"]])
def test_what_the_client_warns_of_while_a_daemon_is_started(run, stand_in, arguments):
    """Although a fixture's output is captured, and in a worker; but not afterwards, and not without a terminal."""
    source = """
        import logging, pytest
        from leasedb._plugin.waiting import showing_warnings
        log = logging.getLogger("leasedb")
        @pytest.fixture
        def started(request):
            with showing_warnings(request.config):
                log.warning("still starting:\\n%s", "pulling")
                log.info("something")
            log.warning("something else")
        def test_one(started, pg_lease): pass
        """
    result = run(source, *arguments)
    assert result.ret == 0
    told = [line for line in result.outlines if line.startswith("leasedb: s")]
    assert told == ["leasedb: still starting: pulling"] * (arguments != ["-pno:terminal"])


def test_what_workers_warn_of_while_a_daemon_is_started(run, stand_in):
    """What several say once, but twice what one of them says twice."""
    source = """
        import logging, pytest
        from leasedb._plugin.waiting import showing_warnings
        @pytest.fixture(scope="session")
        def started(request, worker_id):
            with showing_warnings(request.config):
                for line in ("starting it", f"starting {worker_id}", f"starting {worker_id}"):
                    logging.getLogger("leasedb").warning(line)
        @pytest.mark.parametrize("n", range(2))
        def test_it(started, pg_lease, n): pass
        """
    result = run(source, "-n2")
    result.assert_outcomes(passed=2)
    told = sorted(line for line in result.outlines if line.startswith("leasedb: s"))
    assert told == [f"leasedb: starting {what}" for what in ("gw0", "gw0", "gw1", "gw1", "it")]
    assert run(None, "-n2", "-pno:terminal").ret == 0


@pytest.mark.parametrize("workers", [[], ["-n2"]])
def test_where_nothing_can_serve_there_is_no_more_to_tell(run, workers):
    result = run("def test_one(pg_lease): pass", *workers, url="http://127.0.0.1:1")
    result.assert_outcomes(errors=1)
    assert "leases in" not in result.stdout.str()
    assert "kept" not in result.stdout.str()
