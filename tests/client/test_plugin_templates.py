"""`pg_template`: what a project's databases are clones of, and when that is announced."""

import re

import pytest

from tests.client.stand_in import StandIn

pytest_plugins = ["pytester"]

SHOP = """
import pytest
@pytest.fixture(scope="session")
def pg_template(leasedb_client):
    return leasedb_client.template("shop", "create table product (name text)")
"""
TESTS = """
import pytest
def test_one(pg_lease):
    assert pg_lease.template.startswith("shop-")
def test_two(pg_session_lease, pg_lease, pg_template):
    assert pg_session_lease.template == pg_lease.template == pg_template.name
@pytest.mark.skip
@pytest.mark.parametrize("n", range(2))
def test_three(pg_lease, n): pass
"""


def leased(daemon: StandIn) -> list[str]:
    return [lease["template"] for lease in daemon.leases.values()]


def said(daemon: StandIn) -> list[tuple[str, int]]:
    return [(seen.body["template"], seen.body["count"]) for seen in daemon.sent("PUT", "/demand")]


def test_each_test_gets_a_clone_of_it(run, pytester, stand_in):
    pytester.makeconftest(SHOP)
    run(TESTS).assert_outcomes(passed=2, skipped=2)
    assert stand_in.built == 1
    [name] = set(leased(stand_in))
    assert name.startswith("shop-")
    # announced once it is known, and what is left of it taken back
    assert said(stand_in) == [(name, 4), (name, 0)]
    paths = [seen.path for seen in stand_in.seen]
    assert paths.index(f"/templates/{name}") < paths.index("/demand") < paths.index("/leases")


def test_a_name_will_do(run, pytester, stand_in):
    pytester.makeconftest("import pytest\n@pytest.fixture(scope='session')\ndef pg_template(): return 'base'")
    run("def test_one(pg_lease): assert pg_lease.template == 'base'").assert_outcomes(passed=1)
    assert said(stand_in) == [("base", 1)]


def test_a_folder_may_have_its_own(run, pytester, stand_in):
    run("")
    (pytester.path / "shop").mkdir()
    (pytester.path / "shop" / "conftest.py").write_text(SHOP)
    (pytester.path / "shop" / "test_shop.py").write_text(TESTS)
    (pytester.path / "test_plain.py").write_text("def test_one(pg_lease): assert pg_lease.template == 'base'")
    stand_in.seen.clear()
    run("").assert_outcomes(passed=3, skipped=2)
    assert said(stand_in)[0] == ("base", 1)
    [name] = set(leased(stand_in)) - {"base"}
    assert said(stand_in)[1:] == [(name, 4), (name, 0)]


def test_with_xdist_it_is_built_once_and_announced_once(run, pytester, stand_in):
    pytester.makeconftest(SHOP)
    many = "import pytest\n@pytest.mark.parametrize('n', range(20))\ndef test_it(pg_lease, n): pass"
    run(many, "-n3").assert_outcomes(passed=20)
    assert stand_in.built == 1
    assert [count for _, count in said(stand_in)] == [20]
    assert len(leased(stand_in)) == 20


def test_a_template_that_was_evicted_meanwhile_is_made_again(run, pytester, stand_in):
    pytester.makeconftest(SHOP)
    run("""
        def test_one(pg_lease, leasedb_client, pg_template):
            pg_lease.release()
            leasedb_client.delete_template(pg_template.name)
        def test_two(pg_lease): pass
    """).assert_outcomes(passed=2)
    assert stand_in.built == 2


def test_a_template_that_is_not_there_is_one_line(run, pytester):
    pytester.makeconftest("import pytest\n@pytest.fixture(scope='session')\ndef pg_template(): return 'nosuch'")
    result = run("def test_one(pg_lease): pass")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["leasedb: There is no template 'nosuch'. 'leasedb template ls' lists those that are there."]
    )
    assert len(result.outlines) < 20


@pytest.mark.parametrize("option", ["--collect-only", "--setup-plan"])
def test_who_only_looks_builds_nothing(run, pytester, stand_in, option):
    pytester.makeconftest(SHOP)
    run(TESTS, option)
    assert stand_in.seen == []


def test_on_a_real_daemon(run, pytester, daemon):
    pytester.makeconftest(SHOP)
    run(
        """
        import pytest
        @pytest.mark.parametrize("n", range(4))
        def test_it(pg_conn, n):
            pg_conn.execute("insert into product values ('tea')")
            assert pg_conn.execute("select count(*) from product").fetchone() == (1,)
            pg_conn.commit()
        """,
        "-n2",
        url=daemon.url,
    ).assert_outcomes(passed=4)


KINDS = """
import pytest
from pathlib import Path
HERE = Path(__file__).parent
SQL = "create table product (name text); insert into product values ('tea')"
BUILT = []
def fill(lease):
    BUILT.append(lease)
    import psycopg
    with psycopg.connect(lease.dsn) as connection:
        connection.execute("insert into product values ('nail')")

def product(name, given, expected):
    class Suite:
        @pytest.fixture(scope="session")
        def pg_template(self): return given
        @pytest.mark.parametrize("n", range(2))
        def test_it(self, pg_conn, n):
            found = pg_conn.execute("select name from product order by name").fetchall()
            assert [name for (name,) in found] == expected
            pg_conn.execute("delete from product")
            pg_conn.commit()
    Suite.__name__ = name
    return Suite

TestText = product("TestText", SQL, ["tea"])
TestPath = product("TestPath", HERE / "schema.sql", ["tea"])
TestFolder = product("TestFolder", HERE / "db", ["pot", "tea"])
TestLayers = product("TestLayers", [SQL, fill, "insert into product values ('zinc')"], ["nail", "tea", "zinc"])
def test_a_function_is_run_once(): assert len(BUILT) == 1
"""


