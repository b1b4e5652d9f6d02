"""`leasedb template`, `reset`, `branch`, and which database the other commands lease."""

import json
import signal
from pathlib import Path

import pytest

import leasedb
from tests.client.stand_in import FAILS, StandIn
from tests.waiting import until


@pytest.fixture
def schema(tmp_path: Path) -> Path:
    """A folder beside which the commands run."""
    folder = tmp_path / "schema"
    folder.mkdir()
    (folder / "001.sql").write_text("create table product (name text);\n")
    (folder / "002.sql").write_text("\ncreate index on product (name)\n")
    return folder


def test_build_from_sql(cli, daemon_url, run_id, schema):
    name = f"shop-{run_id}"
    done = cli(daemon_url, "template", "build", name, "--sql", "schema")
    assert (done.returncode, done.stdout) == (0, f"{name}\n")
    assert f"leasedb: template {name} is ready, " in done.stderr
    assert done.stderr.endswith(f" MB; use it with: leasedb lease --template {name}\n")
    assert cli(daemon_url, "template", "build", name, "--sql", "schema").returncode == 0
    with leasedb.Client(daemon_url) as client:
        assert client.get_template(name).origin == "sql"
        (schema / "001.sql").write_text("create table other ()")
        done = cli(daemon_url, "template", "build", name, "--sql", "schema/001.sql")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.endswith("Delete it with 'leasedb template rm', or choose another name.\n")
        assert cli(daemon_url, "template", "rm", name).stdout == "deleted 1 template\n"
        with pytest.raises(leasedb.TemplateNotFoundError):
            client.get_template(name)


def test_build_from_stdin(start_cli, daemon_url, run_id):
    name = f"shop-{run_id}"
    process = start_cli(daemon_url, "template", "build", name, "--sql", "-", stdin=-1)
    out, _ = process.communicate("create table product (name text)", timeout=30)
    assert out == f"{name}\n"


def test_what_comes_from_stdin_has_to_be_something(cli, stand_in):
    done = cli(stand_in.url, "template", "build", "shop", "--sql", "-")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("leasedb: Nothing came from stdin.")
    assert stand_in.built == 0


def test_build_by_a_command(cli, daemon_url, run_id, schema):
    name = f"shop-{run_id}"
    words = ("template", "build", name, "--label", f"run={run_id}", "--hash", "schema", "--")
    script = 'test "$DATABASE_URL" && echo "$LEASEDB_LEASE_ID"'
    done = cli(daemon_url, *words, "sh", "-c", script)
    ident, printed = done.stdout.splitlines()
    assert (done.returncode, printed) == (0, name)
    again = cli(daemon_url, *words, "sh", "-c", script)
    assert again.stdout == f"{name}\n"
    with leasedb.Client(daemon_url) as client:
        assert client.get_template(name).origin == "build"
        [lease] = client.leases(labels={"run": run_id})
        assert (lease.id, lease.state) == (ident, "released")
        (schema / "003.sql").write_text("")
        assert cli(daemon_url, *words, "sh", "-c", script).returncode == 1
        client.delete_template(name)


@pytest.mark.parametrize(("command", "code"), [("sh -c 'exit 7'", 7), ("nosuchcommand", 127)])
def test_a_command_that_fails(cli, daemon_url, run_id, command, code):
    name, words = f"shop-{run_id}", ["sh", "-c", "exit 7"] if code == 7 else [command]
    done = cli(daemon_url, "template", "build", name, "--fingerprint", "v1", "--label", f"run={run_id}", "--", *words)
    assert (done.returncode, done.stdout) == (code, "")
    told = f"{command} exited with 7" if code == 7 else "nosuchcommand: command not found"
    assert done.stderr == f"leasedb: {told}, so template {name} was not built; mend what failed and run this again\n"
    with leasedb.Client(daemon_url) as client:
        assert client.get_template(name).error.message == told
        assert "build again" in client.get_template(name).error.hint
        assert {lease.state for lease in client.leases(labels={"run": run_id})} == {"released"}


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_build_that_is_interrupted(start_cli, stand_in, name):
    script = "trap 'exit 9' INT TERM; echo started; while :; do read -r _ || :; done"
    process = start_cli(
        stand_in.url, *("template", "build", "shop", "--fingerprint", "v1", "--", "sh", "-c", script), stdin=-1
    )
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.Signals[name])
    process.stdin.write("\n" * 10)
    process.stdin.flush()
    process.wait(20)
    assert process.returncode == 9
    assert stand_in.active() == []


def test_interrupted_while_somebody_else_builds(start_cli, stand_in):
    with leasedb.Client(stand_in.url) as client:
        client.build_template("shop", "v1")
        process = start_cli(stand_in.url, "template", "build", "shop", "--fingerprint", "v1", "--", "true")
        until(lambda: stand_in.waiting_for_builds, what="waiting")
        process.terminate()
        assert process.communicate(timeout=20) == ("", "")
        assert process.returncode == 143


