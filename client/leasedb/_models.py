"""What the daemon says, as frozen dataclasses. Fields this version does not know are ignored.

Parsing raises KeyError, TypeError or ValueError when the answer is not what the wire contract says; `_protocol` makes
that an `UnexpectedAnswerError`.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Holder:
    """Who asked for a lease: free text and, when the daemon watches it, the process."""

    name: str = ""
    pid: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseSummary:
    """A lease without its login. ``state`` is active, released, expired or lost; ``ttl`` is in seconds.

    ``server_kind``: "exclusive" where the lease has the whole server, else "shared"; ``builds``: name of the template
    that is made in it; ``image``: the one that was asked for; ``kept``: it is to be looked at, and outlives its holder.
    """

    id: str
    state: str
    template: str
    server: str
    backend: str
    versions: Mapping[str, str]
    holder: Holder
    labels: Mapping[str, str]
    created_at: datetime
    expires_at: datetime
    max_expires_at: datetime
    ttl: float
    ended_at: datetime | None = None
    end_reason: str = ""
    server_kind: str = "shared"
    builds: str | None = None
    image: str | None = None
    kept: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRecord(LeaseSummary):
    """A lease as the daemon described it last. What holds the password stays out of ``repr``."""

    host: str
    port: int
    database: str
    user: str
    dsn: str = field(repr=False)
    password: str = field(repr=False)
    urls: Mapping[str, str] = field(repr=False)
    env: Mapping[str, str] = field(repr=False)
    socket: str | None = None


@dataclass(frozen=True, slots=True)
class DatabaseCounts:
    ready: int
    making: int
    leased: int
    condemned: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CloningWay:
    """One way a server clones a template: the median of its last clones, None before the first.

    ``chosen`` marks the way that is taken at present; ``refused`` says why one cannot be.
    """

    template: str
    strategy: str
    milliseconds: float | None
    clones: int
    chosen: bool
    refused: str


@dataclass(frozen=True, slots=True)
class Connections:
    """Sessions a server has, and the most it takes."""

    used: int
    most: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One Postgres. ``state`` is starting, ready, lost, stopping or gone; ``host`` and ``port`` come with ready.

    ``workers`` is how many statements at once it rewards; ``memory`` is what its files may take of that, in bytes, None
    when they lie on a disk; ``place`` is where the next database goes: "main", with everything else, "overflow", to a
    disk for the memory is used up, or "none"; empty when the daemon does not say.
    """

    id: str
    name: str
    backend: str
    state: str
    host: str | None
    port: int | None
    versions: Mapping[str, str] | None
    created_at: datetime
    ready_at: datetime | None
    error: str
    databases: DatabaseCounts
    notes: tuple[str, ...]
    cloning: tuple[CloningWay, ...] = ()
    workers: int | None = None
    memory: int | None = None
    place: str = ""
    connections: Connections | None = None


