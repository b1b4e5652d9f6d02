"""Making a database that others are cloned from: small, of few files, and with nothing that points to its server's log.

Each clone pays per file. And files of a template may go to other servers: there nobody knows how this server's
transactions ended, so no row may be left that has to be asked about.
"""

from collections.abc import Sequence
from typing import Final, LiteralString

import psycopg
from psycopg import sql

from leasedb_server.domain.errors import ServerRefusedError
from leasedb_server.postgres.connecting import Connection, column
from leasedb_server.postgres.servers import Link

Table = tuple[str, str]  # schema and name

# Writing a table anew changes rows of these: they are written last.
_LAST: Final = ("pg_statistic", "pg_index", "pg_depend", "pg_type", "pg_attribute", "pg_class")
# Never what all databases share: every login would have to wait.
_CATALOGS: Final[LiteralString] = (
    "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE c.relkind = 'r' AND n.nspname IN ('pg_catalog', 'information_schema') AND NOT c.relisshared"
    " ORDER BY coalesce(array_position(%s::text[], c.relname::text), 0), c.relname"
)
# Writing a table anew freezes what no transaction of the whole server could see otherwise; the usual way looks at those
# in this database only, and somebody always has one open elsewhere. So the catalogs are gone through once more, with
# what was moved out of their rows and out of those of tables.
_NOT_FROZEN: Final[LiteralString] = (
    "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE NOT c.relisshared AND (c.relkind = 't' OR c.relkind = 'r' AND n.nspname = ANY(%s))"
)
_SYSTEM: Final = ("pg_catalog", "information_schema")
_NOW: Final[LiteralString] = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text"
# Rows of transactions that ended before the compacting began, and that still say so.
_LEFT: Final[LiteralString] = (
    "SELECT c.relname FROM pg_class c WHERE c.relkind IN ('r', 'm', 't') AND NOT c.relisshared"
    " AND age(c.relfrozenxid) > age(%s::xid)"
)
_TABLES: Final[LiteralString] = (
    "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE c.relkind = ANY(%s) AND c.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'information_schema')"
)
# Many dead rows in it, and no index on it that takes long to build.
_WORN: Final[LiteralString] = (
    " AND pg_stat_get_dead_tuples(c.oid) > greatest(1000, pg_stat_get_live_tuples(c.oid) / 4)"
    " AND NOT EXISTS (SELECT FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am a ON a.oid = x.relam"
    " WHERE i.indrelid = c.oid AND a.amname IN ('hnsw', 'ivfflat'))"
)


async def compact(inside: Connection) -> None:
    """Make the catalogs of the database that the connection leads into small."""
    await _run("VACUUM (FULL)", inside, await _names(inside, _CATALOGS, list(_LAST)))


async def compact_all(inside: Connection, *, freeze: bool) -> None:
    """Make a database small that has tables, and have them analyzed; with ``freeze``, every row is frozen.

    Freezing needs a superuser.

    Raises:
        ServerRefusedError: when something could not be frozen.
    """
    (began,) = await column(inside, _NOW)
    tables, partitioned = ["r", "m"], ["p"]
    await _each("VACUUM (FULL)", inside, await _names(inside, _TABLES + _WORN, tables))
    # An expression in an index may fail where names mean Postgres's own only; no more than the statistics is lost then.
    failed = await _each("VACUUM (FREEZE, ANALYZE)", inside, await _names(inside, _TABLES, tables))
    await _run("VACUUM (FREEZE)", inside, failed)
    await _each("ANALYZE", inside, await _names(inside, _TABLES, partitioned))
    await compact(inside)
    if freeze:
        await _run("VACUUM (FREEZE)", inside, await _names(inside, _NOT_FROZEN, list(_SYSTEM)))
        if left := await column(inside, _LEFT, began):
            raise ServerRefusedError(
                f"{', '.join(left[:5])} could not be frozen: a transaction holds on to what was there before.",
                sqlstate="55006",
                hint="Try again when no session is in the database any more.",
            )


async def build_cache(link: Link, database: str) -> None:
    """Have a session write pg_internal.init anew, which clones then have as well."""
    async with link.inside(database):
        pass


async def _names(inside: Connection, query: LiteralString, values: list[str]) -> list[Table]:
    cursor = await inside.execute(query, [values])
    return [(schema, table) for schema, table in await cursor.fetchall()]


async def _run(command: LiteralString, inside: Connection, tables: Sequence[Table]) -> None:
    if tables:
        names = sql.SQL(", ").join(sql.Identifier(*table) for table in tables)
        await inside.execute(sql.SQL(command) + sql.SQL(" ") + names)


async def _each(command: LiteralString, inside: Connection, tables: Sequence[Table]) -> list[Table]:
    """Run the command for all tables; return those that it failed for."""
    try:
        await _run(command, inside, tables)
    except psycopg.Error as error:
        if error.sqlstate is None:  # the connection was lost
            raise
    else:
        return []
    if len(tables) == 1:
        return list(tables)
    return [failed for table in tables for failed in await _each(command, inside, [table])]
