"""What the state file holds, as SQLModel tables. Imported when a new file is made, and by the tests.

The two libraries take a third of a second to import, most of what a start of the daemon would cost, and a store that
exists needs a dozen statements. A test holds those against these tables.
"""

from collections.abc import Mapping
from pathlib import Path

from sqlalchemy import URL, create_engine
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Field, SQLModel

Failed = SQLAlchemyError


class DaemonRow(SQLModel, table=True):
    __tablename__ = "daemon"
    id: str = Field(primary_key=True)


class ServerRow(SQLModel, table=True):
    __tablename__ = "server"
    id: str = Field(primary_key=True)
    name: str
    backend: str
    state: str
    created_at: float
    ready_at: float | None
    error: str
    endpoint: str | None  # JSON
    versions: str | None  # JSON
    edition: str
    exclusive: bool


class TemplateRow(SQLModel, table=True):
    __tablename__ = "template"
    id: str = Field(primary_key=True)
    name: str
    edition: str
    fingerprint: str
    parent: str
    origin: str
    created_at: float
    used_at: float
    state: str
    size: int | None
    layout: str
    kept: int
    builder: str | None
    until_lease: str | None
    fault: str | None  # JSON
    notes: str  # JSON


class CopyRow(SQLModel, table=True):
    __tablename__ = "copy"
    id: str = Field(primary_key=True)
    server_id: str
    template: str
    database: str
    state: str
    source: str | None


class DatabaseRow(SQLModel, table=True):
    __tablename__ = "database"
    id: str = Field(primary_key=True)
    server_id: str
    template: str
    name: str
    login: str
    password: str
    state: str
    partner: str | None


class LeaseRow(SQLModel, table=True):
    __tablename__ = "lease"
    id: str = Field(primary_key=True)
    database_id: str = Field(unique=True)  # never two holders of one database, whatever the code above does
    holder: str
    pid: int | None
    pid_started: float | None
    labels: str  # JSON
    created_at: float
    expires_at: float
    max_expires_at: float
    ttl: float
    state: str
    ended_at: float | None = Field(index=True)
    end_reason: str
    idempotency_key: str | None
    request_digest: str | None
    builds: str | None
    kept: bool


def create(path: Path) -> None:
    """Make the tables that are missing.

    Raises:
        Failed: when they cannot be made.
    """
    engine = create_engine(URL.create("sqlite", database=str(path)))  # a path may have a ? or a % in it
    try:
        SQLModel.metadata.create_all(engine, tables=[SQLModel.metadata.tables[name] for name in columns()])
    finally:
        engine.dispose()


def columns() -> Mapping[str, tuple[str, ...]]:
    """Return the names of the columns, by table."""
    rows = (DaemonRow, ServerRow, TemplateRow, CopyRow, DatabaseRow, LeaseRow)
    return {str(row.__tablename__): tuple(row.model_fields) for row in rows}
