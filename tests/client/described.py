"""What the stand-in says of things that do not exist: its server and the logins of its leases."""

from typing import Any

from tests.client.wire_server import as_time


def described_server(*, old: bool, now: dict[str, Any]) -> dict[str, Any]:
    """Its one server, as it is or with what differs ``now``."""
    known = {
        "id": "s1",
        "name": "leasedb_aaaaaa_s_1",
        "backend": "stand-in",
        "state": "ready",
        "host": "127.0.0.1",
        "port": 54321,
        "versions": {"postgres": "18.4", "vector": "0.8.1"},
        "created_at": as_time(1.0),
        "ready_at": as_time(2.5),
        "error": "",
        "databases": {"ready": 10, "making": 0, "leased": 1, "condemned": 0},
        "notes": ["made of air"],
    }
    if old:
        return known
    ways = {"file_copy": (9.14, 30, ""), "wal_log": (16.0, 2, ""), "file_copy_clone": (None, 0, "not here")}
    cloning = [
        {
            "template": "base",
            "strategy": strategy,
            "milliseconds": milliseconds,
            "clones": clones,
            "chosen": strategy == "file_copy",
            "refused": refused,
        }
        for strategy, (milliseconds, clones, refused) in ways.items()
    ]
    news = {"cloning": cloning, "workers": 3, "memory": 2**30, "place": "main"}
    return known | news | {"connections": {"used": 14, "most": 97}} | now


def described_login(lease: dict[str, Any], *, old: bool) -> dict[str, Any]:
    """How to connect to a lease's database, which does not exist."""
    database, user, password = f"d_{lease['id']}", f"r_{lease['id']}", "it's $ecret"
    dsn = f"postgresql://{user}:it%27s%20%24ecret@127.0.0.1:1/{database}"
    env = {
        "PGHOST": "127.0.0.1",
        "PGPORT": "1",
        "PGUSER": user,
        "PGPASSWORD": password,
        "PGDATABASE": database,
        "DATABASE_URL": dsn,
    }
    urls = {
        "libpq": dsn,
        "sqlalchemy": dsn.replace("postgresql:", "postgresql+psycopg:"),
        "asyncpg": dsn,
        "jdbc": f"jdbc:postgresql://127.0.0.1:1/{database}?user={user}",
    }
    login = {"host": "127.0.0.1", "port": 1, "database": database, "user": user, "password": password}
    known = login | {"dsn": dsn, "urls": urls, "env": env}
    if old:
        return known
    by_socket = f"postgresql://{user}:it%27s%20%24ecret@/{database}?host=%2Frun%2Fx&port=1"
    return known | {"socket": "/run/x", "urls": urls | {"socket": by_socket}}
