"""What is passed over in a dump, and what is not."""

import pytest

from leasedb_server.domain import dumps
from leasedb_server.domain.errors import SqlFailedError
from leasedb_server.domain.statements import Statement

HEAD = "--\n-- PostgreSQL database dump\n--\n\n"


def fate(sql, sqlstate=None):
    """Return how the first rule that takes effect calls the statement, None when there is none."""
    for rule in dumps.Dump().rules(Statement(sql, 1, 1)):
        if not rule.states or sqlstate in rule.states:
            return rule.name(sql)
    return None


@pytest.mark.parametrize(
    "head",
    [
        HEAD,
        "\ufeff" + HEAD,
        HEAD.replace("\n", "\r\n"),
        "\n" + HEAD + "\\restrict x\n",
        "SET statement_timeout = 0;\nSET lock_timeout = 0;\nSET transaction_timeout = 0;\n",
        "\\restrict x\n\n-- Dumped from database version 18.1\n\nSET statement_timeout = 0;\nSET lock_timeout = 0;\n",
    ],
)
def test_a_dump_is_known_by_its_header(head):
    assert dumps.recognised(head) is not None


@pytest.mark.parametrize(
    "head",
    [
        "",
        "SELECT 1;",
        "SET statement_timeout = 0;",
        "-- my schema\n",
        "SELECT '\n--\n-- PostgreSQL database dump\n--\n",
    ],
)
def test_other_text_is_no_dump(head):
    assert dumps.recognised(head) is None


@pytest.mark.parametrize(
    ("head", "hint"), [("PGDMP\1\x0e", "pg_restore -f -"), (HEAD.replace("database", "database cluster"), "pg_dumpall")]
)
def test_dumps_of_other_kinds_are_refused(head, hint):
    with pytest.raises(SqlFailedError) as caught:
        dumps.recognised(head)
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    "sql",
    [
        "ALTER TABLE public.t OWNER TO app",
        'ALTER FUNCTION "a;b".f(a integer, "x OWNER" text) OWNER TO "my ""app"',
        "ALTER OPERATOR CLASS s.c USING btree OWNER TO postgres",
        "ALTER LARGE OBJECT 16401 OWNER TO app",
        "COMMENT ON EXTENSION vector IS 'x'",
        "SET SESSION AUTHORIZATION 'app'",
        "RESET SESSION AUTHORIZATION",
    ],
)
def test_some_statements_are_not_run(sql):
    assert fate(sql)


@pytest.mark.parametrize(
    ("sql", "sqlstate"),
    [
        ("GRANT SELECT ON TABLE t TO reader", "42704"),
        ("REVOKE ALL ON FUNCTION f() FROM PUBLIC", "42501"),
        ("ALTER DEFAULT PRIVILEGES FOR ROLE app GRANT SELECT ON TABLES TO reader", "42501"),
        ("SET transaction_timeout = 0", "42704"),
        ("SET default_tablespace = fast", "22023"),
        ("CREATE SCHEMA public", "42P06"),
        ("CREATE EXTENSION vector WITH SCHEMA public", "42710"),
        ("DROP TABLE public.t", "42P01"),
        ("DROP EXTENSION IF EXISTS vector", "42501"),
        ("DROP SCHEMA public", "2BP01"),
        ("ALTER TABLE ONLY public.t DROP CONSTRAINT t_pkey", "42P01"),
        ("SELECT pg_catalog.lo_unlink('16401')", "42704"),
        ("SELECT * FROM pg_catalog.pg_restore_relation_stats(\n'version', '180001'::integer)", "42883"),
    ],
)
def test_some_statements_may_fail_in_one_way(sql, sqlstate):
    assert fate(sql, sqlstate)
    assert fate(sql, "53100") is None


@pytest.mark.parametrize(
    ("sql", "sqlstate"),
    [
        ("CREATE TABLE t (a missing)", "42704"),
        ("CREATE SCHEMA app", "42P06"),
        ("CREATE EXTENSION postgis", "0A000"),
        ("CREATE POLICY p ON t TO app", "42704"),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$ ALTER TABLE t OWNER TO x $$", "42601"),
        ("ALTER TABLE t ADD CONSTRAINT c CHECK (a <> ' OWNER TO x')", "42P01"),
        ("ALTER TABLE t ALTER a SET DEFAULT ' OWNER TO x'", "42P01"),
        ("SELECT pg_catalog.setval('s', 1)", "42P01"),
        ("INSERT INTO t VALUES (' DROP ')", "42P01"),
        ("DROP SCHEMA app", "2BP01"),
    ],
)
def test_other_failures_are_errors(sql, sqlstate):
    assert fate(sql, sqlstate) is None


@pytest.mark.parametrize("sql", ["CREATE ROLE x", "alter user x SET a = 1", "DROP DATABASE x", "CREATE DATABASE x"])
def test_what_concerns_the_whole_server_is_refused(sql):
    with pytest.raises(SqlFailedError, match=r"Statement 3 \(line 7\)") as caught:
        dumps.Dump().refuse(Statement(sql, 3, 7))
    assert caught.value.sql == sql


def test_a_user_mapping_is_not_refused():
    dumps.Dump().refuse(Statement("CREATE USER MAPPING FOR x SERVER y", 1, 1))


def test_the_notes_count():
    dump = dumps.Dump(remarks=["a remark"])
    for sql in ("ALTER TABLE t OWNER TO x", "ALTER TABLE u OWNER TO x", "SET transaction_timeout = 0"):
        dump.pass_over(Statement(sql, 1, 1), dump.rules(Statement(sql, 1, 1))[0])
    assert dump.notes() == (
        "skipped 2 statements ALTER ... OWNER TO: everything belongs to the lease's login",
        "skipped 1 statement SET transaction_timeout: this server does not have the setting",
        "a remark",
    )


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("CREATE EXTENSION IF NOT EXISTS vector WITH SCHEMA extensions", ("vector", "extensions")),
        ('CREATE EXTENSION "uuid-ossp" WITH SCHEMA "My ""One"', ("uuid-ossp", 'My "One')),
        ("CREATE EXTENSION vector", None),
        ("CREATE TABLE t (a int)", None),
    ],
)
def test_where_an_extension_is_wanted(sql, expected):
    assert dumps.extension_and_schema(sql) == expected
