"""The two ways to start a server: from the prepared state, or from the user's image, which then initialises itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from leasedb_server.backends.access import BASE, SUPERUSER
from leasedb_server.backends.container.preparing import ARCHIVE, DISK, MEMORY, Prepared
from leasedb_server.backends.container.settings import DAEMON_LABEL, SERVER_LABEL, ContainerSettings
from leasedb_server.backends.container.spec import Image, Spec
from leasedb_server.backends.tuning import tuning
from leasedb_server.backends.watchdog import watched
from leasedb_server.domain.names import new_password
from leasedb_server.domain.server import Endpoint

_HEARTBEAT: Final = "/tmp/leasedb-heartbeat"  # noqa: S108 - inside the container, which nobody else shares
_LINGER: Final = 60  # seconds in which the log of a crashed server can still be read
_OVERFLOW: Final = f"{DISK}/overflow"
_LOG: Final = "/leasedb/log"
_LOG_BYTES: Final = 1 << 30  # a limit; the log is kept at a quarter of that (max_wal_size), and taken as it is used

_COPY: Final = f"""
overflow=$1
shift
mkdir -m 0700 "$PGDATA" && tar -xf {ARCHIVE} -C "$PGDATA" || exit 1
if [ -n "$overflow" ]; then
    # The log of all changes has room of its own: Postgres ends, with everybody on it, when there is none for that.
    mkdir -m 0700 "$overflow" && mv "$PGDATA/pg_wal" {_LOG}/wal && ln -s {_LOG}/wal "$PGDATA/pg_wal" || exit 1
fi
exec "$@"
"""


@dataclass(frozen=True, slots=True)
class Launch:
    """A container to make and start; the endpoint's port is known once it runs."""

    spec: Spec
    endpoint: Endpoint


def from_prepared(settings: ContainerSettings, name: str, prepared: Prepared, memory: int | None) -> Launch:
    """Copy the prepared data directory to its place and start Postgres on it, as its own user from the beginning.

    ``memory`` is how many bytes of it the data may take, the volume then only has the overflow; None for all on the
    volume.
    """
    overflow = _OVERFLOW if memory else None
    command = ["sh", "-c", _COPY, "leasedb-server", overflow or "", *_postgres()]
    spec = Spec(
        name=name,
        image=prepared.id,
        command=_guarded(settings, command),
        environment={"PGDATA": f"{MEMORY if memory else DISK}/data"},
        labels=_labels(settings, name),
        volume=DISK,
        # What the operator said is kept. Else there is room for a lease that writes more than others: when this is full
        # to the last byte, Postgres ends.
        memory={MEMORY: memory if settings.memory else 2 * memory, _LOG: _LOG_BYTES} if memory else {},
        user=prepared.user,
    )
    endpoint = Endpoint(
        "127.0.0.1",
        0,
        SUPERUSER,
        prepared.password,
        heartbeat=_HEARTBEAT,
        guarded=True,
        base=BASE,
        memory=memory,
        overflow=overflow,
    )
    return Launch(spec, endpoint)


def self_made(settings: ContainerSettings, name: str, image: Image) -> Launch:
    """Have the image's own entrypoint make the data directory: slower, but all it needs is the image's contract."""
    password = new_password()
    spec = Spec(
        name=name,
        image=image.name,
        command=_guarded(settings, [*image.entrypoint, *_postgres()]),
        environment={
            "POSTGRES_USER": SUPERUSER,
            "POSTGRES_PASSWORD": password,
            "POSTGRES_DB": "postgres",
            # initdb's default trusts 127.0.0.1, and through a rootless engine's port forwarder everybody comes
            # from there
            "POSTGRES_INITDB_ARGS": "--auth-host=scram-sha-256 --no-sync",
        },
        labels=_labels(settings, name),
        # never the overlay layer, where cloning takes half as long again
        volume="" if image.volume else image.data_dir,
    )
    return Launch(spec, Endpoint("127.0.0.1", 0, SUPERUSER, password, heartbeat=_HEARTBEAT))


def _postgres() -> list[str]:
    # an image's own configuration listens everywhere too; said again for images that were built otherwise
    flags = (f"{key}={value}" for key, value in {**tuning(), "listen_addresses": "*"}.items())
    return ["postgres", *(word for flag in flags for word in ("-c", flag))]


def _guarded(settings: ContainerSettings, command: Sequence[str]) -> tuple[str, ...]:
    return tuple(
        watched(
            command,
            heartbeat=_HEARTBEAT,
            limit=settings.orphan_timeout,
            starting=settings.start_timeout,
            linger=_LINGER,
        )
    )


def _labels(settings: ContainerSettings, name: str) -> dict[str, str]:
    return {DAEMON_LABEL: settings.daemon, SERVER_LABEL: name}
