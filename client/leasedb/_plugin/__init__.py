"""What the fixtures of the pytest plugin are made of; the modules are imported when the first of them is asked for.

What stands here, the names and the options, is imported at every start of pytest: in one file, for each one read costs
what a hundred of these lines do, and nothing imported that pytest has not.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from leasedb._plugin.run import Run

RUN: Final[pytest.StashKey[Run]] = pytest.StashKey()
TOLD: Final[pytest.StashKey[list[Any]]] = pytest.StashKey()  # what the workers of pytest-xdist had to tell


# --- the names of the fixtures ---


def _with_async(*names: str) -> frozenset[str]:
    return frozenset(names) | {f"{name}_async" for name in names}


FRESH: Final = _with_async("pg_lease", "pg_conn", "pg_pool", "pg_engine") | {"pg_env"}  # of pg_lease, or what it means
SESSION: Final = _with_async("pg_session_lease")
ROLLBACK: Final = _with_async("pg_rollback", "pg_conn", "pg_engine")
ALL: Final = FRESH | SESSION | ROLLBACK | _with_async("pg_reset", "pg_truncate") | {"leasedb_client", "pg_template"}


# --- the options of the command line and of the ini file ---

MODES: Final = ("fresh", "reset", "truncate", "rollback")
SCOPES: Final = ("function", "class", "module", "package", "session")  # from the narrowest to the widest
SERVERS: Final = ("shared", "exclusive")
KEEPING: Final = ("no", "failed", "always")
DATABASE_URL: Final = "LEASEDB_DATABASE_URL"

PER_TEST: Final[dict[str, tuple[str, tuple[str, ...] | None]]] = {
    "mode": ("how tests with pg_lease are kept apart: a fresh database each, or the worker's put right", MODES),
    "scope": ("how long a database of pg_lease lasts", SCOPES),
    "template": ("what databases are clones of: a template's name, an .sql file or a folder of them", None),
    "postgres": ("the major version of Postgres, such as 17", None),
    "image": ("the image of the server", None),
    "server": ("exclusive: a whole server for each, with a superuser login", SERVERS),
    "database": ("name of the database, with server exclusive", None),
    "user": ("name of the login, with server exclusive", None),
    "ttl": ("seconds that a lease lives unless it is renewed, which it is (300)", None),
}  # fmt: skip


def add_options(parser: pytest.Parser) -> None:
    group = parser.getgroup("leasedb", "databases on lease (leasedb)")
    for name, (about, choices) in PER_TEST.items():
        text = f"{about}: {_listed(choices)}" if choices else about
        group.addoption(f"--leasedb-{name}", dest=f"leasedb_{name}", choices=choices, metavar=name.upper(), help=text)
        parser.addini(f"leasedb_{name}", text, default="")
    text = f"keep the databases of failed tests, or always all, for an hour: {_listed(KEEPING)}"
    group.addoption("--leasedb-keep", dest="leasedb_keep", choices=KEEPING, help=text)
    parser.addini("leasedb_keep", text, default="")
    text = "skip tests that need a database where none can be had"
    group.addoption("--leasedb-optional", dest="leasedb_optional", action="store_true", default=None, help=text)
    parser.addini("leasedb_optional", text, type="bool", default=False)
    text = "do not start a daemon where none answers"
    group.addoption("--leasedb-no-start", dest="leasedb_no_start", action="store_true", default=None, help=text)
    parser.addini("leasedb_no_start", text, type="bool", default=False)
    text = f"name of the environment variable with the URL of a server to use for all, beside {DATABASE_URL}"
    parser.addini("leasedb_database_url", text, default="")


def is_given(config: pytest.Config) -> bool:
    """Tell whether any of them is set."""
    names = [f"leasedb_{name}" for name in (*PER_TEST, "keep", "optional", "no_start", "database_url")]
    return DATABASE_URL in os.environ or any(
        config.getoption(name, default=None) or config.getini(name) for name in names
    )


def _listed(choices: tuple[str, ...]) -> str:
    return f"{', '.join(choices[:-1])} or {choices[-1]} (default: {choices[0]})"
