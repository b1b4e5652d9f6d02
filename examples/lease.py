"""Leases a database, measures a distance in it, gives it back."""

import psycopg

import leasedb

with leasedb.Client() as client, client.lease(ttl=60, labels={"run": "7"}) as lease:
    with psycopg.connect(lease.dsn) as connection:
        row = connection.execute("select '[1,2,3]'::vector <-> '[3,2,1]'").fetchone()
    print(lease.database, row)
