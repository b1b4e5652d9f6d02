#!/bin/sh
# Makes leasedb-test/pgvector:pg<MAJOR> from Debian packages in each engine named, unless it is there and up to date.
#
#   tests/image/build.sh [--postgres 17|18] docker podman
#
# Needs root (for mmdebstrap), and mmdebstrap's own way to a Debian mirror.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
major=17
if [ "${1-}" = --postgres ]; then
    major=$2
    shift 2
fi
case $major in
    17) suite=trixie volume=/var/lib/postgresql/data data=/var/lib/postgresql/data ;;
    18) suite=sid volume=/var/lib/postgresql data=/var/lib/postgresql/18/docker ;;
    *) echo "build.sh: no recipe for Postgres $major, only 17 and 18" >&2; exit 2 ;;
esac
[ $# -gt 0 ] || { echo "usage: build.sh [--postgres 17|18] ENGINE..." >&2; exit 2; }

image=leasedb-test/pgvector:pg$major
recipe=$(cat "$here/build.sh" "$here/Dockerfile" "$here/docker-entrypoint.sh" | sha256sum | cut -c1-16)
work=
trap '[ -z "$work" ] || rm -rf "$work"' EXIT

root_file_system() {
    [ -z "$work" ] || return 0
    work=$(mktemp -d)
    cp "$here/Dockerfile" "$here/docker-entrypoint.sh" "$work"
    chmod 755 "$work/docker-entrypoint.sh"
    # What nobody reads in a test is left out: it is half of the image. A mirror that stands still is good enough.
    mmdebstrap --quiet --variant=minbase --include="postgresql-$major,postgresql-$major-pgvector" \
        --aptopt='APT::Install-Recommends "false"' \
        --aptopt='Acquire::Check-Valid-Until "false"' \
        --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --dpkgopt='path-exclude=/usr/share/i18n/*' \
        --customize-hook='rm -rf "$1"/var/lib/postgresql/* "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/*' \
        "$suite" "$work/root.tar"
}

for engine in "$@"; do
    found=$("$engine" image inspect --format '{{ index .Config.Labels "leasedb.test.recipe" }}' "$image" 2>/dev/null) || found=
    if [ "$found" = "$recipe" ]; then
        echo "$engine has $image"
        continue
    fi
    root_file_system
    "$engine" build --quiet --tag "$image" \
        --build-arg "MAJOR=$major" --build-arg "DATA=$data" --build-arg "VOLUME=$volume" \
        --build-arg "RECIPE=$recipe" "$work" >/dev/null
    echo "$engine: made $image"
done
