"""Cutting a text as psql does, wherever it is cut while it comes in."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasedb_server.domain import statements
from leasedb_server.domain.errors import SqlFailedError
from leasedb_server.domain.statements import CopyData, CopyEnd, Splitter, Statement


def pieces(*chunks, splitter=None):
    """Return statements, and the rows of each COPY as one text."""
    splitter = splitter or Splitter()
    found = []
    for piece in itertools.chain(*(splitter.feed(chunk) for chunk in chunks), splitter.close()):
        if isinstance(piece, CopyData) and isinstance(found[-1], CopyData):
            found[-1] = CopyData(found[-1].text + piece.text)
        else:
            found.append(piece)
    return found


def texts(*chunks):
    return [piece.text for piece in pieces(*chunks) if isinstance(piece, Statement)]


def outcome(*chunks):
    try:
        return pieces(*chunks)
    except SqlFailedError as error:
        return error.detail, error.hint, error.statement, error.line, error.sql


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" ; ;\n-- nothing\n/* at all */;", []),
        ("SELECT 1; SELECT 2", ["SELECT 1", "SELECT 2"]),
        ("SELECT 1 ;\n", ["SELECT 1"]),
        ("\ufeffSELECT 1;\r\nSELECT 2;\r\n", ["SELECT 1", "SELECT 2"]),
        ("/* a; */ SELECT 1 -- b;\n + 2; -- c", ["SELECT 1 -- b;\n + 2"]),
        ("SELECT 1 /* a /* b; */ c; */ ; SELECT 2", ["SELECT 1 /* a /* b; */ c; */", "SELECT 2"]),
        ("SELECT 1 +-- ;\r2; SELECT 3 */*;*/ 4", ["SELECT 1 +-- ;\r2", "SELECT 3 */*;*/ 4"]),
        ("SELECT ';', 'it''s;', '\\'; SELECT 2", ["SELECT ';', 'it''s;', '\\'", "SELECT 2"]),
        ("SELECT E'\\';', e'\\\\'; SELECT E'a''\\';'", ["SELECT E'\\';', e'\\\\'", "SELECT E'a''\\';'"]),
        ("SELECT type'\\'; SELECT $e'\\'", ["SELECT type'\\'", "SELECT $e'\\'"]),
        ("SELECT U&'\\0061;' , U&\"d\\;\"\";\"; x", ["SELECT U&'\\0061;' , U&\"d\\;\"\";\"", "x"]),
        ("SELECT B'1;', X'1;', N'a;'; x", ["SELECT B'1;', X'1;', N'a;'", "x"]),
        ('SELECT "a;""b;"; x', ['SELECT "a;""b;"', "x"]),
        ("SELECT $$;$$, $a$;$b$;$$ $a$; x", ["SELECT $$;$$, $a$;$b$;$$ $a$", "x"]),
        ("SELECT $\u00e9_1$;$\u00e9_1$; x", ["SELECT $\u00e9_1$;$\u00e9_1$", "x"]),
        ("SELECT a$$; SELECT $1$; SELECT $2", ["SELECT a$$", "SELECT $1$", "SELECT $2"]),
        ("SELECT $a$ $a $a$; x", ["SELECT $a$ $a $a$", "x"]),
        ("CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT (2); ); x", [
            "CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT (2); )", "x",
        ]),
        ("SELECT 1); x", ["SELECT 1)", "x"]),
    ],
)  # fmt: skip
def test_statements_end_where_psql_ends_them(text, expected):
    assert texts(text) == expected


@pytest.mark.parametrize("gap", ["\n", " \r\n\t", " -- c'\n", "\n-- c'\n -- d\n", ""])
def test_an_escaped_string_goes_on_in_the_next_line(gap):
    whole = f"SELECT E'a'{gap}'\\';'"
    assert texts(f"{whole}; x") == [whole, "x"]


@pytest.mark.parametrize("gap", [" ", ",\n", " /* c */\n", "\n- ", "\n||"])
def test_an_escaped_string_does_not_go_on(gap):
    whole = f"SELECT E'a'{gap}'\\'"
    assert texts(f"{whole}; x") == [whole, "x"]


@pytest.mark.parametrize(
    "head",
    [
        "CREATE FUNCTION f() RETURNS int",
        "create or replace function s.f(a int) RETURNS int",
        "CREATE/**/OR -- c\n REPLACE\nPROCEDURE p()",
    ],
)
@pytest.mark.parametrize(
    "body",
    [
        "BEGIN ATOMIC SELECT 1; SELECT 2; END",
        "begin\natomic END",
        "BEGIN ATOMIC SELECT CASE WHEN a THEN 1 END; SELECT (CASE b WHEN 1 THEN 2 END) END",
        "BEGIN ATOMIC SELECT t.end, \"end\", 'end', weekend, end1, case_ FROM t; END",
        "RETURN CASE WHEN a THEN 1 END",
        "AS $$BEGIN ATOMIC$$",
    ],
)
def test_the_body_of_a_routine_is_not_cut(head, body):
    assert texts(f"{head} LANGUAGE sql {body}; SELECT 2;") == [f"{head} LANGUAGE sql {body}", "SELECT 2"]


@pytest.mark.parametrize("text", ["CREATE TABLE begin (a int)", "BEGIN", "END", "CREATE VIEW v AS SELECT 1 AS atomic"])
def test_begin_is_a_word_like_others_elsewhere(text):
    assert texts(f"{text}; SELECT 2") == [text, "SELECT 2"]


def test_a_statement_knows_its_number_and_line():
    text = "-- a\n\nSELECT\n'x\ny';;\n/*\n*/ SELECT 2; SELECT 3;\r\nSELECT 4"
    found = [(piece.number, piece.line) for piece in pieces(text)]
    assert found == [(1, 3), (2, 7), (3, 7), (4, 8)]


@pytest.mark.parametrize(
    ("command", "rows"),
    [
        ("COPY t FROM stdin", "1\t\\N\n\\\\.\n;'$$/*\n"),
        ('copy t (a, "b\'") from STDIN WITH (FORMAT csv)', '"a\n;",\\.x\n'),
        ("COPY t\nFROM -- c\n stdin", "\\.\\.\n \\.\n"),
        ("COPY t FROM stdin WHERE a = ';'", ""),
        ("COPY t FROM STDOUT", "1\r\n2\r\n"),
    ],
)
def test_the_rows_of_a_copy_are_passed_on(command, rows):
    lines = command.count("\n") + 1
    data = [CopyData(rows)] if rows else []
    for end in ("\n", "\r\n"):
        found = pieces(f"{command};  -- rows\n{rows}\\.{end}SELECT 2;")
        after = Statement("SELECT 2", 2, lines + 1 + rows.count("\n") + 1)
        assert found == [Statement(command, 1, 1, rows=True, rows_line=lines + 1), *data, CopyEnd(), after]
    assert pieces(f"{command};\n{rows}\\.")[-1] == CopyEnd()


@pytest.mark.parametrize(
    "text",
    [
        "COPY t TO stdout",
        "COPY t FROM 'stdin'",
        'COPY t FROM "stdin"',
        "COPY (SELECT a FROM stdin) TO STDOUT",
        "COPY t FROM PROGRAM 'stdin'",
        "SELECT 1 AS copy FROM stdin",
    ],
)
def test_other_statements_have_no_rows(text):
    assert pieces(f"{text}; SELECT 2") == [Statement(text, 1, 1), Statement("SELECT 2", 2, 1)]


def test_rows_are_passed_on_as_they_come():
    splitter = Splitter()
    assert list(splitter.feed("COPY t FROM stdin;\n1\n2")) == [
        Statement("COPY t FROM stdin", 1, 1, rows=True, rows_line=2), CopyData("1\n2"),
    ]  # fmt: skip
    assert list(splitter.feed("\n\\")) == [CopyData("\n")]
    assert list(splitter.feed(".")) == []
    assert list(splitter.feed("\n")) == [CopyEnd()]
    assert splitter.line == 5


def test_what_pg_dump_writes_for_psql_is_passed_over():
    key = "\\restrict aB3\nSELECT 1;\n\\unrestrict aB3\n"
    assert pieces(key) == [Statement("SELECT 1", 1, 2)]


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("SELECT 1;\n\\connect postgres\n", 2, "\\connect"),
        ("\\c x", 1, "\\c"),
        ("\\i other.sql\n", 1, "\\i"),
        ("\\copy t from 'x'\n", 1, "\\copy"),
        ("SELECT 1\n\\gset\n", 2, "backslash"),
        ("SELECT 1;\n1\t2\n\\.\n", 3, "backslash"),
        ("SELECT 1;\n\\.\n", 2, "\\."),
        ("\\!ls", 1, "\\!ls"),
        ("SELECT 1;\n SELECT 'a;\n;", 2, "a string"),
        ("SELECT\n E'a\\';\n;", 2, "a string"),
        ("SELECT E'a'\n'b", 2, "a string"),
        ("SELECT\n\n$x$ $$", 3, "$x$"),
        ('SELECT\n"a;', 2, "a quoted name"),
        ("SELECT 1\n/* a\n/* b */;", 2, "a comment"),
        ("\n/*", 2, "a comment"),
        ("SELECT 1;\nCOPY t FROM stdin;\n1\n", 2, "the rows"),
        ("COPY t FROM stdin", 1, "the rows"),
        ("COPY t FROM stdin; SELECT 1;", 1, "after the semicolon"),
        ("SELECT 1;\nSELECT 'a\0b'", 2, "code 0"),
    ],
)
def test_what_cannot_be_cut_is_refused_with_its_line(text, line, says):
    for chunks in ([text], text):
        with pytest.raises(SqlFailedError) as caught:
            pieces(*chunks)
        assert caught.value.line == line
        assert says in caught.value.detail


def test_an_error_inside_a_statement_shows_it():
    with pytest.raises(SqlFailedError) as caught:
        pieces("SELECT 1; SELECT ", "'" + "x" * 300)
    assert (caught.value.statement, caught.value.sql) == (2, "SELECT '" + "x" * 192)


@pytest.mark.parametrize("begin", ["SELECT '", "SELECT (", "SELECT $$", "SELECT /*", "SELECT "])
def test_a_statement_has_a_limit(begin):
    splitter = Splitter()
    some = "x" * 1024**2
    with pytest.raises(SqlFailedError, match="that begins on line 2 is longer than 64 MB"):
        pieces("SELECT 1;\n", begin, *[some] * (statements.LONGEST // len(some) + 1), splitter=splitter)


def test_rows_have_no_limit():
    rows = ["x" * 1024**2 + "\n"] * (statements.LONGEST // 1024**2 + 1)
    splitter = Splitter()
    amount = 0
    for chunk in ("COPY t FROM stdin;\n", *rows, "\\.\n"):
        amount += sum(len(piece.text) for piece in splitter.feed(chunk) if isinstance(piece, CopyData))
    assert amount == sum(map(len, rows))


def test_how_strings_are_read_may_change_between_two_statements():
    splitter, found = Splitter(), []
    for piece in splitter.feed("SET off; SELECT 'a\\'; b', f('c\\'', 1); SET on; SELECT '\\'; SELECT 5;"):
        found.append(piece.text)
        splitter.backslashes = piece.text == "SET off" or (splitter.backslashes and piece.text != "SET on")
    assert found == ["SET off", "SELECT 'a\\'; b', f('c\\'', 1)", "SET on", "SELECT '\\'", "SELECT 5"]


QUOTES = ["'", "''", '"', "E'", "e'", " e", "U&'", "$", "$$", "$a$", "$1", "a$", "\\", "\\'"]
SIGNS = ["-", "--", "/", "/*", "*/", "(", ")", ";", ",", ".", " ", "\t", "\n", "\r\n", "\ufeff"]
WORDS = [
    "1",
    "a",
    "\u00e9",
    "\U0001f600",
    "SELECT ",
    "COPY t FROM stdin",
    "copy ",
    "FROM",
    "stdin;\n",
    "\\.",
    "\n\\.\n",
]
BODIES = ["CREATE FUNCTION ", "create or replace procedure ", "BEGIN", "atomic ", "CASE ", "END ", "begin atomic"]
NOISE = st.lists(st.sampled_from([*QUOTES, *SIGNS, *WORDS, *BODIES, "\\restrict k\n"]), max_size=30)


@given(st.data(), NOISE)
def test_it_does_not_matter_where_the_text_is_cut_while_it_comes_in(data, noise):
    text = "".join(noise)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    chunks = [text[begin:end] for begin, end in itertools.pairwise([0, *cuts, len(text)])]
    whole = outcome(text)
    assert outcome(*chunks) == whole
    assert outcome(*text) == whole


INSIDE = st.text(st.sampled_from(";'\"$\\-/*()\n\r aE\u00e9"), max_size=8)
TAGS = st.sampled_from(["", "a", "_1", "\u00e9"])
CLOSED = st.one_of(
    st.sampled_from(["SELECT", "a.b", "e", "1", "+", "-", "/", "$1", "a$b$", "U&", "INSERT", "CASE", "END", "BEGIN"]),
    INSIDE.map(lambda text: "'" + text.replace("'", "''") + "'"),
    INSIDE.map(lambda text: "E'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"),
    INSIDE.map(lambda text: '"' + text.replace('"', '""') + '"'),
    st.tuples(TAGS, INSIDE.map(lambda text: text.replace("$", ""))).map("${0[0]}${0[1]}${0[0]}$".format),
    INSIDE.map(lambda text: "/*" + text.replace("*", "").replace("/", "") + "/*;*/*/"),
    INSIDE.map(lambda text: "--" + text.replace("\n", "").replace("\r", "") + "\n"),
)
STATEMENTS = st.recursive(
    st.lists(CLOSED, max_size=6).map(" , ".join),
    lambda inner: st.lists(inner, max_size=3).map(lambda parts: "(" + ";".join(parts) + ")"),
    max_leaves=8,
)


@given(st.lists(STATEMENTS.map("x {}".format), max_size=6), st.integers(1, 40))
def test_statements_put_together_come_apart_again(made, size):
    text = "\n;".join(made)
    chunks = [text[at : at + size] for at in range(0, len(text), size)]
    assert texts(*chunks) == [statement.rstrip() for statement in made]


ROWS = st.lists(st.text(st.sampled_from("a\\.N\t;'\u00e9"), max_size=6).filter(lambda row: row != "\\."), max_size=8)


@given(ROWS, st.integers(1, 10), st.sampled_from(["\n", "\r\n"]))
def test_rows_come_out_as_they_were(rows, size, newline):
    data = "".join(row + newline for row in rows)
    text = f"COPY t FROM stdin;\n{data}\\.{newline}SELECT 2"
    chunks = [text[at : at + size] for at in range(0, len(text), size)]
    found = pieces(*chunks)
    assert "".join(piece.text for piece in found if isinstance(piece, CopyData)) == data
    assert found[-2:] == [CopyEnd(), Statement("SELECT 2", 2, len(rows) + 3)]
