"""A daemon in the background: started where none runs, once, apart from whoever needed it."""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

import leasedb
from leasedb._starting import Starter
from leasedb._statedir import Patience, alone, default_state_dir, is_locked
from leasedb_server.settings import Settings
from tests.client.processes import environment
from tests.client.twins import Twin
from tests.conftest import EMBEDDED
from tests.daemons import clean_environment, free_port, open_directory
from tests.waiting import until

needs_embedded = pytest.mark.skipif(not EMBEDDED, reason="needs Postgres from a wheel")

LEASE = """
import leasedb
with leasedb.Client() as client, client.lease():
    print(client.health().pid)
"""
START = "import leasedb; client = leasedb.Client(); client.start(); client.close()"


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE  # whoever has orphans here may take its time
    except psutil.NoSuchProcess:
        return False


@dataclass
class Place:
    """Where a daemon of a test is started: a port and a directory of its own."""

    directory: Path = field(default_factory=open_directory)
    port: int = field(default_factory=free_port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def settings(self) -> dict[str, str]:
        return {
            "LEASEDB_URL": self.url,
            "LEASEDB_STATE_DIR": str(self.directory),
            "LEASEDB_BACKEND": "embedded",
            "LEASEDB_POOL_READY": "1",
            "LEASEDB_AUTOSTART": "1",
        }

    def python(self, code: str, **options: object) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code],
            env=environment(self.url, **self.settings),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **options,
        )

    @property
    def log(self) -> str:
        file = self.directory / "daemon.log"
        return file.read_text() if file.exists() else ""

    @property
    def starts(self) -> int:
        return self.log.count("\n--- ") + self.log.startswith("--- ")

    def read_started(self) -> str:
        file = self.directory / "started.pid"
        return file.read_text() if file.exists() else ""

    @property
    def pid(self) -> int:
        """The process that holds the directory; 0: none does."""
        with contextlib.suppress(FileNotFoundError), (self.directory / "daemon.lock").open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(json.loads(lock.read() or "{}").get("pid", 0))
        return 0

    def end(self) -> None:
        if pid := self.pid:
            os.kill(pid, signal.SIGTERM)
            until(lambda: not _lives(pid), 40, f"the daemon to end:\n{self.log}")
        shutil.rmtree(self.directory)


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A place for a daemon, and this process's environment such that clients start it there."""
    for name in set(os.environ) - set(clean_environment()):
        monkeypatch.delenv(name)
    chosen = Place()
    for name, value in chosen.settings.items():
        monkeypatch.setenv(name, value)
    yield chosen
    chosen.end()


@needs_embedded
@pytest.mark.parametrize("kind", ["Client", "AsyncClient"])
def test_a_lease_starts_a_daemon_that_stands_apart(place, monkeypatch, tmp_path, kind):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    with Twin(kind) as twin:
        client = twin.connect()
        assert client.log is None
        with client.lease() as lease:
            assert lease.state == "active"
        health = client.health()
        assert client.log == place.directory / "daemon.log"
        assert client.log.stat().st_mode & 0o077 == 0
    daemon = psutil.Process(health.pid)
    ours = psutil.Process()
    assert daemon not in ours.children(recursive=True)
    assert [child for child in ours.children() if child.status() == psutil.STATUS_ZOMBIE] == []
    assert os.getsid(health.pid) != os.getsid(0)
    assert daemon.terminal() is None
    assert daemon.cwd() == str(tmp_path)
    its = daemon.environ()
    assert not [name for name in its if name.startswith(("PYTEST_", "COV_CORE_", "COVERAGE_PROCESS_"))]
    assert "PYTHONWARNINGS" not in its
    assert its["LEASEDB_IDLE_EXIT"] == "600"
    files = [str(Path(f"/proc/{health.pid}/fd/{number}").readlink()) for number in (0, 1, 2)]
    assert files == [os.devnull, str(place.directory / "daemon.log"), str(place.directory / "daemon.log")]


