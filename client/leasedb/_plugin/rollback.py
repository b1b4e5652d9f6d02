"""A connection in a transaction that is always rolled back, in which the code under test may commit.

One savepoint stands for the start of the transaction that the test believes in: ``commit`` moves it on, ``rollback``
goes back to it. psycopg's own statements pass through a few generators of its connection; those are replaced, so that
cursors, ``transaction()``, pipelines and COPY work as they are, in the sync and the async class alike. Should a later
psycopg no longer call one of them, a commit is a real one, and `Rollback.end` says that the transaction is gone.

What it cannot do: a statement that no transaction allows (VACUUM, CREATE INDEX CONCURRENTLY); another isolation
level; LISTEN and NOTIFY, ON COMMIT and what a deferred trigger writes, which wait for a real commit; two-phase
commit. Deferred constraints are checked by ``commit`` and by the end of a block, not in autocommit mode. ``now()``
stands still. Sequences go on counting, as after any rollback. Other connections see nothing of what the test writes.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import BaseConnection, errors, generators, pq
from psycopg.rows import Row

from leasedb._plugin.connecting import needed, session_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    import sqlalchemy
    from psycopg.abc import PQGen
    from psycopg.pq.abc import PGconn, PGresult

IDLE, ACTIVE, INTRANS, INERROR = (
    pq.TransactionStatus.IDLE,
    pq.TransactionStatus.ACTIVE,
    pq.TransactionStatus.INTRANS,
    pq.TransactionStatus.INERROR,
)
_POINT: Final = b"leasedb_pg_rollback"
_SET: Final = b"SAVEPOINT " + _POINT
_FREE: Final = b"RELEASE SAVEPOINT " + _POINT
_BACK: Final = b"ROLLBACK TO SAVEPOINT " + _POINT
# What a commit would refuse is refused, and afterwards the constraints are as deferred as they were.
_CHECK: Final = (
    b"SAVEPOINT leasedb_check",
    b"SET CONSTRAINTS ALL IMMEDIATE",
    b"ROLLBACK TO SAVEPOINT leasedb_check",
)
_BEGIN: Final = b"BEGIN; " + _SET
# What outlives a rollback in a session: holdable cursors, prepared statements, the last values of sequences, locks.
_FORGET: Final = b"CLOSE ALL; UNLISTEN *; DEALLOCATE ALL; DISCARD SEQUENCES; SELECT pg_advisory_unlock_all()"
_END: Final = _BACK + b"; ROLLBACK; " + _FORGET  # the first fails when the transaction is not ours any more
_GIVEN_BACK_WITHIN: Final = 2.0  # seconds for another thread to finish its statement
SENT_AS_SQL: Final = "COMMIT or ROLLBACK was sent as SQL (connection.commit() and .rollback() are what it can follow)"
LOST: Final = "the connection broke"
BUSY: Final = "a statement was still running, or a result was not read to its end"
IN_PIPELINE: Final = "a pipeline was left open"


class _Info(psycopg.ConnectionInfo):
    """Tells the status of the transaction that the test believes in."""

    def __init__(self, pgconn: PGconn, status: pq.TransactionStatus) -> None:
        super().__init__(pgconn)
        self._status = status

    @property
    def transaction_status(self) -> pq.TransactionStatus:
        return self._status


class InTransaction(BaseConnection[Row]):
    """What the sync and the async connection have in common."""

    _idle = True  # nothing was sent since the savepoint was set
    _over = False  # the test has ended
    _lost = False  # the outer transaction is not ours any more: from here on an ordinary connection
    _point_in: object = None  # the pipeline in which the savepoint was set

    def __del__(self, _warn: object = None, /) -> None:
        """Keep psycopg's warning back: the connection is the fixture's, not the test's, to close."""

    @property
    def info(self) -> psycopg.ConnectionInfo:
        return _Info(self.pgconn, self._believed())

    def end_test(self) -> None:
        self._over = True

    def _believed(self) -> pq.TransactionStatus:
        status = pq.TransactionStatus(self.pgconn.transaction_status)
        if self._gone() or self._num_transactions:
            return status
        if self._autocommit or self._idle:
            return IDLE if status in {INTRANS, INERROR} else status
        return status

    def _gone(self) -> bool:
        if not self._lost and self.pgconn.transaction_status == IDLE:
            self._lost = True
        return self._lost

    # --- in place of psycopg's own ---

    def _check_connection_ok(self) -> None:
        if self._over:
            raise errors.OperationalError("the connection of pg_rollback was used after its test had ended")
        super()._check_connection_ok()

    def _start_query(self) -> PQGen[None]:
        self._check_connection_ok()
        if self._gone():
            yield from super()._start_query()
        elif not self._num_transactions:
            if self._autocommit:
                yield from self._renew_gen()
            self._idle = False

    def _commit_gen(self) -> PQGen[None]:
        if self._gone():
            yield from super()._commit_gen()
            return
        self._refuse_in_block("commit")
        yield from self._sync_gen()
        if self._autocommit:
            yield from self._renew_gen()
        elif self.pgconn.transaction_status == INERROR:  # Postgres answers COMMIT with ROLLBACK there
            yield from self._rollback_gen()
        elif not self._idle:
            yield from self._settle_gen()

    def _rollback_gen(self) -> PQGen[None]:
        if self._gone():
            yield from super()._rollback_gen()
            return
        self._refuse_in_block("rollback")
        yield from self._sync_gen()
        if self._autocommit:
            yield from self._renew_gen()
        elif not self._idle or self.pgconn.transaction_status == INERROR:
            yield from self._send_gen(_BACK)
            self._idle = True
            # as psycopg does: what was prepared may be of tables that are gone
            self._prepared.clear()
            yield from self._prepared.maintain_gen(self)
            yield from self._sync_gen()

    def _check_intrans_gen(self, attribute: str) -> PQGen[None]:
        if self._gone():
            yield from super()._check_intrans_gen(attribute)
            return
        yield from self._sync_gen()
        if (status := self._believed()) != IDLE:
            raise errors.ProgrammingError(f"can't change {attribute!r} now: connection in transaction {status.name}")
        yield from self._renew_gen()  # what was sent in autocommit mode stays

    def _set_isolation_level_gen(self, value: psycopg.IsolationLevel | None) -> PQGen[None]:
        weak = (None, psycopg.IsolationLevel.READ_UNCOMMITTED, psycopg.IsolationLevel.READ_COMMITTED)
        if not self._gone() and value not in weak:
            raise _unsupported(f"isolation level {psycopg.IsolationLevel(value or 0).name}")
        yield from super()._set_isolation_level_gen(value)

    def _set_read_only_gen(self, value: bool | None) -> PQGen[None]:  # noqa: FBT001 - psycopg's
        if value and not self._gone():
            raise _unsupported("read-only transactions")
        yield from super()._set_read_only_gen(value)

    def _check_tpc(self) -> None:
        if not self._gone():
            raise _unsupported("two-phase commit")

    # --- the savepoint ---

    def _open_block_gen(self) -> PQGen[bool]:
        """Make ready for ``transaction()``; return whether its end is a commit."""
        self._check_connection_ok()
        if self._gone() or self._num_transactions:
            return False
        if self._autocommit:
            yield from self._renew_gen()
        return self._autocommit or self._idle

    def _renew_gen(self) -> PQGen[None]:
        """Keep what was sent so far, as autocommit has it, and undo what failed."""
        if self._pipeline and self._pipeline is self._point_in:
            return  # in autocommit mode the statements of a pipeline are one transaction
        if self.pgconn.transaction_status == INERROR:
            yield from self._send_gen(_BACK)
        elif not self._idle:
            yield from self._move_gen()
        self._idle = True
        self._point_in = self._pipeline

    def _settle_gen(self) -> PQGen[None]:
        """Do what a commit does, of a block or an explicit one; when it is refused, nothing is left to be committed."""
        try:
            yield from self._move_gen(*_CHECK)
        except psycopg.Error:
            if not self._gone() and self.pgconn.transaction_status == INERROR:
                yield from self._send_gen(_BACK)
                yield from self._sync_gen()
                self._idle = True
            raise

    def _move_gen(self, *before: bytes) -> PQGen[None]:
        try:
            yield from self._send_gen(*before, _FREE, _SET)
            if before:
                yield from self._sync_gen()
        except errors.InvalidSavepointSpecification as error:
            self._lost = True
            raise errors.ProgrammingError(f"pg_rollback cannot go on: {SENT_AS_SQL}") from error
        self._idle = True

    def _send_gen(self, *commands: bytes) -> PQGen[None]:
        if self._pipeline:  # where a message has one statement
            for command in commands:
                yield from self._exec_command(command)
            return
        self._check_connection_ok()
        yield from exchange(self.pgconn, b"; ".join(commands))

    def _sync_gen(self) -> PQGen[None]:
        """Learn the transaction's status, which a pipeline only tells at a sync."""
        if self._pipeline:
            yield from self._pipeline._sync_gen()  # noqa: SLF001
            self._point_in = None

    def _refuse_in_block(self, what: str) -> None:
        self._check_connection_ok()
        if self._num_transactions:
            raise errors.ProgrammingError(
                f"Explicit {what}() forbidden within a Transaction context. (It ends with the block.)"
            )


