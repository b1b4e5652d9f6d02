"""The wire: what bodies may hold, what answers look like."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

LabelKey = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$")]
LabelValue = Annotated[str, Field(max_length=255)]
Ttl = Annotated[float, Field(gt=0, allow_inf_nan=False, description="seconds", examples=[300])]


Wait = Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)]
Major = Annotated[str, Field(pattern=r"^\d{2}$", examples=["18"])]
Image = Annotated[str, Field(min_length=1, max_length=255, examples=["pgvector/pgvector:pg17"])]
# Postgres keeps 63 bytes of a name; a zero byte ends it
Named = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[^\x00-\x1f\x7f]+$")]


Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]


KEEP_TTL: Final = 3600.0  # seconds
LONGEST_NAME: Final = 63  # bytes
TAKEN: Final = frozenset({"none", "postgres", "public", "template0", "template1"})


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class LeaseBody(Body):
    """What `POST /leases` takes; everything may be left out."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"ttl": 60, "wait": 30, "holder": "shop tests", "labels": {"run": "7"}}]}
    )

    template: str = Field(default="base", max_length=100, description="what the database starts from")
    ttl: Ttl | None = Field(default=None, description="seconds the lease lives; the daemon's default_ttl when left out")
    wait: Wait = Field(default=60, description="seconds to wait in line when no database is ready")
    holder: str = Field(
        default="", max_length=200, description="who asks: free text, shown in listings; turns are fair by it"
    )
    pid: int | None = Field(
        default=None, gt=0, lt=2**31, description="a process on the daemon's machine; the lease ends when it dies"
    )
    labels: dict[LabelKey, LabelValue] = Field(
        default_factory=dict, max_length=32, description="to find and release leases by", examples=[{"run": "7"}]
    )
    postgres: Major | None = Field(default=None, description="major version that the server must have")
    image: Image | None = Field(default=None, description="image that the server must be made of")
    server: Literal["shared", "exclusive"] = Field(
        default="shared", description="a database on a server with others', or a server with a superuser's login"
    )
    database: Named | None = Field(default=None, description="name of the database on a server of its own")
    user: Named | None = Field(default=None, description="name of the login on a server of its own")

    @field_validator("database", "user")
    @classmethod
    def _free(cls, name: str | None) -> str | None:
        if name is not None and len(name.encode()) > LONGEST_NAME:
            raise ValueError(f"a name may have {LONGEST_NAME} bytes")
        if name is not None and (name in TAKEN or name.startswith("pg_")):
            raise ValueError(f"the name {name} is Postgres's own")
        return name

    @model_validator(mode="after")
    def _only_exclusive(self) -> Self:
        if self.server == "shared" and (self.database or self.user):
            raise ValueError("names can be chosen only with server: exclusive")
        return self


