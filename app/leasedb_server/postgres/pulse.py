"""How a server is: its connections, and the room on what its files lie on."""

from dataclasses import dataclass, field
from typing import Final

from psycopg import sql

from leasedb_server.domain.server import Endpoint
from leasedb_server.postgres.connecting import Connection

_BLOCK: Final = 1024
_MEMINFO: Final = "/proc/meminfo"  # Linux; elsewhere nothing is known of it, and the file system alone counts


@dataclass(frozen=True, slots=True)
class Room:
    """Free bytes for databases, None when unknown."""

    memory: int | None = None
    disk: int | None = None


@dataclass(slots=True)
class Gauge:
    """Measures the room of one server of ours, as its superuser. Postgres has no function for that; df is POSIX."""

    endpoint: Endpoint
    room: Room = field(default_factory=Room)
    _in_hand: int | None = None  # what was free for us on a file system in memory that others use too

    async def measure(self, connection: Connection) -> None:
        if self.endpoint.heartbeat is None:
            return
        report = f"{self.endpoint.heartbeat}.room"
        # Postgres works in its data directory
        places = [_quoted(self.endpoint.overflow), "."] if self.endpoint.overflow else ["."]
        command = f'for place in {" ".join(places)}; do df -Pk "$place" | tail -n 1; done > {_quoted(report)}'
        await connection.execute(sql.SQL("COPY (SELECT) TO PROGRAM {}").format(sql.Literal(command)))
        cursor = await connection.execute(
            "SELECT pg_read_file(%s), pg_read_file(%s, 0, 4096, true)", [report, _MEMINFO]
        )
        told, meminfo = await cursor.fetchone() or ("", None)
        sizes = [_total_and_free(line) for line in told.splitlines()]
        if self.endpoint.memory is None:
            self.room = Room(disk=sizes[-1][1])
            return
        memory = await self._memory(connection, self.endpoint.memory, *sizes[-1])
        available = _available(meminfo or "")
        self.room = Room(
            memory if available is None else min(memory, available), sizes[0][1] if self.endpoint.overflow else None
        )

    async def _memory(self, connection: Connection, limit: int, total: int, free: int) -> int:
        if total <= limit:
            return free  # a file system of the server's own
        if self._in_hand is None:
            cursor = await connection.execute("SELECT pg_tablespace_size('pg_default')")
            self._in_hand = free + (await cursor.fetchone() or (0,))[0]
        return min(free, limit - (self._in_hand - free))


async def connections_of(connection: Connection) -> int:
    cursor = await connection.execute("SELECT sum(numbackends)::int FROM pg_stat_database")
    return int((await cursor.fetchone() or (0,))[0])


def _total_and_free(line: str) -> tuple[int, int]:
    """Return the bytes of a line of ``df -Pk``; names of devices and directories may have spaces in them."""
    words = line.split()
    percent = next(place for place, word in enumerate(words) if place > 3 and word.endswith("%"))  # noqa: PLR2004
    return int(words[percent - 3]) * _BLOCK, int(words[percent - 1]) * _BLOCK


def _available(meminfo: str) -> int | None:
    for line in meminfo.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * _BLOCK
    return None


def _quoted(path: str | None) -> str:
    return "'" + (path or "").replace("'", "'\\''") + "'"