class RollbackConnection(InTransaction[Row], psycopg.Connection[Row]):
    """What the test gets. ``close()`` gives up what was not committed, and the connection can be used on."""

    def close(self) -> None:
        if not self.closed and not self._over and not self._num_transactions:
            self.rollback()

    @contextmanager
    def transaction(
        self,
        savepoint_name: str | None = None,
        force_rollback: bool = False,  # noqa: FBT001, FBT002 - psycopg's
    ) -> Iterator[psycopg.Transaction]:
        with self.lock:
            commits = self.wait(self._open_block_gen())
        with super().transaction(savepoint_name, force_rollback) as block:
            yield block
        if commits and not self._gone():
            with self.lock:
                self.wait(self._settle_gen())


class Rollback:
    """The connection of a worker: one for all its tests, of which each has a transaction.

    Opened by the first `begin`. A message begins a test and another ends it.

    Args:
        dsn: the database.
        fixture: the name that the session goes by.
    """

    def __init__(self, dsn: str, fixture: str = "pg_rollback") -> None:
        self._dsn = dsn
        self._fixture = fixture
        self._pgconn: PGconn | None = None
        self._given: RollbackConnection[Any] | None = None

    @property
    def pid(self) -> int | None:
        """The server's process of the session; None while there is none."""
        return self._pgconn.backend_pid if self._pgconn is not None else None

    def begin(self) -> psycopg.Connection[Any]:
        """Return a connection for one test, with nothing of the last one's in it.

        Raises:
            psycopg.OperationalError: no connection could be made.
        """
        if self._given is not None:
            self.end()
        if self._pgconn is None:
            return self._begin_in(self._connected())
        try:
            return self._begin_in(self._pgconn)
        except errors.OperationalError:  # the server ended it meanwhile, for a reset, say
            self.close()
            return self._begin_in(self._connected())

    def end(self) -> str | None:
        """Undo what the test did; return why that was not possible, when something of it may have stayed.

        The session is closed then, and the next `begin` opens another.
        """
        given, self._given = self._given, None
        if given is None or self._pgconn is None:
            return None
        if not given.lock.acquire(timeout=_GIVEN_BACK_WITHIN):
            given.end_test()
            self.close()
            return BUSY
        try:
            why = not_whole(given)
            given.end_test()
            if why is None:
                try:
                    given.wait(end_gen(self._pgconn))
                except psycopg.Error as error:
                    why = reason(error)
        finally:
            given.lock.release()
        if why is not None:
            self.close()
        return why

    def close(self) -> None:
        """End the session; what was not ended is rolled back by the server."""
        pgconn, self._pgconn, self._given = self._pgconn, None, None
        if pgconn is not None:
            pgconn.finish()

    def _connected(self) -> PGconn:
        # The first object is only for connecting: a new one for each test has none of the last one's settings,
        # adapters and handlers.
        first = RollbackConnection.connect(self._dsn, fallback_application_name=session_name(self._fixture))
        self._pgconn = first.pgconn
        return first.pgconn

    def _begin_in(self, pgconn: PGconn) -> psycopg.Connection[Any]:
        given = RollbackConnection[Any](pgconn)
        given.wait(begin_gen(pgconn))
        self._given = given
        return given


