"""What a run and a test want: said in an ini file, by markers and on the command line, which wins."""

import pytest

pytest_plugins = ["pytester"]

SQL = "create table product (name text)"


def test_the_command_line_wins_over_the_marker_over_the_ini_file(run, stand_in, pytester):
    pytester.makeini("[pytest]\nleasedb_ttl = 100\nleasedb_postgres = 17\n")
    source = """
        import pytest
        def test_plain(pg_lease): pass
        @pytest.mark.leasedb(ttl=200)
        class TestMarked:
            def test_outer(self, pg_lease): pass
            @pytest.mark.leasedb(ttl=300, postgres=18)
            def test_inner(self, pg_lease): pass
        """

    def asked(*names: str) -> list[tuple]:
        found = [tuple(seen.body.get(name) for name in names) for seen in stand_in.sent("POST", "/leases")]
        stand_in.seen.clear()
        return found

    run(source).assert_outcomes(passed=3)
    assert asked("ttl", "postgres") == [(100, "17"), (200, "17"), (300, "18")]
    run(None, "--leasedb-ttl=400").assert_outcomes(passed=3)
    assert asked("ttl", "postgres") == [(400, "17"), (400, "17"), (400, "18")]
    run(None, "--leasedb-postgres=18", "--leasedb-server=exclusive", "--leasedb-database=shop", "--leasedb-user=me")
    assert asked("postgres", "server", "database", "user") == [("18", "exclusive", "shop", "me")] * 3
    run(None, "--leasedb-image=pgvector/pgvector:pg18").assert_outcomes(passed=3)
    assert asked("image") == [("pgvector/pgvector:pg18",)] * 3


def test_what_is_not_said_is_not_asked_for(run, stand_in):
    run("def test_one(pg_lease): pass").assert_outcomes(passed=1)
    [asked] = stand_in.sent("POST", "/leases")
    assert not {"postgres", "image", "database", "user"} & asked.body.keys()


def test_each_way_of_saying_the_mode_and_the_scope(run, daemon, pytester):
    pytester.makeini("[pytest]\nleasedb_mode = reset\n")
    source = """
        import psycopg, pytest
        seen = []
        @pytest.mark.parametrize("n", range(2))
        def test_reset(pg_lease, pg_conn, n):
            seen.append(pg_lease.id)
            pg_conn.execute("create table t (x int)")
            pg_conn.commit()
        @pytest.mark.leasedb(mode="fresh")
        def test_fresh(pg_lease):
            assert pg_lease.id not in seen
        @pytest.mark.leasedb(mode="fresh", scope="module")
        def test_kept_for_the_module(pg_lease):
            seen.append(pg_lease.id)
        @pytest.mark.leasedb(mode="fresh", scope="module")
        class TestClass:
            def test_has_the_same(self, pg_lease):
                assert pg_lease.id == seen[-1]
            @pytest.mark.leasedb(scope="class")
            def test_has_its_own(self, pg_lease):
                assert pg_lease.id not in seen
        @pytest.mark.leasedb(mode="truncate")
        def test_truncate(pg_conn, pg_lease):
            assert pg_lease.id == seen[0] == seen[1] != seen[2]
        @pytest.mark.leasedb(mode="rollback")
        def test_rollback(pg_conn, pg_session_lease):
            assert pg_conn.info.dbname == pg_session_lease.database
            assert pg_session_lease.id == seen[0]
            pg_conn.execute("create table t2 (x int)")
            pg_conn.commit()
        def test_rolled_back(pg_session_lease):
            with psycopg.connect(pg_session_lease.dsn) as connection:
                assert connection.execute("select to_regclass('t2')").fetchone() == (None,)
        """
    run(source, url=daemon.url).assert_outcomes(passed=9)


def test_the_mode_of_the_command_line(run, daemon):
    source = """
        import pytest
        seen = set()
        @pytest.mark.parametrize("n", range(3))
        @pytest.mark.leasedb(mode="fresh")
        def test_it(pg_lease, pg_conn, n):
            seen.add(pg_lease.id)
            pg_conn.execute("create table t (x int)")
            pg_conn.commit()
        def test_one_for_all(): assert len(seen) == 1
        """
    run(source, "--leasedb-mode=reset", url=daemon.url).assert_outcomes(passed=4)


