"""The SQL that a template is made of: a text, a file, or a folder of files; and where which line of it stands."""

import functools
import itertools
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from leasedb._errors import BuildFailedError, FileUnreadableError, InvalidRequestError, SqlFailedError
from leasedb._fingerprint import Part, chunks, kind_of
from leasedb._template import BuildFailure

_MARK: Final = b"\xef\xbb\xbf"  # of UTF-8 at the beginning of a file; psql leaves it out too
_LONGEST_SHOWN: Final = 120  # characters of a statement


@dataclass(frozen=True, slots=True)
class _Piece:
    """A text, or a file and what people call it."""

    content: bytes | Path
    name: str | None = None

    def chunks(self) -> Iterator[bytes]:
        source = iter((self.content,)) if isinstance(self.content, bytes) else chunks(self.content)
        yield next(source, b"").removeprefix(_MARK)
        yield from source


@dataclass(frozen=True, slots=True)
class _Extent:
    """How much a piece is; ``tail`` is what has to stand between it and the next."""

    size: int
    lines: int
    tail: bytes


class Sql:
    """SQL text, wherever it lies. Nothing is read before it is needed, and it can be read again."""

    def __init__(self, pieces: Sequence[_Piece], parts: Sequence[Part]) -> None:
        self._pieces = tuple(pieces)
        self.parts = tuple(parts)
        """What its fingerprint is made of."""

    @property
    def short(self) -> bool:
        """Whether it is text that somebody wrote in a program."""
        return all(isinstance(piece.content, bytes) for piece in self._pieces)

    @functools.cached_property
    def _extents(self) -> list[_Extent]:
        last = len(self._pieces) - 1
        return [_measure(piece, followed=number < last) for number, piece in enumerate(self._pieces)]

    @property
    def size(self) -> int:
        """Bytes that `chunks` yields."""
        return sum(extent.size + len(extent.tail) for extent in self._extents)

    def chunks(self) -> Iterator[bytes]:
        """Yield the text in UTF-8, or whatever the files are in.

        Raises:
            FileUnreadableError: a file is not there any more.
        """
        for piece, extent in zip(self._pieces, self._extents, strict=True):
            yield from piece.chunks()
            yield extent.tail

    def place(self, line: int) -> tuple[str | None, int]:
        """Return the file in which a line of the text stands, None where there are no files, and its number there."""
        starts = list(itertools.accumulate((extent.lines for extent in self._extents), initial=0))
        number = max((n for n, start in enumerate(starts[:-1]) if start < line), default=0)
        return self._pieces[number].name, line - starts[number]

    def explain(self, error: SqlFailedError | BuildFailedError) -> None:
        """Make an error say where in our files the statement stands that failed."""
        if isinstance(error, SqlFailedError):
            told = BuildFailure(error.message, error.sqlstate, error.statement, error.line, error.sql)
            error.detail = self._told(told)
            if told.line is not None:
                error.file, error.line = self.place(told.line)
                error.message = _renumbered(told.message, told.line, error.line)
        elif error.error is not None:
            error.detail = f"The build that this call waited for failed: {self._told(error.error)}"

    def _told(self, failure: BuildFailure) -> str:
        file, line = (None, None) if failure.line is None else self.place(failure.line)
        where = "" if line is None else f"{file}:{line}: " if file else f"line {line} of the SQL: "
        state = f" (SQLSTATE {failure.sqlstate})" if failure.sqlstate else ""
        statement = first_line(failure.sql)
        message = failure.message if line is None else _renumbered(failure.message, failure.line, line)
        return f"{where}{message.rstrip('.')}{state}{f' in: {statement}' if statement else ''}."


def _renumbered(message: str, line: int | None, place: int) -> str:
    """Let a message that names the line of the text name that of the file."""
    return re.sub(rf"\b([Ll]ine) {line}\b", rf"\1 {place}", message)


def first_line(sql: str | None) -> str:
    """Return the first line of a statement, cut to what fits on a screen."""
    line = next(iter((sql or "").strip().splitlines()), "").strip()
    return line if len(line) <= _LONGEST_SHOWN else f"{line[: _LONGEST_SHOWN - 1]}…"


def of_text(text: str) -> Sql:
    """Take SQL as text.

    Raises:
        InvalidRequestError: it is the name of a file.
    """
    if text.endswith(".sql") and not any(character.isspace() or character == ";" for character in text):
        raise InvalidRequestError(
            f"{text!r} is taken as SQL text, and looks like the name of a file.", hint=f"Write Path({text!r})."
        )
    content = text.encode("utf-8", "surrogatepass")
    return Sql([_Piece(content)], [text])


def of_path(path: Path, name: str | None = None) -> Sql:
    """Take the SQL in a file, or in the .sql files of a folder in the order of their names.

    Args:
        path: of the file or folder.
        name: what to call a file in messages; its path when left out.

    Raises:
        FileUnreadableError: it is not there, or a folder without such files.
    """
    if not stat.S_ISDIR(kind_of(path)):
        return Sql([_Piece(path, name or _shown(path))], [path])
    files = sorted(file for file in path.iterdir() if file.suffix == ".sql" and not file.name.startswith("."))
    if not files:
        raise FileUnreadableError(
            f"There is no .sql file in the folder {_shown(path)!r}.", hint="Files further down are not looked for."
        )
    named: list[Part] = []
    for file in files:
        named += (file.name, file)
    return Sql([_Piece(file, _shown(file)) for file in files], named)


def _shown(path: Path) -> str:
    """Return a path as one would type it here."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_absolute() and path.is_relative_to(here) else path)


def _measure(piece: _Piece, *, followed: bool) -> _Extent:
    size = lines = 0
    end = last = b""
    for chunk in piece.chunks():
        size += len(chunk)
        lines += chunk.count(b"\n")
        end = chunk[-1:] or end
        last = chunk.rstrip()[-1:] or last
    if not followed:
        return _Extent(size, lines + 1, b"")
    # What stands last in a file ends with it, as in psql, and a comment there does not go on in the next file.
    tail = (b"" if end in {b"\n", b""} else b"\n") + (b"" if last in {b";", b""} else b";\n")
    return _Extent(size, lines + tail.count(b"\n"), tail)
