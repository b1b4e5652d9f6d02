"""What is known, as the wire has it: see schemas for the shapes."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from leasedb_server.domain.database import Database, DatabaseState
from leasedb_server.domain.edition import parted
from leasedb_server.domain.errors import BuildFailedError
from leasedb_server.domain.fault import Fault
from leasedb_server.domain.inventory import Inventory
from leasedb_server.domain.lease import Instant, Lease
from leasedb_server.domain.server import Endpoint, Server
from leasedb_server.domain.sessions import SessionInfo
from leasedb_server.domain.template import Origin, Template
from leasedb_server.usecases.making import Workshop
from leasedb_server.usecases.pulses import Pulses


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
        "template": parted(database.template)[0],
        "server": database.server_id,
        "server_kind": "exclusive" if server.exclusive else "shared",
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
        "builds": parted(lease.builds)[0] if lease.builds else None,
        "kept": lease.kept,
        "image": _image(server.edition),
    }


def lease_whole(lease: Lease, inventory: Inventory) -> dict[str, Any]:
    """Return a `LeaseOut`."""
    database = inventory.databases[lease.database_id]
    server = inventory.server_of(database)
    return {**lease_summary(lease, inventory), **_connection(database, server.endpoint or _NOWHERE)}


def hold_line(lease: Lease) -> dict[str, Any]:
    """Return a `HoldLine`."""
    line = {"id": lease.id, "state": lease.state, "expires_at": instant(lease.expires_at)}
    return line if lease.active else {**line, "reason": lease.end_reason}


_NOWHERE = Endpoint("", 0, "", "")


def _connection(database: Database, endpoint: Endpoint) -> dict[str, Any]:
    host, port, socket = endpoint.host, endpoint.port, endpoint.socket
    # A password of ours needs no quoting (domain.names); names may be the caller's, on a server of its own, and the
    # host comes from an existing server's DSN, where it may be IPv6.
    address = f"[{host}]" if ":" in host else quote(host)
    login, name = quote(database.login, safe=""), quote(database.name, safe="")
    rest = f"{login}:{database.password}@{address}:{port}/{name}"
    dsn = f"postgresql://{rest}"
    credentials = f"user={login}&password={database.password}"
    by_socket = f"postgresql://{login}:{database.password}@/{name}?host={quote(socket or '', safe='')}"
    return {
        "dsn": dsn,
        "host": host,
        "port": port,
        "database": database.name,
        "user": database.login,
        "password": database.password,
        "socket": socket,
        "urls": {
            "libpq": dsn,
            "sqlalchemy": f"postgresql+psycopg://{rest}",
            "asyncpg": dsn,
            "jdbc": f"jdbc:postgresql://{address}:{port}/{name}?{credentials}",
            "socket": f"{by_socket}&port={port}" if socket else None,
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


def server_whole(
    server: Server, inventory: Inventory, notes: tuple[str, ...], pulses: Pulses, workshop: Workshop | None
) -> dict[str, Any]:
    """Return a `ServerOut`."""
    pulse = pulses.get(server.id)
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
        "memory": server.endpoint.memory if server.endpoint else None,
        "place": pulses.place(server.id),
        "connections": {"used": pulse.connections, "most": pulse.most} if pulse else None,
        "workers": workshop.pace.workers if workshop else None,
        "cloning": _cloning(workshop) if workshop else [],
    }


def _cloning(workshop: Workshop) -> list[dict[str, Any]]:
    return [
        {
            "template": template,
            "strategy": figures.strategy,
            "milliseconds": None if figures.seconds is None else round(figures.seconds * 1000, 2),
            "clones": figures.clones,
            "chosen": figures.strategy is cloning.best,
            "refused": figures.refused,
        }
        for template, cloning in workshop.cloning.items()
        for figures in cloning.figures()
    ]


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


def _image(edition: str) -> str | None:
    """Return the image of an edition; versions and the default have none to name."""
    return None if not edition or edition.isdecimal() else edition


def template_whole(template: Template, inventory: Inventory, progress: str) -> dict[str, Any]:
    """Return a `TemplateOut`; ``progress`` tells how far a build is."""
    key, ready = template.key, DatabaseState.READY
    servers = list(inventory.servers)
    built_in = template.origin is Origin.BUILTIN
    return {
        "name": template.name,
        "fingerprint": template.fingerprint,
        "parent": None if built_in else template.parent,
        "state": template.state,
        "origin": template.origin,
        "postgres": template.edition if template.edition.isdecimal() else None,
        "image": _image(template.edition),
        "bytes": template.size,
        "kept": bool(template.kept) or built_in,
        "created_at": None if built_in else instant(template.created_at),
        "used_at": None if built_in else instant(template.used_at),
        "leases": inventory.leases_from(key),
        "ready": sum(inventory.count(server_id, key, ready) for server_id in servers),
        "progress": progress,
        "error": fault_whole(template.fault) if template.fault else None,
        "notes": list(template.notes),
        "until_lease": template.until_lease,
    }


def fault_whole(fault: Fault) -> dict[str, Any]:
    """Return a `BuildErrorOut`."""
    return {
        "message": fault.message,
        "sqlstate": fault.sqlstate,
        "statement": fault.statement,
        "line": fault.line,
        "sql": fault.sql,
        "hint": fault.hint or BuildFailedError.default_hint,
    }


def session_whole(session: SessionInfo) -> dict[str, Any]:
    """Return a `SessionOut`."""
    return {
        "pid": session.pid,
        "application": session.application,
        "state": session.state,
        "since": _maybe(session.since),
        "query": session.query,
    }
