"""The prepared state: an image in which the data directory is made already, so that a server need not make its own.

A short-lived container of the user's image has the image's own entrypoint make the data directory, adds what every
server of ours has (the database that becomes the base template, the access rules), stops Postgres and is committed as
``leasedb-prepared:<key>``. The key says what went in, so the image is made anew when any of that changes. It is a local
image, shared by all daemons that use the engine, and it stays until `PreparedImages.clean`.

The superuser's password is on its label. Who can read the labels of an engine's images can run containers there,
which is as good as being root on that machine: nothing is given away.
"""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from leasedb_server.backends.access import BASE, RULES, SUPERUSER
from leasedb_server.backends.container.settings import DAEMON_LABEL, SERVER_LABEL, ContainerSettings
from leasedb_server.backends.container.spec import Image, ListedImage, RefusedError, Spec
from leasedb_server.backends.container.tail import Tail
from leasedb_server.backends.memory import granted
from leasedb_server.backends.tuning import tuning
from leasedb_server.backends.watchdog import watched
from leasedb_server.domain.errors import ServerUnreachableError
from leasedb_server.domain.names import Kind, Name, new_ident, new_password

if TYPE_CHECKING:  # the Docker SDK is imported when an engine is looked for
    from leasedb_server.backends.container.engine import Engine

# in a prepared image
ARCHIVE: Final = "/leasedb/prepared.tar"  # one file: copying it out takes two thirds of the time of a directory
DISK: Final = "/leasedb/disk"  # Postgres's user owns it, and with it the volume that is put there
MEMORY: Final = "/leasedb/memory"

KEY_LABEL: Final = "leasedb.prepared"
REPOSITORY: Final = "leasedb-prepared"
_NAME_LABEL: Final = "leasedb.prepared.image"
_SOURCE_LABEL: Final = "leasedb.prepared.source"
_OWNER_LABEL: Final = "leasedb.prepared.owner"
_PASSWORD_LABEL: Final = "leasedb.prepared.password"  # noqa: S105 - the name of a label

_LAYOUT: Final = 2  # of what a prepared image holds besides the texts below
_PLACE: Final = "/leasedb/making"  # in memory where that is granted, which is several times as fast as some disks
_DATA: Final = f"{_PLACE}/data"
_MARK: Final = "leasedb: prepared for "
_LEAST_LIMIT: Final = 30.0  # seconds
_LAST_LINES: Final = 8
_GOODBYE: Final = 3.0  # seconds for the output of a dead container to arrive

# The last line makes the checkpoint of the shutdown the beginning of a WAL file, so that no other file is needed.
_SQL: Final = rf"""
CREATE EXTENSION IF NOT EXISTS vector;
CREATE DATABASE {BASE} TEMPLATE template0 ENCODING 'UTF8';
\c {BASE}
CREATE EXTENSION vector SCHEMA public;
VACUUM FULL;
\c postgres
ALTER DATABASE {BASE} IS_TEMPLATE true ALLOW_CONNECTIONS false;
SELECT pg_switch_wal();
"""

