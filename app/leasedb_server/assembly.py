"""The composition root: the only file that names concrete classes."""

import asyncio
import contextlib
import importlib.metadata
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from leasedb_server import importing, statedir
from leasedb_server.backends.container import ContainerBackend, ContainerSettings
from leasedb_server.backends.embedded import EmbeddedBackend, EmbeddedSettings
from leasedb_server.backends.existing import ExistingBackend
from leasedb_server.background.loops import Soon
from leasedb_server.background.supervisor import Daemon, Http, run
from leasedb_server.domain.demand import Demand
from leasedb_server.domain.errors import LeasedbError, StartupError, UnknownTemplateError
from leasedb_server.domain.inventory import Inventory
from leasedb_server.domain.lease import Instant
from leasedb_server.domain.pool import Targets
from leasedb_server.domain.server import Server
from leasedb_server.domain.setbacks import Setbacks
from leasedb_server.ports import ServerBackend
from leasedb_server.postgres import PostgresAdmin, endpoint_of
from leasedb_server.postgres.occupying import occupied
from leasedb_server.processes import LocalProcesses
from leasedb_server.settings import Settings
from leasedb_server.store import STORE_FILE, SqliteStore
from leasedb_server.templatefiles import TemplateFolder
from leasedb_server.usecases.attending import Attending
from leasedb_server.usecases.copies import Copies
from leasedb_server.usecases.exclusive import Exclusives
from leasedb_server.usecases.holding import Holding
from leasedb_server.usecases.idling import Idling
from leasedb_server.usecases.integresql import LABEL, Integresql
from leasedb_server.usecases.keeping import Keeping
from leasedb_server.usecases.leasing import Leasing
from leasedb_server.usecases.ledger import Ledger
from leasedb_server.usecases.making import Making
from leasedb_server.usecases.queueing import Queue, Want
from leasedb_server.usecases.recovering import Recovering
from leasedb_server.usecases.resetting import Resetting
from leasedb_server.usecases.serving import Serving
from leasedb_server.usecases.templating import Templating
from leasedb_server.usecases.upkeep import Upkeep

TEMPLATES: Final = "templates"  # folder of the state directory
VERSION: Final = importlib.metadata.version("leasedb")
VANISHED: Final = 30  # seconds without an acknowledgement after which who reads an answer counts as gone
LOOK_LIMIT: Final = 3.0  # seconds in which an existing server has to answer a doctor
CLEANING: Final = "no address, for it is 'leasedb clean'"  # in the lock, where others have their URL
UNSAVED: Final = "doctor"  # stands for the daemon's id where nothing is going to be created


class WallClock:
    """The `Clock` of ports.py."""

    def now(self) -> Instant:
        return time.time()


async def serve(settings: Settings, say: Callable[[str], None]) -> None:
    """Run the daemon until SIGINT or SIGTERM; ``say`` takes lines for the person at the terminal.

    Raises:
        LeasedbError: when the daemon cannot start.
    """
    with contextlib.closing(_listen(settings)) as listener:
        url = _url(settings.host, listener)
        with statedir.held(settings.state_dir, url):
            async with assembled(settings, listener, url, say) as daemon:
                await run(daemon)


