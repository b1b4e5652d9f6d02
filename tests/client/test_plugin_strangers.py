"""The plugin beside others, and what it costs who does not use it."""

import pytest

pytest_plugins = ["pytester"]

OTHER = """
import pytest
@pytest.fixture
def pg_conn(): return "theirs"
@pytest.fixture
def theirs(): return "theirs"
"""


@pytest.mark.parametrize("workers", [[], ["-n1"]])
def test_another_plugin_has_a_fixture_of_our_name(run, stand_in, pytester, workers):
    """An installed one: which of the two pytest takes is chance, and so it is told."""
    pytester.makepyfile(pytest_other=OTHER)
    info = pytester.mkdir("pytest_other-1.0.dist-info")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pytest-other\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[pytest11]\nother = pytest_other\n")
    pytester.syspathinsert()
    result = run("def test_one(pg_conn, pg_lease, theirs): assert pg_conn == 'theirs'", *workers)
    if result.ret:
        result.stdout.fnmatch_lines(["leasedb: pg_conn is a fixture of pytest_other too; leasedb's is used"])
    else:
        result.stdout.fnmatch_lines(["leasedb: pg_conn is a fixture of pytest_other too; that of pytest_other is used"])
    assert result.stdout.str().count(" is a fixture of ") == 1


def test_what_a_suite_puts_in_place_of_ours_is_its_own_affair(run, stand_in, pytester):
    pytester.makepyfile(
        databases="import pytest\n@pytest.fixture\ndef pg_env(pg_lease): return 'ours'",
    )
    pytester.makeconftest(
        "import pytest\npytest_plugins = ['databases']\n@pytest.fixture\ndef pg_conn(pg_lease): return 'ours'"
    )
    result = run("def test_one(pg_conn, pg_env): assert pg_conn == pg_env == 'ours'")
    result.assert_outcomes(passed=1)
    assert " is a fixture of " not in result.stdout.str()


def test_who_does_not_use_it_pays_nothing(run, stand_in):
    run("""
        import sys
        def test_one():
            ours = {name for name in sys.modules if name.startswith("leasedb")}
            assert ours == {"leasedb", "leasedb._plugin", "leasedb.pytest_plugin"}
            assert not {"httpx", "psycopg", "sqlalchemy"} & sys.modules.keys()
        """).assert_outcomes(passed=1)
    assert stand_in.seen == []


def test_who_uses_it_pays_for_what_is_used(run, stand_in):
    run("""
        import sys
        def test_one(pg_lease, pg_env, pg_session_lease):
            assert not {"psycopg", "psycopg_pool", "sqlalchemy"} & sys.modules.keys()
        """).assert_outcomes(passed=1)
