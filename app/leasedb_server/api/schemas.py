"""The wire: what bodies may hold, what answers look like."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field

from leasedb_server.domain.database import Database, DatabaseState
from leasedb_server.domain.inventory import Inventory
from leasedb_server.domain.lease import Instant, Lease
from leasedb_server.domain.server import Server

LabelKey = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$")]
LabelValue = Annotated[str, Field(max_length=255)]
Ttl = Annotated[float, Field(gt=0, allow_inf_nan=False, description="seconds", examples=[300])]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class LeaseBody(_Body):
    """What `POST /leases` takes; everything may be left out."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"ttl": 60, "wait": 30, "holder": "shop tests", "labels": {"run": "7"}}]}
    )

    template: str = Field(default="base", max_length=100, description="what the database starts from")
    ttl: Ttl | None = Field(default=None, description="seconds the lease lives; the daemon's default_ttl when left out")
    wait: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = Field(
        default=60, description="seconds to wait in line when no database is ready"
    )
    holder: str = Field(
        default="", max_length=200, description="who asks: free text, shown in listings; turns are fair by it"
    )
    pid: int | None = Field(
        default=None, gt=0, lt=2**31, description="a process on the daemon's machine; the lease ends when it dies"
    )
    labels: dict[LabelKey, LabelValue] = Field(
        default_factory=dict, max_length=32, description="to find and release leases by", examples=[{"run": "7"}]
    )
    postgres: str | None = Field(
        default=None, pattern=r"^\d{2}$", description="major version that the server must have", examples=["18"]
    )


class RenewBody(_Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"ttl": 120}]})

    ttl: Ttl | None = Field(default=None, description="seconds from now; the daemon's default_ttl when left out")


class VersionsOut(BaseModel):
    postgres: str = Field(examples=["18.4"])
    vector: str = Field(examples=["0.8.1"])


class HolderOut(BaseModel):
    name: str
    pid: int | None


class LeaseSummary(BaseModel):
    """A lease as listings show it: without what opens its database."""

    id: str
    state: Literal["active", "released", "expired", "lost"]
    template: str
    server: str
    backend: str
    versions: VersionsOut | None
    holder: HolderOut
    labels: dict[str, str]
    created_at: datetime
    expires_at: datetime
    max_expires_at: datetime
    ttl: float = Field(description="seconds granted by the last renewal or at the beginning")
    ended_at: datetime | None
    end_reason: str


class UrlsOut(BaseModel):
    libpq: str
    sqlalchemy: str
    asyncpg: str
    jdbc: str


_USER, _DATABASE, _PASSWORD = "leasedb_k3x9qa_r_7f3ab2qpxm4yc", "leasedb_k3x9qa_d_7f3ab2qpxm4yc", "0b5d..."
_DSN = f"postgresql://{_USER}:{_PASSWORD}@127.0.0.1:40231/{_DATABASE}"
LEASE_EXAMPLE: dict[str, Any] = {
    "id": "q2v6fmxh3k7yd",
    "state": "active",
    "template": "base",
    "server": "h5x2kq7vdm3na",
    "backend": "embedded",
    "versions": {"postgres": "18.4", "vector": "0.8.5"},
    "holder": {"name": "shop tests", "pid": None},
    "labels": {"run": "7"},
    "created_at": "2026-11-20T13:00:00.123Z",
    "expires_at": "2026-11-20T13:01:00.123Z",
    "max_expires_at": "2026-11-21T13:00:00.123Z",
    "ttl": 60,
    "ended_at": None,
    "end_reason": "",
    "dsn": _DSN,
    "host": "127.0.0.1",
    "port": 40231,
    "database": _DATABASE,
    "user": _USER,
    "password": _PASSWORD,
    "urls": {
        "libpq": _DSN,
        "sqlalchemy": _DSN.replace("postgresql:", "postgresql+psycopg:"),
        "asyncpg": _DSN,
        "jdbc": f"jdbc:postgresql://127.0.0.1:40231/{_DATABASE}?user={_USER}&password={_PASSWORD}",
    },
    "env": {
        "PGHOST": "127.0.0.1",
        "PGPORT": "40231",
        "PGUSER": _USER,
        "PGPASSWORD": _PASSWORD,
        "PGDATABASE": _DATABASE,
        "DATABASE_URL": _DSN,
    },
}


class LeaseOut(LeaseSummary):
    """A lease with everything a driver in any language needs."""

    dsn: str
    host: str
    port: int
    database: str
    user: str
    password: str
    urls: UrlsOut
    env: dict[str, str] = Field(description="PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE and DATABASE_URL")


class LeasesOut(BaseModel):
    leases: list[LeaseSummary]


class ReleasedOut(BaseModel):
    released: int


class CountsOut(BaseModel):
    ready: int
    making: int
    leased: int
    condemned: int


