"""What keeps a daemon from starting: one clear line that says what to do, and an exit code that is not 0."""

import contextlib
import json
import os
import pty
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator

import httpx
import pytest

from leasedb_server.store import SqliteStore
from tests.contracts import engines
from tests.contracts.bench import tar
from tests.contracts.registry import Registry
from tests.daemons import RealDaemon, clean_environment, free_port, open_directory
from tests.waiting import until

Make = Callable[..., RealDaemon]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[RealDaemon] = []

    def one(environment: dict[str, str] | None = None, **settings: str) -> RealDaemon:
        made.append(RealDaemon({"POOL_READY": "1", **settings}, environment or {}))
        return made[-1]

    yield one
    for daemon in made:
        daemon.remove()


def refusal(daemon: RealDaemon) -> str:
    """Start a daemon that cannot start and return the one line it says."""
    process = daemon.spawn()
    assert process.wait(60) == 1, daemon.log
    [line] = [line for line in daemon.log.splitlines() if line.startswith("leasedb: ")]
    assert "Traceback" not in daemon.log
    return line


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"HOST": "0.0.0.0"}, "set LEASEDB_TOKEN"),
        ({"HOST": "0.0.0.0", "TOKEN": ""}, "set LEASEDB_TOKEN"),
        ({"TOKEN": "geheim, ähem"}, "visible ASCII"),
        ({"PORT": "seven"}, "port"),
        ({"POOL_READY": "-1"}, "pool_ready"),
        ({"BACKEND": "cloud"}, "backend"),
        ({"BACKEND": "existing"}, "LEASEDB_EXISTING_DSN"),
        ({"BACKEND": "existing", "EXISTING_DSN": "postgresql://a b"}, "is no DSN"),
        ({"BACKEND": "existing", "EXISTING_DSN": "postgresq://u:secret@127.0.0.1:1/x"}, "libpq cannot read it"),
        ({"BACKEND": "existing", "EXISTING_DSN": "postgresql://u:secret/more@127.0.0.1/x"}, "%2F"),
        ({"BACKEND": "existing", "EXISTING_DSN": "postgresql://u:se@secret@127.0.0.1/x"}, "%40"),
        ({"BACKEND": "existing", "EXISTING_DSN": "postgresql://u:secret@127.0.0.1:1/x"}, "127.0.0.1:1"),
        ({"BACKEND": "existing", "EXISTING_DSN": "postgresql+psycopg://u:secret@127.0.0.1:1/x"}, "Is it up? Check"),
        ({"BACKEND": "existing", "EXISTING_DSN": "postgres://u:secret@127.0.0.1:1/x"}, "Is it up? Check"),
        ({"DEFAULT_TTL": "10", "MAX_TTL": "5"}, "default_ttl"),
        ({"POSTGRES": "17"}, "17"),
        ({"PG_BIN": "/nowhere"}, "/nowhere"),
        ({"HOST": "no.such.host.invalid", "TOKEN": "t"}, "no.such.host.invalid"),
    ],
)
def test_a_wrong_setting_is_named(make, settings, said):
    line = refusal(make(START_TIMEOUT="2", **settings))
    assert said in line
    assert "secret" not in line


def test_a_wrong_file_is_named(make):
    daemon = make()
    (daemon.directory / "leasedb.toml").write_text("pool_redy = 3\n")
    assert "pool_redy" in refusal(daemon)
    (daemon.directory / "log").unlink()
    (daemon.directory / "leasedb.toml").write_text("pool_ready = \n")
    assert "leasedb.toml" in refusal(daemon)


def test_the_file_counts_less_than_the_environment(make):
    daemon = make(POOL_READY="1")
    (daemon.directory / "leasedb.toml").write_text("pool_ready = 3\npool_max = 7\n")
    daemon.start()
    daemon.full()
    pool = daemon.get("/pool")
    assert (pool["per"][0]["target"], pool["max"]) == (1, 7)


def test_a_taken_port_is_said(make):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        line = refusal(make(PORT=str(taken.getsockname()[1])))
    assert "cannot listen" in line
    assert "LEASEDB_PORT" in line


