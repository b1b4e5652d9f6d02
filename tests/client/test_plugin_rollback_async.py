"""`pg_rollback_async`: the same promises in an event loop. `test_plugin_rollback` has them one by one."""

import asyncio

import psycopg
import pytest

from leasedb._plugin.rollback import BUSY, SENT_AS_SQL
from leasedb._plugin.rollback_async import AsyncRollback, rollback_engine_async


@pytest.fixture(scope="module")
def dsn(daemon):
    lease = daemon.lease(ttl=3600)
    with psycopg.connect(lease["dsn"]) as connection:
        connection.execute("CREATE TABLE item (x int UNIQUE)")
    yield lease["dsn"]
    daemon.release(lease)


def run(dsn, *tests):
    """Run each test in an event loop of its own; return what `end` said of each."""
    rollback = AsyncRollback(dsn)

    async def one(test):
        await test(await rollback.begin())
        return await rollback.end()

    try:
        return [asyncio.run(one(test)) for test in tests]
    finally:
        rollback.drop()


async def insert(connection, *values):
    for value in values:
        await connection.execute("INSERT INTO item (x) VALUES (%s)", [value])


async def insert_in_block(connection, *values):
    async with connection.transaction():
        await insert(connection, *values)


async def values(connection):
    return [x for (x,) in await (await connection.execute("SELECT x FROM item ORDER BY x")).fetchall()]


def committed(dsn):
    with psycopg.connect(dsn) as connection:
        return [x for (x,) in connection.execute("SELECT x FROM item")]


def test_commits_rollbacks_blocks_and_autocommit(dsn):
    async def test(connection):
        await insert(connection, 1)
        await connection.commit()
        with pytest.raises(psycopg.errors.UniqueViolation):
            await insert(connection, 2, 1)
        await connection.rollback()
        async with connection.transaction():
            await insert(connection, 3)
        await connection.rollback()
        with pytest.raises(psycopg.errors.UniqueViolation):
            await insert_in_block(connection, 4, 1)
        async with connection:
            await insert(connection, 5)
        await connection.set_autocommit(True)
        await insert(connection, 6)
        with pytest.raises(psycopg.errors.UniqueViolation):
            await insert(connection, 6)
        await connection.set_autocommit(False)
        await insert(connection, 7)
        await connection.close()
        async with connection.pipeline():
            await insert(connection, 8, 9)
        await connection.commit()
        assert await values(connection) == [1, 3, 5, 6, 8, 9]

    assert run(dsn, test) == [None]
    assert committed(dsn) == []


def test_tests_in_different_event_loops_share_a_session_and_nothing_else(dsn):
    seen = []

    async def test(connection):
        assert await values(connection) == []
        await insert(connection, 1)
        await connection.execute("SET search_path TO elsewhere")
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
        seen.append((connection, connection.info.backend_pid))

    assert run(dsn, test, test) == [None, None]
    (first, pid), (second, other) = seen
    assert pid == other
    assert first is not second


def test_a_connection_kept_from_an_earlier_test_is_refused(dsn):
    kept = []

    async def first(connection):
        kept.append(connection)

    async def second(connection):
        with pytest.raises(psycopg.OperationalError, match="after its test had ended"):
            await kept[0].execute("SELECT 1")
        await kept[0].close()
        await insert(connection, 1)

    assert run(dsn, first, second) == [None, None]


def test_commit_as_sql_is_noticed_and_the_next_test_has_another_session(dsn):
    pids = []

    async def test(connection):
        pids.append(connection.info.backend_pid)
        await connection.execute("COMMIT")

    assert run(dsn, test, test) == [SENT_AS_SQL, SENT_AS_SQL]
    assert len(set(pids)) == 2


def test_a_task_that_still_runs_a_statement_is_noticed(dsn):
    async def test(connection):
        task = asyncio.ensure_future(connection.execute("SELECT pg_sleep(60)"))
        while not connection.lock.locked():
            await asyncio.wait([task], timeout=0.01)
        left.append(task)

    left = []
    assert run(dsn, test) == [BUSY]


def test_begin_replaces_a_session_that_was_ended(dsn):
    async def check():
        rollback = AsyncRollback(dsn)
        await rollback.begin()
        await rollback.end()
        before = rollback.pid
        async with await psycopg.AsyncConnection.connect(dsn) as other:
            await other.execute("SELECT pg_terminate_backend(%s, 5000)", [before])
        connection = await rollback.begin()
        await insert(connection, 1)
        again = await rollback.begin()
        assert await values(again) == []
        assert rollback.pid not in {None, before}
        await rollback.close()
        assert rollback.pid is None
        assert await rollback.end() is None

    asyncio.run(check())


def test_sessions_of_an_engine_commit_and_are_rolled_back(dsn):
    sqlalchemy = pytest.importorskip("sqlalchemy")
    pytest.importorskip("greenlet")
    asynchronous = pytest.importorskip("sqlalchemy.ext.asyncio")
    text = sqlalchemy.text

    async def test(connection):
        engine = rollback_engine_async(connection)
        async with asynchronous.AsyncSession(engine) as session:
            await session.execute(text("INSERT INTO item (x) VALUES (1)"))
            await session.commit()
            await session.execute(text("INSERT INTO item (x) VALUES (2)"))
            await session.rollback()
        async with engine.begin() as link:
            await link.execute(text("INSERT INTO item (x) VALUES (3)"))
        await engine.dispose()
        assert await values(connection) == [1, 3]

    assert run(dsn, test, test) == [None, None]
    assert committed(dsn) == []
