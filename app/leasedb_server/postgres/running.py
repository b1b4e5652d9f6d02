"""Running a text of SQL, such as a schema or a dump, as a lease's login: what builds a template."""

import asyncio
import contextlib
import dataclasses
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Final

import psycopg
from psycopg import generators, pq
from psycopg.abc import PQGen
from psycopg.conninfo import make_conninfo
from psycopg.errors import Diagnostic, error_from_result
from psycopg.pq.abc import PGconn, PGresult

from leasedb_server.domain import dumps
from leasedb_server.domain.database import Database
from leasedb_server.domain.errors import LeasedbError, ServerUnreachableError, SqlFailedError
from leasedb_server.domain.server import Endpoint
from leasedb_server.domain.statements import SHOWN, CopyData, Piece, Splitter, Statement
from leasedb_server.postgres.connecting import Connection, as_ours, column, conninfo, translated

_PROGRESS_PAUSE: Final = 0.3  # seconds between two reports
_MOST_CONTEXT: Final = 500  # characters
_COPIES: Final = frozenset({pq.ExecStatus.COPY_IN, pq.ExecStatus.COPY_OUT, pq.ExecStatus.COPY_BOTH})
_ROW: Final = re.compile(r"^COPY .*?, \w+ (\d+)", re.MULTILINE)  # "COPY t, line 3, column a"
# A text may run for long, and its upload may pause. The rest is as the login's own sessions have it.
_OPTIONS: Final = "-c statement_timeout=0 -c idle_in_transaction_session_timeout=0"


async def run_text(
    endpoint: Endpoint, database: Database, text: AsyncIterator[str], progress: Callable[[str], None]
) -> tuple[str, ...]:
    """Run the text statement by statement, each as a message of its own, as psql does.

    Statements outside BEGIN and COMMIT stay when a later one fails, or when this is cancelled: the database is of no
    use then. Cancelling ends what the server does.

    Args:
        endpoint: where the server is.
        database: it is entered with its own login.
        text: cut anywhere.
        progress: told now and then how far it is, as in "statement 40, line 812".

    Returns:
        What people should know of it, such as statements of a dump that were passed over.

    Raises:
        SqlFailedError: on the first statement that fails.
        ServerUnreachableError: when the login is not let in, or the connection is lost.
    """
    head = await _beginning(text)
    dump = dumps.recognised(head)
    what = f"The server of database {database.name}"
    with translated(what):
        connection = await psycopg.AsyncConnection.connect(
            _login(endpoint, database), autocommit=True, prepare_threshold=None
        )
    # Nobody listens to notifications; psycopg would collect them.
    connection.pgconn.notify_handler = None
    report = _Report(progress)
    try:
        await _Run(connection, what, dump, report).all(head, text)
    finally:
        report.end()
        await connection.close()
    return dump.notes() if dump else ()


def _login(endpoint: Endpoint, database: Database) -> str:
    ours = dataclasses.replace(endpoint, user=database.login, password=database.password)
    if endpoint.guarded:  # its leases send their passwords as they are
        ours = dataclasses.replace(ours, heartbeat=None)
    return make_conninfo(conninfo(ours, database.name), options=_OPTIONS, client_encoding="UTF8")


async def _beginning(text: AsyncIterator[str]) -> str:
    """Take enough of the text to tell what it is."""
    head = ""
    async for chunk in text:
        head += chunk
        if len(head) >= dumps.HEAD:
            break
    return head


