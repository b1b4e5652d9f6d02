"""Tests of the migrations themselves."""

from alembic import command
from sqlalchemy import inspect


def test_the_models_say_what_the_migrations_made(pg_lease, alembic_config):
    command.check(alembic_config(pg_lease))  # raises when `alembic revision --autogenerate` would find something to do


def test_all_the_way_down_and_up_again(pg_lease, pg_engine, alembic_config):
    command.downgrade(alembic_config(pg_lease), "base")
    assert inspect(pg_engine).get_table_names() == ["alembic_version"]
    command.upgrade(alembic_config(pg_lease), "head")
    assert set(inspect(pg_engine).get_table_names()) == {"alembic_version", "order", "product"}
