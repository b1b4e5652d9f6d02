"""What a prepared data directory is made of: initdb, our own access rules, and a base database that waits in it."""

import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from leasedb_server.backends.access import BASE, RULES, SUPERUSER
from leasedb_server.backends.embedded.account import Account, said
from leasedb_server.backends.embedded.binaries import Installation
from leasedb_server.domain.errors import ServerStartError

# Postgres removes its relation caches whenever it starts, to be safe. They are kept under this name, and moved back
# once it has: the first session of each database, of the clones of the base too, need not build them then.
CACHE: Final = "pg_internal.init"
KEPT_CACHE: Final = "leasedb_internal.init"
DATABASES: Final = "databases.tar"
HINT: Final = "Make room in, or repair, the directory named above (it is below LEASEDB_STATE_DIR)."
_INITDB_LIMIT = 120.0
_STEP_LIMIT = 60.0
_QUIETLY = ("nice", "-n", "10")  # the first leases are made at the same time
_KNOWS_STRATEGY = 15
_KNOWS_ITERATIONS = 16


def initialise(home: Path, password: str, installation: Installation, account: Account) -> Path:
    """Make the directory ``home`` with the password and what initdb makes; return the data directory in it.

    Raises:
        ServerStartError: with the last lines of what initdb said.
        OSError, subprocess.TimeoutExpired: when no command can be run.
    """
    keep = 'umask 077; mkdir "$1" && cat >"$1/password"'
    done = account.run(["sh", "-c", keep, "sh", str(home)], text=f"{password}\n")
    if done.returncode != 0:
        raise ServerStartError(f"The directory {home} cannot be made: {said(done)}", hint=HINT)
    data = home / "data"
    rules = 'umask 077; rules=$1; shift; "$@" </dev/null && cat >"$rules"'
    for locale in locales(installation.major):
        command = [
            installation.initdb,
            f"--pgdata={data}",
            f"--pwfile={home / 'password'}",
            *options(installation.major),
            *locale,
        ]
        try:
            done = account.run(
                ["sh", "-c", rules, "sh", str(data / "pg_hba.conf"), *command], text=RULES, timeout=_INITDB_LIMIT
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ServerStartError(f"initdb in {home} did not end well: {error}.", hint=HINT) from error
        if done.returncode == 0:
            return data
        if "locale" not in done.stderr:
            break
    raise ServerStartError(
        f"initdb in {home} failed with exit code {done.returncode}; its last lines:\n{said(done)}", hint=HINT
    )


def complete(raw: Path, home: Path, password: str, installation: Installation, account: Account) -> None:
    """Make the directory ``home`` from ``raw``, which is left alone: with the base database, and laid out for copying.

    Postgres does it in single-user mode, one session after the other, and shuts down cleanly after each.

    Raises:
        ServerStartError: with the last lines of what Postgres said.
        OSError, subprocess.TimeoutExpired: when no command can be run.
    """
    data = home / "data"

    def shell(script: str, *arguments: Path | str) -> None:
        command = [*_QUIETLY, "sh", "-c", f"umask 077; {script}", "sh", *map(str, arguments)]
        done = account.run(command, timeout=_STEP_LIMIT)
        if done.returncode != 0:
            raise ServerStartError(f"{home} cannot be made: {said(done)}", hint=HINT)

    def session(database: str, *statements: str) -> None:
        # -j: a statement ends with a semicolon and an empty line
        command = [*_QUIETLY, installation.postgres, "--single", "-j", "-D", str(data), *_SINGLE, database]
        done = account.run(command, text="".join(f"{text};\n\n" for text in statements), timeout=_STEP_LIMIT)
        if done.returncode != 0:
            raise ServerStartError(f"The base database cannot be made in {home}: {said(done)}", hint=HINT)

    shell('mkdir "$2" && cp -R "$1/data" "$1/password" "$2"', raw, home)
    strategy = " STRATEGY file_copy" if installation.major >= _KNOWS_STRATEGY else ""
    session(
        "postgres",
        "CREATE EXTENSION vector",  # the proof of vector runs here when a server starts
        f"CREATE DATABASE {BASE} TEMPLATE template0 ENCODING 'UTF8'{strategy}",
        f"ALTER DATABASE {BASE} IS_TEMPLATE true",
        f"ALTER DATABASE {BASE} ALLOW_CONNECTIONS false",  # which does not hold in single-user mode
        *_quick_password(password, installation.major),
    )
    session(BASE, "CREATE EXTENSION vector SCHEMA public", "VACUUM (FULL, FREEZE)")
    for database in (BASE, "postgres"):  # each start removes what was not put aside
        session(database, "SELECT 1")
        shell(_KEEP_CACHES, data)
    shell(_LAY_OUT, data, home / DATABASES)


def _quick_password(password: str, major: int) -> tuple[str, ...]:
    """Return what makes the superuser's logins cheap: repeating the hash protects short passwords, not 128 bits."""
    if major < _KNOWS_ITERATIONS:
        return ()
    return "SET scram_iterations = 1", f"ALTER ROLE {SUPERUSER} PASSWORD '{password}'"


_SINGLE = tuple(
    part
    for setting in (
        "exit_on_error=on",
        "fsync=off",
        "full_page_writes=off",
        "synchronous_commit=off",
        "password_encryption=scram-sha-256",
        "shared_buffers=16MB",
        "max_connections=10",
        "dynamic_shared_memory_type=mmap",
        "log_checkpoints=off",
    )
    for part in ("-c", setting)
)

_KEEP_CACHES = rf"""
for cache in "$1"/global/{CACHE} "$1"/base/*/{CACHE}; do
    [ ! -f "$cache" ] || mv "$cache" "${{cache%/*}}/{KEPT_CACHE}" || exit
done
"""

# What is not there need not be copied: write-ahead log that was made for later use (all but the first segment, which
# the shutdown ended in), and the maps of free space and of visibility, which Postgres makes anew. The databases are
# put apart, for they are copied while Postgres starts, and into one file: a thousand are slower to read than to write.
_LAY_OUT = r"""
data=$1 databases=$2
set -- "$data"/pg_wal/????????????????????????
shift
rm -f "$@" || exit
find "$data/base" "$data/global" -type f \( -name '*_fsm' -o -name '*_vm' \) -exec rm -f {} + || exit
tar -C "$data/base" -cf "$databases" . && rm -rf "$data"/base/*
"""


def fingerprint(installation: Installation, account: Account) -> tuple[object, ...]:
    """Return everything that decides what is made here, but for the code itself."""
    program = Path(installation.postgres).stat()
    return (
        installation.postgres,
        installation.version,
        program.st_size,
        program.st_mtime_ns,
        account.uid,
        platform.machine(),
        options(installation.major),
        *locales(installation.major),
    )


def options(major: int) -> tuple[str, ...]:
    newer = {
        14: ("--no-instructions",),
        # old segments are not kept for later, which makes less to copy; the server is started with the usual size
        16: ("--set=min_wal_size=2MB",),
        18: ("--no-data-checksums",),
    }
    common = (f"--username={SUPERUSER}", "--auth=scram-sha-256", "--encoding=UTF8", "--wal-segsize=1", "--no-sync")
    return sum((options for since, options in newer.items() if major >= since), common)


def locales(major: int) -> Iterator[tuple[str, ...]]:
    """Yield the choices of locale, best first: sorted by code points everywhere, and with Unicode's letters."""
    for libc in ("C.UTF-8", "C"):  # not every libc knows the first
        if major >= 17:  # noqa: PLR2004 - the version that brought the provider
            yield "--locale-provider=builtin", "--builtin-locale=C.UTF-8", f"--locale={libc}"
        else:
            yield (f"--locale={libc}",)
