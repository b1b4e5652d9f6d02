"""Where the daemon is, and who we are to it."""

import os

import pytest

from leasedb._discovery import Address, default_holder, find_address, in_container, pid_space
from leasedb._errors import InvalidAddressError


def test_the_default_address():
    assert find_address(environ={}) == Address("http://127.0.0.1:7432", None, loopback=True)
    empty = {"LEASEDB_URL": "", "LEASEDB_TOKEN": ""}
    assert find_address(environ=empty) == Address("http://127.0.0.1:7432", None, loopback=True)


def test_the_environment_and_what_wins_over_it():
    environ = {"LEASEDB_URL": "http://db.lan:99/", "LEASEDB_TOKEN": "secret\n"}
    assert find_address(environ=environ) == Address("http://db.lan:99", "secret", loopback=False)
    given = find_address("https://[::1]:1/prefix", "other", environ)
    assert given == Address("https://[::1]:1/prefix", "other", loopback=True)
    assert "secret" not in repr(find_address(environ=environ))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.9.1", "[::1]", "a.localhost"])
def test_loopback(host):
    assert find_address(f"http://{host}:7432", environ={}).loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "example.org", "localhost.example.org"])
def test_not_loopback(host):
    assert not find_address(f"http://{host}:7432", environ={}).loopback


@pytest.mark.parametrize(
    "url",
    [
        "localhost:7432",
        "127.0.0.1",
        "ftp://127.0.0.1",
        "http://",
        "http://:7432",
        "http://host:notaport",
        "http://host:70000",
        "http://host:0",
        "http://[::1",
        "http://a b",
        "http://host/?query",
        "http://user:hunter2@host",
    ],
)
def test_a_bad_url_is_told_with_its_source(url):
    with pytest.raises(InvalidAddressError) as caught:
        find_address(environ={"LEASEDB_URL": url})
    assert str(caught.value).startswith("LEASEDB_URL ")
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bad_token_is_not_repeated():
    with pytest.raises(InvalidAddressError) as caught:
        find_address(environ={"LEASEDB_TOKEN": "hunter2 hunter3"})
    assert "hunter" not in str(caught.value)


def test_the_token_of_the_file_is_for_daemons_of_this_machine(tmp_path, monkeypatch):
    """One that is started in this folder asks for it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "leasedb.toml").write_text("token = 'sesame'\n")
    assert find_address(environ={}).token == "sesame"
    assert find_address(environ={"LEASEDB_TOKEN": ""}).token == "sesame"  # as the daemon takes an empty one
    assert find_address(environ={"LEASEDB_URL": "http://localhost:99"}).token == "sesame"
    assert find_address(environ={"LEASEDB_URL": "http://db.lan:7432"}).token is None
    assert find_address(environ={"LEASEDB_TOKEN": "other"}).token == "other"
    assert find_address(token="given", environ={}).token == "given"
    assert find_address(token="", environ={}).token is None


@pytest.mark.parametrize("text", ["token = 5", "token = ''", "pool_ready = 5", "token = ", "\xff"])
def test_a_file_without_a_token_of_use(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "leasedb.toml").write_bytes(text.encode("latin-1"))
    assert find_address(environ={}).token is None


def test_a_bad_token_of_the_file_is_told_with_its_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "leasedb.toml").write_text("token = 'hunter2 hunter3'\n")
    with pytest.raises(InvalidAddressError, match=r"leasedb\.toml") as caught:
        find_address(environ={})
    assert "hunter" not in str(caught.value)


def test_in_container(tmp_path):
    assert not in_container({}, tmp_path)
    assert in_container({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, tmp_path)
    (tmp_path / ".dockerenv").touch()
    assert in_container({}, tmp_path)


def test_in_a_podman_container(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.containerenv").touch()
    assert in_container({}, tmp_path)


def test_pid_space_is_the_same_for_all_of_us_and_empty_without_proc(tmp_path):
    assert pid_space() == pid_space()
    assert pid_space(tmp_path) == ""


def test_default_holder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    user, _, place = default_holder().partition("@")
    assert user
    assert place.endswith(f":{tmp_path.name}")


def test_default_holder_with_a_name_that_is_no_text(tmp_path, monkeypatch):
    folder = os.fsencode(tmp_path) + b"/\xff" + b"x" * 240
    os.mkdir(folder)  # noqa: PTH102 - bytes
    monkeypatch.chdir(os.fsdecode(folder))
    assert len(default_holder().encode()) <= 200


def test_default_holder_in_a_deleted_folder(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert default_holder().endswith(":/")
    monkeypatch.chdir(tmp_path)