@contextlib.asynccontextmanager
async def assembled(
    settings: Settings, listener: socket.socket, url: str, say: Callable[[str], None]
) -> AsyncIterator[Daemon]:
    """Build everything from the settings, and close it behind."""
    async with contextlib.AsyncExitStack() as stack:
        store = SqliteStore(settings.state_dir / STORE_FILE)
        stack.push_async_callback(store.close)
        inventory, setbacks, wake, clock = Inventory(), Setbacks(), asyncio.Event(), WallClock()
        ledger = Ledger(inventory, store)
        daemon = await ledger.load()
        admin = PostgresAdmin()
        stack.push_async_callback(admin.close_all)
        backends = all_backends(settings, daemon, inventory.leased_servers())
        for backend in backends.values():
            stack.push_async_callback(backend.close)
        candidates = [backend for kind, backend in backends.items() if kind in wanted_kinds(settings)]
        others = [backend for backend in backends.values() if backend not in candidates]
        processes = LocalProcesses()
        most_ready = min(settings.pool_max, max(settings.pool_ready, settings.pool_ready_max))
        demand = Demand(min(settings.pool_ready, most_ready), most_ready)
        queue = Queue(
            inventory,
            clock,
            setbacks=setbacks,
            demand=demand,
            refill=lambda: upkeep.refill(),  # noqa: PLW0108 - it is made below
            wake=wake.set,
        )
        serving = Serving(
            ledger,
            admin,
            clock,
            daemon=daemon,
            candidates=candidates,
            others=others,
            start_timeout=settings.start_timeout,
        )
        leasing = Leasing(
            ledger,
            admin,
            clock,
            processes,
            queue,
            editions=lambda: serving.editions,
            throw_away=lambda server_id: exclusives.throw_away(server_id),  # noqa: PLW0108 - it is made below
            max_ttl=settings.max_ttl,
            wake=wake.set,
            wake_soon=Soon(wake),
        )
        making = Making(ledger, admin, clock, serving, setbacks=setbacks, daemon=daemon, wake=wake.set)
        copies = Copies(
            ledger,
            admin,
            clock,
            serving,
            TemplateFolder(settings.state_dir / TEMPLATES),
            demand=demand,
            waiting=queue.waiting_for,
            refuse=lambda key: queue.fail(lambda want: _gone(want, key)),
            setbacks=setbacks,
            daemon=daemon,
            budget=settings.template_budget,
            wake=wake.set,
        )
        exclusives = Exclusives(
            ledger,
            admin,
            clock,
            serving=serving,
            making=making,
            copies=copies,
            leasing=lambda: leasing,
            setbacks=setbacks,
            daemon=daemon,
            warm=settings.pool_exclusive,
            secured=settings.token is not None,
            wake=wake.set,
        )
        templating = Templating(ledger, admin, clock, leasing, copies, daemon=daemon, wake=wake.set)
        resetting = Resetting(
            ledger,
            admin,
            clock,
            leasing=leasing,
            queue=queue,
            templating=templating,
            making=making,
            exclusives=exclusives,
            daemon=daemon,
            wake_soon=Soon(wake),
        )
        recovering = Recovering(
            ledger,
            admin,
            clock,
            serving=serving,
            leasing=leasing,
            templating=templating,
            resetting=resetting,
            exclusives=exclusives,
            copies=copies,
            daemon=daemon,
            start_timeout=settings.start_timeout,
        )
        upkeep = Upkeep(
            ledger,
            clock,
            queue=queue,
            leasing=leasing,
            serving=serving,
            making=making,
            copies=copies,
            exclusives=exclusives,
            setbacks=setbacks,
            demand=demand,
            targets=Targets(settings.pool_servers, settings.pool_ready, settings.pool_max),
            wake=wake,
            idle_stop=settings.idle_stop,
        )
        attending = Attending(
            inventory,
            clock,
            label=LABEL,
            leasing=leasing,
            queue=queue,
            refill=upkeep.refill,
            occupied=lambda server_id: occupied(admin.link(server_id)),
            ttl=settings.default_ttl,
            pool_max=settings.pool_max,
        )
        integresql = Integresql(inventory, leasing=leasing, templating=templating, attending=attending)
        idling = Idling(inventory, clock, announced=upkeep.announced, after=settings.idle_exit)
        keeping = Keeping(ledger, clock, leasing, most=min(settings.keep_max, settings.pool_max // 2))
        token = settings.token.get_secret_value() if settings.token else None

        def http() -> Http:
            with importing.quickly():
                from leasedb_server.api import routes, server  # noqa: PLC0415 - while Postgres starts
            use = routes.UseCases(
                inventory,
                leasing,
                serving,
                making,
                upkeep,
                templating,
                resetting,
                exclusives,
                copies,
                keeping,
                Holding(ledger, clock, leasing),
                settings.default_ttl,
                VERSION,
                processes.space(),
            )
            return server.build(
                use,
                host=settings.host,
                token=token,
                upload_max=settings.template_upload_max,
                integresql=integresql if settings.integresql else None,
                idling=idling,
            )

        def ready() -> None:
            say(_banner(url, _how_to_stop(settings, url), serving, inventory, secured=token is not None))

        try:
            yield Daemon(http, listener, leasing, serving, recovering, upkeep, idling, wake, say, ready)
        except LeasedbError:
            if not serving.touched:  # a setting is wrong, say: its records speak of nothing that is there
                store.discard()
            raise


def all_backends(settings: Settings, daemon: str, leased: Sequence[Server] = ()) -> dict[str, ServerBackend]:
    """Return every backend that the settings allow to build, by kind, in the order in which auto tries them."""
    backends: dict[str, ServerBackend] = {}
    if settings.existing_dsn is not None:
        backends["existing"] = ExistingBackend(endpoint_of(settings.existing_dsn.get_secret_value()))
    backends["container"] = ContainerBackend(
        ContainerSettings(
            daemon=daemon,
            image=settings.used_image,
            start_timeout=settings.start_timeout,
            orphan_timeout=settings.orphan_timeout,
            leased=tuple({one.endpoint.engine for one in leased if one.endpoint and one.endpoint.engine}),
            memory=settings.memory_limit,
            servers=settings.pool_servers,
            major=None if settings.image else settings.postgres,
            versions=settings.versions or (),
            images=settings.images,
        )
    )
    backends["embedded"] = EmbeddedBackend(
        EmbeddedSettings(
            daemon=daemon,
            root=settings.state_dir / "servers",
            postgres=settings.postgres,
            pg_bin=settings.pg_bin,
            start_timeout=settings.start_timeout,
            orphan_timeout=settings.orphan_timeout,
            memory=settings.memory_limit,
            servers=settings.pool_servers,
            versions=settings.versions,
        )
    )
    return backends


def wanted_kinds(settings: Settings) -> set[str]:
    if settings.backend == "auto":
        return {"existing"} if settings.existing_dsn else {"container", "embedded"}
    return {settings.backend}


async def diagnose(settings: Settings) -> list[tuple[str, bool, str]]:
    """Tell for each backend whether it could be used here: kind, whether, and what was found or is missing.

    What the embedded backend lays out for that goes into the settings' ``state_dir``.
    """
    findings: list[tuple[str, bool, str]] = []
    admin = PostgresAdmin()
    for kind, backend in all_backends(settings, UNSAVED).items():
        try:
            found = await backend.check(lambda _line: None, fetch=False)
            if isinstance(backend, ExistingBackend):
                await admin.open(UNSAVED, backend.endpoint, within=LOOK_LIMIT)
                await admin.close(UNSAVED)
            findings.append((kind, True, found))
        except LeasedbError as error:
            findings.append((kind, False, str(error)))
        finally:
            await backend.close()
    return findings


async def clean(settings: Settings) -> list[tuple[str, list[str], LeasedbError | None]]:
    """Have each backend take away what it keeps for quick starts: kind, a line per thing, why there are no more.

    A backend that the settings name is the only one asked.

    Raises:
        StartupError: when a daemon holds the state directory.
    """
    cleaned: list[tuple[str, list[str], LeasedbError | None]] = []
    with contextlib.ExitStack() as stack:
        if settings.state_dir.is_dir():
            try:
                stack.enter_context(statedir.held(settings.state_dir, CLEANING))
            except StartupError as error:
                hint = "Stop it first, or name another state directory with --state-dir."
                raise StartupError(error.detail, hint=hint) from error
        for kind, backend in all_backends(settings, await _recorded_daemon(settings)).items():
            if settings.backend not in {"auto", kind}:
                continue
            try:
                cleaned.append((kind, await backend.clean(), None))
            except LeasedbError as error:
                cleaned.append((kind, [], error))
            finally:
                await backend.close()
    return cleaned


async def _recorded_daemon(settings: Settings) -> str:
    path = settings.state_dir / STORE_FILE
    if not path.exists():  # and looking shall not make it
        return UNSAVED
    store = SqliteStore(path)
    try:
        return (await store.load()).daemon
    finally:
        await store.close()


def _gone(want: Want, key: str) -> LeasedbError | None:
    return UnknownTemplateError(f"The template {key!r} has been deleted.") if want.template == key else None


def _listen(settings: Settings) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sys.platform == "linux":  # inherited by its connections: one whose other end vanished breaks when written to
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, VANISHED * 1000)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        raise StartupError(
            f"The daemon cannot listen on {settings.host} port {settings.port}: {error.strerror}.",
            hint="If another daemon runs there, use it; else choose with LEASEDB_PORT (0 takes a free one).",
        ) from error
    listener.setblocking(False)
    return listener


def _url(host: str, listener: socket.socket) -> str:
    port = listener.getsockname()[1]
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{name}:{port}"


def _how_to_stop(settings: Settings, url: str) -> str:
    if sys.stdin is not None and sys.stdin.isatty():
        return "Ctrl-C"
    usual = Settings.model_fields
    at_home = (settings.host, settings.port) == (usual["host"].default, usual["port"].default)
    return "leasedb stop" if at_home else f"leasedb stop --url {url}"


def _banner(url: str, stop: str, serving: Serving, inventory: Inventory, *, secured: bool) -> str:
    server = next(iter(inventory.servers.values()))
    versions = f"Postgres {server.versions.postgres}, vector {server.versions.vector}" if server.versions else ""
    header = " -H 'Authorization: Bearer '$LEASEDB_TOKEN" if secured else ""
    return (
        f"leasedb {VERSION} at {url} leases {versions}\n"
        f"  from: {serving.reason.partition('; not ')[0]}\n"
        f"  try:  curl -X POST{header} {url}/leases\n"
        f"  docs: {url}/docs    stop: {stop}"
    )
