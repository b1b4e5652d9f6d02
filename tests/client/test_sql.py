"""SQL from texts, files and folders: what is sent, and where which line of it stands."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import leasedb
from leasedb._sql import Sql, first_line, of_path, of_text


def sent(sql: Sql) -> bytes:
    content = b"".join(sql.chunks())
    assert len(content) == sql.size
    return content


def folder(path: Path, **files: str | bytes) -> Path:
    for name, content in files.items():
        (path / f"{name}.sql").write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_text_is_sent_as_it_is():
    assert sent(of_text("select 'ä';\n")) == "select 'ä';\n".encode()
    assert of_text("a\nb").place(2) == (None, 2)
    assert of_text("").size == 0


def test_a_file_is_sent_as_it_is(tmp_path):
    folder(tmp_path, dump=b"select 1;\n\xff")
    sql = of_path(tmp_path / "dump.sql")
    assert sent(sql) == b"select 1;\n\xff"
    assert sql.place(2) == (str(tmp_path / "dump.sql"), 2)
    assert of_path(tmp_path / "dump.sql", "stdin").place(7) == ("stdin", 7)


def test_a_folder_is_sent_in_the_order_of_its_names(tmp_path):
    folder(tmp_path, b="select 2;\n", a="select 1;\n", c="select 3;\n")
    (tmp_path / "notes.txt").write_text("no SQL")
    (tmp_path / ".c.sql").write_text("no SQL either")
    (tmp_path / "more").mkdir()
    assert sent(of_path(tmp_path)) == b"select 1;\nselect 2;\nselect 3;\n"


def test_what_ends_a_file_ends_what_stands_in_it(tmp_path):
    folder(tmp_path, a="select 1", b="\ufeffselect 2; -- two", c="", d="select 4;  \n\n", e="select 5")
    sql = of_path(tmp_path)
    assert sent(sql).decode().split("\n") == ["select 1", ";", "select 2; -- two", ";", "select 4;  ", "", "select 5"]
    found = {line: sql.place(line) for line in range(1, 8)}
    names = {line: (Path(file or "").stem, number) for line, (file, number) in found.items()}
    assert (names[1], names[3], names[5], names[6], names[7]) == (("a", 1), ("b", 1), ("d", 1), ("d", 2), ("e", 1))


@given(st.lists(st.text("a;\n -", max_size=20), min_size=1, max_size=6))
def test_every_line_is_found_where_it_stands(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("sql")
    sql = of_path(folder(path, **{f"{number}": text for number, text in enumerate(texts)}))
    for number, line in enumerate(sent(sql).decode().split("\n"), 1):
        name, place = sql.place(number)
        lines = Path(name or "").read_text().split("\n")
        assert line == ";" or line == (lines[place - 1] if place <= len(lines) else "")


def test_a_file_that_is_larger_than_what_is_read_at_once(tmp_path):
    folder(tmp_path, a=b"\xef\xbb\xbf" + b"x" * 3_000_000, b="y")
    assert sent(of_path(tmp_path)) == b"x" * 3_000_000 + b"\n;\ny"


def test_files_are_named_as_one_would_type_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "schema").mkdir()
    folder(tmp_path / "schema", a="select 1")
    assert of_path(tmp_path / "schema").place(1) == ("schema/a.sql", 1)
    assert of_path(Path("schema/a.sql")).place(1) == ("schema/a.sql", 1)


def test_what_is_not_there(tmp_path):
    with pytest.raises(leasedb.FileUnreadableError, match="No such file"):
        of_path(tmp_path / "nosuch.sql")
    with pytest.raises(leasedb.FileUnreadableError, match=r"no \.sql file in the folder"):
        of_path(tmp_path)


def test_a_name_is_no_text():
    with pytest.raises(leasedb.InvalidRequestError, match=r"Write Path\('schema/shop\.sql'\)"):
        of_text("schema/shop.sql")
    assert sent(of_text("\\i shop.sql"))


def failed(**more: object) -> leasedb.SqlFailedError:
    error = leasedb.SqlFailedError("Statement 2 failed.", hint="Mend it.")
    error.take(
        {"message": "no such column", "sqlstate": "42703", "statement": 2, "line": 3, "sql": "select\n x"} | more
    )
    return error


def test_an_error_says_which_file(tmp_path, monkeypatch):
    monkeypatch.chdir(folder(tmp_path, a="select 1;\n\n", b="select\nx"))
    error = failed()
    of_path(Path()).explain(error)
    assert str(error) == "b.sql:1: no such column (SQLSTATE 42703) in: select. Mend it."
    assert (error.file, error.line, error.statement, error.sqlstate) == ("b.sql", 1, 2, "42703")


def test_an_error_in_text_says_which_line():
    error = failed(sqlstate=None, sql=None)
    of_text("a\nb\nc").explain(error)
    assert str(error) == "line 3 of the SQL: no such column. Mend it."
    assert (error.file, error.line) == (None, 3)


def test_an_error_that_says_little():
    error = failed(line=None, message="cut off")
    of_text("a").explain(error)
    assert error.detail == "cut off (SQLSTATE 42703) in: select."


def test_somebody_elses_error_too(tmp_path, monkeypatch):
    monkeypatch.chdir(folder(tmp_path, a="select x"))
    error = leasedb.BuildFailedError("It failed.")
    sql = of_path(Path("a.sql"))
    sql.explain(error)
    assert error.detail == "It failed."
    error.take({"error": {"message": "no such column", "line": 1, "sql": "select x"}})
    sql.explain(error)
    assert error.detail == "The build that this call waited for failed: a.sql:1: no such column in: select x."


def test_a_long_line_is_cut():
    assert first_line("\n  select 1\nfrom x") == "select 1"
    assert first_line(None) == first_line("  ") == ""
    assert len(first_line("x" * 1000)) == 120
