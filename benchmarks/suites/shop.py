"""The small schema and its test."""

from typing import Any

import psycopg

TABLES = """
CREATE TABLE customer (id int PRIMARY KEY GENERATED ALWAYS AS IDENTITY, name text NOT NULL);
CREATE TABLE product (id int PRIMARY KEY GENERATED ALWAYS AS IDENTITY, name text NOT NULL, price numeric NOT NULL);
CREATE TABLE purchase (id int PRIMARY KEY GENERATED ALWAYS AS IDENTITY, customer int NOT NULL REFERENCES customer);
CREATE TABLE item (purchase int NOT NULL REFERENCES purchase, product int NOT NULL REFERENCES product, count int);
CREATE TABLE note (purchase int NOT NULL REFERENCES purchase, text text NOT NULL);
"""
_ROWS = """
INSERT INTO customer (name) SELECT 'customer ' || n FROM generate_series(1, 5) n;
INSERT INTO product (name, price) SELECT 'product ' || n, n * 1.5 FROM generate_series(1, 10) n;
"""
SQL = TABLES + _ROWS
RENEW = f"TRUNCATE customer, product, purchase, item, note RESTART IDENTITY; {_ROWS}"


def body(connection: "psycopg.Connection[Any]") -> None:
    """Write to some tables, and read what another question makes of it."""
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
