"""Sealing and branching on real servers: who owns what afterwards, and what a lease laid out for whoever comes in."""

import contextlib

import psycopg
import pytest
from psycopg import sql

from leasedb_server.domain.cloning import Strategy
from leasedb_server.domain.errors import ServerRefusedError, SessionsOpenError
from tests.contracts.administrators import SERVER, cloned, interrupted, made, on, template, there

ALL_SORTS = """
CREATE SCHEMA s;
CREATE TYPE s.mood AS ENUM ('sad', 'happy');
CREATE DOMAIN s.positive AS int CHECK (VALUE > 0);
CREATE TYPE s.pair AS (a int, b text);
CREATE SEQUENCE s.seq;
CREATE FUNCTION s.twice(i int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT i * 2';
CREATE PROCEDURE s.nothing() LANGUAGE sql AS '';
CREATE AGGREGATE s.total (int) (SFUNC = int4pl, STYPE = int, INITCOND = '0');
CREATE OPERATOR s.## (LEFTARG = int, RIGHTARG = int, FUNCTION = int4pl);
CREATE TABLE s.t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, mood s.mood, n s.positive, x text);
INSERT INTO s.t (n, x) SELECT i, repeat('x', 3000) FROM generate_series(1, 50) i;
CREATE INDEX ON s.t (s.twice(n));
CREATE VIEW s.v AS SELECT id FROM s.t;
CREATE MATERIALIZED VIEW s.m AS SELECT count(*) FROM s.t;
CREATE STATISTICS s.st ON id, n FROM s.t;
CREATE COLLATION s.c FROM "C";
CREATE TEXT SEARCH CONFIGURATION s.ts (COPY = simple);
CREATE TABLE parts (id int) PARTITION BY RANGE (id);
CREATE TABLE part PARTITION OF parts FOR VALUES FROM (0) TO (10);
CREATE PUBLICATION p FOR TABLE s.t;
CREATE TABLE guarded (x int);
INSERT INTO guarded VALUES (-1), (1);
ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
ALTER TABLE guarded FORCE ROW LEVEL SECURITY;
CREATE POLICY for_me ON guarded TO CURRENT_USER USING (x > 0);
ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC;
GRANT SELECT ON s.t TO PUBLIC, pg_read_all_data;
GRANT USAGE ON SCHEMA s TO pg_read_all_data;
SELECT lo_from_bytea(4711, 'large');
"""
UNDONE = """
INSERT INTO s.t (n) VALUES (1);
REFRESH MATERIALIZED VIEW s.m;
ALTER TYPE s.mood ADD VALUE 'angry';
ALTER TABLE s.t ADD y int;
CREATE OR REPLACE FUNCTION s.twice(i int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT i + i';
ALTER POLICY for_me ON guarded USING (true);
SELECT lo_put(4711, 0, 'LARGE');
DROP PUBLICATION p;
DROP TABLE parts, guarded;
DROP SCHEMA s CASCADE;
SELECT lo_unlink(4711);
CREATE TABLE mine (i int);
"""


@pytest.fixture(scope="module", params=["postgres-18", "lent-18", "lent-16"])
def place(request):
    with there(request.param) as ready:
        yield ready


def sealed(place, one, *, force=False):
    name = template()
    on(place, lambda admin: admin.seal(SERVER, one, name, force=force))
    return name


def clone_of(place, name):
    return on(place, lambda admin: cloned(admin, name))


def fresh(place):
    return on(place, made)[1]


def dependents(place, login):
    """Return how many things in databases refer to a login."""
    with place.administrator() as connection:
        return connection.execute(
            "SELECT count(*) FROM pg_shdepend s JOIN pg_roles r ON r.oid = s.refobjid"
            " WHERE s.refclassid = 'pg_authid'::regclass AND r.rolname = %s AND s.dbid <> 0",
            [login],
        ).fetchone()[0]