# The server of the entrypoint's own init phase has another process id than the entrypoint, which becomes Postgres in
# the end. Line 8 of postmaster.pid is the state: https://github.com/postgres/postgres/blob/master/src/include/utils/pidfile.h
_SCRIPT: Final = rf"""
set -eu
rules=$1 sql=$2
shift 2
umask 022
mkdir -p {_PLACE}
"$@" &
server=$!
up() {{
    {{ read -r pid <{_DATA}/postmaster.pid; }} 2>/dev/null || return 1
    [ "$pid" = "$server" ] && [ "$(sed -n '8s/ *$//p' {_DATA}/postmaster.pid)" = ready ]
}}
until up; do
    kill -0 "$server" 2>/dev/null || {{ echo "leasedb: the image's server ended before it was ready" >&2; exit 1; }}
    sleep 0.02
done
printf '%s' "$sql" | PGPASSWORD=$POSTGRES_PASSWORD psql -X -q -v ON_ERROR_STOP=1 -U {SUPERUSER} -d postgres >/dev/null
kill -INT "$server"
wait "$server"
# Nothing here is read again after a crash, and with checksums files could not be exchanged between servers.
pg_checksums --disable --no-sync -D {_DATA} >/dev/null 2>&1 || :
printf '%s' "$rules" >{_DATA}/pg_hba.conf
keep=$(LC_ALL=C pg_controldata {_DATA} | sed -n "s/^Latest checkpoint's REDO WAL file: *//p")
for file in {_DATA}/pg_wal/*; do
    [ -z "$keep" ] || [ ! -f "$file" ] || [ "${{file##*/}}" = "$keep" ] || rm -f "$file"
done
set -- $(ls -ldn {_DATA})
tar -cf {ARCHIVE} -C {_DATA} .
rm -rf {_DATA}
mkdir -m 0700 {DISK}
mkdir {MEMORY}
chmod 1777 {MEMORY}
chmod 0400 {ARCHIVE}
chown "$3:$4" {DISK} {ARCHIVE}
echo "{_MARK}$3:$4"
exec sleep 86400
"""


@dataclass(frozen=True, slots=True)
class Prepared:
    """An image to start servers from: by id, as ``uid:gid``, with the superuser's password."""

    id: str
    user: str
    password: str = field(repr=False)


