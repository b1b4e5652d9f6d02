"""The files of a template, as one stream, for other servers of the same layout."""

import re
import tarfile
from collections.abc import AsyncIterator, Iterator
from typing import Final, LiteralString

import psycopg
from psycopg.rows import TupleRow

from leasedb_server.domain.errors import ServerRefusedError
from leasedb_server.postgres.connecting import Connection, program
from leasedb_server.postgres.sealing import KNOWS_DATABASE_OWNER
from leasedb_server.postgres.servers import Link

COMPLETE: Final = "leasedb_complete"  # the last file of the stream, empty
_CHUNK: Final = 4 << 20  # bytes read at once; many pages
_WRITTEN_AT: Final = 1_000_000_000  # tar warns of what was written in 1970, or later than now
_LSN: Final = 8  # bytes at the beginning of a page
# A table or an index, one of its forks, and its parts of a gigabyte. Temporary ones have other names.
_RELATION: Final = re.compile(r"\d+(_(fsm|vm|init))?(\.\d+)?")
_OTHERS: Final = frozenset({"PG_VERSION", "pg_filenode.map"})

# What decides how rows and pages are laid out (pg_upgrade compares the same), how text is sorted, and what functions
# of extensions there are.
_LAYOUT: Final[LiteralString] = (
    "SELECT current_setting('data_checksums'), md5(concat_ws(' ', current_setting('server_version_num'),"
    " split_part(version(), ',', 1), (SELECT catalog_version_no FROM pg_control_system()), pg_control_init(),"
    " (SELECT jsonb_object_agg(key, value) FROM pg_database d, jsonb_each(to_jsonb(d)) WHERE d.datname = 'template0'"
    " AND key ~ '^(encoding|datcollate|datcollversion|datctype|datloc|daticu)'),"
    " (SELECT string_agg(name || ' ' || default_version, ',' ORDER BY name) FROM pg_available_extensions)))"
)
# which put the files in place on the other server
_PROGRAMS: Final = "{ command -v tar && command -v dd && command -v tail; } >/dev/null"
_DIRECTORY: Final[LiteralString] = (
    "SELECT CASE WHEN t.spcname = 'pg_default' THEN 'base/' || d.oid ELSE 'pg_tblspc/' || t.oid || '/PG_'"
    " || split_part(current_setting('server_version'), '.', 1) || '_'"
    " || (SELECT catalog_version_no FROM pg_control_system()) || '/' || d.oid END, current_setting('block_size')::int"
    " FROM pg_database d JOIN pg_tablespace t ON t.oid = d.dattablespace WHERE d.datname = %s AND d.datistemplate"
)
_FILES: Final[LiteralString] = (
    "SELECT name, (pg_stat_file(%(directory)s || '/' || name)).size FROM pg_ls_dir(%(directory)s) AS name ORDER BY name"
)
_CONTENT: Final[LiteralString] = (
    "SELECT pg_read_binary_file(%s || '/' || name, start, length)"
    " FROM unnest(%s::text[], %s::bigint[], %s::bigint[]) WITH ORDINALITY AS f(name, start, length, n) ORDER BY n"
)
Part = tuple[str, int, int]  # of a file: its name, where it begins, how many bytes


async def layout(link: Link) -> str:
    """Return what two servers have in common that can exchange files; empty where files cannot be exchanged."""
    known = link.login
    if not (known.superuser and known.heartbeat) or known.version < KNOWS_DATABASE_OWNER:
        return ""
    async with link.connection() as connection:
        cursor = await connection.execute(_LAYOUT)
        checksums, text = await cursor.fetchone() or ("on", "")
        try:
            await connection.execute(program(_PROGRAMS))
        except psycopg.errors.ExternalRoutineException:
            return ""
    return "" if checksums == "on" else str(text)


async def export_copy(link: Link, template_database: str) -> AsyncIterator[bytes]:
    """Yield a tar archive of the database's directory."""
    async with link.inside(link.endpoint.dbname) as connection:
        await connection.execute("CHECKPOINT")  # what is not in the files yet
        cursor = await connection.execute(_DIRECTORY, [template_database])
        directory, page = await cursor.fetchone() or ("", 0)
        if not directory:
            raise ServerRefusedError(f"There is no template {template_database}.", sqlstate="3D000")
        cursor = await connection.execute(_FILES, {"directory": directory})
        files = [(name, size) for name, size in await cursor.fetchall() if _RELATION.fullmatch(name) or name in _OTHERS]
        sizes = dict(files)
        for parts in _batches(files):
            rows = await _read(connection, directory, parts)
            pieces = list[bytes]()
            for (name, start, length), (content,) in zip(parts, rows, strict=True):
                if len(content) != length:
                    raise ServerRefusedError(f"{template_database} was changed while it was read.", sqlstate="55006")
                if start == 0:
                    pieces.append(_header(name, sizes[name]))
                pieces.append(content if name in _OTHERS else _without_log(content, page))
                if start + length == sizes[name]:
                    pieces.append(bytes(-sizes[name] % tarfile.BLOCKSIZE))
            yield b"".join(pieces)
    yield _header(COMPLETE, 0) + bytes(2 * tarfile.BLOCKSIZE)


def _batches(files: list[tuple[str, int]]) -> Iterator[list[Part]]:
    """Yield what to read at once: some small files, or a part of a large one."""
    batch, bytes_in_it = list[Part](), 0
    for name, size in files:
        for start in range(0, max(1, size), _CHUNK):
            length = min(_CHUNK, size - start)
            if batch and bytes_in_it + length > _CHUNK:
                yield batch
                batch, bytes_in_it = [], 0
            batch.append((name, start, length))
            bytes_in_it += length
    if batch:
        yield batch


async def _read(connection: Connection, directory: str, parts: list[Part]) -> list[TupleRow]:
    names, starts, lengths = zip(*parts, strict=True)
    async with connection.cursor(binary=True) as cursor:
        await cursor.execute(_CONTENT, [directory, list(names), list(starts), list(lengths)])
        return await cursor.fetchall()


def _header(name: str, size: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = size, 0o600, _WRITTEN_AT
    return entry.tobuf(tarfile.USTAR_FORMAT)


def _without_log(pages: bytes, page: int) -> bytes:
    """Return the pages with no position in the log of changes: another server's log does not reach that far."""
    changed = bytearray(pages)
    for at in range(_LSN):
        changed[at::page] = bytes(len(range(at, len(changed), page)))
    return bytes(changed)
