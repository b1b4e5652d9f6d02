#!/bin/sh
# Makes an ordinary Postgres container of Debian's packages, with the contract of the public image: POSTGRES_USER,
# POSTGRES_PASSWORD, POSTGRES_DB, POSTGRES_INITDB_ARGS, PGDATA, and a server that listens on its unix socket only
# until everything is set up.
set -eu

case ${1-} in
    -*) set -- postgres "$@" ;;
esac
if [ "${1-}" != postgres ]; then
    exec "$@"
fi

sockets=/var/run/postgresql
if [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA" "$sockets"
    chown postgres:postgres "$PGDATA" "$sockets"
    chmod 700 "$PGDATA"
    exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
fi

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    if [ -z "${POSTGRES_PASSWORD-}" ]; then
        echo "Error: Database is uninitialized and superuser password is not specified: set POSTGRES_PASSWORD." >&2
        exit 1
    fi
    user=${POSTGRES_USER:-postgres}
    database=${POSTGRES_DB:-$user}
    secret=$(mktemp)
    printf '%s\n' "$POSTGRES_PASSWORD" >"$secret"
    # the arguments are several words on purpose
    # shellcheck disable=SC2086
    initdb --username="$user" --pwfile="$secret" ${POSTGRES_INITDB_ARGS-}
    rm -f "$secret"
    echo "listen_addresses = '*'" >>"$PGDATA/postgresql.conf"
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"

    # like the public image, the server of the init phase gets the caller's own settings
    "$@" -c listen_addresses= -c unix_socket_directories="$sockets" &
    server=$!
    export PGHOST="$sockets" PGPASSWORD="$POSTGRES_PASSWORD"
    until pg_isready --quiet --username="$user"; do
        kill -0 "$server" 2>/dev/null || { wait "$server"; exit 1; }
        sleep 0.05
    done
    if [ "$database" != postgres ]; then
        # psql quotes a variable only in what it reads, not in --command
        echo 'CREATE DATABASE :"name"' | psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --set name="$database" \
            --username="$user" --dbname=postgres
    fi
    unset PGHOST PGPASSWORD
    kill -INT "$server"
    wait "$server"
    echo "PostgreSQL init process complete; ready for start up."
fi

exec "$@"
