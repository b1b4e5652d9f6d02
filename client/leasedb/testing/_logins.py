"""What the fake daemon says of things that do not exist: its server and the logins of its leases."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from leasedb.testing._wire import as_time

VERSIONS = {"postgres": "18.4", "vector": "0.8.5"}
_PORT = 5432


@dataclass(frozen=True, slots=True)
class Login:
    """How to connect to a database."""

    host: str
    port: int
    database: str
    user: str
    password: str

    @classmethod
    def of(cls, dsn: str) -> "Login":
        """Read a URL of the form ``postgresql://user:password@host:port/database``.

        Raises:
            ValueError: it is not of that form.
        """
        parts = urlsplit(dsn)
        database = unquote(parts.path.removeprefix("/"))
        if parts.scheme not in {"postgresql", "postgres"} or not (parts.hostname and parts.username and database):
            raise ValueError("dsn has to look like postgresql://user:password@host:port/database")
        password = unquote(parts.password or "")
        return cls(parts.hostname, parts.port or _PORT, database, unquote(parts.username), password)

    def told(self) -> dict[str, Any]:
        """Return what a lease has about its login."""
        user, password, database = (quote(text, safe="") for text in (self.user, self.password, self.database))
        address = f"[{self.host}]" if ":" in self.host else self.host
        rest = f"{user}:{password}@{address}:{self.port}/{database}"
        dsn = f"postgresql://{rest}"
        return {
            "host": self.host,
            "port": self.port,
            "database": self.database,
            "user": self.user,
            "password": self.password,
            "dsn": dsn,
            "socket": None,
            "urls": {
                "libpq": dsn,
                "sqlalchemy": f"postgresql+psycopg://{rest}",
                "asyncpg": dsn,
                "jdbc": f"jdbc:postgresql://{address}:{self.port}/{database}?user={user}&password={password}",
                "socket": None,
            },
            "env": {
                "PGHOST": self.host,
                "PGPORT": str(self.port),
                "PGUSER": self.user,
                "PGPASSWORD": self.password,
                "PGDATABASE": self.database,
                "DATABASE_URL": dsn,
            },
        }


def nowhere(lease_id: str) -> Login:
    """Return a login to a database that does not exist; nobody listens on that port."""
    return Login("127.0.0.1", 1, f"d_{lease_id}", f"r_{lease_id}", "fake")


def described_server(leased: int) -> dict[str, Any]:
    """Return the fake daemon's one server."""
    return {
        "id": "s1",
        "name": "leasedb_aaaaaa_s_1",
        "backend": "fake",
        "state": "ready",
        "host": "127.0.0.1",
        "port": 1,
        "versions": VERSIONS,
        "created_at": as_time(1.0),
        "ready_at": as_time(2.5),
        "error": "",
        "databases": {"ready": 10, "making": 0, "leased": leased, "condemned": 0},
        "notes": ["there is no Postgres behind it"],
        "cloning": [],
        "workers": 2,
        "memory": None,
        "place": "main",
        "connections": {"used": 0, "most": 100},
    }
