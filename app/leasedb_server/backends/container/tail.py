"""The last lines of a container, kept here because the engine throws its log away together with the container."""

import threading
from collections import deque
from collections.abc import Iterator
from typing import Final, Protocol

_LINES: Final = 400
_GOODBYE: Final = 5.0  # seconds, for an output that was told to end
_WIDTH: Final = 2000  # characters kept of one line; a failing statement can be megabytes long
# said by the watchdog; Postgres indents the further lines of its messages, so no session can write such a line
_ENDED: Final = "leasedb: postgres ended"


class Output(Protocol):
    """What a container prints, in pieces of any size; closing it ends the iteration, from another thread too."""

    def __iter__(self) -> Iterator[bytes]: ...

    def close(self) -> None: ...


class Tail:
    """Reads an output to its end in a thread of its own."""

    def __init__(self, name: str, output: Output) -> None:
        self._output = output
        self._lines: deque[str] = deque(maxlen=_LINES)
        self._rest = b""
        self._ended = False
        self._over = False  # there is nothing more to come
        self._news = threading.Condition()
        # a daemon thread: the output ends when the server does, which may be long after the daemon
        self._thread = threading.Thread(target=self._read, name=f"tail of {name}", daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Whether Postgres is known to have ended, although its container lingers."""
        return self._ended

    def lines(self, count: int) -> list[str]:
        kept = list(self._lines)
        if self._rest:
            kept.append(_text(self._rest))
        return kept[-count:] if count > 0 else []

    def until(self, beginning: str, timeout: float) -> str | None:
        """Return the first kept line that begins so, or None when the output ended, or the time, without one."""

        def found() -> str | None:
            return next((line for line in list(self._lines) if line.startswith(beginning)), None)

        with self._news:
            self._news.wait_for(lambda: self._over or found(), timeout)
        return found()

    def wait(self, timeout: float) -> None:
        """Wait until the output has ended, ``timeout`` seconds at most."""
        self._thread.join(timeout)

    def close(self) -> None:
        """End the reading; what was read can still be asked for."""
        self._output.close()
        self._thread.join(_GOODBYE)

    def _read(self) -> None:
        try:
            for piece in self._output:
                *whole, self._rest = (self._rest + piece).split(b"\n")
                self._rest = self._rest[: 4 * _WIDTH]
                for line in map(_text, whole):
                    self._lines.append(line)
                    self._ended = self._ended or line.startswith(_ENDED)
                self._tell(over=False)
        finally:
            self._tell(over=True)

    def _tell(self, *, over: bool) -> None:
        with self._news:
            self._over = over
            self._news.notify_all()


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace").rstrip()[:_WIDTH]