def test_sql_that_fails_is_shown_where_it_stands(cli, stand_in, schema):
    (schema / "002.sql").write_text(f"select 1;\n\n  create index {FAILS}\n")
    done = cli(stand_in.url, "template", "build", "shop", "--sql", "schema")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f'leasedb: schema/002.sql:3: syntax error at or near "{FAILS}" (SQLSTATE 42601)\n    create index {FAILS}\n'
        "Do this.\n"
    )


def test_real_sql_that_fails(cli, daemon, schema, start_cli):
    (schema / "002.sql").write_text("select 1;\n\ncreate index on product (nosuch);\n")
    done = cli(daemon.url, "template", "build", "failing", "--sql", "schema")
    assert done.returncode == 1
    assert done.stderr == (
        'leasedb: schema/002.sql:3: column "nosuch" does not exist (SQLSTATE 42703)\n'
        "    create index on product (nosuch)\n"
        "Mend the statement and send the text again; nothing of it was kept.\n"
    )
    process = start_cli(daemon.url, "template", "build", "failing", "--sql", "-", stdin=-1)
    assert process.communicate("\nselect x;", timeout=30)[1].startswith('leasedb: stdin:2: column "x" does not exist')


def test_list(cli, stand_in):
    with leasedb.Client(stand_in.url) as client:
        client.put_template("shop", "create table product (name text)")
        client.put_template("more", "select 1", parent="shop")
        client.build_template("slow", "v1", holder="me")
        with pytest.raises(leasedb.SqlFailedError):
            client.put_template("broken", f"select 1;\n{FAILS}")
        with client.lease("shop") as lease:
            branch = lease.to_template()
            out = cli(stand_in.url, "template", "ls").stdout
    lines = out.splitlines()
    rows = [line.split() for line in lines]
    assert rows[0] == ["NAME", "STATE", "SIZE", "PARENT", "LEASES", "READY", "USED", "KEPT"]
    assert rows[1] == [*("base", "sealed", "7.8", "MB", "-", "1", "0"), *rows[1][7:9], "always"]
    assert rows[2][:7] == ["shop", "sealed", "7.8", "MB", "base", "1", "0"]
    assert lines[3].endswith("while its server runs")
    assert rows[4][:4] == ["slow", "building", "-", "base"]
    assert rows[4][-1] == "-"
    assert lines[5].endswith(f"until lease {lease.id} ends")
    assert lines[5].startswith(branch.name)
    assert lines[6] == "slow: being built by me"
    assert lines[7].startswith(f'broken failed: line 2: syntax error at or near "{FAILS}" (SQLSTATE 42601) in: {FAILS}')
    assert lines[8] == "Mend the statement and send the text again; nothing of it was kept."
    assert lines[-1] == "6 templates, 46.8 MB of 4.0 GB"


def test_list_with_versions(cli, stand_in):
    with leasedb.Client(stand_in.url) as client:
        client.put_template("shop", "select 1", postgres="17")
        client.put_template("shop", "select 1")
    rows = [line.split()[:2] for line in cli(stand_in.url, "template", "ls").stdout.splitlines()]
    assert rows[:4] == [["NAME", "POSTGRES"], ["base", "-"], ["shop", "17"], ["shop", "-"]]
    assert "shop@17" in cli(stand_in.url, "status").stdout
    assert cli(stand_in.url, "template", "rm", "shop", "--postgres", "17").returncode == 0
    assert len(stand_in.templates) == 2


def test_list_as_json(cli, daemon_url):
    printed = json.loads(cli(daemon_url, "template", "ls", "--json").stdout)
    assert "base" in {template["name"] for template in printed["templates"]}
    assert printed["budget"] > printed["bytes"]


def test_rm_goes_on_after_what_cannot_be_deleted(cli, stand_in):
    with leasedb.Client(stand_in.url) as client:
        client.put_template("shop", "select 1")
        client.put_template("used", "select 1")
        with client.lease("used"):
            done = cli(stand_in.url, "template", "rm", "used", "nosuch", "base", "shop")
    assert (done.returncode, done.stdout) == (1, "deleted 1 template\n")
    assert len(done.stderr.splitlines()) == 3


def test_reset_and_branch(cli, daemon_url, run_id):
    name = f"mine-{run_id}"
    with leasedb.Client(daemon_url) as client, client.lease() as lease:
        assert cli(daemon_url, "reset", lease.id).stdout == f"reset lease {lease.id}, 0 sessions ended\n"
        done = cli(daemon_url, "branch", lease.id)
        branch = done.stdout.strip()
        assert client.get_template(branch).until_lease == lease.id
        assert done.stderr.endswith(f"leasedb lease --template {branch}; it goes away with lease {lease.id}\n")
        assert cli(daemon_url, "reset", lease.id, "--template", branch, "--wait", "30").returncode == 0
        assert cli(daemon_url, "branch", lease.id, name).stdout == f"{name}\n"
        assert cli(daemon_url, "branch", lease.id, name).returncode == 1
        done = cli(daemon_url, "exec", "--template", name, "--", "sh", "-c", 'echo "$LEASEDB_LEASE_ID"')
        assert client.get(done.stdout.strip()).template == name
    assert cli(daemon_url, "reset", lease.id).returncode == 1
    assert cli(daemon_url, "template", "rm", name).returncode == 0