@dataclass(frozen=True, slots=True)
class Servers:
    """The servers, the backend they come from, and why it was that one."""

    backend: str
    reason: str
    servers: tuple[Server, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolShare:
    """The databases of one template on one server; ``target`` is how many shall be ready, as the daemon learned."""

    server: str
    template: str
    ready: int
    making: int
    leased: int
    target: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateDemand:
    """How many databases of a template the daemon keeps ready, ``target``, and why.

    ``rate`` is requests per second lately; ``hinted`` is how many were announced and are still to come, see
    `Client.expect`; ``peak`` is how many had to be in stock lately for nobody to wait.
    """

    template: str
    target: int
    rate: float
    hinted: int
    peak: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The databases of all servers; ``waiting`` counts requests in the line, ``max`` is the most databases.

    ``asleep``: nobody asked for long, so there are no servers; the first lease wakes one.
    """

    ready: int
    making: int
    leased: int
    condemned: int
    waiting: int
    max: int | None
    per: tuple[PoolShare, ...]
    demand: tuple[TemplateDemand, ...] = ()
    asleep: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Leases announced by one holder: ``count`` of one template, believed until ``expires_at``.

    ``target`` is how many databases of the template the daemon keeps ready now.
    """

    template: str
    holder: str
    count: int
    expires_at: datetime
    target: int


@dataclass(frozen=True, slots=True)
class Health:
    """A living daemon. ``pid_space`` tells apart machines and containers: a pid means the same within one only."""

    status: str
    version: str
    pid: int
    pid_space: str = ""


@dataclass(frozen=True, slots=True)
class Readiness:
    """A daemon that leases: servers that are ready, databases that are. ``status`` is ready or asleep, see `Pool`."""

    status: str
    backend: str
    servers: int
    ready: int


def as_json(model: Any) -> dict[str, Any]:
    """Return a model as the wire writes it."""

    def plain(value: Any) -> Any:
        match value:
            case datetime():
                return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            case Mapping():
                return {key: plain(item) for key, item in value.items()}
            case list() | tuple():
                return [plain(item) for item in value]
        return value

    return {key: plain(value) for key, value in dataclasses.asdict(model).items()}


def text(data: Json, key: str) -> str:
    value = data[key]
    if not isinstance(value, str):
        raise TypeError(f"{key!r} is not text")
    return value


def text_or_none(data: Json, key: str) -> str | None:
    return None if data.get(key) is None else text(data, key)


def int_or_none(data: Json, key: str) -> int | None:
    return None if data.get(key) is None else int(data[key])


def _texts(value: Any) -> dict[str, str]:
    return {str(key): str(item) for key, item in value.items()}


def time(data: Json, key: str) -> datetime:
    instant = datetime.fromisoformat(text(data, key))
    if instant.tzinfo is None:
        raise ValueError(f"{key!r} has no time zone")
    return instant


def time_or_none(data: Json, key: str) -> datetime | None:
    return None if data.get(key) is None else time(data, key)


def _summary_fields(data: Json) -> dict[str, Any]:
    holder = data.get("holder") or {}
    return {
        "id": text(data, "id"),
        "state": text(data, "state"),
        "template": text(data, "template"),
        "server": text(data, "server"),
        "backend": text(data, "backend"),
        "versions": _texts(data.get("versions") or {}),
        "holder": Holder(str(holder.get("name") or ""), holder.get("pid")),
        "labels": _texts(data.get("labels") or {}),
        "created_at": time(data, "created_at"),
        "expires_at": time(data, "expires_at"),
        "max_expires_at": time(data, "max_expires_at"),
        "ttl": float(data["ttl"]),
        "ended_at": time_or_none(data, "ended_at"),
        "end_reason": str(data.get("end_reason") or ""),
        "server_kind": str(data.get("server_kind") or "shared"),
        "builds": text_or_none(data, "builds"),
        "image": text_or_none(data, "image"),
        "kept": bool(data.get("kept")),
    }


def lease_summary(data: Json) -> LeaseSummary:
    return LeaseSummary(**_summary_fields(data))


def lease_summaries(data: Json) -> list[LeaseSummary]:
    return [lease_summary(item) for item in data["leases"]]


def lease_record(data: Json) -> LeaseRecord:
    return LeaseRecord(
        **_summary_fields(data),
        host=text(data, "host"),
        port=int(data["port"]),
        database=text(data, "database"),
        user=text(data, "user"),
        dsn=text(data, "dsn"),
        password=text(data, "password"),
        urls=_texts({name: url for name, url in data["urls"].items() if url is not None}),
        env=_texts(data["env"]),
        socket=text_or_none(data, "socket"),
    )


def _server(data: Json) -> Server:
    counts = data.get("databases") or {}
    connections = data.get("connections")
    versions = data.get("versions")
    return Server(
        id=text(data, "id"),
        name=text(data, "name"),
        backend=text(data, "backend"),
        state=text(data, "state"),
        host=data.get("host"),
        port=int_or_none(data, "port"),
        versions=None if versions is None else _texts(versions),
        created_at=time(data, "created_at"),
        ready_at=time_or_none(data, "ready_at"),
        error=str(data.get("error") or ""),
        databases=DatabaseCounts(*(int(counts.get(key, 0)) for key in ("ready", "making", "leased", "condemned"))),
        notes=tuple(str(note) for note in data.get("notes") or ()),
        cloning=tuple(_cloning_way(way) for way in data.get("cloning") or ()),
        workers=int_or_none(data, "workers"),
        memory=int_or_none(data, "memory"),
        place=str(data.get("place") or ""),
        connections=None if connections is None else Connections(int(connections["used"]), int(connections["most"])),
    )


def _cloning_way(data: Json) -> CloningWay:
    milliseconds = data.get("milliseconds")
    return CloningWay(
        template=text(data, "template"),
        strategy=text(data, "strategy"),
        milliseconds=None if milliseconds is None else float(milliseconds),
        clones=int(data.get("clones", 0)),
        chosen=bool(data.get("chosen")),
        refused=str(data.get("refused") or ""),
    )


def servers(data: Json) -> Servers:
    return Servers(text(data, "backend"), str(data.get("reason") or ""), tuple(_server(one) for one in data["servers"]))


def pool(data: Json) -> Pool:
    shares = tuple(
        PoolShare(
            server=text(share, "server"),
            template=text(share, "template"),
            **{key: int(share.get(key, 0)) for key in ("ready", "making", "leased", "target")},
        )
        for share in data.get("per") or ()
    )
    counts = {key: int(data[key]) for key in ("ready", "making", "leased", "condemned", "waiting")}
    return Pool(
        **counts,
        max=int_or_none(data, "max"),
        per=shares,
        demand=tuple(_template_demand(one) for one in data.get("demand") or ()),
        asleep=bool(data.get("asleep")),
    )


def _template_demand(data: Json) -> TemplateDemand:
    return TemplateDemand(
        template=text(data, "template"),
        target=int(data["target"]),
        rate=float(data.get("rate") or 0),
        hinted=int(data.get("hinted") or 0),
        peak=float(data.get("peak") or 0),
    )


def demand(data: Json) -> Demand:
    return Demand(
        template=text(data, "template"),
        holder=text(data, "holder"),
        count=int(data["count"]),
        expires_at=time(data, "expires_at"),
        target=int(data["target"]),
    )


def health(data: Json) -> Health:
    return Health(text(data, "status"), text(data, "version"), int(data["pid"]), str(data.get("pid_space") or ""))


def readiness(data: Json) -> Readiness:
    return Readiness(text(data, "status"), str(data.get("backend") or ""), int(data["servers"]), int(data["ready"]))