@pytest.mark.parametrize("way", ["seal", "branch"])
def test_a_clones_login_owns_everything_of_whatever_sort(place, way):
    one = fresh(place)
    with place.inside(one) as connection:
        connection.execute(ALL_SORTS)
    if way == "seal":
        name = sealed(place, one)
    else:
        name, there_before = template(), dependents(place, one.login)
        on(place, lambda admin: admin.branch(SERVER, one, name, Strategy.COPY, force=False))
        assert dependents(place, one.login) == there_before
        with place.inside(one) as connection:
            connection.execute(UNDONE)
    clone = clone_of(place, name)
    with place.inside(clone) as connection:
        assert connection.execute("SELECT sum(n), sum(length(x)) FROM s.t").fetchone() == (1275, 150_000)
        assert connection.execute("SELECT array_agg(x) FROM guarded").fetchone() == ([1],)
        assert connection.execute("SELECT lo_get(4711)").fetchone() == (b"large",)
        connection.execute(UNDONE)

    async def away(admin):
        for each in (clone, one) if way == "branch" else (clone,):
            await admin.drop(SERVER, each.name, each.login)

    on(place, away)  # refused if a login were still referred to
    with place.administrator() as connection:
        assert connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [one.login]).fetchone() is None


def test_the_administrator_runs_nothing_that_a_lease_has_laid_out(place):
    one = fresh(place)
    with place.inside(one) as connection:
        connection.execute("CREATE SCHEMA evil")
        for taken in ("pg_class", "pg_namespace", "pg_prepared_xacts", "pg_policy", "pg_index"):
            connection.execute(
                sql.SQL("CREATE VIEW evil.{} AS SELECT 1/0 AS relname, 1/0 AS gid, 1/0 AS nspname").format(
                    sql.Identifier(taken)
                )
            )
        connection.execute(
            "CREATE FUNCTION evil.escalate(i int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS"
            " $$ BEGIN IF pg_has_role('pg_write_all_data', 'USAGE') OR current_setting('is_superuser') = 'on'"
            " THEN EXECUTE 'CREATE ROLE leasedb_taken SUPERUSER'; END IF; RETURN i; END $$"
        )
        connection.execute("CREATE TABLE bait AS SELECT generate_series(1, 5000) AS i")
        connection.execute("CREATE INDEX ON bait (evil.escalate(i))")
        connection.execute("DELETE FROM bait WHERE i % 2 = 0")
        name = sql.Identifier(one.name)
        for setting in (
            "search_path = evil, pg_catalog",
            "default_transaction_read_only = on",
            "statement_timeout = 1",
            "role = 'none'",
        ):
            connection.execute(sql.SQL("ALTER DATABASE {} SET {}").format(name, sql.SQL(setting)))
        connection.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO PUBLIC").format(name))
        connection.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT 0").format(name))
        connection.execute("BEGIN; CREATE TABLE more_bait (i int); PREPARE TRANSACTION 'bait'")
    name = sealed(place, one, force=True)
    with place.administrator() as connection:
        assert connection.execute("SELECT 1 FROM pg_roles WHERE rolname = 'leasedb_taken'").fetchone() is None
        row = connection.execute(
            "SELECT datconnlimit, has_database_privilege('public', oid, 'CONNECT') FROM pg_database WHERE datname = %s",
            [name],
        ).fetchone()
        assert row == (-1, False)
    with place.inside(clone_of(place, name)) as connection:
        assert connection.execute("SELECT count(*) FROM public.bait").fetchone() == (2500,)


def test_an_index_whose_function_needs_a_search_path_loses_its_statistics_only(place):
    one = fresh(place)
    with place.inside(one) as connection:
        connection.execute("CREATE FUNCTION add(i int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT i + 1'")
        function = "CREATE OR REPLACE FUNCTION careless(i int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS"
        connection.execute(f"{function} $$ BEGIN RETURN public.add(i); END $$")
        connection.execute("CREATE TABLE t AS SELECT generate_series(1, 9000) AS i")
        connection.execute("CREATE INDEX ON t (careless(i))")
        connection.execute(f"{function} $$ BEGIN RETURN add(i); END $$")
        connection.execute("UPDATE t SET i = i")
    with place.inside(clone_of(place, sealed(place, one))) as connection:
        assert connection.execute("SELECT i FROM t WHERE careless(i) = 78").fetchall() == [(77,)]


def test_a_prepared_transaction_is_named_and_ended_only_when_it_may_be(place):
    one = fresh(place)
    with place.inside(one) as connection:
        connection.execute("CREATE TABLE t (i int)")
        connection.execute("BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'half'")
    for act in (
        lambda admin: admin.seal(SERVER, one, template(), force=False),
        lambda admin: admin.branch(SERVER, one, template(), Strategy.COPY, force=False),
    ):
        with pytest.raises(SessionsOpenError, match="prepared transaction") as refused:
            on(place, act)
        assert [each.query for each in refused.value.sessions] == ["PREPARE TRANSACTION 'half'"]
    with place.inside(clone_of(place, sealed(place, one, force=True))) as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)