def rollback_engine(connection: psycopg.Connection[Any], fixture: str = "pg_engine") -> sqlalchemy.Engine:
    """Return a SQLAlchemy engine of which all sessions use this one connection, one after the other.

    A session may commit; two that are open at once share one transaction, and the rollback of either is both's.
    """
    library = needed(fixture, "sqlalchemy")
    engine: sqlalchemy.Engine = library.create_engine(
        "postgresql+psycopg://", creator=lambda: connection, poolclass=library.StaticPool
    )
    return engine


# --- the messages of both kinds ---


def exchange(pgconn: PGconn, command: bytes) -> PQGen[list[PGresult]]:
    """Send statements as one message; raise what the first of them that fails says."""
    pgconn.send_query(command)
    results: list[PGresult] = yield from generators.execute(pgconn)
    for result in results:
        if result.status not in {pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK}:
            raise errors.error_from_result(result)
    return results


def begin_gen(pgconn: PGconn) -> PQGen[None]:
    yield from exchange(pgconn, _BEGIN)


def end_gen(pgconn: PGconn) -> PQGen[None]:
    yield from exchange(pgconn, _END)


def not_whole(connection: InTransaction[Any]) -> str | None:
    """Return why the transaction cannot be ended, as far as that is known without asking the server."""
    pgconn = connection.pgconn
    if pgconn.status != pq.ConnStatus.OK:
        return LOST
    if pgconn.pipeline_status != pq.PipelineStatus.OFF:
        return IN_PIPELINE
    if pgconn.transaction_status == IDLE or connection._lost:  # noqa: SLF001
        return SENT_AS_SQL
    if pgconn.transaction_status not in {INTRANS, INERROR}:
        return BUSY
    return None


def reason(error: psycopg.Error) -> str:
    if isinstance(error, errors.InvalidSavepointSpecification | errors.NoActiveSqlTransaction):
        return SENT_AS_SQL
    return LOST if isinstance(error, errors.OperationalError) else " ".join(str(error).split())


def _unsupported(what: str) -> errors.NotSupportedError:
    return errors.NotSupportedError(
        f"pg_rollback has no {what}: its transaction has begun before the test. Use pg_reset or pg_lease."
    )
