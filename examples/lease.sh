#!/bin/sh
# Leases a database with nothing but curl, and gives it back.
set -eu
api=${LEASEDB_URL:-http://127.0.0.1:7432}

# A lease is JSON; `jq -r .dsn` reads a field as well as this does.
field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }

lease=$(curl -sSf -X POST "$api/leases" -H 'Content-Type: application/json' \
    -d '{"ttl": 60, "holder": "shell", "labels": {"run": "7"}}')
id=$(printf '%s' "$lease" | field id)

psql "$(printf '%s' "$lease" | field dsn)" -Atc "select '[1,2,3]'::vector <-> '[3,2,1]'"   # 2.828...

curl -sSf -X POST "$api/leases/$id/renew" -H 'Content-Type: application/json' -d '{"ttl": 120}' | field expires_at

curl -sSf -X DELETE "$api/leases/$id"             # or every lease of a run: DELETE /leases?label=run:7
curl -sSf "$api/leases/$id" | field state         # released
