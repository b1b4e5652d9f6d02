"""How a server is: its connections, and the room on what its files lie on."""

import re
from dataclasses import dataclass, field
from typing import Final

import psycopg

from leasedb_server.domain.server import Endpoint
from leasedb_server.postgres.connecting import Connection, program

_BLOCK: Final = 1024
_MANY: Final = 300  # databases; each has some 230 files
# blocks in all, used, available, capacity
_SIZES: Final = re.compile(r"\s(\d+)\s+\d+\s+(\d+)\s+\d+%\s")
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
        places = [quoted(self.endpoint.overflow), "."] if self.endpoint.overflow else ["."]
        command = f'for place in {" ".join(places)}; do df -Pk "$place" | tail -n 1; done > {quoted(report)}'
        try:
            await connection.execute(program(command))
        except psycopg.errors.ExternalRoutineException:  # the report itself found no room
            self.room = Room(disk=0) if self.endpoint.memory is None else Room(memory=0, disk=self.room.disk)
            return
        cursor = await connection.execute(
            "SELECT pg_read_file(%s), pg_read_file(%s, 0, 4096, true)", [report, _MEMINFO]
        )
        told, meminfo = await cursor.fetchone() or ("", None)
        sizes = [_total_and_free(line) for line in told.splitlines()]
        if len(sizes) != len(places):  # no df there, or one that says nothing of a place
            sizes = [None] * len(places)
        disk, here = sizes[0], sizes[-1]
        if self.endpoint.memory is None:
            self.room = Room(disk=here[1] if here else None)
            return
        memory = await self._memory(connection, self.endpoint.memory, *here) if here else None
        known = [free for free in (memory, _available(meminfo or "")) if free is not None]
        self.room = Room(min(known, default=None), disk[1] if disk and self.endpoint.overflow else None)

    async def _memory(self, connection: Connection, limit: int, total: int, free: int) -> int:
        if total <= limit:
            return free  # a file system of the server's own
        # On one that others use too, what is ours has to be counted; with many databases that takes too long.
        cursor = await connection.execute(
            "SELECT CASE WHEN count(*) < %s THEN pg_tablespace_size('pg_default') END FROM pg_database", [_MANY]
        )
        used = (await cursor.fetchone() or (None,))[0]
        if used is not None or self._in_hand is None:
            self._in_hand = free + (used or 0)
        return min(free, limit - (self._in_hand - free))


async def connections_of(connection: Connection) -> int:
    cursor = await connection.execute("SELECT sum(numbackends)::int FROM pg_stat_database")
    return int((await cursor.fetchone() or (0,))[0])


def _total_and_free(line: str) -> tuple[int, int] | None:
    """Return the bytes of a line of ``df -Pk``, None where it tells none; names may have spaces in them."""
    found = _SIZES.search(line)
    return (int(found[1]) * _BLOCK, int(found[2]) * _BLOCK) if found else None


def _available(meminfo: str) -> int | None:
    for line in meminfo.splitlines():
        if line.startswith("MemAvailable:"):
            number = line.split()[1:2]
            return int(number[0]) * _BLOCK if number and number[0].isdecimal() else None
    return None


def quoted(path: str | None) -> str:
    return "'" + (path or "").replace("'", "'\\''") + "'"
