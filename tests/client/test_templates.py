"""Templates, resets and branches with both clients, against a daemon on a real port."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import leasedb
from tests.client.stand_in import FAILS, StandIn

SCHEMA = "create table product (name text)"


@pytest.fixture
def schema(tmp_path: Path) -> Path:
    folder = tmp_path / "schema"
    folder.mkdir()
    (folder / "001.sql").write_text(SCHEMA)
    (folder / "002.sql").write_text("create index on product (name)")
    return folder


def methods(daemon: StandIn) -> list[str]:
    return [f"{seen.method} {seen.path.split('/')[-1]}" for seen in daemon.seen if seen.path.startswith("/templates")]


# --- what both daemons do ---


def test_a_template_from_text(client, run_id):
    template = client.template(f"shop-{run_id[:8]}", SCHEMA)
    assert template.name.startswith(f"shop-{run_id[:8]}-")
    assert template.fingerprint.startswith("sha256:")
    assert template.name.endswith(f"-{template.fingerprint[7:19]}")
    assert (template.state, template.origin) == ("sealed", "sql")
    with client.lease(template) as lease:
        assert lease.template == template.name
        assert client.get_template(template.name).leases == 1
        with pytest.raises(leasedb.TemplateInUseError):
            client.delete_template(template.name)
    assert template.name in {found.name for found in client.templates()}
    client.expect(3, template, holder=run_id)
    client.expect(0, template, holder=run_id)


def test_a_template_upon_another(client, run_id):
    parent = client.template(f"shop-{run_id[:8]}", SCHEMA)
    by_name = client.template(f"more-{run_id[:8]}", "create table more ()", parent=parent.name)
    assert client.template(f"more-{run_id[:8]}", "create table more ()", parent=parent) == by_name
    assert by_name.parent == parent.name
    other = client.template(f"shop-{run_id[:8]}", SCHEMA + "; create table x ()")
    assert client.template(f"more-{run_id[:8]}", "create table more ()", parent=other).name != by_name.name
    with pytest.raises(leasedb.ParentMissingError):
        client.template("more", "create table more ()", parent="nosuch")
    with pytest.raises(leasedb.ParentMissingError):
        client.put_template(f"{run_id}", "create table more ()", parent="nosuch")


def test_a_template_by_its_whole_name(client, run_id):
    name = f"put-{run_id}"
    made = client.put_template(name, SCHEMA)
    assert client.put_template(name, SCHEMA).fingerprint == made.fingerprint
    with pytest.raises(leasedb.TemplateExistsError) as caught:
        client.put_template(name, "create table other ()", fingerprint="other")
    assert (caught.value.fingerprint, caught.value.requested) == (made.fingerprint, "other")
    client.delete_template(name)
    with pytest.raises(leasedb.TemplateNotFoundError):
        client.get_template(name)
    with pytest.raises(leasedb.TemplateNotFoundError):
        client.delete_template(name)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda client, _name: client.put_template("base", SCHEMA), leasedb.TemplateBuiltinError),
        (lambda client, _name: client.delete_template("base"), leasedb.TemplateBuiltinError),
        (lambda client, name: client.put_template(name, SCHEMA, parent=name), leasedb.TemplateCycleError),
        (lambda client, _name: client.put_template("no name", SCHEMA), leasedb.InvalidRequestError),
        (lambda client, name: client.acquire(name), leasedb.UnknownTemplateError),
        (lambda client, name: client.seal_template(name, "abc"), leasedb.LeasedbError),
    ],
)
def test_what_the_daemon_refuses(client, run_id, call, error):
    with pytest.raises(error):
        call(client, f"x-{run_id}")


def test_a_build_by_hand(client, run_id):
    name = f"build-{run_id}"
    template, lease = client.build_template(name, "f:1", labels={"run": run_id})
    assert (template.state, lease.builds) == ("building", name)
    assert client.get_template(name).state == "building"
    with pytest.raises(leasedb.TemplateBuildingError) as caught:
        client.build_template(name, "f:1", wait=0)
    assert caught.value.progress
    with client.lease() as stranger, pytest.raises(leasedb.NotTheBuilderError):
        client.seal_template(name, stranger.id)
    assert client.seal_template(name, lease).state == "sealed"
    assert (lease.state, lease.lost_reason) == ("released", None)
    template, lease = client.build_template(name, "f:1")
    assert (template.state, lease) == ("sealed", None)
    with pytest.raises(leasedb.TemplateExistsError):
        client.build_template(name, "f:2")


def test_a_build_by_ids(client, run_id):
    name = f"build-{run_id}"
    _, lease = client.build_template(name, "f:1", heartbeat=False)
    client.abandon_template(name, lease.id)
    _, lease = client.build_template(name, "f:1", heartbeat=False)
    assert client.seal_template(name, lease.id, force=True).fingerprint == "f:1"


def test_a_build_whose_lease_is_released_is_given_up(client, run_id):
    name = f"build-{run_id}"
    _, lease = client.build_template(name, "f:1")
    lease.release()
    _, again = client.build_template(name, "f:1")
    assert again.id != lease.id
    client.abandon_template(name, again, "no more")
    assert again.state == "released"


def test_a_template_by_a_function(client, run_id):
    calls = []

    def migrate(lease: leasedb.Lease | leasedb.AsyncLease) -> None:
        calls.append((lease.builds, lease.state))

    template = client.template(f"shop-{run_id[:8]}", migrate, fingerprint=[run_id], labels={"run": run_id})
    assert template.origin == "build"
    assert client.template(f"shop-{run_id[:8]}", migrate, fingerprint=[run_id]) == template
    assert calls == [(template.name, "active")]
    [lease] = client.leases(labels={"run": run_id})
    assert lease.state == "released"
    assert client.template(f"shop-{run_id[:8]}", migrate, fingerprint=[run_id, "v2"]).name != template.name
    assert len(calls) == 2


def test_a_function_that_raises(client, run_id):
    def migrate(_lease: object) -> None:
        raise KeyError("no such revision")

    with pytest.raises(KeyError, match="no such revision"):
        client.template(f"shop-{run_id[:8]}", migrate, fingerprint=[run_id], labels={"run": run_id})
    [failed] = [found for found in client.templates() if found.name.startswith(f"shop-{run_id[:8]}-")]
    assert failed.error.message == "KeyError: 'no such revision'"
    assert {lease.state for lease in client.leases(labels={"run": run_id})} == {"released"}
    # who has not waited for it builds anew
    assert client.template(f"shop-{run_id[:8]}", migrate_nothing, fingerprint=[run_id]).state == "sealed"


def migrate_nothing(_lease: object) -> None:
    pass


def test_one_builds_and_the_others_wait(connect, daemon_url, run_id):
    building, go_on, calls = threading.Event(), threading.Event(), []

    def migrate(_lease: object) -> None:
        calls.append(1)
        building.set()
        assert go_on.wait(20)

    def ask(client: Any) -> Any:
        return client.template(f"shop-{run_id[:8]}", migrate, fingerprint=run_id).name

    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(ask, connect(daemon_url))
        assert building.wait(20)
        others = [threads.submit(ask, connect(daemon_url)) for _ in range(3)]
        with leasedb.Client(daemon_url) as looking:
            [found] = [found for found in looking.templates() if found.name.startswith(f"shop-{run_id[:8]}-")]
            assert found.state == "building"
        go_on.set()
        assert {first.result(20), *(other.result(20) for other in others)} == {found.name}
    assert len(calls) == 1


def test_reset(client):
    with client.lease() as lease:
        before = (lease.id, lease.dsn, lease.template)
        assert lease.reset() == 0
        assert (lease.id, lease.dsn, lease.template) == before
    with pytest.raises(leasedb.LeaseEndedError):
        lease.reset()


def test_checkpoint_and_restore(client):
    with client.lease() as lease:
        with pytest.raises(leasedb.TemplateNotFoundError, match="no checkpoint"):
            lease.restore()
        first = lease.checkpoint()
        assert isinstance(first, leasedb.Checkpoint)
        assert (first.until_lease, first.origin) == (lease.id, "branch")
        second = lease.checkpoint()
        assert second.name != first.name
        assert lease.restore() == 0
        assert lease.restore(first) == 0
        assert lease.reset(first.name) == 0
        assert client.get(lease.id).restore() == 0
        with pytest.raises(leasedb.UnknownTemplateError):
            lease.restore("nosuch")


def test_a_branch_with_a_name(client, run_id):
    name = f"branch-of-{run_id}"
    with client.lease() as lease:
        template = lease.to_template(name)
        assert (template.name, template.origin, template.until_lease) == (name, "branch", None)
        with pytest.raises(leasedb.TemplateExistsError):
            lease.to_template(name)
        assert lease.to_template().until_lease == lease.id
    with client.lease(template) as lease:
        assert lease.template == name
    client.delete_template(name)


def test_forks(client, run_id):
    with client.lease(labels={"run": run_id}, holder="me") as lease:
        with lease.fork(3) as forks:
            assert len({fork.id for fork in forks} | {lease.id}) == 4
            assert {fork.holder.name for fork in forks} == {"me"}
            assert len(client.leases(state="active", labels={"run": run_id})) == 4
        assert [found.id for found in client.leases(state="active", labels={"run": run_id})] == [lease.id]
        [one] = lease.fork(labels={"other": run_id}, holder="you")
        assert (one.labels, one.holder.name) == ({"other": run_id}, "you")
        one.release()


# --- what only the stand-in can be made to do ---


def test_a_folder_is_sent_once_and_asked_about_before(connect, stand_in, schema):
    client = connect(stand_in.url)
    template = client.template("shop", schema)
    sent = stand_in.sent("PUT", f"/templates/{template.name}")
    assert [seen.body for seen in sent] == [f"{SCHEMA}\n;\ncreate index on product (name)"]
    assert sent[0].headers["content-length"] == str(len(sent[0].body))
    assert "transfer-encoding" not in sent[0].headers
    # by another client, which does not know yet that it is there
    assert connect(stand_in.url).template("shop", schema) == template
    assert methods(stand_in) == [f"GET {template.name}", f"PUT {template.name}", f"GET {template.name}"]
    assert stand_in.built == 1


def test_what_a_client_knows_is_not_asked_for_again(connect, stand_in, schema):
    client = connect(stand_in.url)
    for build in (SCHEMA, schema, schema / "001.sql", migrate_nothing):
        template = client.template("shop", build)
        before = len(stand_in.seen)
        assert client.template("shop", build) is template
        assert len(stand_in.seen) == before


def test_a_change_in_a_file_is_another_template(connect, stand_in, schema):
    client = connect(stand_in.url)
    first = client.template("shop", schema)
    (schema / "002.sql").write_text("create index on product (lower(name))")
    second = client.template("shop", schema)
    (schema / "002.sql").unlink()
    assert len({first.name, second.name, client.template("shop", schema).name}) == 3


def test_what_a_function_reads_is_named(connect, stand_in, schema):
    client = connect(stand_in.url)
    first = client.template("shop", migrate_nothing, fingerprint=[schema])
    (schema / "003.sql").write_text("select 1")
    assert client.template("shop", migrate_nothing, fingerprint=[schema]).name != first.name
    assert client.template("shop", lambda _lease: None, fingerprint=[schema]).name != first.name
    # a single text stands for all of it
    own = client.template("shop", migrate_nothing, fingerprint="v1")
    assert client.template("shop", lambda _lease: None, fingerprint="v1") == own
    with pytest.raises(leasedb.InvalidRequestError, match=r"Give fingerprint=\[\.\.\.\]"):
        client.template("shop", print)
    with pytest.raises(TypeError, match="not by int"):
        client.template("shop", 5)


def test_text_that_is_a_path_is_refused(connect, stand_in, schema, monkeypatch):
    monkeypatch.chdir(schema.parent)
    client = connect(stand_in.url)
    with pytest.raises(leasedb.InvalidRequestError, match=r"Path\('schema'\)"):
        client.template("shop", migrate_nothing, fingerprint=["schema"])
    with pytest.raises(leasedb.InvalidRequestError, match=r"Path\('schema/001\.sql'\)"):
        client.template("shop", "schema/001.sql")
    with pytest.raises(leasedb.FileUnreadableError, match=r"'nosuch' in .* cannot be read"):
        client.template("shop", Path("nosuch"))


def test_sql_that_fails_names_the_file(connect, stand_in, schema, monkeypatch):
    monkeypatch.chdir(schema.parent)
    (schema / "003.sql").write_text(f"select 1;\n\n  select {FAILS}")
    with pytest.raises(leasedb.SqlFailedError) as caught:
        connect(stand_in.url).template("shop", Path("schema"))
    assert str(caught.value) == (
        f'schema/003.sql:3: syntax error at or near "{FAILS}" (SQLSTATE 42601) in: select {FAILS}. Do this.'
    )
    assert (caught.value.file, caught.value.line) == ("schema/003.sql", 3)


def test_a_template_that_was_evicted_is_made_again(connect, stand_in, schema):
    client = connect(stand_in.url)
    parent = client.template("shop", schema)
    template = client.template("seeded", migrate_nothing, parent=parent)
    stand_in.evict(template.name)
    with client.lease(template) as lease:
        assert lease.template == template.name
    assert stand_in.built == 3
    stand_in.evict(parent.name)
    stand_in.evict(template.name)
    with client.lease(template.name) as lease:
        assert lease.template == template.name
    assert stand_in.built == 5
    # by a client that did not make it, it is only missed
    stand_in.evict(template.name)
    with pytest.raises(leasedb.UnknownTemplateError):
        connect(stand_in.url).acquire(template)
    assert client.template("seeded", migrate_nothing, parent=parent) == template


def test_a_parent_that_somebody_else_made_and_that_is_gone(connect, stand_in):
    parent = connect(stand_in.url).template("shop", SCHEMA)
    stand_in.evict(parent.name)
    with pytest.raises(leasedb.ParentMissingError):
        connect(stand_in.url).template("more", "select 1", parent=parent)


def test_a_template_that_is_there_needs_no_parent_any_more(connect, stand_in):
    parent = connect(stand_in.url).template("shop", SCHEMA)
    template = connect(stand_in.url).template("seeded", migrate_nothing, parent=parent)
    stand_in.evict(parent.name)
    assert connect(stand_in.url).template("seeded", migrate_nothing, parent=parent) == template
    assert stand_in.built == 2


def test_a_template_that_cannot_be_made_again(connect, stand_in):
    client, may = connect(stand_in.url), [True, False]

    def migrate(_lease: object) -> None:
        assert may.pop(0), "not twice"

    template = client.template("shop", migrate)
    stand_in.evict(template.name)
    with pytest.raises(AssertionError, match="not twice"):
        client.acquire(template)
    assert stand_in.active() == []


def test_each_postgres_has_its_own(connect, stand_in):
    client = connect(stand_in.url)
    old = client.template("shop", SCHEMA, postgres="17")
    new = client.template("shop", SCHEMA)
    assert (old.name, old.postgres, new.postgres) == (new.name, "17", None)
    assert stand_in.built == 2
    assert (client.expect(3, old).template, client.expect(3, new).template) == (f"{old.name}@17", new.name)
    client.acquire(old)
    client.acquire(new)
    client.acquire(old, postgres="17", image=None)
    upon = client.template("more", "select 1", parent=old)
    assert upon.postgres == "17"
    asked = [seen.body.get("postgres") for seen in stand_in.sent("POST", "/leases")]
    assert asked == ["17", None, "17"]
    assert client.get_template("shop" + old.name[4:], postgres="17").leases == 2
    with pytest.raises(leasedb.VersionUnavailableError):
        client.acquire(new, postgres="99")


def test_a_lease_of_a_whole_server(connect, stand_in):
    client = connect(stand_in.url)
    with client.lease(server="exclusive", database="shop", user="ann", image="i") as lease:
        assert (lease.server_kind, lease.image, lease.builds) == ("exclusive", "i", None)
    [seen] = stand_in.sent("POST", "/leases")
    assert {"server": "exclusive", "database": "shop", "user": "ann"}.items() <= seen.body.items()
    client.acquire()
    assert "server" not in stand_in.seen[-1].body


def test_a_daemon_without_templates(connect):
    with StandIn(old=True) as daemon:
        with pytest.raises(leasedb.NotFoundError):
            connect(daemon.url).template("shop", SCHEMA)
        with connect(daemon.url).lease() as lease:
            assert (lease.server_kind, lease.builds) == ("shared", None)
