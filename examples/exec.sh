#!/bin/sh
# A program in any language finds DATABASE_URL and PG* in its environment; the lease lasts as long as the program runs.
set -eu
leasedb exec -- sh -c 'echo "I am $PGUSER in $PGDATABASE"; psql -Atc "select 1"'
