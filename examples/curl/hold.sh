#!/bin/sh
# A lease that lasts as long as a curl reads: nothing to renew, and nothing left over when this script is broken off.
set -eu
api=${LEASEDB_URL:-http://127.0.0.1:7432}

# A lease is JSON; `jq -r .dsn` reads a field as well as this does.
field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }

lease=$(curl -sSf -X POST "$api/leases" -H 'Content-Type: application/json' -d '{"ttl": 30, "holder": "curl"}')
id=$(printf '%s' "$lease" | field id)
echo "leased $id"

curl -sSfN "$api/leases/$id/hold" >/dev/null &     # a line now and then; the lease lives while it is read
holder=$!
trap 'kill "$holder"' EXIT                         # and ends when nobody reads any more
trap 'exit 130' HUP INT TERM

DATABASE_URL=$(printf '%s' "$lease" | field dsn)
psql "$DATABASE_URL" -Atc "select '[1,2,3]'::vector <-> '[3,2,1]'"   # here your tests
