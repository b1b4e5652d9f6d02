"""The files of templates, kept in the state directory: one per template."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

from leasedb_server.domain.errors import StoreFailedError

T = TypeVar("T")
_CHUNK: Final = 4 * 1024**2  # bytes
_PARTIAL: Final = ".part"


class TemplateFolder:
    """The `TemplateFiles` of ports.py in a folder.

    Args:
        folder: made when the first file is written, with mode 0700: what lies in it is what databases hold.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __repr__(self) -> str:
        return f"TemplateFolder({str(self._folder)!r})"

    async def write(self, template_id: str, content: AsyncIterator[bytes]) -> int:
        """See `ports.TemplateFiles`. A file under its own name is whole: a partial one has another."""
        partial = self._folder / f"{template_id}.{secrets.token_hex(4)}{_PARTIAL}"
        size = 0
        try:
            with await _in_thread(lambda: self._opened(partial)) as file:
                async for chunk in content:
                    size += len(chunk)
                    await _in_thread(lambda chunk=chunk: file.write(chunk))  # type: ignore[misc]
            await _in_thread(lambda: partial.replace(self._folder / template_id))
        except BaseException as error:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise _failed(partial, error) from error
            raise
        return size

    async def read(self, template_id: str) -> AsyncIterator[bytes]:
        """See `ports.TemplateFiles`."""
        path = self._folder / template_id
        try:
            with await _in_thread(lambda: path.open("rb")) as file:
                while chunk := await _in_thread(lambda: file.read(_CHUNK)):
                    yield chunk
        except OSError as error:
            raise _failed(path, error) from error

    async def delete(self, template_id: str) -> None:
        """See `ports.TemplateFiles`."""
        path = self._folder / template_id
        try:
            await _in_thread(lambda: path.unlink(missing_ok=True))
        except OSError as error:
            raise _failed(path, error) from error

    async def sweep(self, keep: frozenset[str]) -> None:
        """See `ports.TemplateFiles`."""
        with contextlib.suppress(FileNotFoundError):
            for path in self._folder.iterdir():
                if path.name not in keep:
                    await self.delete(path.name)

    def _opened(self, path: Path) -> BinaryIO:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path.open("wb")


async def _in_thread(call: Callable[[], T]) -> T:
    return await asyncio.to_thread(call)


def _failed(path: Path, error: OSError) -> StoreFailedError:
    return StoreFailedError(
        f"The file {path} of a template cannot be used: {error.strerror or error}.",
        hint="Make room on the disk of the state directory, or delete templates that are not needed.",
    )