def test_a_template_from_the_ini_file_and_the_command_line(run, daemon, pytester):
    """A path there is one, from the folder of the ini file; and a marker's template is asked for, whatever it is."""
    (pytester.path / "db").mkdir()
    (pytester.path / "db" / "1_schema.sql").write_text(SQL)
    (pytester.path / "db" / "2_rows.sql").write_text("insert into product values ('tea')")
    (pytester.path / "other.sql").write_text(f"{SQL}; insert into product values ('nail')")
    pytester.makeini("[pytest]\nleasedb_template = db/\n")
    run(
        """
        import os, pytest
        from pathlib import Path
        EXPECTED = os.environ["EXPECTED"]
        def product(connection): return connection.execute("select min(name) from product").fetchone()[0]
        def test_plain(pg_conn): assert product(pg_conn) == EXPECTED
        @pytest.mark.leasedb(template="create table product as select 'marked' as name")
        def test_marked(pg_conn): assert product(pg_conn) == os.environ.get("MARKED", "marked")
        @pytest.mark.leasedb(template=Path(__file__).with_name("other.sql"))
        def test_path(pg_conn): assert product(pg_conn) == "nail"
        """,
        url=daemon.url,
        EXPECTED="tea",
    ).assert_outcomes(passed=3)
    run(None, "--leasedb-template=other.sql", url=daemon.url, EXPECTED="nail", MARKED="nail").assert_outcomes(passed=3)


def test_where_paths_begin(run, stand_in, pytester, monkeypatch):
    """At the test's folder in a marker, at the ini file's there, and on the command line where it was written."""
    pytester.makeini("[pytest]\nleasedb_template = db/1.sql\n")
    tests = pytester.mkdir("tests")
    for folder, column in ((pytester.path, "ini"), (tests, "marked")):
        (folder / "db").mkdir()
        (folder / "db" / "1.sql").write_text(f"create table {column} (x int)")
    (tests / "1.sql").write_text("create table told (x int)")
    (tests / "test_paths.py").write_text(
        "import pytest\n"
        "from pathlib import Path\n"
        "def test_plain(pg_lease): pass\n"
        "@pytest.mark.leasedb(template='db/1.sql')\n"
        "def test_text(pg_lease): pass\n"
        "@pytest.mark.leasedb(template=[Path('db'), 'select 1/2'])\n"
        "def test_layers(pg_lease): pass\n"
        "@pytest.mark.leasedb(template='select 1/2 as half')\n"
        "def test_sql(pg_lease): pass\n"
    )

    def built() -> set[str]:
        found = {seen.body for seen in stand_in.seen if (seen.method, seen.path[:11]) == ("PUT", "/templates/")}
        stand_in.seen.clear()
        return {text.strip() for text in found}

    run(None, "tests").assert_outcomes(passed=4)
    halves = {"select 1/2", "select 1/2 as half"}
    assert built() == {"create table ini (x int)", "create table marked (x int)"} | halves
    monkeypatch.chdir(tests)
    run(None, "--leasedb-template=1.sql", "-k", "plain", "-n1").assert_outcomes(passed=1)
    assert built() == {"create table told (x int)"}


def test_what_makes_no_sense_in_a_marker(run, stand_in):
    result = run("""
        import pytest
        @pytest.mark.leasedb(tempalte="shop")
        def test_unknown(pg_lease): pass
        @pytest.mark.leasedb("shop")
        def test_unnamed(pg_conn): pass
        @pytest.mark.leasedb(mode="reuse")
        def test_mode(pg_lease): pass
        @pytest.mark.leasedb(ttl="soon")
        def test_ttl(pg_lease): pass
        @pytest.mark.leasedb(image=17)
        def test_image(pg_reset): pass
        @pytest.mark.leasedb(template=17)
        def test_template(pg_lease): pass
        @pytest.mark.leasedb(template={"sql": "select 1"})
        def test_template_in_a_dictionary(pg_lease): pass
        @pytest.mark.leasedb(template="nosuch")
        def test_unknown_template(pg_lease): pass
        @pytest.mark.leasedb(postgres="16")
        def test_postgres(pg_lease): pass
        @pytest.mark.leasedb(postgres="18.4")
        def test_minor(pg_lease): pass
        @pytest.mark.leasedb(database="shop")
        def test_database(pg_lease): pass
        @pytest.mark.leasedb(user="me", server="shared")
        def test_user(pg_lease): pass
        def test_fine(pg_lease): pass
        """)
    result.assert_outcomes(passed=1, errors=12)
    for text in (
        "the marker has no 'tempalte'; it takes mode, scope, template, *",
        "the marker takes names only, as in leasedb(template=...), and has 'shop'",
        "mode is 'reuse'; it is one of fresh, reset, truncate, rollback",
        "ttl is 'soon', which is no number of seconds",
        "image is 17, which is no text",
        "A template is named, or made of SQL, paths or a function, and not of 17.*",
        "A template is named, or made of SQL, paths or a function, and not of {'sql': *",
        "There is no template 'nosuch'. 'leasedb template ls' lists those that are there.",
        "postgres is '18.4'; it is a major version, such as 18",
        "database is 'shop', which needs server='exclusive'",
        "user is 'me', which needs server='exclusive'",
        "Postgres 16 is not served here. Do this.",
    ):
        result.stdout.fnmatch_lines([f"leasedb: {text}"])
    assert "Traceback" not in result.stdout.str()
    assert len(stand_in.leases) == 1