def test_what_pg_template_may_return(run, pytester, daemon):
    """And each is built once over the tests of a run; `test_built_once...` has it over workers and runs."""
    pytester.makefile(".sql", schema="create table product as select 'tea' as name")
    folder = pytester.mkdir("db")
    (folder / "1.sql").write_text("create table product as select 'tea' as name")
    (folder / "2.sql").write_text("insert into product values ('pot')")
    run(KINDS, url=daemon.url).assert_outcomes(passed=9)


NOTING = """
import pytest
from pathlib import Path
def build(lease):
    with Path(__file__).with_name("built").open("a") as file:
        file.write(lease.id + "\\n")
@pytest.fixture(scope="session")
def pg_template(): return build
"""


def test_built_once_over_workers_and_runs(run, pytester, stand_in):
    pytester.makeconftest(NOTING)
    many = "import pytest\n@pytest.mark.parametrize('n', range(9))\ndef test_it(pg_lease, n): pass"
    run(many, "-n3").assert_outcomes(passed=9)
    run(None).assert_outcomes(passed=9)
    assert len((pytester.path / "built").read_text().splitlines()) == 1
    # and anew when its source changes
    pytester.makeconftest(NOTING.replace("lease.id +", "'again' +"))
    run(None).assert_outcomes(passed=9)
    assert len((pytester.path / "built").read_text().splitlines()) == 2


RAISING = """
import pytest
def build(lease):
    raise ValueError(f"no column {1 + 1}")
@pytest.fixture(scope="session")
def pg_template(): return build
"""


@pytest.mark.parametrize("ci", [False, True])  # where pytest's own summary has all lines of a message
@pytest.mark.parametrize("workers", [[], ["-n2"]])
def test_a_function_that_raises_shows_its_traceback_once(run, pytester, stand_in, monkeypatch, workers, ci):
    monkeypatch.delenv("BUILD_NUMBER", raising=False)
    monkeypatch.setenv("CI", "true" if ci else "")
    pytester.makeconftest(RAISING)
    source = """
        import pytest
        @pytest.mark.parametrize("n", range(30))
        def test_it(pg_lease, n): pass
        def test_other_fixtures(pg_reset, pg_conn): pass
        """
    result = run(source, *workers)
    result.assert_outcomes(errors=31)
    report = result.stdout.str().partition("short test summary")[0]
    assert report.count('raise ValueError(f"no column {1 + 1}")') == 1
    assert "_templating.py" not in report  # nor any other frame of ours
    assert "_plugin/" not in report
    whole = "test_a_function_that_raises_shows_its_traceback_once.py::test_it"
    assert set(re.findall(r"\(its traceback is at (\S+)\)", report)) <= {f"{whole}[{n}]" for n in range(30)}
    assert len(set(re.findall(r"leasedb: ValueError: no column 2\n\(its traceback is at (\S+)\)", report))) == 1
    told = report.count("leasedb: ValueError: no column 2\n(its traceback is at test_")
    # a worker that waited for another one's build is told by the daemon
    assert told + report.count("leasedb: It failed. Do this.") == 30
    assert workers or told == 30
    assert stand_in.active() == []


def test_sql_that_fails_is_told_without_a_traceback(run, pytester, daemon):
    pytester.makeconftest(
        "import pytest\n@pytest.fixture(scope='session')\n"
        "def pg_template(): return 'create table t (x int);\\n\\ncreate tabel u (x int)'"
    )
    result = run("def test_one(pg_lease): pass\ndef test_two(pg_rollback): pass", url=daemon.url)
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(['leasedb: *syntax error at or near "tabel"*'])
    assert "Traceback" not in result.stdout.str()


@pytest.mark.parametrize("given", ["None", "17", "['shop', 17]"])
def test_what_cannot_be_a_template(run, pytester, stand_in, given):
    pytester.makeconftest(f"import pytest\n@pytest.fixture(scope='session')\ndef pg_template(): return {given}")
    result = run("def test_one(pg_lease): pass")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["leasedb: *"])
    assert "Traceback" not in result.stdout.str()


def test_a_text_that_is_a_path(run, pytester, stand_in):
    """It is told what to return; and one that may be a name as well, when there is no such template."""
    pytester.mkdir("sqls")
    (pytester.path / "db").mkdir()
    (pytester.path / "db" / "schema.sql").write_text("select 1")
    pytester.makeconftest(
        "import os, pytest\n@pytest.fixture(scope='session')\ndef pg_template(): return os.environ['T']"
    )
    result = run("def test_one(pg_lease): pass", T="sqls")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [f"leasedb: There is no template 'sqls'. * to have {pytester.path}/sqls built, let * return Path('sqls')."]
    )
    result = run(None, T="db/schema.sql")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["leasedb: pg_template gave the text 'db/schema.sql', and a text is SQL or *"])
    assert stand_in.built == 0
