"""`leasedb exec`: exit codes, signals, the terminal, and a lease that is released whatever happens."""

import os
import pty
import select
import signal
import sys
from pathlib import Path

import pytest

import leasedb
from tests.client.stand_in import StandIn
from tests.waiting import until

# Counts the signals it gets, says so, and ends at the second line it reads or at SIGTERM.
COUNTER = """
import signal, sys
def heard(number, frame):
    print(signal.Signals(number).name, flush=True)
    if number == signal.SIGTERM:
        sys.exit(5)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(number, heard)
print("started", flush=True)
while True:
    signal.pause()
"""


def test_it_sets_the_environment_and_releases(cli, daemon_url):
    script = 'echo "$LEASEDB_LEASE_ID"; echo "$DATABASE_URL"; echo "$PGUSER $PGDATABASE $PGHOST $PGPORT $PGPASSWORD"'
    misleading = {"PGHOSTADDR": "10.0.0.1", "PGSERVICE": "production", "PGUSER": "me"}
    more = f'{script}; echo "<$PGHOSTADDR$PGSERVICE>"'
    done = cli(daemon_url, "exec", "--label", "run=7", "--", "sh", "-c", more, env=misleading)
    assert (done.returncode, done.stderr) == (0, "")
    ident, dsn, login, rest = done.stdout.splitlines()
    with leasedb.Client(daemon_url) as client:
        lease = client.get(ident)
    assert dsn == lease.dsn
    assert login == f"{lease.user} {lease.database} {lease.host} {lease.port} {lease.password}"
    assert rest == "<>"
    assert (lease.state, lease.labels) == ("released", {"run": "7"})


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 7"], 7),
        (["sh", "-c", "kill -TERM $$"], 128 + 15),
        (["sh", "-c", "kill -KILL $$"], 128 + 9),
        (["nosuchcommand"], 127),
        (["./nosuchcommand"], 127),
        (["/etc/passwd"], 126),
        (["/"], 126),
    ],
)
def test_exit_codes(cli, daemon_url, run_id, command, code):
    done = cli(daemon_url, "exec", "--label", f"run={run_id}", "--", *command)
    assert done.returncode == code
    assert done.stderr.count("\n") == (1 if code in {126, 127} else 0)
    with leasedb.Client(daemon_url) as client:
        assert {lease.state for lease in client.leases(labels={"run": run_id})} == {"released"}


def test_the_dashes_are_optional_and_later_ones_belong_to_the_command(cli, daemon_url):
    assert cli(daemon_url, "exec", "--ttl", "60", "echo", "--json", "-n").stdout == "--json -n\n"
    assert cli(daemon_url, "exec", "--", "printf", "%s|", "--", "a", "--").stdout == "--|a|--|"
    assert cli(daemon_url, "exec", "printf", "%s|", "--", "a").stdout == "--|a|"


def test_stdin_and_stdout_are_the_commands(start_cli, daemon_url):
    process = start_cli(daemon_url, "exec", "--", "tr", "a-z", "A-Z", stdin=-1)
    assert process.communicate("hello\n", timeout=20) == ("HELLO\n", "")


def test_the_lease_is_renewed_meanwhile(start_cli, daemon_url, run_id):
    process = start_cli(daemon_url, "exec", "--label", f"run={run_id}", "--ttl", "1.5", "--", "cat", stdin=-1)
    with leasedb.Client(daemon_url) as client:
        [lease] = until(lambda: client.leases(state="active", labels={"run": run_id}), what="leased")
        until(lambda: (client.get(lease.id).expires_at - lease.expires_at).total_seconds() > 1, what="renewed")
        assert client.get(lease.id).state == "active"
        process.communicate(timeout=20)
        assert process.returncode == 0
        assert client.get(lease.id).state == "released"


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP", "SIGUSR1"])
def test_signals_are_passed_on_once(start_cli, stand_in, name):
    process = start_cli(stand_in.url, "exec", "--", sys.executable, "-c", COUNTER)
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.Signals[name])
    assert process.stdout.readline() == f"{name}\n"
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20) == ("SIGTERM\n", "")
    assert process.returncode == 5
    assert stand_in.active() == []


def test_a_command_that_dies_of_a_forwarded_signal(start_cli, stand_in):
    process = start_cli(stand_in.url, "exec", "--", "sh", "-c", "echo started; exec cat", stdin=-1)
    assert process.stdout.readline() == "started\n"
    process.terminate()
    process.wait(20)
    assert process.returncode == 128 + 15
    assert stand_in.active() == []


