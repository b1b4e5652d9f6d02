"""Runs the migrations on the database that the configuration names, or else the environment."""

import os

from alembic import context
from sqlalchemy import create_engine

from shop.models import Base

url = context.config.get_main_option("sqlalchemy.url") or os.environ["DATABASE_URL"]
engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))

with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=Base.metadata)
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
