"""`pg_template`: what a project's databases are clones of, and when that is announced."""

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
    result.stdout.fnmatch_lines(["leasedb: There is no template 'nosuch'. Do this."])
    assert len(result.outlines) < 15


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
