"""Leases that are kept to be looked at, and the commands that list and drop them, and stop the daemon."""

import json
import re

import pytest

import leasedb
from tests.client.stand_in import StandIn


def test_a_kept_lease_outlives_its_block_and_its_holder(client, run_id):
    with client.lease(ttl=60, labels={"run": run_id}) as lease:
        assert not lease.kept
        lease.keep()
        assert lease.kept
        assert lease.holder.pid is None
        assert lease.ttl == pytest.approx(3600, abs=1)
    assert lease.state == "active"
    [listed] = client.leases(state="active", labels={"run": run_id}, kept=True)
    assert (listed.id, listed.kept) == (lease.id, True)
    assert client.leases(state="active", labels={"run": run_id}, kept=False) == []
    with client.get(lease.id) as looked_at:
        assert looked_at.kept
    assert client.get(lease.id).state == "active"
    lease.keep(7200)
    assert lease.ttl == pytest.approx(7200, abs=1)
    lease.release()
    assert client.get(lease.id).state == "released"


def test_it_is_renewed_no_more(connect, stand_in):
    client = connect(stand_in.url)
    other = client.acquire(ttl=1.2)
    with client.lease(ttl=1.2) as lease:
        lease.keep(600)
        other.renew()
        lease.renew(60)  # by hand it is
    renewals = [seen.path for seen in stand_in.requests if seen.path.endswith("/renew")]
    assert renewals.count(f"/leases/{lease.id}/renew") == 1
    client.release(lease.id)


def test_of_several_leases_the_kept_ones_stay(client):
    with client.lease() as lease, lease.fork(2) as forks:
        kept, other = forks
        kept.keep()
    assert (kept.state, other.state) == ("active", "released")
    forks.release()
    assert kept.state == "released"


def test_a_lease_that_has_ended(client):
    lease = client.acquire()
    client.release(lease.id)
    with pytest.raises(leasedb.LeaseEndedError):
        lease.keep()
    assert lease.lost_reason


def test_the_quota(connect, stand_in):
    stand_in._book.keep_max = 0
    with connect(stand_in.url).lease() as lease, pytest.raises(leasedb.KeepQuotaError, match="0 leases are kept"):
        lease.keep()
    assert lease.state == "released"


# --- leasedb kept ---


@pytest.fixture
def kept(stand_in):
    with leasedb.Client(stand_in.url) as client:
        leases = [client.acquire(labels={"pytest": f"test_{n}.py::test_it"}, holder="pytest shop") for n in (1, 2, 3)]
        other = client.acquire()
        for lease in leases:
            lease.keep()
        yield [lease.id for lease in leases]
        assert client.get(other.id).state == "active"


def test_the_list(cli, stand_in, kept):
    lines = cli(stand_in.url, "kept").stdout.splitlines()
    assert lines[0].split() == ["LEASE", "AGE", "LEFT", "TEST", "HOLDER"]
    assert re.fullmatch(rf"{kept[1]}  \ds +(1h 00m|59m \d\ds)  test_2.py::test_it  pytest shop", lines[2])
    assert lines[4:] == [f"look at one with: leasedb psql {kept[0]}"]
    listed = json.loads(cli(stand_in.url, "kept", "--json").stdout)["leases"]
    assert [lease["id"] for lease in listed] == kept
    assert "base, kept" in cli(stand_in.url, "status").stdout


def test_dropping(cli, stand_in, kept):
    assert cli(stand_in.url, "kept", "--drop", kept[0]).stdout == "dropped 1 lease\n"
    done = cli(stand_in.url, "kept", "--drop", kept[0], kept[1])
    assert (done.returncode, done.stdout) == (1, "dropped 1 lease\n")
    assert done.stderr == f"leasedb: lease {kept[0]} is not kept; 'leasedb kept' lists those that are\n"
    done = cli(stand_in.url, "kept", "--drop", "nope")
    assert (done.returncode, done.stdout) == (1, "")
    assert cli(stand_in.url, "kept", "--drop-all").stdout == "dropped 1 lease\n"
    assert cli(stand_in.url, "kept").stdout == "no leases are kept\n"
    assert cli(stand_in.url, "kept", "--drop-all").returncode == 0


def test_arguments_that_contradict_each_other(cli, stand_in):
    for arguments in (["--drop", "x", "--json"], ["--drop-all", "--drop", "x"], ["--drop"]):
        done = cli(stand_in.url, "kept", *arguments)
        assert done.returncode == 2
        assert done.stderr.startswith("leasedb: ")


def test_an_older_daemon_keeps_none(cli):
    with StandIn(old=True) as daemon, leasedb.Client(daemon.url) as client, client.lease():
        assert cli(daemon.url, "kept").stdout == "no leases are kept\n"


# --- leasedb stop; what it stops is with what it starts ---


def test_a_daemon_elsewhere_is_not_stopped(cli):
    with StandIn(space="another machine") as daemon:
        done = cli(daemon.url, "stop")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"leasedb: the daemon at {daemon.url} does not run on this machine, or in another container: stop it there\n"
    )


# --- what the doctor says of starting ---


@pytest.mark.parametrize(
    ("environment", "url", "says"),
    [
        ({"LEASEDB_AUTOSTART": "1", "LEASEDB_STATE_DIR": "/some/where"}, None, "its log is /some/where/daemon.log"),
        ({"LEASEDB_AUTOSTART": "0"}, None, "off: LEASEDB_AUTOSTART"),
        ({"LEASEDB_AUTOSTART": "1"}, "https://127.0.0.1:1", "none is started at https://127.0.0.1:1"),
    ],
)
def test_the_doctor(cli, stand_in, environment, url, says):
    out = cli(url or stand_in.url, "doctor", env=environment).stdout
    [line] = [line for line in out.splitlines() if line.startswith("--  autostart ")]
    assert says in line
