"""The backend ``container``: an engine looked for once, and one container per server."""

import asyncio
import functools
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, TypeVar

from leasedb_server.backends.container.finding import find
from leasedb_server.backends.container.launching import Launch, from_prepared, self_made
from leasedb_server.backends.container.preparing import PreparedImages
from leasedb_server.backends.container.pulling import OTHERWISE, image_there
from leasedb_server.backends.container.settings import DAEMON_LABEL, SERVER_LABEL, ContainerSettings
from leasedb_server.backends.container.spec import Container, Image, RefusedError
from leasedb_server.backends.container.tail import Tail
from leasedb_server.backends.memory import granted
from leasedb_server.domain.edition import Editions
from leasedb_server.domain.errors import (
    BackendUnavailableError,
    LeasedbError,
    ServerStartError,
    ServerUnreachableError,
)
from leasedb_server.domain.names import Kind, Name
from leasedb_server.domain.server import Endpoint
from leasedb_server.ports import Progress

if TYPE_CHECKING:  # the Docker SDK is imported when an engine is looked for
    from leasedb_server.backends.container.engine import Engine

T = TypeVar("T")
log = logging.getLogger(__name__)
_PATIENCE: Final = 30.0  # seconds that an engine may take for one call, at least
_LAST_LINES: Final = 20
_LAST_WORDS: Final = 3.0  # seconds for the output of a dead container to arrive


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A server to start from an image; ``given_up`` is set when it is not wanted any more."""

    name: str
    image: str
    edition: str
    given_up: threading.Event = field(default_factory=threading.Event)

    @property
    def otherwise(self) -> str:
        """What can be done when it does not work with this image."""
        if not self.edition:
            return OTHERWISE
        return f"take {self.edition} out of LEASEDB_{'VERSIONS' if self.edition.isdecimal() else 'IMAGES'}"


class ContainerBackend:
    """Implements ``ports.ServerBackend`` on Docker and on Podman."""

    kind: Final = "container"
    disposable: Final = True
    confined: Final = True
    limit: Final = None

    def __init__(self, settings: ContainerSettings) -> None:
        self._settings = settings
        self._engine: Engine | None = None
        self._images: dict[str, Image] = {}  # as last seen, by the name in the settings
        self._looking = asyncio.Lock()
        self._tails: dict[str, Tail] = {}
        # starts under way, also those whose caller was cancelled: a thread cannot be
        self._starting: dict[str, tuple[_Wanted, asyncio.Future[Endpoint]]] = {}
        self._checks: dict[asyncio.Future[None], threading.Event] = {}  # each with what says that it was given up
        self._prepared = PreparedImages(settings)

    @property
    def editions(self) -> Editions:
        """See ``ServerBackend.editions``. Whether a further image can be had shows when it is first asked for."""
        settings = self._settings
        seen = self._images.get(settings.image)
        major = settings.major or (seen.major if seen else None)
        return Editions(major, settings.image, settings.versions, settings.images)

    async def lacks(self, progress: Progress) -> str:
        """See ``ServerBackend.lacks``: the image, which may take minutes to pull."""
        engine = await self._reached(_from_threads(progress))
        name = self._settings.image
        if self._settings.major is None:
            return ""  # the operator wants this image and no other
        try:
            there = await asyncio.to_thread(engine.image, name)
        except (RefusedError, ServerUnreachableError):
            return ""  # the check says why
        pull = f"{engine.product.lower()} pull {name}"
        return "" if there else f"{engine.title} does not have the image; for containers run '{pull}' and start again."

    async def check(self, progress: Progress, *, fetch: bool = True) -> str:
        """See ``ServerBackend.check``; pulls the image when the engine does not have it, and prepares it."""
        report = _from_threads(progress)
        engine = await self._reached(report)
        given_up = threading.Event()
        check = asyncio.ensure_future(asyncio.to_thread(self._check, engine, report, given_up, fetch=fetch))
        self._checks[check] = given_up
        check.add_done_callback(self._checked)
        await asyncio.shield(check)
        return f"{engine.title} with the image {self._settings.image}"

    async def start(self, name: str, edition: str = "") -> Endpoint:
        """See ``ServerBackend.start``; an image that the engine does not have is pulled, and prepared, at its first.

        What the server prints is kept until ``stop``, even when the start fails.
        """
        parsed = Name.parse(name)
        if parsed is None or parsed.daemon != self._settings.daemon or parsed.kind is not Kind.SERVER:
            raise ValueError(f"{name!r} is not a name for a server of the daemon {self._settings.daemon}")
        image = self._settings.image_of(edition)
        if image is None:
            raise ServerStartError(
                f"There are no servers of {edition} here.",
                hint="LEASEDB_VERSIONS and LEASEDB_IMAGES say what there is.",
            )
        try:
            engine = await self._reached(_silent)
        except BackendUnavailableError as error:
            raise ServerStartError(error.detail, hint=error.hint) from error
        wanted = _Wanted(name, image, edition)
        start = asyncio.ensure_future(asyncio.to_thread(self._start, engine, wanted))
        self._starting[name] = wanted, start
        start.add_done_callback(functools.partial(self._started, name))
        return await asyncio.shield(start)

    async def alive(self, name: str) -> bool:
        """See ``ServerBackend.alive``. True also when the engine does not answer: the server may well live."""
        try:
            engine = await self._reached(_silent)
            found = await asyncio.to_thread(self._mine, engine, name, glance=True)
        except LeasedbError:
            return True
        tail = self._tails.get(name)
        return found is not None and found.running and not (tail and tail.ended)

    async def stop(self, name: str) -> None:
        """See ``ServerBackend.stop``. A container that is not this daemon's is left alone, whatever its name."""
        if starting := self._starting.get(name):
            wanted, under_way = starting
            wanted.given_up.set()
            await asyncio.wait([under_way])
        engine = await self._reachable()
        if found := await asyncio.to_thread(self._mine, engine, name):
            await asyncio.to_thread(_remove, engine, found)
        if tail := self._tails.pop(name, None):
            await asyncio.to_thread(tail.close)

    async def sweep(self, keep: frozenset[str]) -> list[str]:
        """See ``ServerBackend.sweep``."""
        engine = await self._reachable()
        label = f"{DAEMON_LABEL}={self._settings.daemon}"
        found = await asyncio.to_thread(_answered, engine.title, lambda: engine.listing(label))
        keep |= {self._prepared.at_work}
        taken = [container for container in found if self._is_mine(container) and container.name not in keep]
        removals = (asyncio.to_thread(_remove, engine, container) for container in taken)
        for outcome in await asyncio.gather(*removals, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome
        return [container.name for container in taken]

    async def logs(self, name: str, lines: int) -> str:
        """See ``ServerBackend.logs``; also of a container that died and took its log along.

        Raises:
            ServerUnreachableError: when the engine does not answer and nothing is known here.
        """
        tail = self._tails.get(name)
        try:
            engine = await self._reachable()
            if found := await asyncio.to_thread(self._mine, engine, name):
                log = await asyncio.to_thread(_answered, engine.title, lambda: engine.logs(found.id, lines))
                if log:  # there is none any more while the engine takes the container away
                    return log
        except ServerUnreachableError:
            if tail is None:
                raise
        return "\n".join(tail.lines(lines)) if tail else ""

    async def clean(self) -> list[str]:
        """See ``ServerBackend.clean``: the prepared images, which all daemons that use the engine share."""
        engine = await self._reached(_silent)
        return await asyncio.to_thread(_answered, engine.title, lambda: self._prepared.clean(engine))

    async def close(self) -> None:
        """See ``ServerBackend.close``. What is being pulled or prepared is given up."""
        under_way: set[asyncio.Future[Endpoint] | asyncio.Future[None]] = {*self._checks}
        for given_up in self._checks.values():
            given_up.set()
        for wanted, start in self._starting.values():
            wanted.given_up.set()
            under_way.add(start)
        if under_way:
            if self._engine:
                await asyncio.to_thread(self._prepared.abandon, self._engine)
            await asyncio.wait(under_way)
            self._prepared.resume()
        for tail in self._tails.values():
            await asyncio.to_thread(tail.close)
        self._tails.clear()
        if self._engine:
            await asyncio.to_thread(self._engine.close)
        self._engine = None

    async def _reached(self, report: Callable[[str], None]) -> "Engine":
        async with self._looking:
            if self._engine is None:
                settings = self._settings
                patience = max(_PATIENCE, settings.start_timeout)
                self._engine = await asyncio.to_thread(find, settings.engine, patience, report, settings.leased)
            return self._engine

    async def _reachable(self) -> "Engine":
        try:
            return await self._reached(_silent)
        except BackendUnavailableError as error:
            raise ServerUnreachableError(error.detail, hint=error.hint) from error

    def _started(self, name: str, start: asyncio.Future[Endpoint]) -> None:
        self._starting.pop(name, None)
        if not start.cancelled():
            start.exception()  # seen, also when the caller was cancelled

    def _checked(self, check: asyncio.Future[None]) -> None:
        self._checks.pop(check, None)
        if not check.cancelled():
            check.exception()  # seen, also when the caller was cancelled

    def _check(
        self, engine: "Engine", report: Callable[[str], None], given_up: threading.Event, *, fetch: bool
    ) -> None:
        name = self._settings.image
        image = self._images[name] = image_there(engine, name, report, fetch=fetch, given_up=given_up.is_set)
        if fetch:
            try:
                self._prepared.get(engine, image, report)
                engine.memory()  # asked once; some engines take a fifth of a second to tell
            except (RefusedError, ServerUnreachableError) as error:
                raise BackendUnavailableError(_detail(error), hint=_hint(error)) from error

    def _is_mine(self, container: Container) -> bool:
        """Tell by all three signs: an image committed from a container of ours hands its labels on."""
        name = Name.parse(container.name)
        return (
            name is not None
            and name.daemon == container.labels.get(DAEMON_LABEL) == self._settings.daemon
            and container.labels.get(SERVER_LABEL) == container.name
        )

    def _mine(self, engine: "Engine", name: str, *, glance: bool = False) -> Container | None:
        found = _answered(engine.title, lambda: engine.find(name, glance=glance))
        return found if found and found.name == name and self._is_mine(found) else None

    def _start(self, engine: "Engine", wanted: _Wanted) -> Endpoint:
        name = wanted.name
        try:
            launch, container_id = self._created(engine, wanted)
        except (RefusedError, LeasedbError) as error:
            self._images.pop(wanted.image, None)  # it may have been deleted: look again next time
            raise ServerStartError(f"No container {name} could be made: {_detail(error)}", hint=_hint(error)) from error
        tail: Tail | None = None
        try:
            tail = self._tails[name] = Tail(name, engine.output(container_id))
            engine.start(container_id)
            found = engine.find(container_id)
            if found and found.running and found.port:
                return replace(launch.endpoint, port=found.port, engine=engine.address)
            why = f"its container ended at once{f' with exit code {found.exit_code}' if found else ''}"
        except (RefusedError, ServerUnreachableError) as error:
            why = _detail(error)
        raise self._failed(engine, wanted, container_id, why, tail)

    def _created(self, engine: "Engine", wanted: _Wanted) -> tuple[Launch, str]:
        """Make the container, from the prepared state if at all possible."""
        # the name may stand for another image than when it was looked at last
        image = engine.image(wanted.image) or self._images.get(wanted.image)
        image = self._images[wanted.image] = image or image_there(
            engine, wanted.image, log.info, given_up=wanted.given_up.is_set, otherwise=wanted.otherwise
        )
        if wanted.given_up.is_set():
            raise RefusedError("the start was given up")
        launch = self._launch(engine, wanted.name, image)
        try:
            return launch, engine.create(launch.spec)
        except RefusedError:
            if engine.image(launch.spec.image):
                raise
            self._prepared.forget()  # somebody deleted it
        launch = self._launch(engine, wanted.name, image)
        return launch, engine.create(launch.spec)

    def _launch(self, engine: "Engine", name: str, image: Image) -> Launch:
        prepared = self._prepared.get(engine, image, log.info)
        if prepared is None:
            return self_made(self._settings, name, image)
        return from_prepared(
            self._settings, name, prepared, granted(self._settings.memory, engine.memory(), self._settings.servers)
        )

    def _failed(
        self, engine: "Engine", wanted: _Wanted, container_id: str, why: str, tail: Tail | None
    ) -> ServerStartError:
        """Take the container away and return the error that says all that is known."""
        if tail:
            tail.wait(_LAST_WORDS)  # before the removal, which cuts it off
        try:
            engine.remove(container_id)
        except (RefusedError, ServerUnreachableError) as error:
            why = f"{why}; its container could not be removed either: {_detail(error)}"
        lines = tail.lines(_LAST_LINES) if tail else []
        said = "Its last lines:\n" + "\n".join(lines) + "\n" if lines else "It printed nothing."
        return ServerStartError(
            f"The server {wanted.name} did not start: {why.rstrip('.')}. {said}",
            hint=f"Try the image by hand ('docker run --rm -e POSTGRES_PASSWORD=x {wanted.image}'), or "
            f"{wanted.otherwise}.",
        )


def _from_threads(progress: Progress) -> Progress:
    """Return what tells the same, and may be called in threads."""
    loop = asyncio.get_running_loop()

    def report(line: str) -> None:
        loop.call_soon_threadsafe(progress, line)

    return report


def _silent(_line: str) -> None:
    """Tell nobody."""


def _answered(title: str, call: Callable[[], T]) -> T:
    """Return what the engine answers.

    Raises:
        ServerUnreachableError: also when it refuses: it can then not be told what is there.
    """
    try:
        return call()
    except RefusedError as error:
        raise ServerUnreachableError(f"{title} refused: {error}.") from error


def _remove(engine: "Engine", container: Container) -> None:
    _answered(engine.title, lambda: engine.remove(container.id))


def _detail(error: Exception) -> str:
    return error.detail if isinstance(error, LeasedbError) else f"{error}."


def _hint(error: Exception) -> str | None:
    return error.hint if isinstance(error, LeasedbError) else None
