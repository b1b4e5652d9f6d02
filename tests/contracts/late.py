"""An engine that is busy: connections to it are taken, and answered only once it is let."""

import contextlib
import socket
import threading
from pathlib import Path
from typing import Self


class LateEngine:
    """Passes on what is said on a socket of its own to an engine's, from `answer` on.

    Args:
        path: where it listens.
        engine: the engine's own socket.
    """

    def __init__(self, path: Path, engine: Path) -> None:
        self.address = f"unix://{path}"
        self._engine = engine
        self._answering = threading.Event()
        self._open: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.answer()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def answer(self) -> None:
        self._answering.set()

    def be_silent(self) -> None:
        """Answer no new connection any more."""
        self._answering.clear()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                caller, _ = self._listener.accept()
                self._open.append(caller)
                threading.Thread(target=self._serve, args=(caller,), daemon=True).start()

    def _serve(self, caller: socket.socket) -> None:
        self._answering.wait()
        with caller, socket.socket(socket.AF_UNIX) as engine:
            self._open.append(engine)
            with contextlib.suppress(OSError):
                engine.connect(str(self._engine))
                back = threading.Thread(target=_pass_on, args=(engine, caller), daemon=True)
                back.start()
                _pass_on(caller, engine)
                back.join()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while said := source.recv(1 << 16):
            target.sendall(said)
        target.shutdown(socket.SHUT_WR)