class _Report:
    """Tells how far it is, not too often, and in the end what takes long."""

    def __init__(self, progress: Callable[[str], None]) -> None:
        self._progress = progress
        self._latest = ""
        self._timer: asyncio.TimerHandle | None = None

    def reached(self, number: int, line: int) -> None:
        self._latest = f"statement {number}, line {line}"
        if self._timer is None:
            self._tell()

    def _tell(self) -> None:
        latest, self._latest = self._latest, ""
        if latest:
            self._progress(latest)
        self._timer = asyncio.get_running_loop().call_later(_PROGRESS_PAUSE, self._tell) if latest else None

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class _Run:
    """A text under way, on its own connection."""

    def __init__(self, connection: Connection, what: str, dump: dumps.Dump | None, report: _Report) -> None:
        self._connection = connection
        self._what = what
        self._dump = dump
        self._report = report
        self._splitter = Splitter()
        self._transaction: Statement | None = None  # what began the open one

    async def all(self, head: str, text: AsyncIterator[str]) -> None:
        async with contextlib.aclosing(self._pieces(head, text)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Statement):
                    self._report.reached(piece.number, piece.line)
                    try:
                        await (self._copy(piece, pieces) if piece.rows else self._statement(piece))
                    except psycopg.Error as error:
                        raise self._translated(piece, error) from error
                    self._look(piece)
        if self._transaction is not None:
            line = self._transaction.line
            what = f"The transaction that begins on line {line} is not committed when the text ends"
            raise _failed(self._transaction, f"{what}.", line=line, hint="Add COMMIT, or leave BEGIN out.")

    async def _pieces(self, head: str, text: AsyncIterator[str]) -> AsyncGenerator[Piece, None]:
        for piece in self._splitter.feed(head):
            yield piece
        async for chunk in text:
            for piece in self._splitter.feed(chunk):
                yield piece
        for piece in self._splitter.close():
            yield piece

    def _look(self, statement: Statement) -> None:
        """See what the statement changed for what follows."""
        pgconn = self._connection.pgconn
        self._splitter.backslashes = pgconn.parameter_status(b"standard_conforming_strings") == b"off"
        if pgconn.transaction_status == pq.TransactionStatus.IDLE:
            self._transaction = None
        elif self._transaction is None:
            self._transaction = statement

    # --- one statement; errors are psycopg's ---

    async def _statement(self, statement: Statement) -> None:
        if self._dump is None:
            await self._say(statement.text)
            return
        self._dump.refuse(statement)
        rules = self._dump.rules(statement)
        unneeded = next((rule for rule in rules if not rule.states), None)
        if unneeded:
            self._dump.pass_over(statement, unneeded)
        elif rules:
            await self._try(statement, rules, self._dump)
        else:
            await self._say(statement.text)

    async def _try(self, statement: Statement, rules: list[dumps.Rule], dump: dumps.Dump) -> None:
        # In a transaction of the text, a failure would undo more than the statement.
        guarded = self._transaction is not None
        if guarded:
            await self._say("SAVEPOINT leasedb")
        try:
            await self._say(statement.text)
        except psycopg.Error as error:
            rule = next((rule for rule in rules if error.sqlstate in rule.states), None)
            if rule is None:
                raise
            dump.pass_over(statement, rule)
            if guarded:
                await self._say("ROLLBACK TO SAVEPOINT leasedb")
        if guarded:
            await self._say("RELEASE SAVEPOINT leasedb")
        extension = dumps.extension_and_schema(statement.text)
        if extension:
            await self._compare(*extension, dump)

    async def _compare(self, extension: str, wanted: str, dump: dumps.Dump) -> None:
        """Remark when an extension that was there already is in another schema than the dump refers to."""
        where = "SELECT extnamespace::pg_catalog.regnamespace::text FROM pg_catalog.pg_extension WHERE extname = %s"
        found = await column(self._connection, where, extension)
        if found and found[0].strip('"') != wanted:
            dump.remarks.append(
                f"the extension {extension} is in the schema {found[0]} here, where the dump wants it in {wanted}"
            )

    async def _say(self, text: str) -> None:
        """Run one statement as one message of the simple protocol, whatever it is; its rows are dropped."""
        await self._connection.wait(_answered(self._connection.pgconn, self._encoded(text)))

    async def _copy(self, statement: Statement, pieces: AsyncIterator[Piece]) -> None:
        async with self._connection.cursor() as cursor, cursor.copy(self._encoded(statement.text)) as copy:
            async for piece in pieces:
                if not isinstance(piece, CopyData):
                    return
                self._report.reached(statement.number, self._splitter.line)
                await copy.write(self._encoded(piece.text))

    def _encoded(self, text: str) -> bytes:
        encoding = self._connection.info.encoding
        try:
            return text.encode("utf-8" if encoding == "ascii" else encoding)  # for Postgres, SQL_ASCII is anything
        except UnicodeEncodeError as error:
            what = f"the client_encoding that the text sets has no {error.object[error.start]!a}"
            raise psycopg.DataError(what) from error

    # --- errors ---

    def _translated(self, statement: Statement, error: psycopg.Error) -> LeasedbError:
        if error.sqlstate is None and self._connection.pgconn.status == pq.ConnStatus.OK:
            what = f"Statement {statement.number} failed on line {statement.line}: {error}."
            return _failed(statement, what, line=statement.line)
        lost = as_ours(self._what, error)
        if isinstance(lost, ServerUnreachableError):
            return lost
        diag = error.diag
        line = _line_of(statement, diag)
        said = [f"Statement {statement.number} failed on line {line}: {diag.message_primary}."]
        if diag.message_detail:
            said.append(diag.message_detail)
        if diag.context:
            said.append(f"Context: {diag.context[:_MOST_CONTEXT]}.")
        hints = [diag.message_hint] if diag.message_hint else []
        if self._dump:
            hints += self._dump.hints(error.sqlstate)
        return _failed(statement, _one_line(said), line=line, sqlstate=error.sqlstate, hint=_one_line(hints) or None)


def _answered(pgconn: PGconn, query: bytes) -> PQGen[None]:
    pgconn.send_query(query)
    pgconn.set_single_row_mode()  # a result of any size is let go of row by row
    yield from generators.send(pgconn)
    failed: PGresult | None = None
    while True:
        try:
            result = yield from generators.fetch(pgconn)
        except psycopg.DatabaseError:
            if failed is None:
                raise
            break  # the server said why before it hung up
        if result is None:
            break
        if result.status in _COPIES:
            raise psycopg.NotSupportedError("nobody is here to read what COPY ... TO STDOUT sends")
        if result.status == pq.ExecStatus.FATAL_ERROR:
            failed = failed or result
    if failed is not None:
        raise error_from_result(failed)


def _line_of(statement: Statement, diag: Diagnostic) -> int:
    """Return the line of the text to which an error belongs, as far as the server tells."""
    if diag.statement_position:
        return statement.line + statement.text.count("\n", 0, int(diag.statement_position) - 1)
    row = _ROW.search(diag.context or "") if statement.rows else None
    return statement.rows_line + int(row[1]) - 1 if row else statement.line


def _failed(
    statement: Statement, detail: str, *, line: int, sqlstate: str | None = None, hint: str | None = None
) -> SqlFailedError:
    sql = statement.text[:SHOWN]
    return SqlFailedError(detail, sqlstate=sqlstate, statement=statement.number, line=line, sql=sql, hint=hint)


def _one_line(sentences: list[str]) -> str:
    return " ".join(" ".join(sentences).split())
