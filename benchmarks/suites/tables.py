"""The small schema without rows, and a test that commits, as applications do."""

from typing import Any

import psycopg

from benchmarks.suites import shop

SQL = shop.TABLES
RENEW = "TRUNCATE customer, product, purchase, item, note RESTART IDENTITY"


def body(connection: "psycopg.Connection[Any]") -> None:
    """Write to all tables, commit, and read what another question makes of it."""
    # the numbers of rows are not relied on: a rollback leaves sequences where they are
    connection.execute("INSERT INTO customer (name) SELECT 'customer ' || n FROM generate_series(1, 5) n")
    connection.execute(
        "INSERT INTO product (name, price) SELECT 'product ' || n, n * 1.5 FROM generate_series(1, 10) n"
    )
    connection.execute("INSERT INTO purchase (customer) SELECT min(id) FROM customer")
    connection.execute("INSERT INTO item SELECT p.id, o.id, 2 FROM purchase p, product o WHERE o.price = 4.5")
    connection.execute("INSERT INTO note SELECT id, 'soon' FROM purchase")
    connection.commit()
    question = (
        "SELECT count(*), sum(price * count) FROM purchase p JOIN item i ON i.purchase = p.id"
        " JOIN product ON product.id = i.product JOIN note n ON n.purchase = p.id"
    )
    row = connection.execute(question).fetchone()
    assert row is not None, "an aggregate without an answer"
    assert (row[0], float(row[1])) == (1, 9.0), f"not a fresh database: {row}"
    stock = connection.execute("SELECT (SELECT count(*) FROM customer), (SELECT count(*) FROM product)").fetchone()
    assert stock == (5, 10), f"not a fresh database: {stock}"
    connection.commit()