def test_a_marker_can_only_widen_the_scope(run, stand_in):
    result = run(
        """
        import pytest
        pytestmark = pytest.mark.leasedb(scope="function")
        def test_one(pg_lease): pass
        """,
        "-o",
        "leasedb_scope=module",
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["leasedb: The marker wants a database for each function, and this run has one *"])


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--leasedb-mode=reuse", "*argument --leasedb-mode: invalid choice: 'reuse' (choose from *"),
        ("--leasedb-keep=never", "*argument --leasedb-keep: invalid choice: 'never' (choose from *"),
        ("--override-ini=leasedb_mode=reuse", "*leasedb: mode is 'reuse'; it is one of fresh, *"),
        ("--override-ini=leasedb_keep=never", "*leasedb: keep is 'never'; it is one of no, failed, always"),
        ("--override-ini=leasedb_scope=test", "*leasedb: scope is 'test'; it is one of function, *"),
        ("--override-ini=leasedb_ttl=long", "*leasedb: ttl is 'long', which is no number of seconds"),
        ("--leasedb-ttl=-1", "*leasedb: ttl is '-1', which is no number of seconds"),
    ],
)
def test_what_makes_no_sense_for_a_whole_run_ends_it(run, stand_in, argument, message):
    result = run("def test_one(pg_lease): pass", argument, "-n2")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "Traceback" not in result.stdout.str() + result.stderr.str()
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()
    lines = result.outlines + result.errlines
    pytest.LineMatcher(lines).fnmatch_lines([message])
    assert stand_in.leases == {}


def test_the_options_are_listed(run):
    out = run(None, "--help").stdout.str()
    for name in ("mode", "scope", "template", "postgres", "image", "server", "ttl", "keep", "optional", "no-start"):
        assert f"--leasedb-{name}" in out
        assert f"leasedb_{name.replace('-', '_')} (" in out
    assert "leasedb_database_url (" in out
    words = " ".join(out.split())
    for said in (
        "fresh, reset, truncate or rollback (default: fresh)",
        "function, class, module, package or session (default: function)",
        "shared or exclusive (default: shared)",
        "no, failed or always (default: no)",
    ):
        assert words.count(said) == 2
    assert "@pytest.mark.leasedb(template" in run(None, "--markers").stdout.str()


def test_the_marker_of_one_test_where_databases_live_longer(run, stand_in):
    result = run(
        """
        import pytest
        @pytest.mark.leasedb(template="shop")
        def test_one(pg_lease): pass
        def test_two(pg_lease): pass
        """,
        "--leasedb-scope=module",
    )
    result.assert_outcomes(passed=2, warnings=1)
    result.stdout.fnmatch_lines(
        ["*pg_lease lives for each module in this run*the marker of this test alone is not heard*"]
    )
    assert [lease["template"] for lease in stand_in.leases.values()] == ["base"]


def test_markers_that_are_not_heard(run, stand_in):
    result = run("""
        import pytest
        @pytest.mark.leasedb(template="shop")
        def test_session(pg_session_lease, pg_template, leasedb_client): pass
        @pytest.mark.leasedb(mode="reset", scope="module")
        def test_both(pg_lease): pass
        @pytest.mark.leasedb(ttl=100)
        def test_heard(pg_session_lease, pg_lease): pass
        @pytest.mark.leasedb(ttl=100)
        def test_without(): pass
        """)
    result.assert_outcomes(passed=4, warnings=2)
    result.stdout.fnmatch_lines(
        [
            "*leasedb: pg_session_lease is of the whole run, so the marker of a test is not heard; *",
            "*leasedb: in mode reset the database is put right before each test, so tests of a module *",
        ]
    )
    with_workers = run(None, "-n2")
    with_workers.assert_outcomes(passed=4, warnings=2)  # and not twice, once for each worker
    errors = run(None, "-W", "error::pytest.PytestWarning")
    errors.assert_outcomes(passed=2, errors=2)  # those tests, and not the run
    errors.stdout.fnmatch_lines(["E * leasedb: pg_session_lease is of the whole run, *"])


def test_another_folder_s_template_for_what_is_made_once(run, stand_in, pytester):
    for folder in ("a", "b"):
        pytester.mkpydir(folder).joinpath("conftest.py").write_text(
            f"import pytest\n@pytest.fixture(scope='session')\ndef pg_template(): return 'create table {folder} ()'"
        )
        test = "def test_session(pg_session_lease): pass\ndef test_own(pg_lease, pg_reset): pass\n"
        pytester.path.joinpath(folder, "test_it.py").write_text(test)
    result = run(None, "a", "b")
    result.assert_outcomes(passed=4, warnings=1)
    why = "made of the pg_template that a/test_it.py::test_session has, and this test has another; take pg_lease or *"
    result.stdout.fnmatch_lines([f"*leasedb: pg_session_lease is one database for the whole run, {why}"])
    run(None, "a", "b", "--leasedb-scope=session").assert_outcomes(passed=4, warnings=2)
    run(None, "a", "b", "--leasedb-template=base").assert_outcomes(passed=4)
    run(None, "a").assert_outcomes(passed=2)
