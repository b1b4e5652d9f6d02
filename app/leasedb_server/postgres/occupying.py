"""Which databases of a server somebody is connected to."""

from typing import Final, LiteralString

from leasedb_server.postgres.servers import Link

# Workers of autovacuum have no login. Who is no superuser is not told what others' sessions do: they count as busy.
_OCCUPIED: Final[LiteralString] = (
    "SELECT datname, min(CASE state WHEN 'idle' THEN extract(epoch FROM clock_timestamp() - state_change) ELSE 0 END)"
    "::float8 FROM pg_stat_activity WHERE datname IS NOT NULL AND usesysid IS NOT NULL GROUP BY datname"
    " UNION ALL SELECT database, 0 FROM pg_prepared_xacts"
)


async def occupied(link: Link) -> dict[str, float]:
    """Return, by name, the databases with sessions or prepared transactions: the seconds since anybody did anything."""
    seconds: dict[str, float] = {}
    async with link.connection() as connection:
        cursor = await connection.execute(_OCCUPIED)
        for name, quiet in await cursor.fetchall():
            seconds[name] = min(quiet, seconds.get(name, quiet))
    return seconds
