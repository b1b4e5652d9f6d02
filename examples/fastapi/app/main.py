"""The application; run it with `uvicorn app.main:app`, and DATABASE_URL set."""

import os
from collections.abc import Iterator
from functools import cache
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict
from sqlalchemy import Engine, create_engine, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.models import Note

app = FastAPI()


class NewNote(BaseModel):
    title: str
    body: str


class NoteOut(NewNote):
    model_config = ConfigDict(from_attributes=True)

    id: int


@cache
def engine() -> Engine:
    return create_engine(os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://"))


def get_session() -> Iterator[Session]:
    with Session(engine()) as session:
        yield session


SessionOfRequest = Annotated[Session, Depends(get_session)]


@app.post("/notes", status_code=201, response_model=NoteOut)
def create(new: NewNote, session: SessionOfRequest) -> Note:
    note = Note(**new.model_dump())
    session.add(note)
    try:
        session.commit()
    except IntegrityError:
        session.rollback()
        raise HTTPException(409, f"there is a note {new.title!r} already") from None
    return note


@app.get("/notes", response_model=list[NoteOut])
def every(session: SessionOfRequest) -> list[Note]:
    return list(session.scalars(select(Note).order_by(Note.title)))