class PreparedImages:
    """Makes and finds the prepared images for the user's images. Everything here blocks, and is safe in threads."""

    def __init__(self, settings: ContainerSettings) -> None:
        self._settings = settings
        self._limit = max(_LEAST_LIMIT, settings.start_timeout)
        self._lock = threading.Lock()
        self._known: dict[str, Prepared] = {}
        self._refused: set[str] = set()  # keys of images that cannot be prepared: not tried, and told, again
        self._abandoned = threading.Event()
        self.at_work = ""  # the name of the preparing container, while there is one

    def get(self, engine: "Engine", source: Image, report: Callable[[str], None]) -> Prepared | None:
        """Return the prepared image of ``source``, made now when there is none; None when that cannot be done.

        Raises:
            ServerUnreachableError: the engine went away, or `abandon` was called.
        """
        key = _key(source)
        if known := self._known.get(key):  # asked before the lock, under which another image may be prepared
            return known
        with self._lock:
            if known := self._known.get(key):
                return known
            if key in self._refused:
                return None
            try:
                prepared = _found(engine, key) or self._made(engine, source, key, report)
            except RefusedError as error:
                if self._abandoned.is_set():
                    raise ServerUnreachableError(f"Preparing {source.name} was given up.") from error
                self._refused.add(key)
                report(f"{source.name} was not prepared, so servers take longer to start: {error}")
                return None
            self._known[key] = prepared
            return prepared

    def forget(self) -> None:
        """Look again next time: somebody may have deleted an image."""
        self._known.clear()

    def clean(self, engine: "Engine") -> list[str]:
        """Take away all prepared images that nothing uses, whoever made them; return a line for each."""
        self.forget()
        return [
            f"the prepared state of {image.labels.get(_NAME_LABEL)} in {engine.title}"
            for image in engine.images(KEY_LABEL)
            if _is_ours(image) and engine.remove_image(image.id)
        ]

    def abandon(self, engine: "Engine") -> None:
        """Have what is under way end soon, without a result. What starts after `resume` is not concerned."""
        self._abandoned.set()
        if name := self.at_work:
            with suppress(RefusedError, ServerUnreachableError):  # it ends by itself
                engine.remove(name)

    def resume(self) -> None:
        self._abandoned.clear()

    def _made(self, engine: "Engine", source: Image, key: str, report: Callable[[str], None]) -> Prepared:
        began = time.monotonic()
        image = source.name
        report(f"Preparing {image}; this is done once.")
        # named and labelled like a server, so that a sweep takes it
        name = self.at_work = str(Name(self._settings.daemon, Kind.SERVER, new_ident()))
        password = new_password()
        try:
            # what an operator grants is for servers, and may be too little here
            memory = granted(0 if self._settings.memory == 0 else None, engine.memory())
            container_id = engine.create(self._spec(name, source, password, memory))
            try:
                owner = self._run(engine, name, container_id)
                labels = {
                    KEY_LABEL: key,
                    _NAME_LABEL: image,
                    _SOURCE_LABEL: source.id,
                    _OWNER_LABEL: owner,
                    _PASSWORD_LABEL: password,
                    # those of the container, which an image would hand on
                    DAEMON_LABEL: "",
                    SERVER_LABEL: "",
                }
                made = engine.commit(container_id, REPOSITORY, key, ["ENV POSTGRES_PASSWORD=", *_lines(labels)])
            finally:
                with suppress(RefusedError, ServerUnreachableError):  # it ends by itself
                    engine.remove(container_id)
        finally:
            self.at_work = ""
        report(f"Prepared {image} in {time.monotonic() - began:.1f} s.")
        with suppress(RefusedError):  # they stay until `clean`
            for old in engine.images(f"{_NAME_LABEL}={image}"):
                if _is_ours(old) and old.labels.get(KEY_LABEL) != key:
                    engine.remove_image(old.id)
        return Prepared(made, owner, password)

    def _run(self, engine: "Engine", name: str, container_id: str) -> str:
        """Run the preparing container until it only waits to be committed; return the ``uid:gid`` that it tells."""
        tail = Tail(name, engine.output(container_id))
        try:
            if not self._abandoned.is_set():
                engine.start(container_id)
                if line := tail.until(_MARK, self._limit):
                    return line.removeprefix(_MARK)
                tail.wait(_GOODBYE)
            raise RefusedError("\n".join(["it did not get ready. Its last lines:", *tail.lines(_LAST_LINES)]))
        finally:
            tail.close()

    def _spec(self, name: str, source: Image, password: str, memory: int | None) -> Spec:
        flags = (word for key, value in _flags().items() for word in ("-c", f"{key}={value}"))
        script = ["sh", "-c", _SCRIPT, "leasedb-prepare", RULES, _SQL, *source.entrypoint, "postgres", *flags]
        return Spec(
            name=name,
            image=source.id,
            # no beat ever comes, so it ends by itself when its daemon is gone
            command=tuple(watched(script, heartbeat="/leasedb/none", limit=2 * self._limit, starting=0)),
            environment={
                "PGDATA": _DATA,
                "POSTGRES_USER": SUPERUSER,
                "POSTGRES_PASSWORD": password,
                "POSTGRES_DB": "postgres",
                "POSTGRES_INITDB_ARGS": "--auth-host=scram-sha-256 --no-sync --wal-segsize=1",
            },
            labels={DAEMON_LABEL: self._settings.daemon, SERVER_LABEL: name},
            memory={_PLACE: memory} if memory else {},
            user="0:0",  # as the entrypoint expects: it drops to Postgres's user by itself
            published=False,
        )


def _flags() -> dict[str, str]:
    return {**tuning(), "listen_addresses": ""}


def _key(source: Image) -> str:
    parts = (_LAYOUT, source.id.removeprefix("sha256:"), RULES, _SQL, _SCRIPT, sorted(_flags().items()))
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _found(engine: "Engine", key: str) -> Prepared | None:
    # one look, and the id from then on: another daemon may make the same at this moment, and give it the name
    image = engine.image(f"{REPOSITORY}:{key}")
    if image is None or image.labels.get(KEY_LABEL) != key:
        return None
    return Prepared(image.id, image.labels[_OWNER_LABEL], image.labels[_PASSWORD_LABEL])


def _is_ours(image: ListedImage) -> bool:
    """Tell a prepared image from one that somebody derived from it, or committed from a server: labels go along."""
    named_ours = all(tag.rpartition(":")[0].rpartition("/")[2] == REPOSITORY for tag in image.tags)
    return KEY_LABEL in image.labels and not image.labels.get(SERVER_LABEL) and named_ours


def _lines(labels: Mapping[str, str]) -> list[str]:
    # one line each: Podman takes a second label on a line for a part of the first one's value
    return [f"LABEL {name}={json.dumps(value)}" for name, value in labels.items()]
