"""`pg_rollback`: a connection that behaves as any other, and leaves nothing behind."""

import contextlib
import threading

import psycopg
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from psycopg.adapt import Loader
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from leasedb._plugin import rollback as module
from leasedb._plugin.rollback import BUSY, IN_PIPELINE, LOST, SENT_AS_SQL, Rollback, rollback_engine
from tests.waiting import until

TABLES = "CREATE TABLE item (id serial PRIMARY KEY, x int UNIQUE); CREATE TABLE ours (x int); CREATE TABLE real (x int)"


@pytest.fixture(scope="module")
def dsn(daemon):
    lease = daemon.lease(ttl=3600)
    with psycopg.connect(lease["dsn"]) as connection:
        connection.execute(TABLES)
    yield lease["dsn"]
    daemon.release(lease)


@pytest.fixture
def outside(dsn):
    """A connection that sees what was really committed."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection
        connection.execute("SET lock_timeout = '5s'")
        connection.execute("TRUNCATE item, ours, real")


@pytest.fixture
def rollback(dsn, outside):
    opened = Rollback(dsn)
    yield opened
    opened.close()


@pytest.fixture
def connection(rollback, outside):
    yield rollback.begin()
    assert rollback.end() is None
    assert outside.execute("SELECT count(*) FROM item").fetchone() == (0,)


def insert(connection, *values):
    for value in values:
        connection.execute("INSERT INTO item (x) VALUES (%s)", [value])


def insert_and_fail(connection, value):
    insert(connection, value)
    raise ZeroDivisionError


def values(connection):
    return [value for (value,) in connection.execute("SELECT x FROM item ORDER BY x")]


# --- what the code under test may do ---


def test_rollback_goes_back_to_the_last_commit(connection):
    insert(connection, 1)
    connection.commit()
    insert(connection, 2)
    connection.rollback()
    insert(connection, 3)
    assert values(connection) == [1, 3]


def test_after_an_error_rollback_goes_back_to_the_last_commit(connection):
    insert(connection, 1)
    connection.commit()
    insert(connection, 2)
    with pytest.raises(psycopg.errors.UniqueViolation):
        insert(connection, 1)
    with pytest.raises(psycopg.errors.InFailedSqlTransaction):
        values(connection)
    connection.rollback()
    assert values(connection) == [1]


def test_commit_after_an_error_is_a_rollback_as_in_postgres(connection):
    insert(connection, 1)
    with pytest.raises(psycopg.errors.UniqueViolation):
        insert(connection, 1)
    connection.commit()
    assert values(connection) == []


def test_with_commits_or_rolls_back_and_leaves_it_open(connection):
    with connection:
        insert(connection, 1)
    with pytest.raises(ZeroDivisionError), connection:
        insert_and_fail(connection, 2)
    assert values(connection) == [1]


def test_close_gives_up_what_was_not_committed_and_can_be_used_on(connection):
    insert(connection, 1)
    connection.commit()
    insert(connection, 2)
    connection.close()
    assert not connection.closed
    assert values(connection) == [1]


def test_blocks_nest(connection):
    with connection.transaction():
        insert(connection, 1)
        with pytest.raises(psycopg.errors.UniqueViolation), connection.transaction():
            insert(connection, 2, 1)
        with connection.transaction() as inner:
            insert(connection, 3)
            raise psycopg.Rollback(inner)
        with connection.transaction(force_rollback=True):
            insert(connection, 4)
    connection.rollback()  # after the block, which was a transaction of its own
    assert values(connection) == [1]


def test_commit_inside_a_block_is_refused_as_psycopg_does(connection):
    with connection.transaction(), pytest.raises(psycopg.ProgrammingError, match="forbidden within a Transaction"):
        connection.commit()
    with connection.transaction(), pytest.raises(psycopg.ProgrammingError, match="forbidden within a Transaction"):
        connection.rollback()


def test_in_autocommit_mode_an_error_takes_only_its_own_statement(connection):
    connection.autocommit = True
    insert(connection, 1)
    with pytest.raises(psycopg.errors.UniqueViolation):
        insert(connection, 1)
    insert(connection, 2)
    connection.rollback()  # of nothing
    with pytest.raises(ZeroDivisionError), connection.transaction():
        insert_and_fail(connection, 3)
    connection.autocommit = False
    insert(connection, 4)
    connection.rollback()
    assert values(connection) == [1, 2]


def test_autocommit_cannot_be_set_within_a_transaction(connection):
    insert(connection, 1)
    with pytest.raises(psycopg.ProgrammingError, match="can't change 'autocommit' now"):
        connection.autocommit = True


def test_the_status_is_that_of_the_transaction_the_test_believes_in(connection):
    assert connection.info.transaction_status == TransactionStatus.IDLE
    insert(connection, 1)
    assert connection.info.transaction_status == TransactionStatus.INTRANS
    with pytest.raises(psycopg.errors.UniqueViolation):
        insert(connection, 1)
    assert connection.info.transaction_status == TransactionStatus.INERROR
    connection.rollback()
    assert connection.info.transaction_status == TransactionStatus.IDLE
    assert connection.info.server_version > 0


def test_pipelines_copy_and_cursors_of_the_server_work(connection):
    with connection.pipeline():
        insert(connection, 1)
        connection.commit()
        insert(connection, 2)
        connection.rollback()
    with connection.cursor() as cursor, cursor.copy("COPY item (x) FROM STDIN") as copy:
        copy.write_row([3])
    connection.commit()
    with connection.cursor("at_the_server") as cursor:
        assert cursor.execute("SELECT x FROM item ORDER BY x").fetchall() == [(1,), (3,)]
    assert [row for row in connection.cursor().stream("SELECT x FROM item ORDER BY x")] == [(1,), (3,)]  # noqa: C416
    connection.rollback()
    assert values(connection) == [1, 3]


def test_a_pipeline_in_autocommit_mode_is_one_transaction(connection):
    connection.autocommit = True
    insert(connection, 1)
    with pytest.raises(psycopg.errors.UniqueViolation), connection.pipeline():
        insert(connection, 2, 1)
    with connection.pipeline():
        insert(connection, 3, 4)
    connection.cursor().executemany("INSERT INTO item (x) VALUES (%s)", [[5], [6]])
    assert values(connection) == [1, 3, 4, 5, 6]


def test_tables_can_be_made_and_statements_prepared_and_rolled_back(connection):
    for _ in range(2):
        connection.execute("CREATE TABLE made (x int)")
        for _ in range(8):
            connection.execute("SELECT x FROM made WHERE x = %s", [1], prepare=True)
        connection.rollback()
    assert connection.execute("SELECT to_regclass('made')").fetchone() == (None,)


DEFERRED = """
    CREATE TABLE high (x int PRIMARY KEY); CREATE TABLE low (x int REFERENCES high DEFERRABLE INITIALLY DEFERRED);
