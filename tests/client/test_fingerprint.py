"""Fingerprints: the same content is the same, whatever else differs, and any other content is another."""

import functools
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import leasedb
from leasedb._fingerprint import check_parts, fingerprint, of_function


def test_it_looks_like_what_it_is():
    assert leasedb.fingerprint("a").startswith("sha256:")
    assert len(leasedb.fingerprint("a")) == len("sha256:") + 64


def test_it_is_the_same_in_another_process(tmp_path):
    (tmp_path / "a.sql").write_text("select 1")
    code = "import leasedb, pathlib, sys; print(leasedb.fingerprint('a', b'b', pathlib.Path(sys.argv[1])))"
    printed = {
        subprocess.check_output([sys.executable, "-c", code, path], cwd=cwd, text=True).strip()
        for path, cwd in [(str(tmp_path), "/"), (".", tmp_path)]
    }
    assert printed == {fingerprint("a", b"b", tmp_path)}


@given(st.lists(st.text() | st.binary()), st.lists(st.text() | st.binary()))
def test_other_parts_are_another_fingerprint(one, other):
    assert (fingerprint(*one) == fingerprint(*other)) is (one == other)


def test_parts_do_not_run_into_each_other():
    assert len({fingerprint(*parts) for parts in [("ab",), ("a", "b"), ("b", "a"), ("", "ab"), (b"ab",), ()]}) == 6


def test_only_what_can_be_hashed():
    with pytest.raises(TypeError, match="not of int"):
        fingerprint(5)  # type: ignore[arg-type]


def tree(folder: Path) -> Path:
    """A folder of migrations, as a checkout has it."""
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "001.sql").write_text("create table a ()")
    (folder / "deep" / "002.sql").write_text("create table b ()")
    (folder / "deep" / "er" / "003.sql").write_bytes(b"\xff\x00")
    return folder


def test_two_checkouts_are_the_same(tmp_path):
    one, other = tree(tmp_path / "one"), tree(tmp_path / "some" / "where" / "else")
    assert fingerprint(one) == fingerprint(other)
    assert fingerprint(one / "001.sql") == fingerprint(other / "001.sql")


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "001.sql").write_text("create table a () "),
        lambda folder: (folder / "004.sql").write_text(""),
        lambda folder: (folder / "deep" / "002.sql").unlink(),
        lambda folder: (folder / "deep" / "002.sql").rename(folder / "deep" / "2.sql"),
        lambda folder: (folder / "deep" / "002.sql").rename(folder / "002.sql"),
        lambda folder: (folder / ".hidden").write_text(""),
        lambda folder: (folder / "link.sql").symlink_to("001.sql"),
    ],
)
def test_a_change_is_seen(tmp_path, change):
    before = fingerprint(tree(tmp_path / "tree"))
    change(tmp_path / "tree")
    assert fingerprint(tmp_path / "tree") != before


@pytest.mark.parametrize(
    "name",
    [
        *("__pycache__/env.cpython-311.pyc", "env.pyc", "deep/__pycache__/x", ".git/HEAD", ".hg/store", ".svn/entries"),
        *("001.sql~", "deep/.002.sql.swp", "#001.sql#", "001.sql.bak", "001.sql.orig", ".DS_Store", ".jj/x"),
    ],
)
def test_what_comes_and_goes_does_not_count(tmp_path, name):
    before = fingerprint(tree(tmp_path / "tree"))
    (tmp_path / "tree" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "tree" / name).write_text("now and then")
    assert fingerprint(tmp_path / "tree") == before


def test_times_and_rights_do_not_count(tmp_path):
    before = fingerprint(tree(tmp_path / "tree"))
    os.utime(tmp_path / "tree" / "001.sql", (1, 1))
    (tmp_path / "tree" / "001.sql").chmod(0o755)
    assert fingerprint(tmp_path / "tree") == before


def test_links_are_followed_and_loops_are_not(tmp_path):
    one, other = tree(tmp_path / "one"), tree(tmp_path / "other")
    (one / "more").symlink_to(other / "deep")
    followed = fingerprint(one)
    (other / "deep" / "002.sql").write_text("create table c ()")
    assert fingerprint(one) != followed
    (one / "deep" / "up").symlink_to(one)
    (one / "self").symlink_to("self")
    (one / "nowhere").symlink_to("nosuch")
    assert fingerprint(one).startswith("sha256:")
    # read through a link it is what it is
    (tmp_path / "link").symlink_to(one)
    assert fingerprint(tmp_path / "link") == fingerprint(one)


def test_what_is_no_file_is_left_out_and_not_waited_for(tmp_path):
    before = fingerprint(tree(tmp_path / "tree"))
    os.mkfifo(tmp_path / "tree" / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "tree" / "socket"))
        assert fingerprint(tmp_path / "tree") == before
    with pytest.raises(leasedb.FileUnreadableError, match="neither a file nor a folder"):
        fingerprint(tmp_path / "tree" / "pipe")


def test_what_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(leasedb.FileUnreadableError) as caught:
        fingerprint(Path("migrations"))
    assert str(caught.value).startswith(f"'migrations' in {tmp_path} cannot be read: No such file or directory. ")
    assert "Path(__file__).parent" in str(caught.value)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs /proc")
def test_what_cannot_be_read():
    with pytest.raises(leasedb.FileUnreadableError, match=r"'/proc/self/mem' cannot be read: Input/output error\."):
        fingerprint(Path("/proc/self/mem"))


def test_a_large_file_is_not_read_at_once(tmp_path):
    with (tmp_path / "dump.sql").open("wb") as file:
        file.truncate(50 * 2**20)
    code = (
        "import leasedb, pathlib, resource, sys; leasedb.fingerprint('')\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "leasedb.fingerprint(pathlib.Path(sys.argv[1]))\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    grown = subprocess.check_output([sys.executable, "-c", code, str(tmp_path / "dump.sql")], text=True)
    assert int(grown) < 20


# --- functions ---


def migrate(lease: object) -> None:
    """Build something."""


def test_a_function_is_its_name_and_its_file():
    assert of_function(migrate) == ("function", "migrate", Path(__file__))
    wrapped = functools.wraps(migrate)(lambda *_arguments: None)
    assert of_function(wrapped) == of_function(migrate)


@pytest.mark.parametrize("function", [print, functools.partial(migrate, 1), eval("lambda lease: 1")])
def test_a_function_without_a_file_is_nothing(function):
    assert of_function(function) == ()


def test_text_that_names_a_file_is_a_mistake(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "migrations").mkdir()
    with pytest.raises(leasedb.InvalidRequestError, match=r"Write Path\('migrations'\)"):
        check_parts(["shop", "migrations"])
    check_parts(["migrations", Path("migrations")])
    check_parts(["shop", b"migrations", "x" * 10_000, "\0", ""])
