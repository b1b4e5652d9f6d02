"""A reset on real servers: after whatever a lease did to itself, and after every interruption."""

import asyncio
import contextlib
import threading

import psycopg
import pytest
from psycopg import sql

from tests.contracts.administrators import SERVER, cloned, interrupted, made, on, there
from tests.waiting import until


@pytest.fixture(scope="module", params=["postgres-18", "lent-16"])
def place(request):
    with there(request.param) as ready:
        yield ready


async def pair(admin):
    base, one = await made(admin)
    return one, await cloned(admin, base)


def reset(place, one, spare):
    return on(place, lambda admin: admin.reset(SERVER, one, spare))


def names(one, spare):
    return {
        "login": sql.Identifier(one.login),
        "name": sql.Identifier(one.name),
        "spare": sql.Identifier(spare.name),
    }


def test_what_a_login_changed_of_itself_is_undone(place):
    one, spare = on(place, pair)
    with place.inside(one) as connection:
        was = connection.execute("SHOW work_mem").fetchone()
        for statement in (
            "ALTER ROLE {login} PASSWORD 'mine now'",
            "ALTER ROLE {login} SET work_mem = '1MB'",
            "ALTER ROLE {login} IN DATABASE {name} SET work_mem = '2MB'",
            "ALTER ROLE {login} IN DATABASE {spare} SET work_mem = '3MB'",
            "ALTER DATABASE {name} SET work_mem = '4MB'",
            "ALTER DATABASE {name} CONNECTION LIMIT 1",
            "COMMENT ON DATABASE {name} IS 'mine'",
            "CREATE SCHEMA mine",
            "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC",
            "SELECT lo_create(1)",
        ):
            connection.execute(sql.SQL(statement).format(**names(one, spare)))
    reset(place, one, spare)
    with place.inside(one) as connection, place.inside(one) as second:
        assert connection.execute("SHOW work_mem").fetchone() == was
        assert second.execute("SELECT to_regnamespace('mine')").fetchone() == (None,)
        assert second.execute("SELECT count(*) FROM pg_largeobject_metadata").fetchone() == (0,)
        assert second.execute(
            "SELECT shobj_description(oid, 'pg_database'), pg_get_userbyid(datdba) FROM pg_database WHERE datname = %s",
            [one.name],
        ).fetchone() == (None, one.login)
        second.execute("CREATE SCHEMA again")
    on(place, lambda admin: admin.drop(SERVER, spare.name, spare.login))
    on(place, lambda admin: admin.drop(SERVER, one.name, one.login))


@pytest.mark.parametrize("how", ["open", "prepared", "prepared elsewhere in it"])
def test_a_transaction_that_holds_locks_does_not_keep_a_database_from_being_reset(place, how):
    one, spare = on(place, pair)
    with contextlib.closing(place.inside(one)) as connection:
        connection.execute("BEGIN")
        connection.execute("CREATE TABLE held (i int)")
        if how != "prepared elsewhere in it":
            connection.execute(sql.SQL("ALTER ROLE {login} PASSWORD 'mine'").format(**names(one, spare)))
            connection.execute(sql.SQL("COMMENT ON DATABASE {name} IS 'mine'").format(**names(one, spare)))
        if how != "open":
            connection.execute("PREPARE TRANSACTION 'held'")
        assert reset(place, one, spare) >= 1
    assert place.read(one) == ""
    with place.administrator() as connection:
        assert connection.execute("SELECT count(*) FROM pg_prepared_xacts").fetchone() == (0,)
    assert reset(place, one, spare) == 0


def test_a_login_that_changes_itself_all_the_time_is_reset(place):
    one, spare = on(place, pair)
    over = threading.Event()

    def change():
        with contextlib.suppress(psycopg.Error), place.inside(one) as connection:
            while not over.is_set():
                connection.execute(sql.SQL("ALTER ROLE {login} PASSWORD 'mine'").format(**names(one, spare)))

    callers = [threading.Thread(target=change) for _ in range(2)]
    for caller in callers:
        caller.start()
    try:
        reset(place, one, spare)
    finally:
        over.set()
        for caller in callers:
            caller.join()
    assert place.read(one) == ""


def test_sessions_that_keep_coming_are_in_the_old_content_or_in_the_new(place):
    for _ in range(5):
        one, spare = on(place, pair)
        place.write(one, "old")
        held, over = [], threading.Event()

        def knock(one=one, held=held, over=over):
            while not over.is_set():
                with contextlib.suppress(psycopg.OperationalError):
                    held.append(place.inside(one))

        callers = [threading.Thread(target=knock) for _ in range(3)]
        for caller in callers:
            caller.start()
        until(lambda held=held: len(held) > 3, 20, "sessions to be there")
        reset(place, one, spare)
        over.set()
        for caller in callers:
            caller.join()
        for session in held:
            with contextlib.suppress(psycopg.OperationalError), session:
                assert session.execute("SELECT to_regclass('content')").fetchone() == (None,)
        assert place.read(one) == ""


def test_a_reset_that_was_interrupted_anywhere_is_completed_by_the_next(place):
    one, spare = on(place, pair)
    place.write(one, "old")
    with contextlib.closing(place.inside(one)):
        assert interrupted(place, lambda admin: admin.reset(SERVER, one, spare)) > 3
    assert place.read(one) == ""
    place.write(one, "new")
    assert reset(place, one, spare) == 0
    assert place.read(one) == "new"
    with pytest.raises(psycopg.OperationalError, match=r"not currently accepting|no pg_hba"):
        place.inside(spare).close()


def test_a_database_whose_reset_was_interrupted_can_be_used_on(place):
    one, spare = on(place, pair)
    place.write(one, "old")

    async def cut_off(admin):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.004):
                await admin.reset(SERVER, one, spare)
        await admin.reopen(SERVER, one)

    on(place, cut_off)
    assert place.read(one) in {"old", ""}
