"""The other yardstick: what any FastAPI and SQLModel app needs to start. Run as ``python bare_start.py FILE PORT``."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI
from sqlmodel import Field, Session, SQLModel, create_engine


class Thing(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    holder: str = ""
    ttl: float = 0.0


def create_app(path: str) -> FastAPI:
    engine = create_engine(f"sqlite:///{path}")

    @asynccontextmanager
    async def tables(_app: FastAPI) -> AsyncIterator[None]:
        SQLModel.metadata.create_all(engine)
        yield

    app = FastAPI(lifespan=tables)

    @app.post("/things", status_code=201)
    async def add(thing: Thing) -> Thing:
        with Session(engine) as session:
            session.add(thing)
            session.commit()
            session.refresh(thing)
            return thing

    return app


if __name__ == "__main__":
    uvicorn.run(create_app(sys.argv[1]), port=int(sys.argv[2]), loop="uvloop", http="httptools", log_config=None)
