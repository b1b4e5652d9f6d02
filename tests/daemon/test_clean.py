"""`leasedb clean`: what made servers start quickly is taken away, once no daemon runs."""

import subprocess
import sys
from pathlib import Path

from tests.daemons import RealDaemon, clean_environment


def clean(state_dir: Path, *options: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        # not of the engines: their prepared images serve every daemon of the machine
        [
            sys.executable,
            "-m",
            "leasedb.cli",
            "clean",
            "--backend",
            "embedded",
            "--state-dir",
            str(state_dir),
            *options,
        ],
        env=clean_environment(),
        cwd=state_dir.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_cleans_what_a_stopped_daemon_kept():
    daemon = RealDaemon().start()
    try:
        refused = clean(daemon.state_dir)
        assert (refused.returncode, refused.stdout) == (1, "")
        [line] = refused.stderr.splitlines()
        assert f"Another daemon holds the state directory {daemon.state_dir}: process {daemon.process.pid}" in line
        assert "Stop it first" in line
        daemon.stop()
        servers = daemon.state_dir / "servers"
        kept = {str(path) for path in servers.glob("prepared-*")}
        assert kept
        done = clean(daemon.state_dir)
        assert done.returncode == 0
        assert {line.removeprefix("removed the directory ") for line in done.stdout.splitlines()} >= kept
        assert list(servers.glob("prepared-*")) == []
        assert clean(daemon.state_dir).stdout == "nothing to clean\n"
        daemon.start()  # and makes anew what it needs
    finally:
        daemon.remove()


def test_cleaning_where_no_daemon_was_makes_nothing(tmp_path):
    done = clean(tmp_path / "state")
    assert (done.returncode, done.stdout) == (0, "nothing to clean\n")
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_setting_is_said(tmp_path):
    done = clean(tmp_path / "state", "--port", "none")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("leasedb: A setting is wrong: port")
