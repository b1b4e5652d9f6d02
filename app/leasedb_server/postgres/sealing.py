"""Making templates of leased databases: of the database itself, or of a clone of it.

What a lease's login owns goes to the role pg_database_owner, whose only member, in each database, is that database's
owner (https://www.postgresql.org/docs/current/predefined-roles.html): a clone's login owns everything in it then.
"""

import contextlib
from typing import Final, LiteralString

import psycopg
from psycopg import sql

from leasedb_server.domain.cloning import Strategy
from leasedb_server.domain.database import Database
from leasedb_server.domain.errors import (
    LeasedbError,
    ServerRefusedError,
    SessionsOpenError,
    TemplatesUnavailableError,
)
from leasedb_server.postgres.cloning import OVERFLOW_NAME, before, by, keep_public_out
from leasedb_server.postgres.compacting import build_cache, compact_all
from leasedb_server.postgres.connecting import Connection, column
from leasedb_server.postgres.dropping import drop, drop_login
from leasedb_server.postgres.fencing import emptied, refusal, shut, who_stays
from leasedb_server.postgres.servers import Link
from leasedb_server.postgres.swapping import reopen

KNOWS_DATABASE_OWNER: Final = 140_000

_SCHEMAS: Final[LiteralString] = (
    "SELECT nspname FROM pg_namespace WHERE nspowner = (SELECT oid FROM pg_roles WHERE rolname = %s)"
)
_POLICIES: Final[LiteralString] = (
    "SELECT p.polname, n.nspname, c.relname, ARRAY(SELECT coalesce(o.rolname, '') FROM unnest(p.polroles) AS one"
    " LEFT JOIN pg_roles o ON o.oid = one) FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid"
    " JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE (SELECT oid FROM pg_roles WHERE rolname = %s) = ANY(p.polroles)"
)
_MENTIONED: Final[LiteralString] = (
    "SELECT r.rolname, bool_or(s.deptype = 'o') FROM pg_shdepend s JOIN pg_roles r ON r.oid = s.refobjid"
    " WHERE s.refclassid = 'pg_authid'::regclass"
    " AND s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) GROUP BY r.rolname"
)
# A whole server's superuser may make tablespaces; other servers do not have them, and files are kept of one place only.
_PLACES: Final[LiteralString] = (
    "SELECT DISTINCT t.spcname FROM pg_tablespace t WHERE t.spcname NOT IN ('pg_default', 'pg_global', %s)"
    " AND (t.oid IN (SELECT reltablespace FROM pg_class)"
    " OR t.oid = (SELECT dattablespace FROM pg_database WHERE datname = current_database()))"
)
_ADMITTED: Final[LiteralString] = (
    "SELECT DISTINCT coalesce(r.rolname, '') FROM pg_database d CROSS JOIN aclexplode(d.datacl) a"
    " LEFT JOIN pg_roles r ON r.oid = a.grantee WHERE d.datname = %s AND a.grantee <> d.datdba"
)


async def seal(link: Link, database: Database, template_database: str, *, force: bool) -> int:
    _need_database_owner(link)
    async with link.sealing, link.inside(link.endpoint.dbname) as connection:
        if await is_made(connection, template_database, instead_of=database.name):
            await _let_go(link, connection, database.login)
            return await size_of(connection, template_database)
        await _empty(link, connection, database, force=force)
        try:
            await _take(connection, database.name)
            await _hand_over(link, database.name, database)
            await _finish(link, database.name)
            await emptied(link, connection, database)  # our own sessions
            async with connection.transaction():
                await connection.execute(
                    sql.SQL("ALTER DATABASE {} RENAME TO {}").format(
                        sql.Identifier(database.name), sql.Identifier(template_database)
                    )
                )
                await connection.execute(closed(template_database))
        except (LeasedbError, psycopg.Error):
            # Its owner is a member of the role that owns what is in it, so that it can go on being used.
            with contextlib.suppress(LeasedbError):
                await reopen(link, database)
            raise
        await _let_go(link, connection, database.login)
        return await size_of(connection, template_database)


async def branch(link: Link, database: Database, template_database: str, strategy: Strategy, *, force: bool) -> int:
    _need_database_owner(link)
    name, known = sql.Identifier(template_database), link.login
    async with link.sealing, link.inside(link.endpoint.dbname) as connection:
        if await is_made(connection, template_database):
            return await size_of(connection, template_database)
        await drop(link, template_database, None)  # half-made
        clone = sql.SQL("CREATE DATABASE {} TEMPLATE {} {} ALLOW_CONNECTIONS false").format(
            name, sql.Identifier(database.name), by(strategy, known)
        )
        await _empty(link, connection, database, force=force)
        try:
            if preparation := before(strategy, known):
                await connection.execute(preparation)
            await connection.execute(clone)
        finally:
            await reopen(link, database)
        try:
            await connection.execute(keep_public_out(name))
            await _hand_over(link, template_database, database)
            await _finish(link, template_database)
            await connection.execute(closed(template_database))
        except (LeasedbError, psycopg.Error):
            with contextlib.suppress(LeasedbError):
                await drop(link, template_database, None)
            raise
        return await size_of(connection, template_database)


async def _let_go(link: Link, connection: Connection, login: str) -> None:
    """Drop the login; it stays, and is not let in, while what it used before a reset is still there."""
    with contextlib.suppress(psycopg.errors.DependentObjectsStillExist):
        await drop_login(link, connection, login)


def closed(template_database: str) -> sql.Composed:
    """Return the statement that ends the making of a template."""
    return sql.SQL("ALTER DATABASE {} IS_TEMPLATE true ALLOW_CONNECTIONS false CONNECTION LIMIT -1").format(
        sql.Identifier(template_database)
    )


