"""The pytest plugin in real pytest processes, with pytest-xdist too."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.client.plugin_runs import LOAD
from tests.client.processes import environment
from tests.client.stand_in import Fault, StandIn
from tests.waiting import until

pytest_plugins = ["pytester"]


def holders(daemon: StandIn) -> set[str]:
    return {lease["holder"]["name"] for lease in daemon.leases.values()}


def test_each_test_gets_a_database_of_its_own(run, stand_in, pytester):
    run("""
        import time
        seen = set()
        def test_one(pg_lease):
            assert pg_lease.state == "active"
            seen.add(pg_lease.dsn)
        def test_two(pg_lease, leasedb_client):
            seen.add(pg_lease.dsn)
            assert len(seen) == 2
            limit = time.monotonic() + 10  # that of the test before may be on its way back still
            while [lease.id for lease in leasedb_client.leases(state="active")] != [pg_lease.id]:
                assert time.monotonic() < limit
    """).assert_outcomes(passed=2)
    assert stand_in.active() == []
    first, second = stand_in.leases.values()
    [name] = pytester.path.glob("test_*.py")
    assert first["labels"]["pytest"] == f"{name.name}::test_one"
    assert first["labels"]["worker"] == "main"
    assert first["labels"]["run"] == second["labels"]["run"]
    [holder] = holders(stand_in)
    assert holder == f"pytest {pytester.path.name} {first['labels']['run'][:8]}"
    assert first["holder"]["pid"] not in {None, os.getpid()}


def test_the_session_lease_is_one(run, stand_in):
    run("""
        seen = set()
        def test_one(pg_session_lease):
            seen.add(pg_session_lease.id)
        def test_two(pg_session_lease, pg_lease):
            seen.add(pg_session_lease.id)
            assert len(seen) == 1
            assert pg_lease.id != pg_session_lease.id
    """).assert_outcomes(passed=2)
    assert len(stand_in.leases) == 2
    assert stand_in.active() == []


def test_with_xdist_one_session_lease_for_each_worker(run, stand_in):
    run(
        """
        import pytest, threading
        @pytest.mark.parametrize("n", range(20))
        def test_it(pg_session_lease, pg_lease, n):
            threading.Event().wait(0.05)
        """,
        "-n2",
    ).assert_outcomes(passed=20)
    assert stand_in.active() == []
    sessions = [lease for lease in stand_in.leases.values() if "pytest" not in lease["labels"]]
    assert sorted(lease["labels"]["worker"] for lease in sessions) == ["gw0", "gw1"]
    assert len(stand_in.leases) == 22
    assert len(holders(stand_in)) == 1
    assert len({lease["labels"]["run"] for lease in stand_in.leases.values()}) == 1


def test_at_capacity_it_gets_slower_not_red(run):
    with StandIn(most=1) as small:
        run(
            """
            import pytest
            @pytest.mark.parametrize("n", range(10))
            def test_it(pg_lease, n): pass
            """,
            "-n2",
            url=small.url,
        ).assert_outcomes(passed=10)
        assert small.active() == []


def test_released_after_failures_and_errors(run, stand_in):
    run("""
        import time
        import pytest
        def test_fails(pg_lease): assert 0
        def test_raises(pg_lease): raise SystemError
        @pytest.fixture
        def broken(pg_lease): raise OSError
        def test_errors(broken): pass
        @pytest.fixture
        def late(pg_lease):
            yield
            raise OSError
        def test_late(late): pass
        def test_released(leasedb_client):
            limit = time.monotonic() + 10  # the last one may be on its way back still
            while leasedb_client.leases(state="active"):
                assert time.monotonic() < limit
    """).assert_outcomes(passed=2, failed=2, errors=2)
    assert stand_in.active() == []


def test_a_long_node_id_and_one_that_is_no_text(run, stand_in):
    run(f"""
        import pytest
        @pytest.mark.parametrize("n", ["\\udcff", "ä\\n"])
        def test_{"x" * 400}(pg_lease, n): pass
    """).assert_outcomes(passed=2)
    assert max(len(lease["labels"]["pytest"]) for lease in stand_in.leases.values()) == 255


@pytest.mark.parametrize("workers", [[], ["-n2"]])
def test_no_daemon_is_one_line_without_a_traceback(run, workers):
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    result = run(
        """
        def test_one(pg_lease): pass
        def test_two(pg_session_lease): pass
        def test_three(): pass
        """,
        *workers,
        url=url,
    )
    result.assert_outcomes(passed=1, errors=2)
    message = f"leasedb: No leasedb daemon answers at {url}: Connection refused. Start one with: leasedb serve"
    result.stdout.fnmatch_lines([f"{message}*"])
    assert "Traceback" not in result.stdout.str()
    assert "_plugin.py" not in result.stdout.str()
    assert len(result.outlines) < 25


def test_what_the_daemon_refuses_is_one_line(run, stand_in):
    stand_in.fail("server-start-failed", 100)
    result = run("def test_one(pg_lease): pass")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["leasedb: Detail of server-start-failed. Do this."])
    assert len(result.outlines) < 20


def test_a_bad_url_is_one_line(run):
    result = run("def test_one(pg_lease): pass", url="localhost:7432")
    result.stdout.fnmatch_lines(["leasedb: LEASEDB_URL is 'localhost:7432', which*"])
    assert len(result.outlines) < 20


@pytest.mark.parametrize(("version", "remedy"), [("0.0.9", "leasedb stop"), ("7.0.0", "pip install --upgrade")])
def test_a_daemon_of_another_version_says_which_to_upgrade(run, version, remedy):
    with StandIn(version=version) as other:
        result = run("def test_one(pg_lease): pass\ndef test_two(pg_reset): pass", "--leasedb-optional", url=other.url)
        result.assert_outcomes(errors=2)
        said = f"leasedb: The daemon at {other.url} is leasedb {version}, *"
        result.stdout.fnmatch_lines([said, f"{said}{remedy}*", f"{said}{remedy}*"])
        assert {seen.path for seen in other.seen} == {"/healthz"}


WITHOUT = """
import sys
for name in ("psycopg", "psycopg_pool", "sqlalchemy"):
    sys.modules[name] = None
