"""A fingerprint of what a template is made of: the same content has the same one, wherever it lies."""

import errno
import fnmatch
import hashlib
import inspect
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from leasedb._errors import FileUnreadableError, InvalidRequestError

Part = str | bytes | Path
Parts = str | Sequence[Part]

CHUNK: Final = 2**20  # bytes read at once
# What comes and goes beside the files that count: compiled code, version control, backups of editors and desktops.
_IGNORED: Final = (
    *("__pycache__", "*.pyc", "*.pyo"),
    *(".git", ".hg", ".svn", ".bzr", ".jj"),
    *("*~", ".#*", "#*#", ".*.sw[a-p]", "*.bak", "*.orig", ".DS_Store"),
)


class Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...


def fingerprint(*parts: Part) -> str:
    """Return a fingerprint of texts, bytes, files and folders, as "sha256:<hex>".

    Of a file the content counts, of a folder the names and contents of all that is in it, however deep. Where they lie
    and what they are called themselves does not, so two checkouts have the same fingerprint. Left out are compiled
    code, hidden folders of version control and editors' backups. Symbolic links are followed, loops are not.

    Args:
        parts: a `str` is text; what is in a file or folder needs a `Path`.

    Raises:
        FileUnreadableError: a path is not there, or cannot be read.
    """
    digest = hashlib.sha256()
    for part in parts:
        match part:
            case str():
                _add(digest, b"text", part.encode("utf-8", "surrogatepass"))
            case bytes():
                _add(digest, b"bytes", part)
            case Path():
                _add_path(digest, part)
            case _:
                raise TypeError(f"a fingerprint is made of str, bytes and Path, not of {type(part).__name__}")
    return f"sha256:{digest.hexdigest()}"


def chunks(path: Path) -> Iterator[bytes]:
    """Yield a file's content.

    Raises:
        FileUnreadableError: it is not there, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk
    except OSError as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: OSError) -> FileUnreadableError:
    where = "" if path.is_absolute() else f" in {Path.cwd()}"
    return FileUnreadableError(
        f"{str(path)!r}{where} cannot be read: {error.strerror or error}.",
        hint="Give the path of a file or folder; one beside a Python file is Path(__file__).parent / 'name'.",
    )


def of_function(function: Callable[..., Any]) -> Sequence[Part]:
    """Return what a function is made of as parts of a fingerprint: its name and all of the file it stands in.

    Returns:
        No parts when its source cannot be found: functions typed in, built in, or made of others.
    """
    function = inspect.unwrap(function)
    try:
        source = inspect.getsourcefile(function)
    except TypeError:
        return ()
    if source is None or not Path(source).is_file():
        return ()
    return ("function", getattr(function, "__qualname__", ""), Path(source))


def check_parts(parts: Sequence[Part]) -> None:
    """Refuse parts that are all text although one names a file: what was meant is what is in it, and never changes so.

    Raises:
        InvalidRequestError: with how to write either.
    """
    if any(isinstance(part, Path) for part in parts):
        return
    for part in parts:
        if isinstance(part, str) and _exists(part):
            raise InvalidRequestError(
                f"The fingerprint is made of the text {part!r}, and there is a file or folder of that name.",
                hint=f"Write Path({part!r}) for what is in it, or {part!r}.encode() for the text.",
            )


def _exists(text: str) -> bool:
    try:
        return bool(text) and Path(text).exists()
    except (OSError, ValueError):  # too long for a path, or with a zero byte
        return False


def _add(digest: Hash, kind: bytes, content: bytes) -> None:
    """Add one thing with its kind and length, so that no two lists of things look alike."""
    digest.update(b"%s %d\n" % (kind, len(content)))
    digest.update(content)


def _add_path(digest: Hash, path: Path) -> None:
    mode = kind_of(path)
    if stat.S_ISDIR(mode):
        for name, found in _below(path, "", ()):
            _add(digest, b"name", os.fsencode(name))
            _add(digest, b"file", _of_file(found))
        digest.update(b"end\n")
    elif stat.S_ISREG(mode):
        _add(digest, b"file", _of_file(path))
    else:
        raise FileUnreadableError(f"{str(path)!r} is neither a file nor a folder.", hint="Name one of them.")


def kind_of(path: Path) -> int:
    """Return the mode of what lies at a path, for the functions of `stat`.

    Raises:
        FileUnreadableError: there is nothing.
    """
    try:
        return path.stat().st_mode
    except OSError as error:
        raise unreadable(path, error) from None


def _of_file(path: Path) -> bytes:
    digest = hashlib.sha256()
    for chunk in chunks(path):
        digest.update(chunk)
    return digest.digest()


def _below(folder: Path, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[tuple[str, Path]]:
    """Yield the files below a folder with their names from it, in the order of these; ``above`` is the way to it."""
    try:
        here = folder.stat()
        names = sorted((entry.name for entry in os.scandir(folder)), key=os.fsencode)
    except OSError as error:
        raise unreadable(folder, error) from None
    way = (*above, (here.st_dev, here.st_ino))
    if way[-1] in above:
        return
    for name in names:
        path = folder / name
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in _IGNORED):
            continue
        mode = _mode(path)
        if stat.S_ISDIR(mode):
            yield from _below(path, f"{prefix}{name}/", way)
        elif stat.S_ISREG(mode):
            yield f"{prefix}{name}", path


def _mode(path: Path) -> int:
    """Return what kind of thing lies there; 0 for links that lead nowhere."""
    try:
        return path.stat().st_mode
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ELOOP}:
            return 0
        raise unreadable(path, error) from None
