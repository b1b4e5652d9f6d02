"""Goes back in a lease's database to where it was, and takes copies of it; its URL and login stay the same."""

import psycopg

import leasedb


def run(lease: leasedb.Lease, statement: str) -> int:
    with psycopg.connect(lease.dsn) as connection:
        return connection.execute(statement).rowcount


with leasedb.Client() as client, client.lease() as lease:
    run(lease, "create table account as select 'ann' as name, 100 as balance")
    lease.checkpoint()  # ends the sessions on the database, as the next ones do
    run(lease, "update account set balance = 0")
    lease.restore()
    print(run(lease, "select from account where balance = 100"), "account is back")

    with lease.fork(2) as copies:
        run(copies[0], "drop table account")
        print(run(copies[1], "select from account"), "account in the other copy")

    lease.reset()  # to what it was leased with: nothing but the extension
    print(run(lease, "select from pg_tables where schemaname = 'public'"), "tables")
