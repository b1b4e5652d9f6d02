"""``python -m benchmarks.suites.first_use FINGERPRINT``: what the first process of a suite does.

It prints "ready", waits for a line, has the template of 50 tables built unless it is there, leases from it, and prints
what that took, in seconds, and how many times it was the one to build.
"""

import json
import sys
from time import perf_counter

import psycopg

import leasedb
from benchmarks.schemas import FIFTY


def main(fingerprint: str) -> None:
    builds = 0

    def build(lease: leasedb.Lease) -> None:
        nonlocal builds
        builds += 1
        with psycopg.connect(lease.dsn) as connection:
            connection.execute(FIFTY.sql)

    with leasedb.Client() as client:
        client.health()
        print("ready", flush=True)
        sys.stdin.readline()
        began = perf_counter()
        template = client.template("first-use", build, fingerprint=fingerprint)
        made = perf_counter()
        with client.lease(template, wait=120) as lease:
            leased = perf_counter()
            with psycopg.connect(lease.dsn) as connection:
                connection.execute("SELECT count(*) FROM document")
            queried = perf_counter()
            name = lease.template
    seconds = {"template": made - began, "lease": leased - made, "query": queried - leased, "whole": queried - began}
    print(json.dumps({"builds": builds, "name": name, **seconds}))


if __name__ == "__main__":
    main(sys.argv[1])
