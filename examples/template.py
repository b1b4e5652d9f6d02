"""A template made by code: whatever brings your schema up to date. It runs once, until the folder changes."""

from pathlib import Path

import psycopg

import leasedb

MIGRATIONS = Path(__file__).parent / "shop"


def migrate(lease: leasedb.Lease) -> None:
    # With Alembic: config.set_main_option("sqlalchemy.url", lease.urls["sqlalchemy"]); command.upgrade(config, "head")
    with psycopg.connect(lease.dsn) as connection:
        for step in sorted(MIGRATIONS.glob("*.sql")):
            connection.execute(step.read_text())


with leasedb.Client() as client:
    shop = client.template("migrated", migrate, fingerprint=[MIGRATIONS])
    busy = client.template(
        "busy", "insert into product (name) select 'no. ' || n from generate_series(1, 1000) n", parent=shop
    )
    with client.lease(busy) as lease, psycopg.connect(lease.dsn) as connection:
        print(busy, connection.execute("select count(*) from product").fetchone())
