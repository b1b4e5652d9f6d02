"""The command line, as processes of its own."""

import json
import shlex
import shutil
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import leasedb
from tests.client.stand_in import Fault, StandIn

ROOT = Path(__file__).parents[2]


@pytest.fixture
def nowhere() -> str:
    """A URL where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_version(cli, nowhere):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert cli(nowhere, "--version").stdout == f"leasedb {version}\n"


def test_help_names_every_command(cli, nowhere):
    out = cli(nowhere, "--help").stdout
    commands = "serve exec lease release kept reset branch template status psql doctor stop clean"
    for command in commands.split():
        assert f"    {command} " in out


def test_lease_prints_the_dsn_and_outlives_the_process(cli, daemon_url, run_id):
    done = cli(daemon_url, "lease", "--ttl", "60", "--label", f"run={run_id}", "--label", "x=a=b")
    assert done.returncode == 0
    [dsn] = done.stdout.splitlines()
    with leasedb.Client(daemon_url) as client:
        [lease] = client.leases(labels={"run": run_id})
        assert client.get(lease.id).dsn == dsn
        assert (lease.state, lease.holder.pid, lease.labels) == ("active", None, {"run": run_id, "x": "a=b"})
        assert lease.ttl == pytest.approx(60)
    assert f"lease {lease.id} ends at " in done.stderr
    assert f"in 1m 00s; sooner with: leasedb release {lease.id}\n" in done.stderr


def test_lease_as_json(cli, daemon_url):
    printed = json.loads(cli(daemon_url, "lease", "--json").stdout)
    with leasedb.Client(daemon_url) as client:
        lease = client.get(printed["id"])
    assert (printed["dsn"], printed["env"], printed["urls"]) == (lease.dsn, lease.env, lease.urls)
    assert printed["expires_at"].endswith("Z")
    assert (printed["holder"]["pid"], printed["ended_at"]) == (None, None)


def test_lease_for_a_shell_to_eval(cli, daemon_url):
    lines = cli(daemon_url, "lease", "--env").stdout
    script = f'{lines}\nprintf \'%s\\n\' "$LEASEDB_LEASE_ID" "$DATABASE_URL" "$PGPASSWORD"'
    ident, url, password = subprocess.check_output(["sh", "-euc", script], text=True).splitlines()
    with leasedb.Client(daemon_url) as client:
        lease = client.get(ident)
    assert (url, password) == (lease.dsn, lease.password)


def test_release(cli, daemon_url, run_id):
    with leasedb.Client(daemon_url) as client:
        first, second, third = (client.acquire(pid=None, labels={"run": run_id}) for _ in range(3))
        assert cli(daemon_url, "release", first.id).stdout == "released 1 lease\n"
        done = cli(daemon_url, "release", second.id, "nosuchlease", "--sync")
        assert (done.returncode, done.stdout) == (1, "released 1 lease\n")
        assert done.stderr.startswith("leasedb: ")
        assert len(done.stderr.splitlines()) == 1
        assert cli(daemon_url, "release", "--label", f"run={run_id}").stdout == "released 1 lease\n"
        assert {client.get(lease.id).state for lease in (first, second, third)} == {"released"}


def test_status(cli, daemon_url):
    with leasedb.Client(daemon_url) as client:
        lease = client.acquire(ttl=60, holder="some\nbody " + "x" * 100, labels={"run": "7"})
        out = cli(daemon_url, "status").stdout
        health, [server, *_] = client.health(), client.servers().servers
    assert out.startswith(f"daemon   {daemon_url}, leasedb {health.version}, pid {health.pid}, ready\n")
    [line] = [line for line in out.splitlines() if line.startswith(lease.id)]
    assert "some body xxx" in line
    assert "…" in line
    assert line.endswith("run=7")
    [line] = [line for line in out.splitlines() if line.startswith(server.id)]
    assert server.versions["postgres"] in line.split()
    assert lease.password not in out


def test_status_without_leases(cli, stand_in):
    assert "no active leases" in cli(stand_in.url, "status").stdout


def test_status_as_json(cli, daemon_url):
    with leasedb.Client(daemon_url) as client, client.lease() as lease:
        out = json.loads(cli(daemon_url, "status", "--json").stdout)
    assert lease.id in {active["id"] for active in out["leases"]}
    assert out["pool"]["leased"] >= 1
    assert out["servers"]["servers"][0]["state"] == "ready"


def test_status_at_a_glance(cli, stand_in):
    stand_in.to_come["suite", "base"] = 40
    lines = cli(stand_in.url, "status").stdout.splitlines()
    assert "pool     10 of 12 ready, 0 leased, 0 waiting (at most 100)" in lines
    rows = [line.split() for line in lines]
    assert rows[rows.index(["SERVER", "STATE", "ADDRESS", "POSTGRES", "VECTOR", "READY", "LEASED", "FILES"]) + 1] == [
        *("s1", "ready", "127.0.0.1:54321", "18.4", "0.8.1", "10", "1", "memory")
    ]
    assert rows[
        rows.index(["TEMPLATE", "SIZE", "WANTED", "READY", "PER", "SECOND", "ANNOUNCED", "CLONED", "IN"]) + 1
    ] == [*("base", "7.8", "MB", "12", "10", "0.5", "40", "9.1", "ms", "(file_copy)")]
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("now", "files", "note"),
    [
        ({"memory": None}, "disk", None),
        ({"port": None, "host": None}, "-", None),
        ({"place": "overflow"}, "disk", "note on s1: its 1024 MB of memory are used up, further databases go to"),
        ({"memory": None, "place": "none"}, "full", None),
        ({"connections": {"used": 90, "most": 97}}, "memory", "note on s1: 90 of 97 connections are in use"),
        ({"connections": None, "cloning": [], "workers": None}, "memory", None),
    ],
)
def test_status_of_a_server(cli, stand_in, now, files, note):
    stand_in.server_now = now
    out = cli(stand_in.url, "status").stdout
    [row] = [line for line in out.splitlines() if line.startswith("s1")]
    assert row.endswith(f" {files}")
    assert out.count("note on") == 1 + bool(note)
    assert note is None or note in out


def test_status_of_a_daemon_that_sleeps(cli, stand_in):
    stand_in.asleep = True
    out = cli(stand_in.url, "status").stdout
    assert out.splitlines()[0].endswith(", asleep")
    assert "no servers: the next lease starts one" in out
    assert "asleep until the next lease" in cli(stand_in.url, "doctor").stdout


def test_status_of_an_older_daemon(cli, nowhere):
    with StandIn(old=True) as daemon:
        out = cli(nowhere, "--url", daemon.url, "status").stdout
    assert "10 of 12 ready" in out
    rows = [line.split() for line in out.splitlines()]
    assert ["s1", "ready", "127.0.0.1:54321", "18.4", "0.8.1", "10", "1", "-"] in rows
    assert ["base", "-", "12", "10", "-", "-", "-"] in rows


def test_status_of_a_daemon_that_is_not_ready(cli, stand_in):
    stand_in.ready_problem = "its server is starting"
    assert "not ready: its server is starting" in cli(stand_in.url, "status").stdout


def test_doctor(cli, stand_in, nowhere):
    done = cli(stand_in.url, "doctor")
    assert done.returncode == 0
    assert f"ok  daemon     {stand_in.url}: leasedb" in done.stdout
    assert sys.executable in done.stdout
    assert f"no  daemon     No leasedb daemon answers at {nowhere}" in cli(nowhere, "doctor").stdout


@pytest.mark.parametrize("missing", [("fastapi", "uvicorn", "psutil", "docker", "pydantic", "uvloop"), ("fastapi",)])
def test_doctor_where_nothing_can_serve(cli, nowhere, tmp_path, missing):
    """A machine with the client alone, or with a half of the extra: what it brings cannot be imported."""
    done = cli(nowhere, "doctor", env=without(tmp_path, *missing))
    assert done.returncode == 1
    assert "pip install 'leasedb[server,embedded]'" in done.stdout
    assert "nothing can serve databases here" in done.stderr


@pytest.mark.parametrize("missing", [("fastapi", "uvicorn", "psutil", "docker", "pydantic", "uvloop"), ("fastapi",)])
def test_serve_where_the_extra_is_missing(cli, nowhere, tmp_path, missing):
    options = ("--port", "0", "--state-dir", str(tmp_path / "state"))
    done = cli(nowhere, "serve", *options, env=without(tmp_path, *missing))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("leasedb: the daemon needs ")
    assert done.stderr.endswith("pip install 'leasedb[server,embedded]'\n")


def without(folder: Path, *names: str) -> dict[str, str]:
    """An environment in which these packages are not installed."""
    hook = f"import sys\nfor name in {names}: sys.modules[name] = None\n"
    (folder / "sitecustomize.py").write_text(hook)
    return {"PYTHONPATH": ":".join([str(folder), *(path for path in sys.path if path)])}


@pytest.mark.parametrize("command", ["serve", "clean"])
def test_commands_of_the_daemon_get_its_settings(cli, nowhere, command):
    done = cli(nowhere, command, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: leasedb {command} ")
    assert "--state-dir" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "COMMAND"),
        (["nope"], "invalid choice: 'nope'"),
        (["exec"], "exec needs a command"),
        (["exec", "--"], "exec needs a command"),
        (["exec", "--ttl", "soon", "--", "true"], "'soon' is not a number of seconds"),
        (["exec", "--nope", "--", "true"], "--nope"),
        (["lease", "--label", "x"], "'x' is not KEY=VALUE"),
        (["lease", "--json", "--env"], "not allowed with"),
        (["release"], "needs either the ids"),
        (["release", "a", "--label", "b=c"], "needs either the ids"),
        (["status", "--", "ls"], "'status' runs no command"),
        (["--token", "x", "serve"], "options of serve come after the word"),
        (["--token", "x", "clean"], "options of clean come after the word"),
    ],
)
def test_usage_errors_are_one_line_and_2(cli, nowhere, arguments, says):
    done = cli(nowhere, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("leasedb: ")
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["lease"], ["status"], ["release", "x"], ["exec", "--", "true"], ["psql", "x"]])
def test_no_daemon_is_one_line_and_1(cli, nowhere, arguments):
    done = cli(nowhere, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"leasedb: No leasedb daemon answers at {nowhere}: Connection refused. "
        "Start one with: leasedb serve (or set LEASEDB_URL to where one runs)\n"
    )


def test_the_url_and_the_token_as_options(cli, nowhere):
    with StandIn(token="sesame") as daemon:
        assert cli(nowhere, "--url", daemon.url, "--token", "sesame", "status").returncode == 0
        assert cli(nowhere, "status", "--url", daemon.url, "--token", "sesame").returncode == 0
        done = cli(nowhere, "status", "--url", daemon.url)
        assert (done.returncode, done.stderr) == (1, "leasedb: The token is missing or wrong. Do this.\n")
    assert cli(nowhere, "status", "--url", "localhost:1").returncode == 1


def test_what_the_daemon_refuses(cli, daemon_url):
    done = cli(daemon_url, "lease", "--template", "nosuch")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("leasedb: ")
    assert "nosuch" in done.stderr


def test_something_else_at_the_address(cli, stand_in):
    stand_in.faults.append(Fault("answer", 200, b"<html>", "text/html"))
    done = cli(stand_in.url, "lease")
    assert done.returncode == 1
    assert "is not a leasedb daemon" in done.stderr


@pytest.mark.parametrize("arguments", [["status"], ["kept"], ["lease"], ["template", "ls"]], ids=" ".join)
@pytest.mark.parametrize(
    ("target", "reason"), [("&-", "Bad file descriptor"), ("/dev/full", "No space left on device")]
)
def test_an_output_that_takes_nothing_is_one_line_and_1(start_cli, stand_in, arguments, target, reason):
    """Such as a full disk, or a service that starts programs with their output closed."""
    if target != "&-" and not Path(target).exists():
        pytest.skip("needs a device that is full")
    process = start_cli(stand_in.url, *arguments, prefix=["sh", "-c", f'exec "$@" >{target}', "sh"])
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (1, f"leasedb: the output cannot be written: {reason}\n")


def test_what_is_closed_besides_is_no_matter(start_cli, stand_in):
    process = start_cli(stand_in.url, "status", prefix=["sh", "-c", 'exec "$@" 2>&- <&-', "sh"])
    assert process.communicate(timeout=30)[0].startswith("daemon ")
    assert process.returncode == 0
    words = ["template", "build", "shop", "--sql", "-"]
    process = start_cli(stand_in.url, *words, prefix=["sh", "-c", 'exec "$@" <&-', "sh"])
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (1, "leasedb: Nothing came from stdin. See what was to write it.\n")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["release", "?"], 1),
        (["psql", "?"], 1),
        (["reset", "?"], 1),
        (["template", "rm", "?"], 1),
        (["branch", "id", "?"], 2),
        (["lease", "--template", "?"], 2),
        (["lease", "--image", "?"], 2),
        (["lease", "--label", "run=?"], 2),
        (["template", "build", "shop", "--fingerprint", "?", "--", "true"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bytes_that_are_no_text_are_told_in_one_line(start_cli, stand_in, words, code):
    process = start_cli(stand_in.url, *(word.replace("?", "\udcff") for word in words))
    _, said = process.communicate(timeout=30)
    assert process.returncode == code
    assert said.startswith("leasedb: ")
    assert len(said.splitlines()) == 1
    assert "is not an id" in said or "is not text" in said


def test_a_reader_that_leaves(start_cli, stand_in):
    with leasedb.Client(stand_in.url) as client:
        for _ in range(50):  # more than a pipe holds
            client.acquire(pid=None, heartbeat=False, labels={f"l{n}": "x" * 200 for n in range(30)})
    command = f"{shlex.join([sys.executable, '-m', 'leasedb.cli'])} status --json | head -n 1"
    environment = {"LEASEDB_URL": stand_in.url, "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True, env=environment)
    assert (done.stdout, done.stderr) == ("{\n", "")


# --- psql ---


@pytest.fixture
def fake_psql(tmp_path):
    """A psql that tells what it was told: the stand-in's databases do not exist."""
    script = tmp_path / "bin" / "psql"
    script.parent.mkdir()
    script.write_text('#!/bin/sh\necho "$PGUSER $PGDATABASE $PGPORT $PGHOSTADDR"\nprintf "%s\\n" "$@"\nexit 3\n')
    script.chmod(0o755)
    return {"PATH": f"{script.parent}:/usr/bin:/bin", "PGHOSTADDR": "10.0.0.1"}