@needs_embedded
def test_a_token_in_the_file_is_known_to_whoever_starts_the_daemon_there(place, monkeypatch, tmp_path):
    (tmp_path / "leasedb.toml").write_text("token = 'sesame'\n")
    monkeypatch.chdir(tmp_path)
    with leasedb.Client() as client, client.lease() as lease:
        assert lease.state == "active"
    monkeypatch.chdir("/")
    with leasedb.Client() as stranger, pytest.raises(leasedb.UnauthorizedError, match=r"leasedb\.toml"):
        stranger.acquire()


@needs_embedded
def test_many_at_once_start_one(place):
    asking = [place.python(LEASE) for _ in range(8)]
    told = [process.communicate(timeout=60) for process in asking]
    assert {answer for answer, _ in told} == {f"{place.pid}\n"}, told
    said = [line for _, lines in told for line in lines.splitlines()]  # where it takes more than two seconds
    assert [line for line in said if not line.endswith(f" (log: {place.directory / 'daemon.log'})")] == []
    assert place.starts == 1


@needs_embedded
def test_one_that_is_killed_while_it_starts_leaves_the_daemon_to_the_next(place):
    first = place.python(START)
    until(place.read_started, what="the daemon's process")
    first.kill()
    first.communicate()
    with leasedb.Client() as client:
        assert client.start().pid == int(place.read_started())
        assert client.log is not None
    assert place.starts == 1


@needs_embedded
def test_it_goes_when_it_is_idle_and_comes_back(place, monkeypatch):
    monkeypatch.setenv("LEASEDB_IDLE_EXIT", "0.5")
    with leasedb.Client() as client:
        with client.lease():
            first = place.pid
        until(lambda: not place.pid, 20, "the daemon to have nothing to do")
        until(lambda: not _lives(first), what="its end")
        with client.lease():
            assert place.pid not in {0, first}
    assert place.starts == 2


@needs_embedded
def test_a_daemon_that_stops_is_waited_for(place):
    with leasedb.Client() as client:
        first = client.start().pid
        with client.lease():
            os.kill(first, signal.SIGTERM)
        # it may take this one yet, and end it; the other line is a new connection
        with contextlib.suppress(leasedb.LeasedbError):
            client.acquire().release()
        until(lambda: place.pid != first, 30, "the daemon to stop")
        with client.lease() as lease:
            assert lease.state == "active"
        assert client.health().pid != first


@needs_embedded
def test_one_that_dies_comes_back_with_the_next_lease_and_not_by_a_heartbeat(place):
    with leasedb.Client() as client, client.lease() as lease:
        first = client.health().pid
        os.kill(first, signal.SIGKILL)
        until(lambda: not _lives(first), what="the end of the daemon")
        with pytest.raises(leasedb.DaemonUnreachableError):
            lease.renew()
        with pytest.raises(leasedb.DaemonUnreachableError):
            client.leases()
        assert place.starts == 1
        with client.lease():
            assert client.health().pid != first
        assert lease.renew(30) > 0
    assert place.starts == 2


@needs_embedded
def test_whoever_reads_our_output_need_not_wait_for_the_daemon(place, cli):
    done = cli(place.url, "exec", "--", "sh", "-c", "echo $PGDATABASE", env=place.settings)  # reads to the end of file
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("leasedb_")
    shown = cli(place.url, "status", env=place.settings).stdout.splitlines()
    assert shown[1] == f"log      {place.directory / 'daemon.log'}"
    pid = place.pid
    done = cli(place.url, "stop")
    assert (done.stdout, done.stderr) == (f"stopped the daemon at {place.url}, process {pid}\n", "")
    assert not _lives(pid)
    assert place.pid == 0
    done = cli(place.url, "stop")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"leasedb: No leasedb daemon answers at {place.url}: Connection refused.\n"