def test_a_second_daemon_says_who_holds_the_state_directory(make):
    first = make().start()
    second = make(STATE_DIR=str(first.state_dir))
    line = refusal(second)
    assert f"process {first.process.pid}" in line
    assert first.url in line
    assert first.get("/healthz")["pid"] == first.process.pid


@pytest.mark.parametrize("content", [b"not a database, whatever it says", b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_damaged_state_file_is_said(make, content):
    daemon = make()
    daemon.state_dir.mkdir()
    (daemon.state_dir / "leasedb.sqlite").write_bytes(content)
    line = refusal(daemon)
    assert "leasedb.sqlite" in line
    assert "move it away" in line


def test_a_state_directory_that_is_a_file_is_said(make):
    daemon = make()
    daemon.state_dir.write_text("")
    assert "LEASEDB_STATE_DIR" in refusal(daemon)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize("options", ["ro", "size=64k"], ids=["read-only", "full"])
def test_a_state_directory_that_takes_no_data_is_said(make, options):
    daemon = make()
    daemon.state_dir.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(daemon.state_dir)], check=False)
    if mounted.returncode:
        pytest.skip("this machine does not let us mount a tmpfs")
    try:
        line = refusal(daemon)
    finally:
        subprocess.run(["umount", str(daemon.state_dir)], check=True)
    assert str(daemon.state_dir) in line


def test_a_missing_image_is_said(make):
    line = refusal(make(BACKEND="container", IMAGE="127.0.0.1:9/no/image:at-all"))
    assert "127.0.0.1:9/no/image:at-all" in line or "No container engine answers" in line


def test_auto_falls_back_to_embedded_and_says_why(make):
    daemon = make(BACKEND="auto", IMAGE="127.0.0.1:9/no/image:at-all").start()
    servers = daemon.get("/servers")
    assert servers["backend"] == "embedded"
    assert "not container: " in servers["reason"]
    assert servers["reason"] in daemon.log


def test_auto_does_not_pull_where_embedded_works(make):
    docker, image = engines.engine("docker"), "pgvector/pgvector:pg18"
    if docker.has(image):
        pytest.skip("nothing is missing here")
    servers = make({"DOCKER_HOST": docker.address}, BACKEND="auto").start().get("/servers")
    assert servers["backend"] == "embedded"
    assert f"does not have the image; for containers run 'docker pull {image}' and start" in servers["reason"]


@pytest.mark.parametrize("settings", [{}, {"PG_BIN": "/nowhere"}], ids=["embedded works", "nothing else does"])
def test_auto_pulls_an_image_that_is_wanted_by_name(make, settings):
    docker = engines.engine("docker")
    with Registry({"leasedb-test/never": tar({"hello": "x"})}, stalling=True) as registry:
        image = f"{registry.host}/leasedb-test/never:latest"
        daemon = make({"DOCKER_HOST": docker.address}, BACKEND="auto", IMAGE=image, **settings)
        daemon.spawn()
        assert registry.asked.wait(30), daemon.log
        until(lambda: f"Pulling {image}" in daemon.log, what="a line that says so")


def test_a_daemon_that_pulls_ends_when_it_is_told_to_once(make):
    docker = engines.engine("docker")
    with Registry({"leasedb-test/never": tar({"hello": "x"})}, stalling=True) as registry:
        image = f"{registry.host}/leasedb-test/never:latest"
        daemon = make({"DOCKER_HOST": docker.address}, BACKEND="container", IMAGE=image)
        process = daemon.spawn()
        assert registry.asked.wait(30), daemon.log
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0, daemon.log
    assert "Traceback" not in daemon.log


@pytest.mark.parametrize("terminal", [True, False])
def test_the_banner_says_how_to_stop_it(make, terminal):
    daemon = make()
    daemon.port = free_port()
    ours, theirs = pty.openpty() if terminal else os.pipe()
    try:
        daemon.spawn(stdin=theirs if terminal else ours)
        until(lambda: "stop: " in daemon.log, 60, "the banner")
    finally:
        os.close(ours)
        os.close(theirs)
    [line] = [line for line in daemon.log.splitlines() if "stop: " in line]
    assert line.endswith("    stop: Ctrl-C" if terminal else f"    stop: leasedb stop --url {daemon.url}")


