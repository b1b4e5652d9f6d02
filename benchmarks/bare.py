"""The yardstick: a bare FastAPI POST with one SQLite commit, and a DELETE with another.

Run as ``python bare.py FILE PORT``, a process of its own.

What it shares with the daemon is what any such daemon pays for: uvicorn with uvloop and httptools, the same body
model, one row of the same width through SQLAlchemy, WAL.
"""

import sqlite3
import sys
import time
import uuid

import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from sqlalchemy import Column, Float, Integer, MetaData, String, Table, bindparam, create_engine, event

from leasedb_server.api.schemas import LeaseBody

METADATA = MetaData()
ROW = Table(
    "row",
    METADATA,
    Column("id", String, primary_key=True),
    Column("database_id", String, unique=True),
    *(Column(name, String) for name in ("holder", "labels", "state", "end_reason", "idempotency_key", "digest")),
    *(Column(name, Float) for name in ("pid_started", "created_at", "expires_at", "max_expires_at", "ttl")),
    Column("ended_at", Float, index=True),
    Column("pid", Integer),
)


def create_app(path: str) -> FastAPI:
    engine = create_engine(f"sqlite:///{path}")

    @event.listens_for(engine, "connect")
    def _tune(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")

    METADATA.create_all(engine)
    connection, insert = engine.connect(), ROW.insert()
    end = ROW.update().where(ROW.c.id == bindparam("which")).values(state="released", ended_at=bindparam("now"))
    app = FastAPI()

    @app.post("/rows", status_code=201)
    async def add(body: LeaseBody) -> JSONResponse:
        now = time.time()
        row = {
            "id": uuid.uuid4().hex,
            "database_id": uuid.uuid4().hex,
            "holder": body.holder,
            "pid": body.pid,
            "pid_started": None,
            "labels": "{}",
            "created_at": now,
            "expires_at": now + (body.ttl or 0),
            "max_expires_at": now,
            "ttl": body.ttl,
            "state": "active",
            "ended_at": None,
            "end_reason": "",
            "idempotency_key": None,
            "digest": None,
        }
        with connection.begin():
            connection.execute(insert, row)
        return JSONResponse(row, 201)

    @app.delete("/rows/{row_id}", status_code=204)
    async def remove(row_id: str) -> Response:
        with connection.begin():
            connection.execute(end, {"which": row_id, "now": time.time()})
        return Response(status_code=204)

    return app


if __name__ == "__main__":
    uvicorn.run(
        create_app(sys.argv[1]),
        port=int(sys.argv[2]),
        loop="uvloop",
        http="httptools",
        log_config=None,
        access_log=False,
        lifespan="off",
    )