def test_who_waits_is_told_for_what(place):
    script, end = place.directory / "python", place.directory / "end"
    script.write_text(
        f'#!/bin/sh\ncase "$1" in -P) echo Beginning.; echo "Pulling acme/postgres:1: 1 of 2 MB."\n'
        f'while [ ! -e {end} ]; do sleep 0.1; done; echo "leasedb: Given up."; exit 1\n'
        f';; esac\nexec {sys.executable} "$@"\n'
    )
    script.chmod(0o755)
    code = f"import sys; sys.executable = {str(script)!r}\n{START}"
    first = place.python(code)
    until(lambda: "Pulling" in place.log, what="the daemon's words")
    second = place.python(code)
    try:
        said = [process.stderr.readline() for process in (first, second)]
    finally:
        end.touch()
        ends = [process.communicate(timeout=30)[1] for process in (first, second)]
    log = f"(log: {place.directory / 'daemon.log'})\n"
    assert said[0] == f"starting a daemon: Pulling acme/postgres:1: 1 of 2 MB {log}"
    assert said[1] == f"another process is starting a daemon, and this one waits for it {log}"
    assert ["Given up." in text for text in ends] == [True, True]


def test_what_is_told_comes_neither_too_soon_nor_twice():
    now = 0.0
    patience = Patience(60, threading.Event(), clock=lambda: now)
    said = ((1.9, "a", ""), (2, "b", "b"), (11, "c", ""), (12, "b", ""), (14, "d", "d"), (15, "e", ""), (24, "f", "f"))
    for at, words, told in said:
        now = at
        assert patience.news(lambda words=words: words) == told
    assert patience.lasts()
    now = 60.0
    assert not patience.lasts()


# --- what cannot be started ---


def test_the_daemons_own_words(place, connect, monkeypatch):
    monkeypatch.setenv("LEASEDB_PG_BIN", "/nowhere")
    client = connect()
    with pytest.raises(leasedb.DaemonStartError) as caught:
        client.acquire()
    assert str(caught.value) == (
        f"No daemon could be started at {place.url}. LEASEDB_PG_BIN is /nowhere, which has no program 'postgres'. "
        "Set it to the folder that holds the programs 'postgres' and 'initdb'. "
        f"(Its log: {place.directory / 'daemon.log'})"
    )
    assert place.pid == 0


def test_a_long_log_is_moved_away(place, monkeypatch):
    monkeypatch.setenv("LEASEDB_PG_BIN", "/nowhere")
    old = "x" * 2**20 + "\n"
    (place.directory / "daemon.log").write_text(old)
    for _ in range(2):
        with leasedb.Client() as client, pytest.raises(leasedb.DaemonStartError, match="LEASEDB_PG_BIN"):
            client.start()
    assert (place.directory / "daemon.log.1").read_text() == old
    assert place.starts == 2


def test_a_setting_that_is_wrong(place, monkeypatch, tmp_path):
    (tmp_path / "leasedb.toml").write_text("pool_ready = 'many'\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LEASEDB_POOL_READY")
    with leasedb.Client() as client, pytest.raises(leasedb.DaemonStartError, match="A setting is wrong: pool_ready"):
        client.start()


def test_without_the_daemons_packages(place):
    hide = "import sys; sys.executable = sys.argv[1]\n"
    script = place.directory / "python"
    script.write_text(
        f'#!/bin/sh\ncase "$1" in -P) exec {sys.executable} -c "\n'
        "import sys; sys.modules['uvloop'] = None\n"
        "from leasedb.cli import main; sys.exit(main(['serve']))\n"
        f'";; esac\nexec {sys.executable} "$@"\n'
    )
    script.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", hide + START, str(script)],
        env=environment(place.url, **place.settings),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert "leasedb._errors.DaemonStartError" in done.stderr
    assert "pip install 'leasedb[server,embedded]'" in done.stderr.splitlines()[-1]


@needs_embedded
def test_a_state_directory_that_another_daemon_has(place, daemon, monkeypatch):
    monkeypatch.setenv("LEASEDB_STATE_DIR", str(daemon.state_dir))
    with leasedb.Client() as client, pytest.raises(leasedb.DaemonStartError) as caught:
        client.start()
    assert f"listening at {daemon.url}" in str(caught.value)
    assert "LEASEDB_STATE_DIR" in str(caught.value)


