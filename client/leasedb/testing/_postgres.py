"""The PostgresContainer of testcontainers-python, with a lease on a whole server behind it.

Names, arguments and answers are those of testcontainers 4 (testcontainers/community/postgres, core/container.py).
"""

import os
import shlex
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

from leasedb._client import Client
from leasedb._discovery import autostart_wanted
from leasedb._errors import ExclusiveUnavailableError, LeasedbError, VersionUnavailableError
from leasedb._lease import Lease
from leasedb._starting import Starter
from leasedb._template import Template
from leasedb.testing._images import wishes

_WAIT: Final = 600.0  # seconds: a suite that has to wait gets slower, not red
_RESERVED: Final = frozenset({"none", "postgres", "public", "template0", "template1"})  # Postgres's own names
_DRIVER: Final = "psycopg2"
_UNSET: Final = "driver of the constructor"
_LONGEST_LABEL: Final = 255
_HARMLESS: Final = frozenset({"POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB", "PGDATA"})
# Settings of a command line that all servers of a daemon's own have anyway, or more of it.
_OFF: Final = frozenset({"fsync", "synchronous_commit", "full_page_writes"})
_PLENTY: Final = {"max_connections": 300, "max_prepared_transactions": 64}

_NO_CONTAINER: Final = "there may be no container behind it"
_UNSUPPORTED: Final[Mapping[str, str]] = {
    "copy_from_container": f"{_NO_CONTAINER}; read over SQL, as with COPY ... TO STDOUT",
    "copy_into_container": f"{_NO_CONTAINER}; write over SQL, or start from a template that has the data",
    "exec": f"{_NO_CONTAINER}; run the program here with get_connection_url(driver=None), or SQL over a connection",
    "get_container_id": f"{_NO_CONTAINER}; `lease.id` is what leasedb knows it by",
    "get_container_info": f"{_NO_CONTAINER}; `lease` tells what there is to know",
    "get_docker_client": f"{_NO_CONTAINER}; whatever is asked of Docker has to be asked in another way",
    "get_wrapped_container": f"{_NO_CONTAINER}; `lease` is what is behind it",
    "wait": f"{_NO_CONTAINER} whose end could be waited for; `stop` returns when it is over",
    "with_copy_into_container": "files for /docker-entrypoint-initdb.d are a template here: client.template(name,"
    " Path(...)), and PostgresContainer(template=...)",
    "with_env_file": "servers are started beforehand, with the daemon's environment",
    "with_network": "servers listen on this machine only; give get_connection_url() to whatever runs here",
    "with_network_aliases": "servers listen on this machine only; get_container_host_ip() tells the address",
}