def test_psql_on_a_lease(cli, stand_in, fake_psql):
    with leasedb.Client(stand_in.url) as client, client.lease() as lease:
        done = cli(stand_in.url, "psql", lease.id, "--", "-c", "select 1", env=fake_psql)
        assert done.stdout == f"{lease.user} {lease.database} {lease.port} \n-c\nselect 1\n"
        assert done.returncode == 3
        assert client.get(lease.id).state == "active"


def test_psql_on_a_new_lease(cli, stand_in, fake_psql):
    done = cli(stand_in.url, "psql", "--", "-c", "select 1", env=fake_psql)
    assert (done.returncode, done.stderr) == (3, "")
    assert len(stand_in.leases) == 1
    assert stand_in.active() == []


def test_psql_that_is_not_installed(cli, stand_in, tmp_path):
    with leasedb.Client(stand_in.url) as client, client.lease() as lease:
        done = cli(stand_in.url, "psql", lease.id, env={"PATH": str(tmp_path)})
    assert (done.returncode, done.stdout) == (1, f"{lease.dsn}\n")
    assert "psql is not installed" in done.stderr
    done = cli(stand_in.url, "psql", env={"PATH": str(tmp_path)})
    assert done.returncode == 1
    assert "psql is not installed" in done.stderr
    assert stand_in.active() == []


def test_psql_on_a_lease_that_has_ended(cli, stand_in, fake_psql):
    with leasedb.Client(stand_in.url) as client, client.lease() as lease:
        pass
    done = cli(stand_in.url, "psql", lease.id, env=fake_psql)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"leasedb: lease {lease.id} is released: released by its holder\n"


@pytest.mark.skipif(shutil.which("psql") is None, reason="needs psql")
def test_the_psql_of_this_machine_gets_the_address(cli, stand_in):
    done = cli(stand_in.url, "psql")
    assert done.returncode == 2
    assert 'at "127.0.0.1", port 1 failed' in done.stderr