def test_a_state_directory_that_cannot_be(place, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LEASEDB_STATE_DIR", str(tmp_path / "file" / "state"))
    with leasedb.Client() as client, pytest.raises(leasedb.DaemonStartError) as caught:
        client.start()
    assert str(caught.value) == (
        f"No daemon can be started: its state directory {tmp_path / 'file' / 'state'} cannot be used: Not a directory. "
        "It must be writable for this user, with some room; or choose another with LEASEDB_STATE_DIR."
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_a_full_disk(place):
    (place.directory / "daemon.log").symlink_to("/dev/full")
    with (
        leasedb.Client() as client,
        pytest.raises(leasedb.DaemonStartError, match=r"No space left on device.*STATE_DIR"),
    ):
        client.start()
    (place.directory / "daemon.log").unlink()


class _Elsewhere(BaseHTTPRequestHandler):
    def do_GET(self):  # the name http.server looks for
        self.send_error(404)

    do_POST = do_GET  # noqa: N815 - likewise

    def log_message(self, *_args):
        """Say nothing."""


def test_a_port_that_something_else_has(place, connect):
    with HTTPServer(("127.0.0.1", place.port), _Elsewhere) as other:
        thread = threading.Thread(target=other.serve_forever, args=(0.01,))
        thread.start()
        try:
            with pytest.raises(leasedb.UnexpectedAnswerError, match="is not a leasedb daemon"):
                connect().start()
        finally:
            other.shutdown()
            thread.join()
    assert place.log == ""


@pytest.mark.parametrize("off", ["0", "false", " No ", "OFF"])
def test_turned_off(place, connect, monkeypatch, off):
    monkeypatch.setenv("LEASEDB_AUTOSTART", off)
    for call in ("acquire", "start"):
        with pytest.raises(leasedb.DaemonUnreachableError) as caught:
            getattr(connect(), call)()
        assert "Start one with: leasedb serve" in str(caught.value)
    assert not list(place.directory.iterdir())


def test_who_gives_up_does_not_wait(place, connect):
    """As the thread of a task that is cancelled."""
    given_up = threading.Event()
    given_up.set()
    Starter(place.url, state_dir=place.directory).start(given_up)
    assert place.starts == 0


# --- where it is kept ---


@pytest.mark.parametrize("root", [True, False])
@pytest.mark.parametrize("more", [{}, {"XDG_STATE_HOME": "/some/where"}, {"LEASEDB_STATE_DIR": "~/mine"}])
def test_the_state_directory_is_the_daemons(root, more):
    if root and os.geteuid() != 0:
        pytest.skip("only root can be root")
    code = (
        "import os; from leasedb._statedir import default_state_dir; from leasedb_server.settings import Settings\n"
        f"if not {root} and os.geteuid() == 0: os.seteuid(65534)\n"
        "print(default_state_dir()); print(Settings().state_dir)"
    )
    kept = {name: value for name, value in clean_environment().items() if name != "XDG_STATE_HOME"}
    command = [sys.executable, "-c", code]
    ours, theirs = subprocess.check_output(command, env={**kept, **more}, text=True, cwd="/").splitlines()
    assert ours == theirs


def test_the_state_directory_of_the_file(monkeypatch, tmp_path):
    (tmp_path / "leasedb.toml").write_text("state_dir = 'here'\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LEASEDB_STATE_DIR", raising=False)
    assert default_state_dir() == Settings().state_dir == tmp_path / "here"


# --- a server that exists ---


def test_each_server_has_an_address_that_stays(place):
    first, again = Starter.for_server("postgresql://a:s3cret@db/x"), Starter.for_server("postgresql://a:s3cret@db/x")
    other = Starter.for_server("postgresql://b@db/x")
    assert (first.url, first.log) == (again.url, again.log)
    assert first.log.parent.parent == place.directory
    assert first.log.parent.name.startswith("existing-")
    assert {first.url, first.log}.isdisjoint({other.url, other.log})
    assert "s3cret" not in repr(first)
    with socket.create_server(("127.0.0.1", int(first.url.rpartition(":")[2]))):
        assert Starter.for_server("postgresql://a:s3cret@db/x").url != first.url


@pytest.mark.parametrize(
    "garbage",
    [b"", b"99999999999999", b"-1", b"0", b"65536", b"\xff\x00", b"9" * 5000, b"7432\n7433", b"none"],
    ids=lambda garbage: repr(garbage[:14]),
)
def test_a_port_file_that_says_nothing_of_use_counts_as_none(place, garbage):
    file = Starter.for_whole_servers().log.with_name("port")
    file.write_bytes(garbage)
    starter = Starter.for_whole_servers()
    assert int(file.read_text()) == urlsplit(starter.url).port
    assert Starter.for_whole_servers().url == starter.url


@pytest.mark.parametrize("garbage", [b"", b"\n", b"\xff\x00", b"two words"], ids=repr)
def test_a_token_file_that_says_nothing_of_use_counts_as_none(place, garbage):
    file = Starter.for_whole_servers().log.with_name("token")
    file.write_bytes(garbage)
    token = Starter.for_whole_servers().token
    assert token == file.read_text()
    assert len(token) == 32
    assert file.stat().st_mode & 0o077 == 0
    file.write_text(f"{token}\n")  # as an editor leaves it
    assert Starter.for_whole_servers().token == token


def test_a_daemon_that_runs_is_found_whatever_its_port_file_says(place):
    directory = Starter.for_whole_servers().log.parent
    port = free_port()
    with socket.create_server(("127.0.0.1", port)), (directory / "daemon.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(json.dumps({"pid": 1, "url": f"http://127.0.0.1:{port}"}))
        lock.flush()
        (directory / "port").write_text("99999999999999")
        assert Starter.for_whole_servers().url == f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("holder", ["", "[", '"text"', '{"url": 5}', '{"url": "http://["}', '{"url": "http://h:x"}'])
def test_a_lock_file_that_says_nothing_of_use_is_no_reason_to_break(place, holder):
    directory = Starter.for_whole_servers().log.parent
    with (directory / "daemon.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(holder)
        lock.flush()
        (directory / "port").unlink()
        assert urlsplit(Starter.for_whole_servers().url).port


def test_a_server_that_does_not_answer_leaves_a_log_and_no_directory(place, monkeypatch):
    """Each mistyped address has a directory of its own."""
    monkeypatch.setenv("LEASEDB_START_TIMEOUT", "1")
    log = place.directory / "failed-start.log"
    for name in ("a", "b"):
        starter = Starter.for_server(f"postgresql://{name}:s3cret@127.0.0.1:{free_port()}/x")
        with leasedb.Client(autostart=starter) as client:
            assert client.url == starter.url
            for _ in range(2):  # the second time in a directory that has to be made again
                with pytest.raises(leasedb.DaemonStartError, match="onnection refused") as caught:
                    client.acquire()
                assert str(caught.value).endswith(f"(Its log: {log})")
        assert "s3cret" not in str(caught.value)
        assert f" at {starter.url}, for process " in log.read_text()
        assert "onnection refused" in log.read_text()
        assert list(place.directory.iterdir()) == [log]
    assert log.stat().st_mode & 0o077 == 0


def test_a_directory_with_the_records_of_an_earlier_daemon_stays(place, monkeypatch):
    monkeypatch.setenv("LEASEDB_START_TIMEOUT", "nonsense")  # it does not come to reading them
    starter = Starter.for_server("postgresql://a@127.0.0.1/x")
    records = starter.log.with_name("leasedb.sqlite")
    records.write_text("earlier")
    with leasedb.Client(autostart=starter) as client, pytest.raises(leasedb.DaemonStartError) as caught:
        client.acquire()
    assert str(caught.value).endswith(f"(Its log: {starter.log})")
    assert records.read_text() == "earlier"
    assert Starter.for_server("postgresql://a@127.0.0.1/x").url == starter.url


def test_who_waited_for_a_directory_that_was_taken_away_begins_anew(tmp_path):
    directory, patience = tmp_path / "state", Patience(30, threading.Event())
    waits, held = threading.Event(), threading.Event()

    class Waiting(Patience):
        def pause(self) -> None:
            waits.set()
            super().pause()

    def wait() -> None:
        with alone(directory, Waiting(30, threading.Event())):
            if is_locked(directory / "start.lock"):
                held.set()

    second = threading.Thread(target=wait)
    with alone(directory, patience):
        second.start()
        assert waits.wait(10)
        shutil.rmtree(directory)
    second.join(30)
    assert held.is_set()