class ContainerUnsupportedError(NotImplementedError):
    """What testcontainers can do and a lease cannot; the message says why, and what to do."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"leasedb.testing.PostgresContainer has no {what}: {why}.")


class PostgresContainer:
    """A Postgres server for tests, as testcontainers has it; leased from a leasedb daemon instead of started.

        with PostgresContainer("postgres:16") as postgres:
            engine = sqlalchemy.create_engine(postgres.get_connection_url())

    The login is a superuser, and the server is thrown away by `stop`. Four things differ: the server was started
    before it was asked for; the extension `vector` is there; the password is the lease's, which ``password`` tells once
    it has started; and "postgres", which is the daemon's own login, is neither user nor database: a made-up name is
    given instead, which ``username`` and ``dbname`` tell.

    Args:
        image: the image when the daemon offers it (``LEASEDB_IMAGES``), else the version of Postgres in its tag; the
            daemon's default for tags without one.
        port: what `get_exposed_port` is asked for.
        username: of the superuser; ``POSTGRES_USER``, else "test", when left out.
        password: taken, and not used.
        dbname: of the database; ``POSTGRES_DB``, else "test", when left out.
        driver: in the URL's scheme, as in ``postgresql+psycopg2://``; None for none.
        template: what the database is a clone of.
        client: whose daemon leases; one of its own, closed by `stop`, when left out. That one starts a daemon where
            none answers, and lets it lease whole servers (``LEASEDB_POOL_EXCLUSIVE``).
        kwargs: ``command``, ``env``, ``name``, ``ports`` and ``volumes`` as in testcontainers, each as far as the
            method of this meaning goes.

    Raises:
        ContainerUnsupportedError: something is asked for that a lease cannot do.
    """

    def __init__(  # noqa: PLR0917 - testcontainers' signature
        self,
        image: str = "postgres:latest",
        port: int = 5432,
        username: str | None = None,
        password: str | None = None,
        dbname: str | None = None,
        driver: str | None = _DRIVER,
        *,
        template: Template | str = "base",
        client: Client | None = None,
        **kwargs: Any,
    ) -> None:
        if "user" in kwargs:
            raise ValueError("Use 'username' instead of the deprecated 'user'.")  # as testcontainers does
        self.image = image
        self.port = port
        self.username = username or os.environ.get("POSTGRES_USER", "test")
        self.password = password or os.environ.get("POSTGRES_PASSWORD", "test")
        self.dbname = dbname or os.environ.get("POSTGRES_DB", "test")
        self.driver = f"+{driver}" if driver else ""
        self.env: dict[str, str] = {}
        self._wished = (self.username, self.password, self.dbname)
        self._template = template
        self._given = client
        self._own: Client | None = None
        self._name = ""
        self._lease: Lease | None = None
        self._status = "not_started"
        self._configure(kwargs)

    def __repr__(self) -> str:
        return f"<PostgresContainer {self.image} {self._status}>"

    def _configure(self, options: Mapping[str, Any]) -> None:
        for name, value in options.items():
            if value is None:
                continue
            match name:
                case "command":
                    self.with_command(value)
                case "env":
                    self.with_envs(**value)
                case "name":
                    self.with_name(value)
                case "ports":
                    self.with_exposed_ports(*value)
                case "volumes":
                    for volume in value:
                        self.with_volume_mapping(*volume)
                case _:
                    self.with_kwargs(**{name: value})

    # --- life ---

    def start(self) -> Self:
        """Lease a server; returns once it answers.

        Raises:
            VersionUnavailableError: the daemon has neither the image nor its version of Postgres.
            ExclusiveUnavailableError: it leases no whole servers.
            LeasedbError: the daemon refused, for the reason told.
        """
        if self._lease is not None:
            return self
        if self._given is None:
            lease = self._acquire_first()
        else:
            try:
                lease = self._acquire(self._given)
            except ExclusiveUnavailableError as error:
                raise _not_exclusive(error, self._given) from None
        self._lease, self._status = lease, "running"
        self.username, self.password, self.dbname = lease.user, lease.password, lease.database
        return self

    def _acquire_first(self) -> Lease:
        """Lease from the daemon that is there, else from one of this user's own that leases whole servers anywhere."""
        client = Client()
        try:
            lease = self._acquire(client)
        except ExclusiveUnavailableError as error:
            # what a template is of only that daemon knows
            if self._template != "base" or not autostart_wanted():
                raise _not_exclusive(error, client) from None
        else:
            self._own = client
            return lease
        finally:
            if self._own is None:
                client.close()
        starter = Starter.for_whole_servers()
        self._own = Client(token=starter.token, autostart=starter)
        try:
            return self._acquire(self._own)
        except BaseException:
            self._own.close()
            self._own = None
            raise

    def _acquire(self, client: Client) -> Lease:
        username, _, dbname = self._wished
        refused: VersionUnavailableError | None = None
        for wish in wishes(self.image):
            try:
                return client.acquire(
                    self._template,
                    server="exclusive",
                    user=_free(username),
                    database=_free(dbname),
                    wait=_WAIT,
                    labels={"container": self._name} if self._name else None,
                    postgres=wish.get("postgres"),
                    image=wish.get("image"),
                )
            except VersionUnavailableError as error:
                refused = error
        assert refused is not None  # noqa: S101 - there is one wish at least
        raise refused

    def stop(self, force: bool = True, delete_volume: bool = True) -> None:  # noqa: ARG002, FBT001, FBT002 - theirs
        """Give the server back, to be thrown away; again, or before `start`, it does nothing."""
        lease, self._lease = self._lease, None
        client, self._own = self._own, None
        if lease is None:
            return
        self._status = "exited"
        self.username, self.password, self.dbname = self._wished
        lease.__exit__(None, None, None)  # a release that fails is logged: it ends by itself, the suite has passed
        if client is not None:
            client.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    # --- what it tells ---

    @property
    def lease(self) -> Lease:
        """What is behind it: `reset` and the like.

        Raises:
            RuntimeError: it is not started.
        """
        if self._lease is None:
            raise RuntimeError("container has not been started")
        return self._lease

    @property
    def status(self) -> str:
        return self._status

    def get_connection_url(self, host: str | None = None, driver: str | None = _UNSET) -> str:
        """Return a URL for the database; ``driver=None`` for one without a driver.

        Raises:
            RuntimeError: it is not started.
        """
        lease = self.lease
        scheme = "" if driver is None else self.driver if driver == _UNSET else f"+{driver}"
        login, name = f"{quote(lease.user, safe='')}:{quote(lease.password, safe='')}", quote(lease.database, safe="")
        return f"postgresql{scheme}://{login}@{host or lease.host}:{lease.port}/{name}"

    def get_container_host_ip(self) -> str:
        return self.lease.host

    def get_exposed_port(self, port: int | str) -> int:
        """Return where Postgres listens; there is no other port."""
        self._check_port(port)
        return self.lease.port

    def get_logs(self) -> tuple[bytes, bytes]:
        """Return the server's log as what it wrote to its standard error."""
        client = self._given or self._own
        lease = self.lease
        assert client is not None  # noqa: S101 - it was started
        return b"", client.server_logs(lease.server).encode()

    def reload(self) -> None:
        """Do nothing: what this tells is not kept anywhere."""

    # --- what can be asked for ---

    def with_env(self, key: str, value: str) -> Self:
        if key not in _HARMLESS:
            raise ContainerUnsupportedError(
                f"with_env({key!r})",
                "servers are started beforehand, with the daemon's environment; what a variable sets has to be set over"
                " SQL, as the superuser that you are",
            )
        self.env[key] = value
        return self

    def with_envs(self, **variables: str) -> Self:
        for key, value in variables.items():
            self.with_env(key, value)
        return self

    def with_exposed_ports(self, *ports: str | int) -> Self:
        for port in ports:
            self._check_port(port)
        return self

    def with_bind_ports(self, container: str | int, host: str | int | None = None) -> Self:
        self._check_port(container)
        if host is not None:
            raise ContainerUnsupportedError(
                "fixed ports", "the server listens already, where get_exposed_port() says; have it read from there"
            )
        return self

    def with_command(self, command: str | Sequence[str]) -> Self:
        words = shlex.split(command) if isinstance(command, str) else list(command)
        for setting in _settings(words):
            name, _, value = setting.partition("=")
            fits = value.isdecimal() and int(value) <= _PLENTY.get(name, -1)
            if not fits and not (name in _OFF and value in {"off", "false", "no", "0"}):
                raise ContainerUnsupportedError(
                    f"command with {setting!r}",
                    "the server runs already; as its superuser, ALTER SYSTEM SET it and SELECT pg_reload_conf()",
                )
        return self

    def with_name(self, name: str) -> Self:
        """Have the lease carry this name, as its label "container"."""
        self._name = name[:_LONGEST_LABEL]
        return self

    def with_volume_mapping(self, host: str | os.PathLike[str], container: str, mode: str = "ro") -> Self:  # noqa: ARG002 - theirs
        raise ContainerUnsupportedError(
            f"volumes ({container})",
            "the server runs already; files for /docker-entrypoint-initdb.d are a template here: client.template(name,"
            " Path(...)), and PostgresContainer(template=...)",
        )

    def with_tmpfs_mount(self, container_path: str, size: str | None = None) -> Self:  # noqa: ARG002 - theirs
        """Take note; where the data lies is the daemon's affair, which prefers memory."""
        if not container_path.startswith("/var/lib/postgresql"):
            raise ContainerUnsupportedError(f"tmpfs at {container_path}", "only Postgres writes files there")
        return self

    def with_kwargs(self, **kwargs: Any) -> Self:
        if kwargs:
            raise ContainerUnsupportedError(
                f"option {', '.join(sorted(kwargs))}", "options of Docker mean nothing to a server that runs already"
            )
        return self

    def waiting_for(self, strategy: object) -> Self:  # noqa: ARG002 - theirs
        """Take note; a lease is there once its server answers."""
        return self

    def maybe_emulate_amd64(self) -> Self:
        return self

    def _check_port(self, port: str | int) -> None:
        if str(port).removesuffix("/tcp") not in {str(self.port), "5432"}:
            raise ContainerUnsupportedError(f"port {port}", f"nothing but Postgres listens, on {self.port}")

    def __getattr__(self, name: str) -> Any:
        if name in _UNSUPPORTED:
            raise ContainerUnsupportedError(f"{name}()", _UNSUPPORTED[name])
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


def _free(name: str) -> str | None:
    return None if name in _RESERVED or name.startswith("pg_") else name


def _settings(words: list[str]) -> list[str]:
    """Return the settings of a command line of Postgres."""
    rest = words[1:] if words and words[0] in {"postgres", "docker-entrypoint.sh"} else list(words)
    found: list[str] = []
    while rest:
        word = rest.pop(0)
        if word == "-c" and rest:
            found.append(rest.pop(0))
        elif word.startswith(("-c", "--")) and "=" in word:
            found.append(word.removeprefix("--").removeprefix("-c"))
        else:
            found.append(word)
    return found


def _not_exclusive(error: ExclusiveUnavailableError, client: Client) -> LeasedbError:
    detail = f"PostgresContainer needs a whole server, and the daemon at {client.url} leases none. {error.detail}"
    hint = "It needs a daemon with a backend of its own: leasedb serve --backend embedded, or container."
    if client.servers().backend == "embedded":
        hint = (
            "Stop it with 'leasedb stop' and start it with 'LEASEDB_POOL_EXCLUSIVE=1 leasedb serve', or with"
            " LEASEDB_BACKEND=container where Docker or Podman is."
        )
    return ExclusiveUnavailableError(detail, status=error.status, title=error.title, hint=hint)
