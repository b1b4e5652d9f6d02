"""A text of SQL cut as psql cuts it: statement by statement, and the rows that follow ``COPY ... FROM stdin``.

The rules are those of psql's lexer, src/fe_utils/psqlscan.l, and of its COPY, src/bin/psql/copy.c.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from leasedb_server.domain.errors import SqlFailedError
from leasedb_server.domain.lexing import BLANKS, NAME_PART, Lexer, Step

LONGEST: Final = 64 * 1024**2  # characters of one statement, which has to be in memory as a whole
SHOWN: Final = 200  # characters of a statement that an error shows

_LONGEST_KEYWORD: Final = 64
_LONGEST_LINE: Final = 10_000  # characters of a meta-command's name, or after the semicolon of a COPY

_WORD: Final = re.compile(r"[A-Za-z0-9_$\x80-\U0010ffff]+")
_COMMAND: Final = re.compile(r"\\[^ \t\n\r\f\v]*")
_REST_OF_COPY: Final = re.compile(r"[ \t\r\f\v]*+(?:--[^\n]*+)?\n")
# Statements that are known by their first words; for others each word is looked at until they are known.
_KNOWN_PLAIN: Final = re.compile(
    r"(?:create[ \n](?!or[^a-z]|function[^a-z]|procedure[^a-z])|(?!create[^a-z]|copy[^a-z]))[a-z]+[ \n;(]",
    re.IGNORECASE,
)

# What follows matches what cannot end anything, as much of it as there is. What may be cut at the end of the text does
# not match, and is then read in steps: hence the character that has to follow.
_BETWEEN: Final = re.compile(r"(?:[ \t\n\r\f\v;]++|--[^\n\r]*+[\n\r])*+")
_NAME: Final = r"A-Za-z0-9_$\x80-\U0010ffff"
_NAME_START: Final = r"A-Za-z_\x80-\U0010ffff"
_SIGN: Final = r"-(?=[^-])|/(?=[^*])"
_RUN: Final = r"[^'\"$;()\\/-]++"
_STRING: Final = r"(?<![eE])'[^']*+'" + r'|"[^"]*+"'
_ESCAPED: Final = rf"(?<=[^{_NAME}][eE])'(?:[^'\\]++|\\[\s\S]|'')*+'(?=[,);:])"  # and what follows does not continue it
_LIST: Final = rf"\((?:{_RUN}|{_STRING}|{_ESCAPED}|{_SIGN})*+\)"
_PLAIN: Final = re.compile(rf"(?:{_RUN}|{_STRING}|{_ESCAPED}|{_SIGN}|{_LIST})*+")
_PLAIN_ESCAPED: Final = re.compile(rf"(?:{_RUN}|{_SIGN})*+")  # where every string may have backslashes
_WORDLESS: Final = rf"[^{_NAME_START}'\"$;()\\/-]++|{_SIGN}"
_UNKNOWN: Final = re.compile(rf"(?:{_WORDLESS})*+")
_OTHER_WORD: Final = rf"(?!(?:begin|atomic|case|end)[^{_NAME}])[{_NAME_START}][{_NAME}]*+(?=[^{_NAME}])"
_ROUTINE: Final = re.compile(rf"(?:{_WORDLESS}|{_OTHER_WORD})*+", re.IGNORECASE)

_FILES: Final = "Put the files together into one text."
_ONE_DATABASE: Final = "A dump of one database needs none: pg_dump without --create, and not pg_dumpall."
_COMMAND_HINTS: Final = {
    "c": _ONE_DATABASE,
    "connect": _ONE_DATABASE,
    "i": _FILES,
    "ir": _FILES,
    "include": _FILES,
    "include_relative": _FILES,
    "copy": "Write COPY ... FROM stdin, with the rows in the text.",
    ".": "It ends the rows of a COPY ... FROM stdin, and there is none here.",
}
_NO_PSQL: Final = "Leave it out: this is not psql."


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement without its semicolon.

    Args:
        text: from the first word on.
        number: counted from 1 over the statements of the text.
        line: of the text, from 1, where the first word stands.
        rows: whether `CopyData` and a `CopyEnd` follow.
        rows_line: where the first of these rows stands.
    """

    text: str
    number: int
    line: int
    rows: bool = False
    rows_line: int = 0


@dataclass(frozen=True, slots=True)
class CopyData:
    r"""Some of the rows, cut anywhere; together they are the lines up to the one that is ``\.``."""

    text: str


@dataclass(frozen=True, slots=True)
class CopyEnd:
    """The rows are complete."""


Piece = Statement | CopyData | CopyEnd


class _Kind(Enum):
    """What has to be looked for in a statement."""

    UNKNOWN = auto()  # its first words are not read yet
    PLAIN = auto()
    ROUTINE = auto()  # it may have a body with semicolons: BEGIN ATOMIC ... END
    COPY = auto()  # rows may follow