"""


def test_without_the_libraries_of_a_fixture_it_says_what_to_install(run, stand_in, pytester):
    pytester.makeconftest(WITHOUT)
    result = run(
        """
        def test_conn(pg_conn): pass
        def test_pool(pg_pool): pass
        def test_engine(pg_engine): pass
        def test_truncate(pg_truncate): pass
        def test_rollback(pg_rollback): pass
        def test_conn_async(pg_conn_async): pass
        def test_fine(pg_lease, pg_env): pass
        def test_fails(pg_lease): assert 0
        """
    )
    result.assert_outcomes(passed=1, failed=1, errors=6)
    for line in (
        "pg_conn needs psycopg: pip install 'psycopg[[]binary[]]'",
        "pg_pool needs psycopg_pool: pip install 'psycopg[[]binary,pool[]]'",
        "pg_engine needs sqlalchemy: pip install sqlalchemy 'psycopg[[]binary[]]'",
        "pg_truncate needs psycopg: *",
        "pg_rollback needs psycopg: *",
        "pg_conn_async needs psycopg: *",
    ):
        result.stdout.fnmatch_lines([f"leasedb: {line}"])
    assert "Traceback" not in result.stdout.str()
    assert len(stand_in.leases) == 2


THREE = """
import pytest
def test_one(pg_lease): pass
@pytest.fixture
def table(pg_lease): pass
def test_two(table): pass
@pytest.mark.skip
def test_three(pg_conn): pass
def test_without(): pass
"""


def announced(daemon: StandIn) -> list[int]:
    return [seen.body["count"] for seen in daemon.sent("PUT", "/demand")]


def test_what_is_coming_is_announced_before_the_first_test(run, stand_in):
    run(THREE).assert_outcomes(passed=3, skipped=1)
    first, last = stand_in.sent("PUT", "/demand")
    assert [seen.path for seen in stand_in.seen[:2]] == ["/healthz", "/demand"]
    assert first.body["count"] == 3
    assert first.body["ttl"] == 600
    assert first.body["template"] == "base"
    assert holders(stand_in) == {first.body["holder"]} == {last.body["holder"]}
    # one was skipped: what is left is taken back
    assert last.body["count"] == 0
    assert stand_in.seen[-1] is last


def test_nothing_is_taken_back_when_every_test_had_its_database(run, stand_in):
    run(THREE, "-k", "one or two").assert_outcomes(passed=2, deselected=2)
    assert announced(stand_in) == [2]
    assert list(stand_in.to_come.values()) == [0]


def test_the_rest_is_taken_back_after_the_first_failure(run, stand_in):
    many = "import pytest\n@pytest.mark.parametrize('n', range(9))\ndef test_it(pg_lease, n): assert n < 3"
    run(many, "-x").assert_outcomes(passed=3, failed=1)
    assert announced(stand_in) == [9, 0]
    assert list(stand_in.to_come.values()) == [0]


@pytest.mark.parametrize("option", ["--collect-only", "--setup-plan", "--fixtures", "--fixtures-per-test"])
def test_who_only_looks_announces_nothing(run, stand_in, option):
    run(THREE, option)
    assert stand_in.seen == []


def test_with_xdist_it_is_announced_once_for_all_workers(run, stand_in):
    many = "import pytest\n@pytest.mark.parametrize('n', range(20))\ndef test_it(pg_lease, n): pass"
    run(many, "-n3").assert_outcomes(passed=20)
    assert announced(stand_in) == [20]
    [leasing, *_] = [number for number, seen in enumerate(stand_in.seen) if seen.path == "/leases"]
    assert [seen.path for seen in stand_in.seen[:leasing]].count("/demand") == 1
    assert list(stand_in.to_come.values()) == [0]


def test_with_xdist_the_rest_is_taken_back_once_all_workers_are_done(run, stand_in):
    many = "import pytest\n@pytest.mark.parametrize('n', range(20))\ndef test_it(pg_lease, n): assert n != 3"
    run(many, "-n2", "-x")
    assert announced(stand_in) == [20, 0]
    assert list(stand_in.to_come.values()) == [0]
    assert [seen.path for seen in stand_in.seen if seen.method != "GET"][-1] == "/demand"


def test_more_than_can_be_announced(run, stand_in, monkeypatch):
    many = "import pytest\n@pytest.mark.parametrize('n', range(10_001))\ndef test_it(pg_lease, n): assert n < 0"
    run(many, "-x").assert_outcomes(failed=1)
    assert announced(stand_in) == [10_000, 0]


def test_a_daemon_that_takes_no_announcements(run):
    with StandIn(old=True) as daemon:
        result = run(THREE, url=daemon.url)
        result.assert_outcomes(passed=3, skipped=1)
        assert "demand" not in result.stdout.str()
        assert announced(daemon) == [3]


@pytest.mark.parametrize("faults", [[Fault("answer")], [Fault("hang-up"), Fault("hang-up")]])
def test_an_announcement_that_fails_is_no_error(run, stand_in, faults):
    stand_in.faults.extend([Fault("none"), *faults])
    run("def test_one(pg_lease): pass").assert_outcomes(passed=1)
    assert {seen.path for seen in stand_in.seen[1 : len(faults) + 1]} == {"/demand"}


def test_items_that_have_no_fixtures(run, stand_in, pytester):
    pytester.makefile(".txt", test_doc=">>> 1 + 1\n2\n")
    run("def test_one(pg_lease): pass", "--doctest-glob=*.txt").assert_outcomes(passed=2)
    assert announced(stand_in) == [1]


def test_nothing_is_imported_or_asked_when_no_test_wants_a_database(run, stand_in):
    run("import sys\ndef test_one(): assert 'httpx' not in sys.modules").assert_outcomes(passed=1)
    assert stand_in.seen == []


def test_the_fixtures_are_listed_with_what_they_are(run):
    out = run("", "--fixtures").stdout.str()
    for name in ("leasedb_client", "pg_session_lease", "pg_lease", "pg_conn", "pg_template"):
        assert f"\n{name}" in out


SLOW = """
import threading
def test_waits(pg_lease, pg_session_lease):
    print("waiting", flush=True)
    threading.Event().wait(60)