class DemandBody(Body):
    """What `PUT /demand` takes."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"count": 120, "holder": "shop tests", "template": "base", "ttl": 600}]}
    )

    template: str = Field(default="base", max_length=100, description="what will be asked for")
    count: int = Field(ge=0, le=10_000, description="leases to come; 0 withdraws what was said")
    holder: str = Field(default="", max_length=200, description="who is going to ask, as in the leases to come")
    ttl: Seconds | None = Field(
        default=None, description="seconds for which this is expected; the daemon's default_ttl when left out"
    )


class RenewBody(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"ttl": 120}]})

    ttl: Ttl | None = Field(default=None, description="seconds from now; the daemon's default_ttl when left out")


class KeepBody(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"ttl": 3600}]})

    ttl: Ttl = Field(default=KEEP_TTL, description="seconds from now")


class HoldLine(BaseModel):
    """A line of `GET /leases/{id}/hold`."""

    id: str
    state: Literal["active", "released", "expired", "lost"]
    expires_at: datetime
    reason: str = Field(default="", description="in the last line: why the lease ended")


class BuildErrorOut(BaseModel):
    message: str
    sqlstate: str | None
    statement: int | None = Field(description="number of the statement, from 1")
    line: int | None = Field(description="of the text, from 1")
    sql: str | None = Field(description="the beginning of the statement")
    hint: str = Field(description="what to do")


class SessionOut(BaseModel):
    pid: int
    application: str
    state: str
    since: datetime | None
    query: str


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
    server_kind: Literal["shared", "exclusive"]
    builds: str | None = Field(description="the template that is built in it")
    kept: bool = Field(description="whether it outlives its holder's process, to be looked at")
    image: str | None = Field(description="the server's image, when it was asked for")


class UrlsOut(BaseModel):
    libpq: str
    sqlalchemy: str
    asyncpg: str
    jdbc: str
    socket: str | None = Field(description="as libpq, over the Unix socket; null when there is none")


_USER, _DATABASE, _PASSWORD = "leasedb_k3x9qa_d_7f3ab2qpxm4yc", "leasedb_k3x9qa_d_7f3ab2qpxm4yc", "0b5d..."
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
    "server_kind": "shared",
    "builds": None,
    "kept": False,
    "image": None,
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
        "socket": f"postgresql://{_USER}:{_PASSWORD}@/{_DATABASE}?host=%2Frun%2Fleasedb&port=40231",
    },
    "socket": "/run/leasedb",
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
    socket: str | None = Field(
        description="directory of the server's Unix socket, for programs of its machine; or null"
    )
    urls: UrlsOut
    env: dict[str, str] = Field(description="PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE and DATABASE_URL")


class LeasesOut(BaseModel):
    leases: list[LeaseSummary]


class ReleasedOut(BaseModel):
    released: int


class DemandOut(BaseModel):
    template: str
    holder: str
    count: int
    expires_at: datetime
    target: int = Field(description="databases of the template that are now kept ready")


class CloningOut(BaseModel):
    """One way of cloning one template on one server, as measured on the databases made so far."""

    template: str
    strategy: Literal["file_copy", "wal_log", "file_copy_clone"]
    milliseconds: float | None = Field(description="median of the last clones; null before the first")
    clones: int
    chosen: bool = Field(description="the quickest, used from now on")
    refused: str = Field(description="why this way cannot be used here, else empty")


class ConnectionsOut(BaseModel):
    used: int
    most: int = Field(description="near this, requests wait")


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
    memory: int | None = Field(description="bytes of memory that its files may take; null when they lie on a disk")
    place: Literal["main", "overflow", "none"] = Field(
        description="where the next database goes: with everything else; to the disk, when memory is used up; nowhere"
    )
    connections: ConnectionsOut | None
    workers: int | None = Field(description="statements at work at once that this server rewards; null when unknown")
    cloning: list[CloningOut]


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


class DemandForecastOut(BaseModel):
    """What is kept ready of a template, and why."""

    template: str
    target: int = Field(description="databases to keep ready, over all servers")
    rate: float = Field(description="requests per second lately")
    peak: float = Field(description="databases that had to be in stock lately for nobody to wait")
    hinted: int = Field(description="leases that were announced and are still to come")


class PoolOut(CountsOut):
    waiting: int = Field(description="requests in line")
    max: int = Field(description="most databases in existence at once")
    asleep: bool = Field(description="no server runs, for want of use; the next lease starts one")
    demand: list[DemandForecastOut]
    per: list[StockOut]


class HealthOut(BaseModel):
    status: Literal["ok"]
    version: str
    pid: int
    pid_space: str = Field(
        description="where a `pid` is unique: the same text means the same processes; empty: unknown"
    )


class ReadyOut(BaseModel):
    status: Literal["ready", "asleep"]
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
    fingerprint: str | None = None
    requested: str | None = None
    progress: str | None = None
    sessions: list[SessionOut] | None = None
    error: BuildErrorOut | None = None
    sqlstate: str | None = None
    statement: int | None = None
    line: int | None = None
    sql: str | None = None
    message: str | None = None
