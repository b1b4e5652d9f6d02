"""Making a template of the files that another server's template had."""

import contextlib
from collections.abc import AsyncIterator
from typing import Final, LiteralString

import psycopg
from psycopg import sql

from leasedb_server.domain.errors import LeasedbError, ServerRefusedError
from leasedb_server.postgres.cloning import KNOWS_CLONING, KNOWS_STRATEGY, keep_public_out
from leasedb_server.postgres.compacting import build_cache
from leasedb_server.postgres.connecting import Connection, program
from leasedb_server.postgres.dropping import drop
from leasedb_server.postgres.exporting import COMPLETE
from leasedb_server.postgres.pulse import quoted
from leasedb_server.postgres.sealing import closed, is_made, size_of
from leasedb_server.postgres.servers import Link

_CHUNK: Final = 4 << 20  # bytes sent at once
# Postgres's binary format has 25 bytes before the only value and 2 after it, which the next chunk overwrites, or which
# stand behind the end of the archive (https://www.postgresql.org/docs/current/sql-copy.html).
_WRITE: Final = "tail -c +26 | dd of={archive} bs={chunk} seek={number} conv=notrunc 2>/dev/null"
_REPLACE: Final = (
    "(cd base/{oid} && rm -f ./* && tar -xf - && rm {complete}) <{archive}; ended=$?; rm -f {archive}; exit $ended"
)
_SENT: Final = sql.SQL("pg_temp.leasedb_sent")
# As pg_upgrade does. Every row is frozen; this server's transactions are counted from where its own template is.
_COUNT_ANEW: Final[LiteralString] = (
    "UPDATE pg_class SET relfrozenxid = d.datfrozenxid, relminmxid = d.datminmxid FROM pg_database d"
    " WHERE d.datname = current_database() AND relkind IN ('r', 'm', 't')"
)
# Some minor versions (17.12) note at each column where in the log it was added, and refuse to add one before that:
# "version of attribute is not increasing". Columns of older tables have no such note.
_UNNOTED: Final[LiteralString] = (
    "UPDATE pg_attribute SET attoptions ="
    " (SELECT array_agg(one) FROM unnest(attoptions) AS one WHERE one NOT LIKE 'pg_attver=%')"
    " WHERE attoptions::text LIKE '%pg_attver=%'"
)
# The pages of these refer to each other by positions in the log of changes.
_BY_LOG: Final[LiteralString] = (
    "SELECT n.nspname, i.relname FROM pg_class i JOIN pg_am a ON a.oid = i.relam JOIN pg_namespace n"
    " ON n.oid = i.relnamespace WHERE i.relkind = 'i' AND a.amname = 'gist'"
)


async def import_copy(link: Link, template_database: str, content: AsyncIterator[bytes]) -> int:
    async with link.connection() as connection:
        if await is_made(connection, template_database):
            return await size_of(connection, template_database)
    await drop(link, template_database, None)  # half-made
    name = sql.Identifier(template_database)
    try:
        async with link.inside(link.endpoint.dbname) as connection:
            if link.login.version >= KNOWS_CLONING:
                await connection.execute("SET file_copy_method = copy")
            way = sql.SQL("STRATEGY file_copy" if link.login.version >= KNOWS_STRATEGY else "")
            # Nobody is let in before its files are replaced, so that nobody's memory holds anything of them.
            await connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8' {} ALLOW_CONNECTIONS false").format(
                    name, way
                )
            )
            await _replace_files(link, connection, template_database, content)
            await connection.execute(keep_public_out(name))
            async with link.inside(template_database) as inside:
                await _settle(inside)
            await build_cache(link, template_database)
            await connection.execute(closed(template_database))
            return await size_of(connection, template_database)
    except LeasedbError:
        with contextlib.suppress(LeasedbError):
            await drop(link, template_database, None)
        raise


async def _replace_files(
    link: Link, connection: Connection, template_database: str, content: AsyncIterator[bytes]
) -> None:
    """Send the archive to the server, and put its files in the place of those that the database has.

    Raises:
        ServerRefusedError: when the archive is not whole, or there is no room for it.
    """
    # Postgres works in its data directory. On a disk, where there is one, the archive takes no memory away.
    beside = link.endpoint.overflow or "."
    archive = quoted(f"{beside}/{template_database}.tar")
    cursor = await connection.execute("SELECT oid FROM pg_database WHERE datname = %s", [template_database])
    (oid,) = await cursor.fetchone() or (0,)
    try:
        await connection.execute(program(f"rm -f {archive}"))
        number = 0
        async for chunk in _even(content):
            await _send(connection, chunk, _WRITE.format(archive=archive, chunk=_CHUNK, number=number))
            number += 1
        await connection.execute(program(_REPLACE.format(oid=oid, archive=archive, complete=COMPLETE)))
    except psycopg.errors.ExternalRoutineException as error:
        raise ServerRefusedError(
            f"Server {link.server_id} could not put the files of {template_database} in place: they are not whole, or"
            " there is no room for them.",
            sqlstate="58030",
        ) from error


async def _even(content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the content in chunks of the same size, the last one excepted."""
    held = bytearray()
    async for part in content:
        held += part
        while len(held) >= _CHUNK:
            yield bytes(held[:_CHUNK])
            del held[:_CHUNK]
    if held:
        yield bytes(held)


async def _send(connection: Connection, chunk: bytes, command: str) -> None:
    """Have a program of the server read the chunk, after 25 other bytes."""
    # By way of a table, where it goes as it is: a literal would be twice as long, and has to be parsed.
    await connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(_SENT))
    await connection.execute(
        sql.SQL("CREATE TEMPORARY TABLE {0} (chunk bytea); ALTER TABLE {0} ALTER chunk SET STORAGE EXTERNAL").format(
            _SENT
        )
    )
    await connection.execute(sql.SQL("INSERT INTO {} VALUES (%b)").format(_SENT), [chunk])
    await connection.execute(sql.SQL("COPY {} TO PROGRAM {} (FORMAT binary)").format(_SENT, sql.Literal(command)))


async def _settle(inside: Connection) -> None:
    """Have the database's tables belong to this server."""
    await inside.execute(_COUNT_ANEW)
    await inside.execute(_UNNOTED)
    cursor = await inside.execute(_BY_LOG)
    for index in await cursor.fetchall():
        await inside.execute(sql.SQL("REINDEX INDEX {}").format(sql.Identifier(*index)))
    await inside.execute("VACUUM (FREEZE) pg_class, pg_attribute, pg_index")