def test_sessions_in_the_way_are_shown(cli, stand_in):
    with leasedb.Client(stand_in.url) as client, client.lease() as lease:
        stand_in.sessions = [
            {"pid": 7, "application": "psql", "state": "idle", "query": "select 1\nfrom x", "since": None},
            {"pid": 8, "application": "", "state": "active", "query": "", "since": None},
        ]
        done = cli(stand_in.url, "branch", lease.id, "mine")
        assert done.returncode == 1
        assert done.stderr == (
            "leasedb: Sessions are open. --force ends them.\n    pid 7 psql idle select 1\n    pid 8 active\n"
        )
        assert cli(stand_in.url, "branch", lease.id, "mine", "--force").returncode == 0


def test_which_server_is_leased(cli, stand_in):
    words = ("--exclusive", "--database", "shop", "--user", "ann", "--image", "i", "--postgres", "17")
    assert cli(stand_in.url, "lease", *words).returncode == 0
    [seen] = stand_in.sent("POST", "/leases")
    wanted = {"server": "exclusive", "database": "shop", "user": "ann", "image": "i", "postgres": "17"}
    assert wanted.items() <= seen.body.items()
    assert "base, exclusive" in cli(stand_in.url, "status").stdout


def test_status_shows_templates(cli, stand_in):
    with leasedb.Client(stand_in.url) as client:
        client.put_template("shop", "select 1")
        _, lease = client.build_template("slow", "v1", holder="me")
        with pytest.raises(leasedb.SqlFailedError):
            client.put_template("broken", FAILS)
        lines = cli(stand_in.url, "status").stdout.splitlines()
        asleep = cli(stand_in.url, "status", "--json").stdout
    rows = [line.split() for line in lines]
    assert ["shop", "7.8", "MB", "-", "0", "-", "-", "-"] in rows
    assert "template slow: being built by me" in lines
    assert any(line.startswith("template broken failed: line 1: syntax error") for line in lines)
    assert any(line.startswith(f"{lease.id}  builds slow") for line in lines)
    assert {template["name"] for template in json.loads(asleep)["templates"]} == {"base", "shop", "slow", "broken"}


def test_many_templates_that_failed(cli, stand_in):
    with leasedb.Client(stand_in.url) as client:
        client.put_template("shop", "select 1")
        for number in range(7):
            _, lease = client.build_template(f"broken{number}", "v1")
            reason = f'column "x{number}" does not exist\nLINE 1: select x{number}\n               ^\n{"y" * 200}'
            client.abandon_template(f"broken{number}", lease.id, error=reason)
    newest = [f'broken{number} failed: column "x{number}" does not exist' for number in reversed(range(7))]
    lines = cli(stand_in.url, "status").stdout.splitlines()
    start = lines.index(f"template {newest[0]}")
    shown = [*(f"template {line}" for line in newest[:5]), "and 2 more that failed, see: leasedb template ls"]
    assert lines[start : start + 7] == [*shown, ""]
    lines = cli(stand_in.url, "template", "ls").stdout.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["NAME", "base", "shop"]
    assert lines[3:10] == newest
    assert lines[10:12] == ["Mend what failed and build again; whoever asks next becomes the builder.", ""]


def test_an_older_daemon(cli):
    with StandIn(old=True) as daemon:
        done = cli(daemon.url, "template", "ls")
        assert (done.returncode, done.stdout) == (1, "")
        assert json.loads(cli(daemon.url, "status", "--json").stdout)["templates"] == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["template"], "COMMAND"),
        (["template", "build", "shop"], "needs either --sql FILE or a command"),
        (["template", "build", "shop", "--sql", "x", "--", "true"], "needs either --sql FILE or a command"),
        (["template", "build", "shop", "--", "true"], "--hash PATH"),
        (["template", "build", "--sql", "x"], "NAME"),
        (["template", "build", "shop", "--hash", "a", "--fingerprint", "b", "--", "true"], "not allowed with"),
        (["template", "rm"], "NAME"),
        (["template", "ls", "--", "x"], "'template' runs no command"),
        (["branch"], "LEASE"),
        (["lease", "--database", "shop"], "need --exclusive"),
        (["exec", "--user", "ann", "--", "true"], "need --exclusive"),
    ],
)
def test_usage_errors_are_one_line_and_2(cli, stand_in, arguments, says):
    done = cli(stand_in.url, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("leasedb: ")
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_files_that_are_not_there(cli, stand_in):
    for words in (["--sql", "nosuch"], ["--hash", "nosuch", "--", "true"]):
        done = cli(stand_in.url, "template", "build", "shop", *words)
        assert (done.returncode, done.stdout) == (1, "")
        assert "'nosuch' in " in done.stderr
        assert len(done.stderr.splitlines()) == 1
