"""A text of SQL that comes in pieces: what has been read of it, on which line, and the ends of quotes and comments.

The rules are those of Postgres's own lexer, src/backend/parser/scan.l. Nothing here looks at single characters where a
search can jump.
"""

import re
from collections.abc import Callable
from typing import Final

Step = Callable[[], bool]

BLANKS: Final = " \t\n\r\f\v"
NAME_PART: Final = re.compile(r"[A-Za-z0-9_$\x80-\U0010ffff]")

_CONTEXT: Final = 2  # characters already read that tell E'...' from a name that ends in e
_BLANK: Final = re.compile(r"[ \t\n\r\f\v]*")
_NEWLINE: Final = re.compile(r"[\n\r]")
_STAR: Final = re.compile(r"/\*|\*/")
_ESCAPED: Final = re.compile(r"[\\']")
_TAG: Final = re.compile(r"\$(?:[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_\x80-\U0010ffff]{0,254})?\$")
_TAG_CUT: Final = re.compile(r"\$(?:[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_\x80-\U0010ffff]{0,254})?\Z")


class Lexer:
    """The state of reading: a place in the text, and the step to take there.

    A step reads on from ``_at`` and returns whether the next can be taken; if not, it needs more text.
    """

    def __init__(self) -> None:
        self.backslashes = False  # in plain strings too: standard_conforming_strings is off
        self._text = ""  # what has not been read, after a little of what has
        self._at = 0  # in _text: what is next
        self._last = False  # no more text will come
        self._line = 1  # at _counted
        self._counted = 0  # in _text
        self._step: Step = self._statement
        self._after: Step = self._statement  # when the comment is over
        self._opened = ""  # what is not closed yet
        self._opened_line = 1
        self._close = ""  # what closes it
        self._depth = 0  # of comments
        self._touching = False  # nothing has been read since the end of the escaped string
        self._newline = False  # has been read since then

    @property
    def line(self) -> int:
        """The line, from 1, up to which the text has been read."""
        return self._line_at(self._at)

    def _line_at(self, at: int) -> int:
        """Return the line at a place, which is not before the last one asked for."""
        self._line += self._text.count("\n", self._counted, at)
        self._counted = max(self._counted, at)
        return self._line

    def _append(self, text: str) -> None:
        """Let go of what has been read and put the text behind the rest."""
        self._line_at(self._at)
        begin = max(0, self._at - _CONTEXT)
        self._text = self._text[begin:] + text
        self._at -= begin
        self._counted = self._at

    def _skip(self, pattern: re.Pattern[str]) -> int:
        """Move over all that the pattern matches here, and return the new place."""
        found = pattern.match(self._text, self._at)
        if found:
            self._at = found.end()
        return self._at

    def _statement(self) -> bool:
        """Read on in a statement, outside quotes and comments."""
        raise NotImplementedError

    # --- quotes ---

    def _open(self, what: str, at: int, inside: int, step: Step) -> bool:
        self._opened, self._opened_line = what, self._line_at(at)
        self._at, self._step = inside, step
        return True

    def _string(self) -> bool:
        text, at = self._text, self._at
        marked = text[at - 1 : at] in {"e", "E"} and not NAME_PART.match(text[max(0, at - 2) : at - 1])
        self._close = "'"
        return self._open("a string", at, at + 1, self._escaped if marked or self.backslashes else self._quoted)

    def _quoted_name(self) -> bool:
        self._close = '"'
        return self._open("a quoted name", self._at, self._at + 1, self._quoted)

    def _dollar(self) -> bool:
        text, at = self._text, self._at
        if not NAME_PART.match(text[at - 1 : at]):
            tag = _TAG.match(text, at)
            if tag:
                self._close = tag[0]
                return self._open(f"a string quoted with {tag[0]}", at, tag.end(), self._quoted)
            if not self._last and _TAG_CUT.match(text, at):
                return False
        self._at += 1  # of a name, or $1
        return True

    def _quoted(self) -> bool:
        """Read up to the end of a quote. A doubled quote is taken for one that ends and another that begins."""
        end = self._text.find(self._close, self._at)
        if end < 0:
            # the end may be cut in two
            self._at = max(self._at, len(self._text) - (0 if self._last else len(self._close) - 1))
            return False
        self._at, self._opened, self._step = end + len(self._close), "", self._statement
        return True

    def _escaped(self) -> bool:
        found = _ESCAPED.search(self._text, self._at)
        self._at = found.start() if found else len(self._text)
        if found is None:
            return False
        if found[0] == "'":
            self._at += 1
            self._opened, self._step, self._touching, self._newline = "", self._continued, True, False
            return True
        if found.end() == len(self._text):
            return False
        self._at += 2
        return True

    def _continued(self) -> bool:
        """See whether an escaped string goes on: by a doubled quote, or by one on a later line with nothing between."""
        begin = self._at
        at = self._skip(_BLANK)
        if at > begin:
            self._touching = False
            self._newline = self._newline or bool(_NEWLINE.search(self._text, begin, at))
        following = self._text[at : at + 2]
        if following in {"", "-"} and not self._last:
            return False
        if following == "--":
            self._touching = False
            self._after, self._step = self._continued, self._line_comment
        elif following[:1] == "'" and (self._touching or self._newline):
            return self._open("a string", at, at + 1, self._escaped)
        else:
            self._step = self._statement
        return True

    # --- comments ---

    def _comment(self, after: Step) -> bool | None:
        """Step into the comment that begins here; None when none does."""
        two = self._text[self._at : self._at + 2]
        if len(two) == 1 and not self._last:
            return False
        if two == "--":
            self._after, self._step = after, self._line_comment
            return True
        if two == "/*":
            self._after, self._depth = after, 1
            return self._open("a comment", self._at, self._at + 2, self._block_comment)
        return None

    def _line_comment(self) -> bool:
        found = _NEWLINE.search(self._text, self._at)
        self._at = found.start() if found else len(self._text)
        if not found and not self._last:
            return False
        self._step = self._after
        return True

    def _block_comment(self) -> bool:
        for found in _STAR.finditer(self._text, self._at):
            self._at = found.end()
            self._depth += 1 if found[0] == "/*" else -1
            if not self._depth:
                self._opened, self._step = "", self._after
                return True
        self._at = max(self._at, len(self._text) - (0 if self._last else 1))
        return False
