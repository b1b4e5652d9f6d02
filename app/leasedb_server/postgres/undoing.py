"""Undoing what a superuser did to a server of ours: what each of these finds, it takes away."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Iterable
from dataclasses import replace
from typing import Final, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from leasedb_server.domain.cloning import Strategy
from leasedb_server.domain.errors import ServerRefusedError
from leasedb_server.domain.server import Endpoint
from leasedb_server.postgres.cloning import OVERFLOW_NAME, by, verifier_of
from leasedb_server.postgres.connecting import ANSWER_LIMIT, APPLICATION, Connection, column, direct
from leasedb_server.postgres.servers import Link

KNOWS_PARAMETER_GRANTS: Final = 150_000
KNOWS_EVENT_TRIGGERS: Final = 170_000  # on logins, and the setting that switches all of them off

POSTGRES: Final = "postgres"
TEMPLATE: Final = "template1"
ORIGIN: Final = "template0"
_GLANCE: Final = 0.002  # seconds between two looks
_ATTEMPTS: Final = 5

SUPERUSER: Final = sql.SQL(
    "LOGIN SUPERUSER INHERIT CREATEDB CREATEROLE REPLICATION BYPASSRLS CONNECTION LIMIT -1 VALID UNTIL 'infinity'"
    " PASSWORD "
)
_OTHERS: Final[LiteralString] = (
    "SELECT pid, backend_type IN ('client backend', 'walsender'), pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE pid <> pg_backend_pid() AND (datid IS NOT NULL OR usesysid IS NOT NULL)"
    " AND backend_type <> 'logical replication launcher' AND (usename = %s AND application_name = %s) IS NOT TRUE"
)
_GIVEN_TABLESPACES: Final[LiteralString] = (
    "SELECT spcname FROM pg_tablespace JOIN pg_roles r ON r.oid = spcowner WHERE rolname <> %s"
)
_GIVEN_DATABASES: Final[LiteralString] = (
    "SELECT datname FROM pg_database JOIN pg_roles r ON r.oid = datdba WHERE rolname <> %s"
)
# initdb makes pg_monitor a member of these three, and nobody of anything else
_MEMBERSHIPS: Final[LiteralString] = (
    "SELECT r.rolname, m.rolname FROM pg_auth_members a JOIN pg_roles r ON r.oid = a.roleid"
    " JOIN pg_roles m ON m.oid = a.member WHERE NOT (m.rolname = 'pg_monitor'"
    " AND r.rolname IN ('pg_read_all_settings', 'pg_read_all_stats', 'pg_stat_scan_tables'))"
)
_SETTINGS: Final[LiteralString] = (
    "SELECT rolname, datname FROM pg_db_role_setting LEFT JOIN pg_roles r ON r.oid = setrole"
    " LEFT JOIN pg_database d ON d.oid = setdatabase"
)
_TABLESPACE_OPTIONS: Final[LiteralString] = (
    "SELECT spcname, ARRAY(SELECT split_part(option, '=', 1) FROM unnest(spcoptions) option) FROM pg_tablespace"
    " WHERE spcoptions IS NOT NULL"
)
_TABLESPACE_GRANTS: Final[LiteralString] = (
    "SELECT spcname, rolname FROM pg_tablespace, aclexplode(spcacl) acl LEFT JOIN pg_roles r ON r.oid = acl.grantee"
    " WHERE acl.grantee <> spcowner"
)
_PARAMETER_GRANTS: Final[LiteralString] = (
    "SELECT parname, rolname FROM pg_parameter_acl, aclexplode(paracl) acl LEFT JOIN pg_roles r ON r.oid = acl.grantee"
    " WHERE acl.grantee <> 10"  # the superuser of initdb, whose grant is what stands there without any
)


def undisturbed(link: Link) -> Endpoint:
    """Return the endpoint, with connections that no setting of a server, a database or a login gets in the way of."""
    options = [link.endpoint.extra.get("options", "")]
    options += ["-c default_transaction_read_only=off -c session_preload_libraries= -c local_preload_libraries="]
    options += ["-c role=none"]
    if link.login.version >= KNOWS_EVENT_TRIGGERS:
        options += ["-c event_triggers=off -c transaction_timeout=0"]
    return replace(link.endpoint, extra={**link.endpoint.extra, "options": " ".join(options).strip()})


async def restore_administrator(connection: Connection, link: Link) -> None:
    verifier = sql.Literal(await verifier_of(link.endpoint.password, guarded=link.endpoint.guarded))
    administrator = sql.Identifier(link.endpoint.user)
    await connection.execute(sql.SQL("ALTER ROLE {} ").format(administrator) + SUPERUSER + verifier)


# --- what keeps databases from being dropped ---


async def end_sessions(standing: Connection, link: Link) -> int:
    """End everything that works for somebody else, and return how many sessions of clients that were."""
    clock = asyncio.get_running_loop().time
    end = clock() + ANSWER_LIMIT
    clients: set[int] = set()
    while True:
        cursor = await standing.execute(_OTHERS, [link.endpoint.user, APPLICATION])
        found = await cursor.fetchall()
        clients.update(pid for pid, client, _ in found if client)
        if not found:
            return len(clients)
        if clock() > end:
            raise ServerRefusedError(f"{len(found)} sessions did not end within {ANSWER_LIMIT:g} s.", sqlstate="55006")
        await asyncio.sleep(_GLANCE)


async def let_go(standing: Connection, link: Link) -> None:
    """Roll back prepared transactions; drop replication slots, subscriptions and origins."""
    await standing.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
    cursor = await standing.execute("SELECT database, gid FROM pg_prepared_xacts ORDER BY database")
    for name, gid in await cursor.fetchall():
        async with _inside(standing, link, name) as inside:
            await inside.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)))
    cursor = await standing.execute(
        "SELECT datname, subname FROM pg_subscription JOIN pg_database d ON d.oid = subdbid ORDER BY datname"
    )
    for name, subscription in await cursor.fetchall():
        async with _inside(standing, link, name) as inside:
            identifier = sql.Identifier(subscription)
            await inside.execute(sql.SQL("ALTER SUBSCRIPTION {} DISABLE").format(identifier))
            await inside.execute(sql.SQL("ALTER SUBSCRIPTION {} SET (slot_name = NONE)").format(identifier))
            # it may still call the publisher, about tables that were not copied yet
            await inside.execute(sql.SQL("SET statement_timeout = {}").format(sql.Literal(f"{ANSWER_LIMIT:g}s")))
            await inside.execute(sql.SQL("DROP SUBSCRIPTION {}").format(identifier))
    await standing.execute("SELECT pg_replication_origin_drop(roname) FROM pg_replication_origin")


@contextlib.asynccontextmanager
async def _inside(standing: Connection, link: Link, name: str) -> AsyncIterator[Connection]:
    """Lend a connection into any database; one that was closed is closed again."""
    opened = await column(
        standing, "SELECT datname FROM pg_database WHERE datname = %s AND NOT datallowconn AND datconnlimit <> -2", name
    )
    change = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
    for closed in opened:
        await standing.execute(change.format(sql.Identifier(closed), sql.SQL("true")))
    try:
        async with direct(undisturbed(link), name) as inside:
            yield inside
    finally:
        for closed in opened:
            await standing.execute(change.format(sql.Identifier(closed), sql.SQL("false")))


# --- databases ---


async def drop_databases(standing: Connection, names: Iterable[str]) -> None:
    for name in names:
        database = sql.Identifier(name)
        drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(database)
        try:
            await standing.execute(drop)
        except psycopg.errors.WrongObjectType:
            await standing.execute(sql.SQL("ALTER DATABASE {} IS_TEMPLATE false").format(database))
            await standing.execute(drop)


async def renew(standing: Connection, link: Link, name: str) -> None:
    """Put a database as it was made by initdb in the place of `postgres` or of `template1`.

    There is one at any moment: without it nobody could log in to repeat an interrupted reset.
    """
    fresh, old = f"leasedb_new_{name}", f"leasedb_old_{name}"
    await copy_origin(standing, link, fresh)
    exchange = sql.SQL("ALTER DATABASE {0} RENAME TO {1}; ALTER DATABASE {2} RENAME TO {0}").format(
        *map(sql.Identifier, (name, old, fresh))
    )
    end = "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
    for attempt in range(1, _ATTEMPTS + 1):
        for _ in range(round(ANSWER_LIMIT / _GLANCE)):  # Postgres itself would look every tenth of a second
            if not await (await standing.execute(end, [name])).fetchall():
                break
            await asyncio.sleep(_GLANCE)
        try:
            await standing.execute(exchange)
            break
        except psycopg.errors.ObjectInUse:  # one came in between: a beat of our own
            if attempt == _ATTEMPTS:
                raise
    await drop_databases(standing, (old,))


async def copy_origin(connection: Connection, link: Link, name: str) -> None:
    database = sql.Identifier(name)
    await connection.execute(
        sql.SQL("CREATE DATABASE {} TEMPLATE template0 ").format(database) + by(Strategy.COPY, link.login)
    )
    # as initdb does it: src/bin/initdb/initdb.c
    if name.endswith(TEMPLATE):
        await connection.execute(
            sql.SQL(
                "ALTER DATABASE {0} IS_TEMPLATE true; REVOKE CREATE, TEMPORARY ON DATABASE {0} FROM PUBLIC;"
                "COMMENT ON DATABASE {0} IS 'default template for new databases'"
            ).format(database)
        )
    else:
        await connection.execute(
            sql.SQL("COMMENT ON DATABASE {} IS 'default administrative connection database'").format(database)
        )


# --- what all databases share ---


async def take_back(standing: Connection, link: Link) -> None:
    """Drop tablespaces and roles; what of ours somebody gave away becomes the administrator's again."""
    user = link.endpoint.user
    administrator = sql.Identifier(user)
    for name in await other_names(
        standing, "SELECT spcname FROM pg_tablespace", {"pg_default", "pg_global", OVERFLOW_NAME}
    ):
        await standing.execute(sql.SQL("DROP TABLESPACE {}").format(sql.Identifier(name)))
    for kind, given in (("TABLESPACE", _GIVEN_TABLESPACES), ("DATABASE", _GIVEN_DATABASES)):
        for name in await column(standing, given, user):
            change = sql.SQL("ALTER {} {} OWNER TO {}")
            await standing.execute(change.format(sql.SQL(kind), sql.Identifier(name), administrator))
    roles = await other_names(standing, "SELECT rolname FROM pg_roles WHERE NOT starts_with(rolname, 'pg_')", {user})
    if roles:
        listed = sql.SQL(", ").join(map(sql.Identifier, roles))
        await standing.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(listed))
    for role, member in await _rows(standing, _MEMBERSHIPS):
        await standing.execute(sql.SQL("REVOKE {} FROM {}").format(sql.Identifier(role), sql.Identifier(member)))
    await restore_administrator(standing, link)
    await standing.execute(sql.SQL("COMMENT ON ROLE {} IS NULL").format(administrator))