def test_what_was_ignored_stays_ignored(start_cli, stand_in):
    """As under nohup."""
    process = start_cli(
        stand_in.url,
        *("exec", "--", "sh", "-c", "echo started; kill -HUP $$; echo alive; read -r line"),
        stdin=-1,
        prefix=["sh", "-c", 'trap "" HUP; exec "$@"', "sh"],
    )
    assert process.stdout.readline() == "started\n"
    assert process.stdout.readline() == "alive\n"
    process.send_signal(signal.SIGHUP)
    process.communicate("bye\n", timeout=20)
    assert process.returncode == 0


def test_ended_while_it_waits_in_line(start_cli):
    with StandIn(most=0) as daemon:
        for name, code in (("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)):
            process = start_cli(daemon.url, "exec", "--", "true")
            until(lambda: daemon.waiting, what="waiting")
            process.send_signal(signal.Signals[name])
            assert process.communicate(timeout=20) == ("", "")
            assert process.returncode == code
            daemon.stop()  # so that the request that waits is given up
            daemon.waiting = 0
            daemon.start()


def test_a_killed_command(start_cli, stand_in):
    process = start_cli(stand_in.url, "exec", "--", "sh", "-c", "echo $$; exec cat", stdin=-1)
    os.kill(int(process.stdout.readline()), signal.SIGKILL)
    process.wait(20)
    assert process.returncode == 128 + 9
    assert stand_in.active() == []


def test_a_killed_leasedb_exec(start_cli, stand_in):
    process = start_cli(stand_in.url, "exec", "--", "sh", "-c", "echo started; exec cat", stdin=-1)
    assert process.stdout.readline() == "started\n"
    assert len(stand_in.active()) == 1
    process.kill()
    process.communicate()
    until(lambda: not stand_in.active(), what="released, for its holder died")


def test_a_lease_that_ends_too_early_is_told(start_cli, stand_in):
    process = start_cli(stand_in.url, "exec", "--ttl", "1.5", "--", "sh", "-c", "echo started; exec cat", stdin=-1)
    assert process.stdout.readline() == "started\n"
    [lease] = stand_in.active()
    stand_in.end(lease["id"], "lost", "its server died")
    assert process.stderr.readline() == f"leasedb: lease {lease['id']} has ended (lost): its server died\n"
    process.communicate("", timeout=20)
    assert process.returncode == 0


def test_ctrl_c_at_a_terminal_reaches_the_command_once(start_cli, stand_in):
    terminal, inner = pty.openpty()
    take_it = (
        "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
    )
    process = start_cli(
        stand_in.url,
        *("exec", "--", sys.executable, "-c", COUNTER),
        prefix=[sys.executable, "-c", take_it],
        start_new_session=True,
        **dict.fromkeys(("stdin", "stdout", "stderr"), inner),
    )
    os.close(inner)
    screen = _Screen(terminal)
    try:
        screen.shows("started")
        os.write(terminal, b"\x03")
        screen.shows("SIGINT")
        os.write(terminal, b"\x03")
        screen.shows("SIGINT", times=2)
        process.send_signal(signal.SIGUSR1)  # by now a second copy of either would have been shown
        screen.shows("SIGUSR1")
        assert screen.text.count("SIGINT") == 2
        process.terminate()
        screen.shows("SIGTERM")
        assert process.wait(20) == 5
    finally:
        os.close(terminal)
    assert stand_in.active() == []


class _Screen:
    def __init__(self, terminal: int) -> None:
        self.terminal, self.text = terminal, ""

    def shows(self, word: str, times: int = 1) -> None:
        until(lambda: self._read().count(word) >= times, limit=20, what=f"{word} in {self.text!r}")

    def _read(self) -> str:
        if select.select([self.terminal], [], [], 0.02)[0]:
            self.text += os.read(self.terminal, 4096).decode()
        return self.text


def test_the_holder_is_the_process_that_waits(start_cli, stand_in, tmp_path: Path):
    process = start_cli(stand_in.url, "exec", "--", "sh", "-c", "echo started; exec cat", stdin=-1)
    assert process.stdout.readline() == "started\n"
    [lease] = stand_in.active()
    assert lease["holder"]["pid"] == process.pid
    assert lease["holder"]["name"].endswith(f":{tmp_path.name}")
    process.communicate("", timeout=20)
