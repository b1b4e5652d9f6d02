"""Doing one thing after the other to what is the same, and everything else at once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Turn:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0  # at it, or waiting for their turn: a lock that was just given up looks free to who comes next


class Turns:
    """Locks by id, each as long as somebody uses it."""

    def __init__(self) -> None:
        self._turns: dict[str, _Turn] = {}

    def __repr__(self) -> str:
        return f"Turns({sorted(self._turns)})"

    def __contains__(self, ident: str) -> bool:
        """Tell whether something is being done, or is about to be."""
        return ident in self._turns

    @contextlib.asynccontextmanager
    async def of(self, ident: str) -> AsyncIterator[None]:
        """Wait for one's turn, and keep it."""
        turn = self._turns.setdefault(ident, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[ident]
