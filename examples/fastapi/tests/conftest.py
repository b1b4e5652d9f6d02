"""The application as its users see it, with another database behind it for each test."""

from pathlib import Path

import pytest
from httpx import ASGITransport, AsyncClient
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from app import models
from app.main import app, get_session


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(scope="session")
def pg_template(leasedb_client):
    def create_tables(lease):
        engine = create_engine(lease.urls["sqlalchemy"])
        models.Base.metadata.create_all(engine)
        engine.dispose()

    return leasedb_client.template("notes-fastapi", create_tables, fingerprint=[Path(models.__file__)])


@pytest.fixture
async def client(pg_engine):
    def session_of_test():
        with Session(pg_engine) as session:
            yield session

    app.dependency_overrides[get_session] = session_of_test
    async with AsyncClient(transport=ASGITransport(app), base_url="http://notes") as client:
        yield client
    app.dependency_overrides.clear()