class ServerOut(BaseModel):
    id: str
    name: str
    backend: str
    state: Literal["starting", "ready", "lost", "stopping"]
    host: str | None
    port: int | None
    versions: VersionsOut | None
    created_at: datetime
    ready_at: datetime | None
    error: str
    databases: CountsOut
    notes: list[str] = Field(description="what to know of this server, such as a promise it cannot keep")


class ServersOut(BaseModel):
    backend: str
    reason: str = Field(description="why this backend was chosen")
    servers: list[ServerOut]


class StockOut(BaseModel):
    server: str
    template: str
    ready: int
    making: int
    leased: int
    target: int


class PoolOut(CountsOut):
    waiting: int = Field(description="requests in line")
    max: int = Field(description="most databases in existence at once")
    per: list[StockOut]


class HealthOut(BaseModel):
    status: Literal["ok"]
    version: str
    pid: int
    pid_space: str = Field(
        description="where a `pid` is unique: the same text means the same processes; empty: unknown"
    )


class ReadyOut(BaseModel):
    status: Literal["ready"]
    backend: str
    servers: int
    ready: int


class FaultOut(BaseModel):
    field: str
    message: str


class Problem(BaseModel):
    """RFC 9457, with a stable `code` and what to do in `hint`."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    hint: str
    errors: list[FaultOut] | None = None
    position: int | None = None


def instant(value: Instant) -> str:
    """Return RFC 3339 in UTC, with milliseconds."""
    return datetime.fromtimestamp(value, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _maybe(value: Instant | None) -> str | None:
    return None if value is None else instant(value)


def lease_summary(lease: Lease, inventory: Inventory) -> dict[str, Any]:
    """Return a `LeaseSummary`."""
    database = inventory.databases[lease.database_id]
    server = inventory.server_of(database)
    return {
        "id": lease.id,
        "state": lease.state,
        "template": database.template,
        "server": database.server_id,
        "backend": server.backend,
        "versions": _versions(server),
        "holder": {"name": lease.holder.name, "pid": lease.holder.pid},
        "labels": dict(lease.labels),
        "created_at": instant(lease.created_at),
        "expires_at": instant(lease.expires_at),
        "max_expires_at": instant(lease.max_expires_at),
        "ttl": round(lease.ttl, 3),
        "ended_at": _maybe(lease.ended_at),
        "end_reason": lease.end_reason,
    }


def lease_whole(lease: Lease, inventory: Inventory) -> dict[str, Any]:
    """Return a `LeaseOut`."""
    database = inventory.databases[lease.database_id]
    server = inventory.server_of(database)
    host, port = (server.endpoint.host, server.endpoint.port) if server.endpoint else ("", 0)
    return {**lease_summary(lease, inventory), **_connection(database, host, port)}


def _connection(database: Database, host: str, port: int) -> dict[str, Any]:
    # Names and passwords of ours need no quoting (domain.names); a host from an existing server's DSN may be IPv6.
    address = f"[{host}]" if ":" in host else quote(host)
    rest = f"{database.login}:{database.password}@{address}:{port}/{database.name}"
    dsn = f"postgresql://{rest}"
    credentials = f"user={database.login}&password={database.password}"
    return {
        "dsn": dsn,
        "host": host,
        "port": port,
        "database": database.name,
        "user": database.login,
        "password": database.password,
        "urls": {
            "libpq": dsn,
            "sqlalchemy": f"postgresql+psycopg://{rest}",
            "asyncpg": dsn,
            "jdbc": f"jdbc:postgresql://{address}:{port}/{database.name}?{credentials}",
        },
        "env": {
            "PGHOST": host,
            "PGPORT": str(port),
            "PGUSER": database.login,
            "PGPASSWORD": database.password,
            "PGDATABASE": database.name,
            "DATABASE_URL": dsn,
        },
    }


def server_whole(server: Server, inventory: Inventory, notes: tuple[str, ...]) -> dict[str, Any]:
    """Return a `ServerOut`."""
    return {
        "id": server.id,
        "name": server.name,
        "backend": server.backend,
        "state": server.state,
        "host": server.endpoint.host if server.endpoint else None,
        "port": server.endpoint.port if server.endpoint else None,
        "versions": _versions(server),
        "created_at": instant(server.created_at),
        "ready_at": _maybe(server.ready_at),
        "error": server.error,
        "databases": counts(inventory.counts_of(server.id)),
        "notes": list(notes),
    }


def counts(by_state: Mapping[DatabaseState, int]) -> dict[str, int]:
    """Return a `CountsOut`; what is being dropped is condemned still."""
    states = DatabaseState
    return {
        "ready": by_state.get(states.READY, 0),
        "making": by_state.get(states.MAKING, 0),
        "leased": by_state.get(states.LEASED, 0),
        "condemned": by_state.get(states.CONDEMNED, 0) + by_state.get(states.DROPPING, 0),
    }


def _versions(server: Server) -> dict[str, str] | None:
    return {"postgres": server.versions.postgres, "vector": server.versions.vector} if server.versions else None
