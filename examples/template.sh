#!/bin/sh
# Applies a schema once, with nothing but curl; after that a database that has it is leased like an empty one.
set -eu
api=${LEASEDB_URL:-http://127.0.0.1:7432}
sql=$(dirname "$0")/shop/001_tables.sql

# Built the first time, found the next: of several who ask at once, one builds and the others wait.
curl -sSf -X PUT "$api/templates/shop" -H 'Content-Type: application/sql' --data-binary "@$sql" -o /dev/null

leasedb exec --template shop -- psql -Atc 'select count(*) from product'   # 0