_PASSED_OVER: Final = {_Kind.UNKNOWN: _UNKNOWN, _Kind.PLAIN: _PLAIN, _Kind.ROUTINE: _ROUTINE, _Kind.COPY: _UNKNOWN}


class Splitter(Lexer):
    """Cuts a text into pieces while it comes in.

    The iterators are lazy, and each has to be used up before the next call. So a statement can be run before the text
    after it is looked at, which may depend on what it did (``backslashes``).

    Raises:
        SqlFailedError: from the iterators, when the text cannot be cut: it ends inside a quote, a comment or rows, a
            statement is longer than `LONGEST`, or there is a meta-command of psql.
    """

    def __init__(self) -> None:
        super().__init__()
        self._step = self._between
        self._began = False  # a byte order mark can only be at the beginning
        self._piece: Piece | None = None
        self._inside = False  # of a statement
        self._number = 0  # of it
        self._begin_line = 1
        self._parts: list[str] = []  # of its text
        self._length = 0  # of the parts together
        self._from = 0  # in _text: what follows the parts
        self._kind = _Kind.UNKNOWN
        self._word = ""  # the last one
        self._parentheses = 0
        self._blocks = 0  # BEGIN ATOMIC and CASE that have no END yet
        self._rows = False
        self._marks: dict[str, Step] = {
            ";": self._semicolon,
            "(": self._open_parenthesis,
            ")": self._close_parenthesis,
            "'": self._string,
            '"': self._quoted_name,
            "$": self._dollar,
            "-": self._sign,
            "/": self._sign,
            "\\": self._stray_backslash,
        }

    def feed(self, text: str) -> Iterator[Piece]:
        """Take some more text, cut anywhere; yield what is complete."""
        if text and not self._began:
            self._began, text = True, text.removeprefix("\ufeff")
        text, end, _ = text.partition("\0")
        if self._inside:
            self._put_by(self._at)
        self._append(text)
        self._from = self._at
        yield from self._pieces()
        if end:
            line = self._line_at(len(self._text))
            what = "has a character with the code 0, which SQL cannot have"
            raise self._failed(f"Line {line} {what}.", line, "Send text in UTF-8: no custom-format dump, no UTF-16.")

    def close(self) -> Iterator[Piece]:
        """Say that the text ends here; yield what was waiting for that."""
        self._last = True
        yield from self._pieces()
        if self._opened:
            where = f"inside {self._opened} that begins on line {self._opened_line}"
            raise self._failed(f"The text ends {where}.", self._opened_line, "Close it, or send the whole text.")

    def _pieces(self) -> Iterator[Piece]:
        while self._step():
            if self._piece is not None:
                piece, self._piece = self._piece, None
                yield piece

    def _put_by(self, end: int) -> None:
        """Keep the statement's text up to a place."""
        self._parts.append(self._text[self._from : end])
        self._length += end - self._from
        self._from = end
        if self._length > LONGEST:
            what = f"The statement that begins on line {self._begin_line} is longer than {LONGEST // 1024**2} MB"
            hint = "Look for a quote or a parenthesis that is not closed; send many rows with COPY ... FROM stdin."
            raise self._failed(f"{what}.", self._begin_line, hint)

    def _failed(self, detail: str, line: int, hint: str) -> SqlFailedError:
        if not self._inside:
            number = self._number if self._rows and self._opened else None
            return SqlFailedError(detail, statement=number, line=line, hint=hint)
        begun = "".join(self._parts) + self._text[self._from : self._at]
        return SqlFailedError(detail, statement=self._number, line=line, sql=begun[:SHOWN], hint=hint)

    # --- statements ---

    def _between(self) -> bool:
        at = self._skip(_BETWEEN)
        if at == len(self._text):
            return False
        match self._text[at]:
            case "-" | "/":
                comment = self._comment(self._between)
                if comment is not None:
                    return comment
            case "\\":
                return self._meta_command()
        self._inside, self._from, self._step = True, at, self._statement
        self._number, self._begin_line = self._number + 1, self._line_at(at)
        self._kind = _Kind.PLAIN if _KNOWN_PLAIN.match(self._text, at) else _Kind.UNKNOWN
        self._word, self._parentheses, self._blocks, self._rows = "", 0, 0, False
        return True

    def _statement(self) -> bool:
        escaped = self.backslashes and self._kind is _Kind.PLAIN
        at = self._skip(_PLAIN_ESCAPED if escaped else _PASSED_OVER[self._kind])
        if at == len(self._text):
            return self._last and self._end(at)
        return self._marks.get(self._text[at], self._read_word)()

    def _semicolon(self) -> bool:
        if not self._parentheses and not self._blocks:
            return self._end(self._at + 1)
        self._at += 1
        return True

    def _open_parenthesis(self) -> bool:
        self._parentheses += 1
        self._at += 1
        return True

    def _close_parenthesis(self) -> bool:
        self._parentheses = max(0, self._parentheses - 1)
        self._at += 1
        return True

    def _sign(self) -> bool:
        comment = self._comment(self._statement)
        if comment is None:
            self._at += 1
            return True
        return comment

    def _stray_backslash(self) -> bool:
        line = self._line_at(self._at)
        what = "has a backslash outside quotes, with which meta-commands of psql begin"
        raise self._failed(f"Line {line} {what}.", line, _NO_PSQL)

    def _end(self, after: int) -> bool:
        self._put_by(self._at)
        text = "".join(self._parts)
        self._inside, self._at, self._step = False, after, self._between
        self._parts, self._length = [], 0
        line = self._line_at(after)
        if self._rows:
            self._opened, self._opened_line, self._step = "the rows of a COPY", self._begin_line, self._rest_of_copy
        self._piece = Statement(
            text.rstrip(BLANKS), self._number, self._begin_line, self._rows, line + 1 if self._rows else 0
        )
        return True

    # --- words ---

    def _read_word(self) -> bool:
        at = self._at
        end = self._skip(_WORD)
        short = end - at <= _LONGEST_KEYWORD
        if end == len(self._text) and not self._last and short:
            self._at = at
            return False
        before = self._text[at - 1 : at]
        if short and before != "." and not NAME_PART.match(before):
            self._take_word(self._text[at:end].lower())
        return True

    def _take_word(self, word: str) -> None:
        match self._kind, self._word, word:
            case _Kind.UNKNOWN, "", "copy":
                self._kind = _Kind.COPY
            case _Kind.UNKNOWN, "create" | "replace", "function" | "procedure":
                self._kind = _Kind.ROUTINE
            case (_Kind.UNKNOWN, "", "create") | (_Kind.UNKNOWN, "create", "or") | (_Kind.UNKNOWN, "or", "replace"):
                pass
            case _Kind.UNKNOWN, _, _:
                self._kind = _Kind.PLAIN
            case _ if self._parentheses:
                pass
            case _Kind.COPY, "from", "stdin" | "stdout":  # the grammar takes either
                self._rows = True
            case _Kind.ROUTINE, "begin", "atomic":
                self._blocks += 1
            case (_Kind.ROUTINE, _, "case") if self._blocks:
                self._blocks += 1
            case (_Kind.ROUTINE, _, "end") if self._blocks:
                self._blocks -= 1
        self._word = word

    # --- what is psql's own ---

    def _meta_command(self) -> bool:
        at = self._at
        end = self._skip(_COMMAND)
        if end == len(self._text) and not self._last and end - at < _LONGEST_LINE:
            self._at = at
            return False
        command = self._text[at + 1 : end]
        # pg_dump writes these since August 2025, so that what it dumps cannot run others in psql
        if command not in {"restrict", "unrestrict"}:
            line = self._line_at(at)
            what = f"is a meta-command of psql, \\{command[:SHOWN]}, which is not run here"
            raise self._failed(f"Line {line} {what}.", line, _COMMAND_HINTS.get(command, _NO_PSQL))
        self._after, self._step = self._between, self._line_comment
        return True

    def _rest_of_copy(self) -> bool:
        found = _REST_OF_COPY.match(self._text, self._at)
        if found:
            self._at, self._step = found.end(), self._copied
            return True
        rest = self._text[self._at :]
        if not rest.strip(BLANKS) or (not self._last and "\n" not in rest and len(rest) < _LONGEST_LINE):
            return False
        line = self._line_at(self._at)
        hint = "Its rows begin on the next line, and the next statement after the line \\. that ends them."
        raise self._failed(f"Line {line} goes on after the semicolon of COPY ... FROM stdin.", line, hint)

    def _copied(self) -> bool:
        text = self._text
        at = self._at - 1  # where the newline is when a line begins here
        while (at := text.find("\n\\.", at)) >= 0:
            match text[at + 3 : at + 5]:
                case "\r\n":
                    return self._rows_until(at + 1, at + 5)
                case "" | "\r" as rest:  # not known yet
                    return self._rows_until(at + 1, at + 3 + len(rest) if self._last else None)
                case rest if rest[0] == "\n":
                    return self._rows_until(at + 1, at + 4)
            at += 1
        return self._rows_until(len(text) - (text.endswith("\n\\") and not self._last), None)

    def _rows_until(self, end: int, after: int | None) -> bool:
        """Pass on the rows before a place; when there are none, go on after their end, if it is known."""
        if end > self._at:
            self._piece, self._at = CopyData(self._text[self._at : end]), end
            return True
        if after is None:
            return False
        self._piece, self._at = CopyEnd(), after
        self._opened, self._step = "", self._between
        return True
