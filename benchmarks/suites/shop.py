"""The small schema and the test body that all ways share. The body fails where the database is not fresh."""

import os
from typing import Any

import psycopg

Connection = psycopg.Connection[Any]

TESTS = int(os.environ.get("SUITE_TESTS", "100"))
EMPTY = "SUITE_EMPTY" in os.environ  # no schema, and a question that needs none
SCHEMA = """
CREATE TABLE customer (id int PRIMARY KEY GENERATED ALWAYS AS IDENTITY, name text NOT NULL);
CREATE TABLE product (id int PRIMARY KEY GENERATED ALWAYS AS IDENTITY, name text NOT NULL, price numeric NOT NULL);
CREATE TABLE purchase (id int PRIMARY KEY GENERATED ALWAYS AS IDENTITY, customer int NOT NULL REFERENCES customer);
CREATE TABLE item (purchase int NOT NULL REFERENCES purchase, product int NOT NULL REFERENCES product, count int);
CREATE TABLE note (purchase int NOT NULL REFERENCES purchase, text text NOT NULL);
"""
ROWS = """
INSERT INTO customer (name) SELECT 'customer ' || n FROM generate_series(1, 5) n;
INSERT INTO product (name, price) SELECT 'product ' || n, n * 1.5 FROM generate_series(1, 10) n;
"""
TABLES = "customer, product, purchase, item, note"


def apply(connection: Connection) -> None:
    if not EMPTY:
        connection.execute(SCHEMA + ROWS)


def body(connection: Connection) -> None:
    """Do what a small test does: write to some tables, read what another question makes of it."""
    if EMPTY:
        assert connection.execute("SELECT to_regclass('customer')").fetchone() == (None,), "not a fresh database"
        return
    connection.execute("INSERT INTO purchase (customer) VALUES (1)")
    connection.execute("INSERT INTO item SELECT id, 3, 2 FROM purchase")
    connection.execute("INSERT INTO note SELECT id, 'soon' FROM purchase")
    question = (
        "SELECT count(*), sum(price * count) FROM purchase p JOIN item i ON i.purchase = p.id"
        " JOIN product ON product.id = i.product JOIN note n ON n.purchase = p.id"
    )
    row = connection.execute(question).fetchone()
    assert row is not None, "an aggregate without an answer"
    assert (row[0], float(row[1])) == (1, 9.0), f"not a fresh database: {row}"
    stock = connection.execute("SELECT (SELECT count(*) FROM customer), (SELECT count(*) FROM product)").fetchone()
    assert stock == (5, 10), f"not a fresh database: {stock}"