"""


def _start(daemon: StandIn, folder: Path) -> "subprocess.Popen[str]":
    (folder / "test_slow.py").write_text(SLOW)
    path = os.pathsep.join(path for path in sys.path if path)
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *LOAD, "-p", "no:cacheprovider", "-s", "test_slow.py"],
        cwd=folder,
        env=environment(daemon.url, PYTHONPATH=path),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert any("waiting" in line for line in process.stdout)
    assert len(daemon.active()) == 2
    return process


def test_ctrl_c_releases(stand_in, tmp_path):
    with _start(stand_in, tmp_path) as process:
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
        assert "KeyboardInterrupt" in out
    assert {lease["end_reason"] for lease in stand_in.leases.values()} == {"released by its holder"}


def test_kill_9_releases(stand_in, tmp_path):
    with _start(stand_in, tmp_path) as process:
        process.kill()
        process.communicate()
        until(lambda: not stand_in.active(), what="released, for their holder died")


def test_pg_conn_on_a_real_database(run, daemon):
    run(
        """
        def test_one(pg_conn, pg_lease):
            assert pg_conn.autocommit is False
            assert pg_conn.info.dbname == pg_lease.database
            assert pg_conn.execute("select '[1,2,3]'::vector <-> '[3,2,1]'").fetchone()[0] > 2.8
            pg_conn.execute("create table t (n int)")
            pg_conn.commit()
        def test_two(pg_conn):
            assert pg_conn.execute("select to_regclass('t')").fetchone()[0] is None
            pg_conn.close()
        def test_three(pg_conn):
            pg_conn.execute("nonsense")
        def test_four(leasedb_client, pg_conn, pg_session_lease):
            assert pg_conn.execute("select 1").fetchone() == (1,)
        """,
        url=daemon.url,
    ).assert_outcomes(passed=3, failed=1)
    mine = [
        lease for lease in daemon.get("/leases")["leases"] if "test_pg_conn_on" in lease["labels"].get("pytest", "")
    ]
    assert len(mine) == 4
    assert {lease["state"] for lease in mine} == {"released"}


def test_xdist_on_real_databases(run, daemon):
    run(
        """
        import psycopg, pytest
        @pytest.mark.parametrize("n", range(12))
        def test_it(pg_lease, pg_session_lease, n):
            with psycopg.connect(pg_lease.dsn) as connection:
                connection.execute("create table t as select generate_series(1, 10)")
        """,
        "-n2",
        url=daemon.url,
    ).assert_outcomes(passed=12)