def test_a_session_is_described(place):
    one = fresh(place)
    with place.inside(one, application_name="migrate") as connection:
        connection.execute("SELECT 'what is this'")
        with pytest.raises(SessionsOpenError, match="migrate") as refused:
            sealed(place, one)
        (session,) = refused.value.sessions
        assert (session.pid, session.application, session.state) == (connection.info.backend_pid, "migrate", "idle")
        assert session.query == "SELECT 'what is this'"
        (seconds,) = connection.execute("SELECT abs(extract(epoch FROM now()) - %s)", [session.since]).fetchone()
        assert seconds < 60


def test_what_was_granted_to_another_lease_does_not_keep_its_login(place):
    one, other = fresh(place), fresh(place)
    with place.inside(one) as connection:
        connection.execute("CREATE TABLE t (i int)")
        connection.execute(sql.SQL("GRANT SELECT ON t TO {}").format(sql.Identifier(other.login)))
    name = sealed(place, one)
    if place.owner is not place.endpoint:
        return  # on a server that is lent, roles stay, and so do grants to them
    on(place, lambda admin: admin.drop(SERVER, other.name, other.login))
    with place.inside(clone_of(place, name)) as connection:
        assert connection.execute("SELECT relacl::text FROM pg_class WHERE relname = 't'").fetchone() == (
            "{pg_database_owner=arwdDxtm/pg_database_owner}",
        )


def test_objects_of_a_role_that_clones_would_not_have_are_refused_and_the_database_can_be_used_on(place):
    if place.owner is not place.endpoint:
        pytest.skip("its roles stay")
    one = fresh(place)
    with place.administrator() as connection:
        connection.execute("CREATE ROLE stranger")
        with place.administrator(one.name) as inside:
            inside.execute("CREATE TABLE strange (i int); ALTER TABLE strange OWNER TO stranger")
    for force in (False, True):
        with pytest.raises(ServerRefusedError, match="'stranger'"):
            sealed(place, one, force=force)
    with place.inside(one) as connection:
        connection.execute("CREATE SCHEMA mine")


def test_rows_long_dead_are_gone_from_a_template(place):
    one = fresh(place)
    with place.inside(one) as connection:
        connection.execute("CREATE TABLE t AS SELECT i, repeat('x', 500) AS x FROM generate_series(1, 20000) AS i")
        connection.execute("DELETE FROM t WHERE i > 100")
        before = connection.execute("SELECT pg_relation_size('t')").fetchone()[0]
    with place.inside(clone_of(place, sealed(place, one))) as connection:
        assert connection.execute("SELECT pg_relation_size('t')").fetchone()[0] < before / 50
        assert connection.execute("SELECT reltuples FROM pg_class WHERE relname = 't'").fetchone() == (100,)
        assert connection.execute("SELECT count(*) > 0 FROM pg_stats WHERE tablename = 't'").fetchone() == (True,)


def test_a_seal_that_was_interrupted_anywhere_is_completed_by_the_next(place):
    one, name = fresh(place), template()
    place.write(one, "seed")
    with contextlib.closing(place.inside(one)):
        assert interrupted(place, lambda admin: admin.seal(SERVER, one, name, force=True)) > 3
    assert place.read(clone_of(place, name)) == "seed"
    with place.administrator() as connection:
        assert connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [one.login]).fetchone() is None


def test_a_database_whose_seal_was_interrupted_anywhere_can_be_used_on(place):
    one, name = fresh(place), template()
    place.write(one, "seed")
    used = 0

    async def seal_or_use(admin):
        nonlocal used
        try:
            await admin.seal(SERVER, one, name, force=True)
        except BaseException:
            if name not in (await admin.survey(SERVER, "zzzzzz", frozenset({name}))).databases:
                await admin.reopen(SERVER, one)
                place.write(one, ".")
                used += 1
            raise

    interrupted(place, seal_or_use)
    assert used > 3
    assert place.read(clone_of(place, name)) == "seed" + "." * used


def test_a_branch_that_was_interrupted_anywhere_is_completed_by_the_next(place):
    one, name = fresh(place), template()
    place.write(one, "seed")

    async def as_after_a_restart(admin):
        await admin.reopen(SERVER, one)
        await admin.branch(SERVER, one, name, Strategy.COPY, force=True)

    assert interrupted(place, as_after_a_restart) > 3
    assert place.read(clone_of(place, name)) == place.read(one) == "seed"
    with pytest.raises(psycopg.OperationalError):
        place.inside(one, name).close()