def test_the_state_file_is_nobody_elses(make):
    daemon = make().start()
    daemon.lease()
    files = [path for path in daemon.state_dir.iterdir() if path.is_file()]
    assert {path.name for path in files} >= {"leasedb.sqlite", "leasedb.sqlite-wal", "daemon.lock"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_what_libpq_reads_in_the_environment_is_meant_for_other_servers(make):
    daemon = make({"PGSSLMODE": "require", "PGSERVICE": "none", "PGHOSTADDR": "192.0.2.1", "PGTZ": "Nowhere"}).start()
    assert daemon.lease()["state"] == "active"


@pytest.mark.parametrize("name", ["a?b", "a%20b", "ä #"])
def test_a_state_directory_with_an_odd_name(make, name):
    daemon = make()
    daemon.settings = {**daemon.settings, "STATE_DIR": str(daemon.directory / name)}
    daemon.start()
    assert daemon.lease()["state"] == "active"
    assert {path.name for path in daemon.directory.iterdir()} == {name, "log"}


def test_a_token_is_asked_for(make):
    daemon = make(HOST="0.0.0.0", TOKEN="open-sesame")
    daemon.port = free_port()
    daemon.start()
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic open-sesame"}):
        answer = daemon.call("GET", "/pool", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"
    assert daemon.call("GET", "/pool", headers={"Authorization": "Bearer open-sesame"}).status_code == 200
    assert daemon.call("GET", "/healthz").status_code == 200
    assert "open-sesame" not in daemon.log


def test_json_log_lines_are_json(make):
    daemon = make(LOG_FORMAT="json").start()
    lines = [line for line in daemon.log.splitlines() if line.startswith("{")]
    assert any('"message": "server ' in line for line in lines)


def test_requests_wait_while_the_first_server_starts(make):
    daemon = make()
    daemon.port = free_port()
    daemon.spawn()

    def lease() -> httpx.Response | None:
        try:
            return daemon.call("POST", "/leases")
        except httpx.ConnectError:
            return None

    assert until(lease, 30).status_code == 201


def test_a_start_that_reached_no_server_leaves_no_state_file_but_that_which_was_there(make):
    daemon = make(BACKEND="existing", EXISTING_DSN="postgresql://u:p@127.0.0.1:1/x", START_TIMEOUT="1")
    file = daemon.state_dir / "leasedb.sqlite"
    refusal(daemon)
    assert [path.name for path in daemon.state_dir.iterdir()] == ["daemon.lock"]
    with contextlib.closing(SqliteStore(file)._driver) as driver:  # as an earlier daemon would
        driver.execute("INSERT INTO daemon VALUES ('earlier')")
        driver.commit()
    (daemon.directory / "log").unlink()
    refusal(daemon)
    with contextlib.closing(sqlite3.connect(file)) as driver:
        assert driver.execute("SELECT id FROM daemon").fetchall() == [("earlier",)]


def test_who_waits_for_a_first_server_that_never_comes_gets_an_answer(make):
    daemon = make(BACKEND="existing", EXISTING_DSN="postgresql://u:p@127.0.0.1:1/x", START_TIMEOUT="2")
    daemon.port = free_port()
    process = daemon.spawn()

    def lease() -> httpx.Response | None:
        try:
            return daemon.call("POST", "/leases")
        except httpx.ConnectError:
            assert process.poll() is None, daemon.log
            return None

    answer = until(lease, 30)
    assert (answer.status_code, answer.json()["code"]) == (503, "shutting-down")
    assert process.wait(30) == 1
    assert "Traceback" not in daemon.log


def test_a_look_by_the_doctor_leaves_nothing():
    directory = open_directory()
    try:
        code = "import json; from leasedb_server.cli import diagnose; print(json.dumps(diagnose()))"
        environment = {**clean_environment(), "LEASEDB_STATE_DIR": str(directory / "state"), "TMPDIR": str(directory)}
        said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert {kind for kind, _usable, _line in json.loads(said.stdout)} == {"container", "embedded"}
        assert list(directory.iterdir()) == []
    finally:
        shutil.rmtree(directory)
