"""Leases that misbehave: none gets more than its own database, and none keeps a place in the pool or a fence open."""

import contextlib
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.waiting import until


def connect(lease: dict[str, Any]) -> psycopg.Connection:
    return psycopg.connect(lease["dsn"], autocommit=True, connect_timeout=5)


def is_refused(lease: dict[str, Any]) -> bool:
    try:
        connect(lease).close()
    except psycopg.OperationalError:
        return True
    return False


@pytest.fixture
def watcher(leasing):
    """A connection of another lease, which sees the names of databases and roles as everybody does."""
    lease = leasing.lease(ttl=600)
    with contextlib.closing(connect(lease)) as connection:
        yield connection
    leasing.release(lease, sync=True)


def roles(connection: psycopg.Connection, name: str) -> list[Any]:
    return connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = %s", [name]).fetchall()


def change_itself(lease: dict[str, Any]) -> sql.Composed:
    return sql.SQL("ALTER ROLE {} PASSWORD 'mine now'").format(sql.Identifier(lease["user"]))


def test_the_administrator_runs_nothing_that_a_lease_has_laid_out(leasing, watcher):
    """Views and functions in place of Postgres's own, waiting for a superuser who comes to clear up."""
    lease = leasing.lease()
    with connect(lease) as owner:
        owner.execute("CREATE SCHEMA evil")
        owner.execute(
            "CREATE FUNCTION evil.take() RETURNS text LANGUAGE plpgsql AS"
            " $$ BEGIN EXECUTE 'CREATE ROLE leasedb_taken SUPERUSER'; RETURN 'x'; END $$"
        )
        owner.execute(
            "CREATE VIEW evil.pg_prepared_xacts AS SELECT evil.take() AS gid, current_user AS owner,"
            " current_database() AS database"
        )
        owner.execute(
            sql.SQL("ALTER DATABASE {} SET search_path = evil, pg_catalog").format(sql.Identifier(lease["database"]))
        )
        owner.execute("BEGIN")
        owner.execute("CREATE TABLE public.bait (id int)")
        owner.execute("PREPARE TRANSACTION 'bait'")
    leasing.release(lease, sync=True)
    assert roles(watcher, "leasedb_taken") == []
    assert roles(watcher, lease["user"]) == []


@pytest.mark.parametrize("how", ["open", "prepared"])
def test_a_login_that_is_changing_itself_is_fenced_all_the_same(leasing, watcher, how):
    lease = leasing.lease()
    with contextlib.closing(connect(lease)) as owner:
        owner.execute("BEGIN")
        owner.execute(change_itself(lease))
        owner.execute(sql.SQL("COMMENT ON DATABASE {} IS 'locked'").format(sql.Identifier(lease["database"])))
        if how == "prepared":
            owner.execute("PREPARE TRANSACTION 'holds locks'")
        leasing.release(lease)
        assert is_refused(lease)
        until(lambda: roles(watcher, lease["user"]) == [], 20, "the login to be dropped")


def test_settings_that_forbid_every_session_do_not_keep_a_database(leasing, watcher):
    lease = leasing.lease()
    name = sql.Identifier(lease["database"])
    with connect(lease) as owner:
        owner.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))
        owner.execute(sql.SQL("ALTER DATABASE {} SET statement_timeout = 1").format(name))
        owner.execute(sql.SQL("ALTER DATABASE {} SET role = 'none'").format(name))
        owner.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM {}").format(name, sql.Identifier(lease["user"])))
        owner.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT 0").format(name))
        owner.execute("DROP SCHEMA public CASCADE")
    leasing.release(lease, sync=True)
    assert roles(watcher, lease["user"]) == []


def test_rights_given_to_another_lease_do_not_keep_it(leasing, watcher):
    giver, taker = leasing.lease(), leasing.lease()
    with connect(giver) as owner:
        owner.execute(
            sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(
                sql.Identifier(giver["database"]), sql.Identifier(taker["user"])
            )
        )
    leasing.release(taker, sync=True)
    assert roles(watcher, taker["user"]) == []
    leasing.release(giver, sync=True)


def take_all(lease: dict[str, Any], taken: contextlib.ExitStack) -> None:
    for _ in range(500):
        taken.enter_context(contextlib.closing(connect(lease)))


def test_one_lease_cannot_take_all_connections(leasing):
    greedy, modest = leasing.lease(), leasing.lease()
    with contextlib.ExitStack() as taken:
        with pytest.raises(psycopg.OperationalError, match="too many connections for role"):
            take_all(greedy, taken)
        with connect(modest) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    leasing.release(greedy, sync=True)
    leasing.release(modest, sync=True)
