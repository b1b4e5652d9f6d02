"""The migrations run once, until one of them changes; each test's database is a clone of what they made."""

from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy.orm import Session

PROJECT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def alembic_config():
    """Return Alembic's configuration for a lease's database."""

    def config_for(lease):
        config = Config(PROJECT / "alembic.ini")
        config.set_main_option("sqlalchemy.url", lease.urls["sqlalchemy"])
        return config

    return config_for


@pytest.fixture(scope="session")
def pg_template(leasedb_client, alembic_config):
    def migrate(lease):
        command.upgrade(alembic_config(lease), "head")

    return leasedb_client.template("shop-alembic", migrate, fingerprint=[PROJECT / "migrations"])


@pytest.fixture
def session(pg_engine):
    with Session(pg_engine) as session:
        yield session