async def forget(standing: Connection, link: Link, keep: frozenset[str]) -> None:
    """Undo settings, and rights that do not belong to a role or a database."""
    for role, database in await _rows(standing, _SETTINGS):
        if database in keep:
            continue
        whose = sql.Identifier(role) if role else sql.SQL("ALL")
        where = sql.SQL("IN DATABASE {} ").format(sql.Identifier(database)) if database else sql.SQL("")
        await standing.execute(sql.SQL("ALTER ROLE {} {}RESET ALL").format(whose, where))
    for name, options in await _rows(standing, _TABLESPACE_OPTIONS):
        listed = sql.SQL(", ").join(map(sql.Identifier, options))
        await standing.execute(sql.SQL("ALTER TABLESPACE {} RESET ({})").format(sql.Identifier(name), listed))
    grants = [("TABLESPACE", *row) for row in await _rows(standing, _TABLESPACE_GRANTS)]
    if link.login.version >= KNOWS_PARAMETER_GRANTS:
        grants += [("PARAMETER", *row) for row in await _rows(standing, _PARAMETER_GRANTS)]
    for kind, name, role in grants:
        whose = sql.Identifier(role) if role else sql.SQL("PUBLIC")
        revoke = sql.SQL("REVOKE ALL ON {} {} FROM {} CASCADE")
        await standing.execute(revoke.format(sql.SQL(kind), sql.Identifier(name), whose))


async def other_names(connection: Connection, query: LiteralString, ours: Collection[str]) -> list[str]:
    """Return the names that are not ours."""
    return [name for name in await column(connection, query) if name not in ours]


async def _rows(connection: Connection, query: LiteralString) -> list[TupleRow]:
    return await (await connection.execute(query)).fetchall()