def _need_database_owner(link: Link) -> None:
    if link.login.version < KNOWS_DATABASE_OWNER:
        raise TemplatesUnavailableError(
            f"Server {link.server_id} is older than Postgres {KNOWS_DATABASE_OWNER // 10_000}, which brought the role"
            " that objects in templates belong to."
        )


async def is_made(connection: Connection, template_database: str, instead_of: str | None = None) -> bool:
    """Tell whether the template is there and done, and what it was made of, if that is named, no longer."""
    cursor = await connection.execute(
        "SELECT datname, datistemplate FROM pg_database WHERE datname IN (%s, %s)", [template_database, instead_of]
    )
    there = dict[str, bool](await cursor.fetchall())
    return instead_of not in there and there.get(template_database, False)


async def _empty(link: Link, connection: Connection, database: Database, *, force: bool) -> None:
    """Let nobody in any more, and end the sessions that there are; without ``force`` there may be none."""
    if force:
        await shut(link, connection, database)
        await emptied(link, connection, database)
        return
    sessions = await who_stays(connection, database)
    if not sessions:
        await connection.execute(refusal(database))
        sessions = await who_stays(connection, database)
        if not sessions:
            return
        await reopen(link, database)
    named = ", ".join(f"{one.application or one.state} (process {one.pid})" for one in sessions)
    raise SessionsOpenError(f"{len(sessions)} sessions are open on {database.name}: {named}.", sessions=sessions)


async def _take(connection: Connection, name: str) -> None:
    """Make the administrator the database's owner, who alone may come in; forget what its owner set there."""
    database = sql.Identifier(name)
    async with connection.transaction():
        await connection.execute(
            sql.SQL("ALTER DATABASE {0} OWNER TO CURRENT_USER; ALTER DATABASE {0} RESET ALL").format(database)
        )
        for role in await column(connection, _ADMITTED, name):
            await connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM {} CASCADE").format(database, _role(role)))
        await connection.execute(
            sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true CONNECTION LIMIT -1").format(database)
        )


async def _hand_over(link: Link, name: str, database: Database) -> None:
    """Let what the login owns in the database called ``name`` belong to whoever owns a clone of it.

    Raises:
        ServerRefusedError: when objects belong to another role still, or lie in a tablespace, which other servers do
            not have.
    """
    login, place = sql.Identifier(database.login), sql.Identifier(name)
    async with link.inside(name) as inside, inside.transaction():
        await _check_places(link, inside)
        # Who is no superuser may only give away what the new owner could make where it is: first of all, schemas.
        if not link.login.superuser:
            await inside.execute(sql.SQL("GRANT CREATE ON DATABASE {} TO pg_database_owner").format(place))
        for schema in await column(inside, _SCHEMAS, database.login):
            await inside.execute(sql.SQL("ALTER SCHEMA {} OWNER TO pg_database_owner").format(sql.Identifier(schema)))
        await inside.execute(sql.SQL("REASSIGN OWNED BY {} TO pg_database_owner").format(login))
        if not link.login.superuser:
            await inside.execute(sql.SQL("REVOKE CREATE ON DATABASE {} FROM pg_database_owner").format(place))
        if name != database.name:  # which the login keeps, and which was reassigned as well
            await inside.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(database.name), login))
        cursor = await inside.execute(_POLICIES, [database.login])
        for policy, schema, table, roles in await cursor.fetchall():
            names = [_role("pg_database_owner" if role == database.login else role) for role in roles]
            await inside.execute(
                sql.SQL("ALTER POLICY {} ON {} TO {}").format(
                    sql.Identifier(policy), sql.Identifier(schema, table), sql.SQL(", ").join(names)
                )
            )
        await _forget_roles(link, inside, database.login)


async def _check_places(link: Link, inside: Connection) -> None:
    """Raise when something of the database lies in a tablespace that clones on other servers would not have."""
    if not link.login.heartbeat:
        return  # on a server that is lent they stay, as its roles do
    if elsewhere := await column(inside, _PLACES, OVERFLOW_NAME):
        raise ServerRefusedError(
            f"Something in the database lies in the tablespace {elsewhere[0]!r}, which clones of it would not have.",
            sqlstate="2BP01",
            hint="Move it first: ALTER TABLE ... SET TABLESPACE pg_default (of an index, ALTER INDEX; of the database"
            " itself, ALTER DATABASE).",
        )


async def _forget_roles(link: Link, inside: Connection, login: str) -> None:
    """Drop the login's default privileges, and grants to roles that are here and not on every server."""
    cursor = await inside.execute(_MENTIONED)
    for role, owns in await cursor.fetchall():
        if role != login:
            if not link.login.heartbeat:
                continue  # a server that is lent has roles that stay
            if owns:
                raise ServerRefusedError(
                    f"Objects in the database belong to the role {role!r}, which clones of it would not have.",
                    sqlstate="2BP01",
                    hint=f'Give them to the lease\'s own login first: REASSIGN OWNED BY "{role}" TO "{login}".',
                )
        await inside.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(role)))


async def _finish(link: Link, name: str) -> None:
    async with link.inside(name) as inside:
        await compact_all(inside, freeze=link.login.superuser)
    await build_cache(link, name)


async def size_of(connection: Connection, name: str) -> int:
    cursor = await connection.execute("SELECT pg_database_size(%s)", [name])
    return int((await cursor.fetchone() or (0,))[0])


def _role(name: str) -> sql.Composable:
    return sql.Identifier(name) if name else sql.SQL("PUBLIC")