"""


def test_deferred_constraints_are_checked_by_commit_and_stay_deferred(connection):
    connection.execute(DEFERRED)
    connection.commit()
    for _ in range(2):
        connection.execute("INSERT INTO low VALUES (1)")
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            connection.commit()
        assert connection.info.transaction_status == TransactionStatus.IDLE
        with pytest.raises(psycopg.errors.ForeignKeyViolation), connection.transaction():
            connection.execute("INSERT INTO low VALUES (2)")
        with pytest.raises(psycopg.errors.ForeignKeyViolation), connection.pipeline():
            connection.execute("INSERT INTO low VALUES (2)") and connection.commit()
        assert connection.execute("SELECT count(*) FROM low").fetchone() == (0,)
        connection.commit()
    for value in (3, 4):
        with connection.transaction():
            connection.execute("INSERT INTO low VALUES (%s)", [value])
            connection.execute("INSERT INTO high VALUES (%s)", [value])
    connection.execute("INSERT INTO low VALUES (5)")
    connection.execute("INSERT INTO high VALUES (5)")
    connection.commit()
    assert connection.execute("SELECT count(*) FROM low").fetchone() == (3,)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda connection: connection.set_isolation_level(psycopg.IsolationLevel.SERIALIZABLE), "SERIALIZABLE"),
        (lambda connection: connection.set_read_only(True), "read-only"),
        (lambda connection: connection.tpc_begin("a"), "two-phase"),
    ],
    ids=["isolation", "read-only", "two-phase"],
)
def test_what_it_has_not_is_said_and_not_ignored(connection, change, word):
    with pytest.raises(psycopg.NotSupportedError, match=word):
        change(connection)
    connection.set_isolation_level(psycopg.IsolationLevel.READ_COMMITTED)
    connection.set_read_only(False)
    insert(connection, 1)


# --- compared with an ordinary connection ---

Step = tuple[str, object]
SIMPLE = st.sampled_from(["insert", "insert many", "fail", "commit", "rollback", "on", "off", "prepared", "read"])
BLOCKS = st.recursive(
    st.tuples(SIMPLE, st.none()),
    lambda steps: st.tuples(st.sampled_from(["block", "failing block", "undone block"]), st.lists(steps, max_size=4)),
    max_leaves=12,
)
# At which step a pipeline tells an error is chance, and so none happens there.
PIPED = st.tuples(st.sampled_from(["insert", "insert many", "commit", "rollback", "prepared", "read"]), st.none())
STEPS = BLOCKS | st.tuples(st.just("pipeline"), st.lists(PIPED, max_size=4))


class Player:
    """Takes the same steps on whatever connection, and notes what came of each."""

    def __init__(self, connection: "psycopg.Connection", table: str) -> None:
        self.connection = connection
        self.table = table
        self.notes: list[object] = []
        self.count = 0

    def play(self, steps: list[Step]) -> list[object]:
        for step in steps:
            try:
                self.take(*step)
            except (psycopg.Error, ZeroDivisionError) as error:
                self.notes.append(type(error))
            self.notes.append((step[0], self.connection.info.transaction_status))
        return self.notes

    def take(self, name: str, steps: object) -> None:
        match name:
            case "insert":
                self.insert("")
            case "insert many":
                self.count += 2
                rows = [[self.count], [self.count + 1]]
                self.connection.cursor().executemany(f"INSERT INTO {self.table} VALUES (%s)", rows)
            case "prepared":
                self.connection.execute(f"SELECT count(*) FROM {self.table} WHERE x > %s", [1], prepare=True)
            case "read":
                self.notes.append(self.rows())
            case "fail":
                self.insert("/ 0")
            case "commit":
                self.connection.commit()
            case "rollback":
                self.connection.rollback()
            case "on" | "off":
                self.connection.autocommit = name == "on"
            case _:
                with self.around(name):
                    self.inner(steps)
                    _ = name != "failing block" or 1 / 0

    def around(self, name: str) -> contextlib.AbstractContextManager[object]:
        if name == "pipeline":
            return self.connection.pipeline()
        return self.connection.transaction(force_rollback=name == "undone block")

    def inner(self, steps: object) -> None:
        for step in steps:
            self.take(*step)

    def insert(self, wrong: str) -> None:
        self.count += 1
        self.connection.execute(f"INSERT INTO {self.table} VALUES (%s {wrong})", [self.count])

    def rows(self) -> list[int]:
        return [x for (x,) in self.connection.execute(f"SELECT x FROM {self.table} ORDER BY x").fetchall()]


@pytest.fixture(scope="module")
def pair(dsn):
    """Ours and an ordinary one, which all examples use."""
    rollback = Rollback(dsn)
    with psycopg.connect(dsn, options="-c lock_timeout=5s") as real, contextlib.closing(rollback):
        yield rollback, real


@settings(max_examples=400, deadline=None)
@given(steps=st.lists(STEPS, max_size=10))
@example(steps=[("block", [("insert", None)]), ("insert", None), ("rollback", None)])
@example(steps=[("insert", None), ("block", [("insert", None)]), ("insert", None), ("rollback", None)])
@example(steps=[("on", None), ("insert", None), ("fail", None), ("block", [("insert", None)]), ("rollback", None)])
@example(steps=[("on", None), ("insert", None), ("rollback", None), ("fail", None), ("off", None), ("read", None)])
def test_it_behaves_as_an_ordinary_connection(pair, steps):
    rollback, real = pair
    one, other = Player(rollback.begin(), "ours"), Player(real, "real")
    try:
        assert one.play(steps) == other.play(steps)
        for player in (one, other):
            player.connection.rollback()
        assert one.rows() == other.rows()
        assert rollback.end() is None
    finally:
        real.rollback()
        real.autocommit = False
        real.execute("TRUNCATE real")
        real.commit()
    assert real.execute("SELECT count(*) FROM ours").fetchone() == (0,)
    real.rollback()


# --- what a rollback does not undo ---


class Shouting(Loader):
    def load(self, data):
        return bytes(data).decode().upper()


def test_nothing_of_a_test_is_seen_by_the_next(rollback, outside):
    first = rollback.begin()
    pid = first.info.backend_pid
    name = first.execute("SHOW application_name").fetchone()[0]
    first.row_factory = dict_row
    first.prepare_threshold = 0
    first.commit()
    first.autocommit = True
    first.adapters.register_loader("text", Shouting)
    first.add_notice_handler(print)
    for statement in (
        "SET search_path TO elsewhere",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "SELECT set_config('my.setting', 'x', false)",
        "PREPARE prepared AS SELECT 1",
        "DECLARE held CURSOR WITH HOLD FOR SELECT 1",
        "LISTEN news",
        "CREATE TEMP TABLE temporary (x int)",
        "SELECT pg_advisory_lock(42)",
        "SELECT nextval('public.item_id_seq')",
        "SET application_name TO other",
    ):
        first.execute(statement)
    with first.transaction():
        first.execute("SELECT 1", prepare=True)
    assert rollback.end() is None

    second = rollback.begin()
    assert second.info.backend_pid == pid, "it is the same session"
    assert second.row_factory is not dict_row
    assert second.prepare_threshold == 5
    assert not second.autocommit
    assert second.execute("SHOW search_path").fetchone() == ('"$user", public',)
    assert second.execute("SHOW transaction_read_only").fetchone() == ("off",)
    assert second.execute("SHOW application_name").fetchone() == (name,) == ("leasedb pg_rollback",)
    assert second.execute("SELECT current_setting('my.setting', true)").fetchone()[0] in {None, ""}
    assert second.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)
    assert second.execute("SELECT count(*) FROM pg_cursors WHERE name = 'held'").fetchone() == (0,)
    assert second.execute("SELECT count(*) FROM pg_listening_channels()").fetchone() == (0,)
    assert second.execute("SELECT to_regclass('pg_temp.temporary')").fetchone() == (None,)
    assert outside.execute("SELECT pg_try_advisory_lock(42)").fetchone() == (True,)
    outside.execute("SELECT pg_advisory_unlock(42)")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        second.execute("SELECT lastval()")
    assert rollback.end() is None


def test_a_connection_kept_from_an_earlier_test_is_refused(rollback, outside):
    first = rollback.begin()
    cursor = first.cursor()
    rollback.end()
    second = rollback.begin()
    for use in (first.commit, first.rollback, lambda: cursor.execute("SELECT 1"), first.cursor):
        with pytest.raises(psycopg.OperationalError, match="after its test had ended"):
            use()
    with pytest.raises(psycopg.OperationalError, match="after its test had ended"), first.transaction():
        pass
    first.close()
    insert(second, 1)
    assert values(second) == [1]
    assert rollback.end() is None


def test_begin_ends_a_test_that_was_not_ended(rollback, outside):
    insert(rollback.begin(), 1)
    assert values(rollback.begin()) == []


def test_the_session_name_and_pid_are_known(rollback, dsn):
    assert rollback.pid is None
    connection = rollback.begin()
    assert connection.info.backend_pid == rollback.pid
    rollback.close()
    assert rollback.pid is None
    assert rollback.end() is None, "nothing to end"


# --- what cannot be taken back ---


def broken_by(rollback, act):
    connection = rollback.begin()
    insert(connection, 1)
    act(connection)
    return rollback.end()


@pytest.mark.parametrize(
    "statement", ["COMMIT", "ROLLBACK", "COMMIT AND CHAIN", "COMMIT; BEGIN", "COMMIT; BEGIN; SELECT 1/0", "END"]
)
def test_the_end_of_the_transaction_as_sql_is_noticed(rollback, outside, statement):
    def act(connection):
        with contextlib.suppress(psycopg.errors.DivisionByZero):
            connection.execute(statement)

    assert broken_by(rollback, act) == SENT_AS_SQL
    insert(rollback.begin(), 2)
    assert rollback.end() is None, "the next test has another session"


def test_after_commit_as_sql_it_goes_on_as_an_ordinary_connection(rollback, outside):
    def act(connection):
        connection.execute("COMMIT")
        insert(connection, 2)
        connection.rollback()
        connection.autocommit = True
        insert(connection, 3)
        connection.autocommit = False
        with connection.transaction():
            insert(connection, 4)
        connection.read_only = True
        connection.read_only = None
        insert(connection, 5)
        connection.commit()

    assert broken_by(rollback, act) == SENT_AS_SQL
    assert values(outside) == [1, 3, 4, 5]


def test_a_commit_of_its_own_inside_another_transaction_is_explained(rollback, outside):
    def act(connection):
        connection.execute("COMMIT; BEGIN; INSERT INTO item (x) VALUES (2)")
        with pytest.raises(psycopg.ProgrammingError, match="COMMIT or ROLLBACK was sent as SQL"):
            connection.commit()

    assert broken_by(rollback, act) == SENT_AS_SQL
    assert values(outside) == [1]


def test_a_session_that_was_ended_is_noticed_and_replaced(rollback, outside):
    connection = rollback.begin()
    end_session(outside, rollback.pid)
    assert rollback.end() == LOST
    connection = rollback.begin()
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    assert connection.closed
    assert rollback.end() == LOST


def test_a_session_that_was_ended_between_two_tests_is_replaced(rollback, outside):
    rollback.begin()
    rollback.end()
    before = rollback.pid
    end_session(outside, before)
    insert(rollback.begin(), 1)
    assert rollback.pid != before
    assert rollback.end() is None


def end_session(outside, pid):
    outside.execute("SELECT pg_terminate_backend(%s)", [pid])
    query = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = %s)"
    until(lambda: outside.execute(query, [pid]).fetchone()[0])


def test_a_pipeline_that_was_left_open_is_noticed(rollback, outside):
    # the pipeline's own end comes too late
    with pytest.raises(psycopg.OperationalError, match="closed"), contextlib.ExitStack() as later:
        assert broken_by(rollback, lambda connection: later.enter_context(connection.pipeline())) == IN_PIPELINE
    assert values(rollback.begin()) == []


def test_an_unfinished_copy_is_noticed(rollback, outside):
    copy = "COPY item FROM STDIN"
    with pytest.raises(psycopg.OperationalError), contextlib.ExitStack() as later:
        assert broken_by(rollback, lambda connection: later.enter_context(connection.cursor().copy(copy))) == BUSY
    assert values(rollback.begin()) == []


def test_a_statement_in_another_thread_is_not_waited_for_for_ever(rollback, outside):
    outside.execute("SELECT pg_advisory_lock(7)")
    connection = rollback.begin()

    def wait() -> None:
        with contextlib.suppress(psycopg.Error):
            connection.execute("SELECT pg_advisory_lock(7)")

    thread = threading.Thread(target=wait)
    thread.start()
    until(connection.lock.locked)
    assert rollback.end() == BUSY
    outside.execute("SELECT pg_advisory_unlock(7)")
    thread.join(10)
    assert not thread.is_alive()


def test_each_generator_that_is_replaced_is_one_that_psycopg_calls():
    replaced = {name for name in vars(module.InTransaction) if name.startswith("_") and not name.startswith("__")}
    own = {
        "_idle",
        "_over",
        "_lost",
        "_point_in",
        "_believed",
        "_gone",
        "_open_block_gen",
        "_renew_gen",
        "_move_gen",
        "_settle_gen",
    }
    own |= {"_send_gen", "_sync_gen", "_refuse_in_block", "_abc_impl", "_is_protocol"}
    assert {name for name in replaced - own if not hasattr(psycopg.BaseConnection, name)} == set()


def test_one_session_serves_all_tests(rollback, dsn):
    rollback.begin()
    pid = rollback.pid
    assert rollback.end() is None
    rollback.begin()
    assert rollback.pid == pid
    assert rollback.end() is None


# --- SQLAlchemy ---


def test_sessions_of_an_engine_commit_and_are_rolled_back(connection):
    sqlalchemy = pytest.importorskip("sqlalchemy")
    orm = pytest.importorskip("sqlalchemy.orm")
    engine = rollback_engine(connection)
    text = sqlalchemy.text
    with orm.Session(engine) as session:
        session.execute(text("INSERT INTO item (x) VALUES (1)"))
        session.commit()
        session.execute(text("INSERT INTO item (x) VALUES (2)"))
        session.rollback()
        with session.begin_nested() as nested:
            session.execute(text("INSERT INTO item (x) VALUES (3)"))
            nested.rollback()
        session.execute(text("INSERT INTO item (x) VALUES (4)"))
    with engine.begin() as link:
        link.execute(text("INSERT INTO item (x) VALUES (5)"))
    with pytest.raises(sqlalchemy.exc.IntegrityError), engine.begin() as link:
        link.execute(text("INSERT INTO item (x) VALUES (1)"))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as link:
        link.execute(text("INSERT INTO item (x) VALUES (6)"))
    metadata = sqlalchemy.MetaData()
    sqlalchemy.Table("made", metadata, sqlalchemy.Column("id", sqlalchemy.Integer, primary_key=True))
    metadata.create_all(engine)
    assert sqlalchemy.inspect(engine).has_table("made")
    engine.dispose()
    assert values(connection) == [1, 5, 6]


def test_a_session_bound_to_a_connection_with_savepoints_works(connection):
    orm = pytest.importorskip("sqlalchemy.orm")
    sqlalchemy = pytest.importorskip("sqlalchemy")
    engine = rollback_engine(connection)
    with engine.connect() as link, link.begin() as outer:
        with orm.Session(bind=link, join_transaction_mode="create_savepoint") as session:
            session.execute(sqlalchemy.text("INSERT INTO item (x) VALUES (1)"))
            session.commit()
            session.rollback()
        assert values(connection) == [1]
        outer.rollback()
    assert values(connection) == []
