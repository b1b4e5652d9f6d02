"""What a server holds of one daemon."""

from leasedb_server.domain.names import daemon_prefix
from leasedb_server.ports import Survey
from leasedb_server.postgres.connecting import column
from leasedb_server.postgres.servers import Link


async def survey(link: Link, daemon: str, also: frozenset[str]) -> Survey:
    ours = {"prefix": daemon_prefix(daemon), "also": sorted(also)}
    async with link.connection() as connection:
        cursor = await connection.execute(
            "SELECT d.datname, d.datallowconn AND coalesce(r.rolcanlogin, true)"
            " FROM pg_database d LEFT JOIN pg_roles r ON r.rolname = d.datname"
            " WHERE starts_with(d.datname, %(prefix)s) OR d.datname = ANY(%(also)s)",
            ours,
        )
        admits = dict[str, bool](await cursor.fetchall())
        cursor = await connection.execute(
            "SELECT rolname FROM pg_roles WHERE starts_with(rolname, %(prefix)s) OR rolname = ANY(%(also)s)", ours
        )
        logins = [row[0] for row in await cursor.fetchall()]
        public = await column(
            connection,
            "SELECT datname FROM pg_database WHERE datallowconn AND NOT starts_with(datname, %s)"
            " AND has_database_privilege('public', oid, 'CONNECT') ORDER BY datname",
            daemon_prefix(daemon),
        )
    public = [name for name in public if name not in also]
    note = (
        f"PUBLIC may connect to {', '.join(public)} on this server, and so may every lease's login; leasedb does"
        " not touch what is not its own. Close it with: REVOKE CONNECT ON DATABASE ... FROM PUBLIC."
    )
    closed = frozenset(name for name, open_now in admits.items() if not open_now)
    return Survey(frozenset(admits), frozenset(logins), (note,) if public else (), closed)
