"""Proving that `vector` works: a bundled build may crash only when it first computes a distance."""

from typing import Final

from leasedb_server.domain.errors import ServerRefusedError
from leasedb_server.domain.server import Versions
from leasedb_server.postgres.connecting import Connection

_DISTANCE: Final = 8**0.5  # of [1,2,3] and [3,2,1]: the square root of 2² + 0² + 2²


async def prove_vector(inside: Connection) -> Versions:
    """Create the extension where it is missing, use it in earnest and return the versions; nothing else stays."""
    async with inside.transaction():
        await inside.execute("SET LOCAL search_path = public")
        await inside.execute("CREATE EXTENSION IF NOT EXISTS vector")
    async with inside.transaction(force_rollback=True):
        await inside.execute(
            "SET LOCAL search_path = public;"
            "CREATE TEMPORARY TABLE leasedb_proof (embedding vector(3));"
            "INSERT INTO leasedb_proof VALUES ('[1,2,3]'), ('[3,2,1]'), ('[9,9,9]');"
            "CREATE INDEX ON leasedb_proof USING hnsw (embedding vector_l2_ops)"
        )
        cursor = await inside.execute(
            "SELECT '[1,2,3]'::vector <-> '[3,2,1]'::vector, split_part(current_setting('server_version'), ' ', 1),"
            " (SELECT extversion FROM pg_extension WHERE extname = 'vector')"
        )
        distance, postgres, vector = await cursor.fetchone() or (None, "", "")
        if distance is None or abs(distance - _DISTANCE) > 1e-6:  # noqa: PLR2004 - what rounding may cost
            raise ServerRefusedError(f"'vector' computes a wrong distance: {distance}.", sqlstate="XX000")
    return Versions(postgres, vector)
