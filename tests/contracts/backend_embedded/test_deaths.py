"""Servers and daemons of the embedded backend that die at any moment leave nothing behind."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import psutil
import psycopg
import pytest

from leasedb_server.domain.errors import ServerStartError
from leasedb_server.domain.names import new_daemon_id
from leasedb_server.domain.server import Endpoint
from tests.contracts.backend_embedded.servers import (
    NOBODY,
    SOME_MEMORY,
    alive,
    as_embedded,
    assert_nothing_left,
    check,
    connect,
    directory,
    name_for,
    postmaster_file,
    processes_of,
    remains,
    segments,
    started,
)
from tests.waiting import until

pytestmark = as_embedded


def _spin(connection: psycopg.Connection) -> None:
    with pytest.raises(psycopg.OperationalError):
        connection.execute("DO 'BEGIN LOOP END LOOP; END'")


def test_a_killed_postmaster_is_noticed_and_leaves_nothing(make, root, memory):
    backend = make(memory=memory)
    name, endpoint = started(backend)
    lines = postmaster_file(root, name)
    # a backend that computes does not notice the death of its postmaster
    busy = connect(endpoint)
    spin = threading.Thread(target=_spin, args=(busy,))
    spin.start()
    until(
        lambda: [each for each in processes_of(name) if " DO" in " ".join(each.cmdline())], what="the backend is busy"
    )
    os.kill(int(lines[0]), signal.SIGKILL)
    until(lambda: not alive(backend, name), what="the death is noticed")
    assert "ready to accept connections" in asyncio.run(backend.logs(name, 50))  # also when the directory has gone
    asyncio.run(backend.stop(name))
    spin.join(10)
    busy.close()
    assert_nothing_left(root, name)
    assert lines[6].split()[1] not in segments()


def test_a_killed_server_is_swept_by_the_next_daemon(make, root, memory):
    backend = make(memory=memory)
    name, _ = started(backend)
    lines = postmaster_file(root, name)
    for process in processes_of(name):  # the watchdog too, so that nobody tidies up
        with contextlib.suppress(psutil.NoSuchProcess):
            for each in [*process.children(), process]:  # a watchdog's nap
                each.kill()
    until(lambda: not alive(backend, name), what="the death is noticed")
    later = make(memory=memory)
    assert not alive(later, name)
    assert asyncio.run(later.sweep(NOBODY)) == [name]
    assert_nothing_left(root, name)
    assert lines[6].split()[1] not in segments()


def test_a_stopped_postmaster_is_killed(make, root):
    backend = make()
    name, _ = started(backend)
    lines = postmaster_file(root, name)
    os.kill(int(lines[0]), signal.SIGSTOP)
    asyncio.run(backend.stop(name))
    assert_nothing_left(root, name)
    assert lines[6].split()[1] not in segments()


def test_without_a_daemon_a_server_stops_by_itself(make, root, memory):
    name, endpoint = started(make(orphan_timeout=2, memory=memory))
    with connect(endpoint) as connection:
        connection.execute(f"COPY (SELECT 1) TO '{endpoint.heartbeat}'")
    segment = {root / f"{name}.segment"}  # the kernel's, and gone with a postmaster that was told to end
    until(lambda: set(remains(root, name)) <= segment, limit=20, what="the watchdog deletes all there is")
    until(lambda: not processes_of(name), what="all processes are gone")


def test_a_running_name_is_not_started_again(make):
    backend = make()
    name, endpoint = started(backend)
    with pytest.raises(ServerStartError, match="already"):
        asyncio.run(backend.start(name))
    with connect(endpoint) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


_DAEMON = """
import asyncio, sys
from pathlib import Path
from leasedb_server.backends.embedded import EmbeddedBackend, EmbeddedSettings

async def main(daemon, root, name, memory):
    endpoint = await EmbeddedBackend(EmbeddedSettings(daemon, Path(root), memory=int(memory))).start(name)
    print(endpoint.port, endpoint.password, flush=True)
    await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def daemon_process(root) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Run another process that starts a server and stays."""
    running: list[subprocess.Popen[str]] = []

    def run(daemon: str, name: str, memory: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", _DAEMON, daemon, str(root), name, str(memory)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment))
        return running[-1]

    yield run
    for process in running:
        process.kill()
        process.communicate()


def test_a_server_outlives_its_daemon_and_is_known_to_the_next(make, root, daemon_process, memory):
    backend = make(memory=0 if memory else SOME_MEMORY)  # the setting was changed in between
    check(backend)
    name = name_for(backend)
    first = daemon_process(backend._settings.daemon, name, memory)
    port, password = first.stdout.readline().split()
    first.kill()
    first.wait()
    endpoint = Endpoint("127.0.0.1", int(port), "postgres", password)
    assert alive(backend, name)
    with connect(endpoint) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert asyncio.run(backend.sweep(frozenset({name}))) == []
    assert alive(backend, name)
    assert "ready to accept connections" in asyncio.run(backend.logs(name, 50))
    asyncio.run(backend.stop(name))
    assert_nothing_left(root, name)


@pytest.mark.parametrize("reached", ["", "data", "log", "data/postmaster.pid"])
def test_a_daemon_killed_while_starting_a_server_leaves_it_to_the_next(make, root, daemon_process, reached, memory):
    started(other := make(new_daemon_id()))
    asyncio.run(other.close())  # so that the prepared directory is there
    backend = make()
    name = name_for(backend)
    first = daemon_process(backend._settings.daemon, name, memory)

    def there() -> bool:
        return (directory(root, name) / reached).exists()

    until(there, limit=30, what=f"the start reaches {reached or 'its directory'}")
    first.kill()
    first.wait()
    assert asyncio.run(backend.sweep(NOBODY)) == [name]
    assert_nothing_left(root, name)


def test_sweeps_only_what_is_its_own(make, root):
    mine, foreign = make(), make(new_daemon_id())
    kept, _ = started(mine)
    gone, _ = started(mine)
    theirs, endpoint = started(foreign)
    other = root / "leasedb_notes"
    other.mkdir()
    assert asyncio.run(mine.sweep(frozenset({kept}))) == [gone]
    assert alive(mine, kept)
    assert alive(foreign, theirs)
    with connect(endpoint) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert other.exists()
    other.rmdir()
    assert_nothing_left(root, gone)


def test_a_cancelled_start_leaves_nothing(make, root, memory):
    backend = make(memory=memory)
    started(backend)
    name = name_for(backend)

    async def cancel_when_under_way() -> None:
        start = asyncio.create_task(backend.start(name))
        await asyncio.to_thread(until, lambda: directory(root, name).exists())
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start

    asyncio.run(cancel_when_under_way())
    assert_nothing_left(root, name)
