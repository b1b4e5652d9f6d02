"""Places for the embedded backend, and backends on them."""

import asyncio
import contextlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from leasedb_server.backends.embedded import EmbeddedBackend, EmbeddedSettings
from leasedb_server.domain.errors import BackendUnavailableError
from leasedb_server.domain.names import daemon_prefix, new_daemon_id
from tests.contracts.backend_embedded.servers import NOBODY, SOME_MEMORY
from tests.daemons import open_directory


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """One place for the tests of this file, so that initdb runs once per version."""
    path = open_directory()
    yield path / "servers"
    shutil.rmtree(path)


@pytest.fixture
def fresh_root() -> Iterator[Path]:
    path = open_directory()
    yield path / "servers"
    shutil.rmtree(path)


@pytest.fixture
def closed_root() -> Iterator[Path]:
    """As below a home directory: nobody but its owner can pass through the parent."""
    path = Path(tempfile.mkdtemp(prefix="leasedb-test-")).resolve()
    yield path / "servers"
    shutil.rmtree(path)


@pytest.fixture
def daemon_id() -> str:
    return new_daemon_id()


@pytest.fixture
def replacement(daemon_id) -> Iterator[Path]:
    """What is used instead of a root that Postgres cannot reach."""
    path = Path(tempfile.gettempdir()) / daemon_prefix(daemon_id).rstrip("_")
    yield path
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


@pytest.fixture(params=[0, SOME_MEMORY], ids=["disk", "memory"])
def memory(request) -> int:
    """For tests that hold wherever a server's files lie."""
    if request.param and sys.platform != "linux":
        pytest.skip("needs a file system in memory")
    return request.param


@pytest.fixture
def make(daemon_id, root, fresh_root, closed_root, replacement) -> Iterator[Callable[..., EmbeddedBackend]]:
    """Make backends; those of one test share a daemon id unless they are given another, and use disks."""
    made: list[EmbeddedBackend] = []

    def build(daemon: str = daemon_id, at: Path = root, choose_port=None, memory=0, **settings) -> EmbeddedBackend:
        options = {} if choose_port is None else {"choose_port": choose_port}
        made.append(EmbeddedBackend(EmbeddedSettings(daemon, at, memory=memory, **settings), **options))
        return made[-1]

    yield build
    for backend in made:
        with contextlib.suppress(BackendUnavailableError):
            asyncio.run(backend.sweep(NOBODY))
        asyncio.run(backend.close())
