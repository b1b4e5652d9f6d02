"""Where the daemon is, and who we are to it."""

import contextlib
import functools
import getpass
import ipaddress
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from leasedb._errors import InvalidAddressError

if TYPE_CHECKING:
    from leasedb._starting import Starter

DEFAULT_URL = "http://127.0.0.1:7432"
_LONGEST_HOLDER = 200  # characters the daemon takes
_OFF = frozenset({"0", "false", "no", "off"})


@dataclass(frozen=True, slots=True)
class Address:
    """Where a daemon listens. ``url`` has no slash at its end; ``loopback``: it is reached without a network."""

    url: str
    token: str | None = field(repr=False)
    loopback: bool


def find_address(url: str | None = None, token: str | None = None, environ: Mapping[str, str] = os.environ) -> Address:
    """Return the daemon's address: what is given, else ``LEASEDB_URL`` and ``LEASEDB_TOKEN``, else the default.

    For a daemon on this machine the token in ``leasedb.toml``, if any, is the default: one that is started here, by us
    or by hand, asks for it.

    Raises:
        InvalidAddressError: when the URL or the token cannot be used.
    """
    source = "LEASEDB_URL" if url is None else "The URL"
    text = (environ.get("LEASEDB_URL", "") if url is None else url).strip() or DEFAULT_URL
    loopback = _is_loopback(_split(text, source).hostname or "")
    place, secret = "LEASEDB_TOKEN", (environ.get("LEASEDB_TOKEN", "") if token is None else token).strip()
    if token is None and not secret and loopback:  # it is no business of other machines
        place, secret = "in leasedb.toml", _file_token().strip()
    if not all("!" <= character <= "~" for character in secret):
        # the token itself stays out of the message: it ends up in logs
        raise InvalidAddressError(
            f"The token ({place}) has characters that no HTTP header can carry.",
            hint="Use visible ASCII characters only.",
        )
    return Address(text.rstrip("/"), secret or None, loopback)


def _file_token() -> str:
    """Return the token that a daemon started in this folder reads; what is wrong with the file it says itself."""
    if not os.path.exists("leasedb.toml"):  # noqa: PTH110 - a Path's raises where the folder is closed to us
        return ""
    from leasedb._statedir import file_settings  # noqa: PLC0415 - few have the file, and it needs a parser

    token = file_settings().get("token")
    return token if isinstance(token, str) else ""


def find_daemon(
    url: str | None, token: str | None, autostart: "bool | Starter | None", environ: Mapping[str, str] = os.environ
) -> "tuple[Address, bool | Starter]":
    """Return the daemon's address, and whether, or by whom, it is started where it does not run.

    Raises:
        InvalidAddressError: when the URL or the token cannot be used, or no daemon can be started there.
    """
    if autostart is None:
        address = find_address(url, token, environ)
        return address, url is None and autostart_wanted(environ) and can_start(address)
    if isinstance(autostart, bool):
        address = find_address(url, token, environ)
        if autostart and not can_start(address):
            raise InvalidAddressError(
                f"No daemon can be started at {address.url}, for it is not http://, an address of this machine and a "
                "port.",
                hint=f"It looks like {DEFAULT_URL}.",
            )
        return address, autostart
    return find_address(autostart.url if url is None else url, token, environ), autostart


def autostart_wanted(environ: Mapping[str, str] = os.environ) -> bool:
    """Tell whether ``LEASEDB_AUTOSTART`` lets daemons be started."""
    return environ.get("LEASEDB_AUTOSTART", "").strip().lower() not in _OFF


def can_start(address: Address) -> bool:
    """Tell whether `leasedb serve` can be told to listen there."""
    parts = urlsplit(address.url)
    # names like shop.localhost are not known to every machine
    fits = parts.scheme == "http" and not parts.path and not (parts.hostname or "").endswith(".localhost")
    return address.loopback and fits


def _split(text: str, source: str) -> SplitResult:
    example = f"It looks like {DEFAULT_URL}."
    try:
        parts = urlsplit(text)
        port_is_fine = parts.port != 0
    except ValueError as error:
        raise InvalidAddressError(f"{source} is {text!r}: {error}.", hint=example) from None
    if parts.scheme not in {"http", "https"}:
        raise InvalidAddressError(f"{source} is {text!r}, which does not start with http:// or https://.", hint=example)
    if parts.username is not None or parts.password is not None:
        raise InvalidAddressError(f"{source} has a login in it.", hint="Give the token as LEASEDB_TOKEN.")
    if not parts.hostname or not port_is_fine or any(character.isspace() for character in text):
        raise InvalidAddressError(f"{source} is {text!r}, which has no usable host and port.", hint=example)
    if parts.query or parts.fragment:
        raise InvalidAddressError(f"{source} is {text!r}, which has more in it than host, port and path.", hint=example)
    return parts


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def in_container(environ: Mapping[str, str] = os.environ, root: Path = Path("/")) -> bool:
    """Tell whether this process runs in a container, where its pid is not what the host calls it."""
    marks = (".dockerenv", "run/.containerenv")
    return "KUBERNETES_SERVICE_HOST" in environ or any((root / mark).exists() for mark in marks)


def pid_space(proc: Path = Path("/proc")) -> str:
    """Name the set of processes among which a pid is unique: boot and pid namespace; empty where there is no /proc."""
    try:
        boot = (proc / "sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot}/{(proc / 'self/ns/pid').readlink()}"
    except OSError:
        return ""


def process_lives(pid: int) -> bool:
    """Tell whether there is such a process; where there is no /proc, one that nobody has waited for counts as well."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return True


def default_holder() -> str:
    """Return who we are to a reader of the list of leases: "ann@laptop:shop"."""
    folder = ""
    with contextlib.suppress(OSError):  # the working directory was deleted
        folder = os.path.basename(os.getcwd())  # noqa: PTH109, PTH119 - asked at each lease; a Path costs more than it
    return printable(f"{_user(os.getuid())}@{platform.node()}:{folder or '/'}", _LONGEST_HOLDER)


@functools.cache
def _user(uid: int) -> str:
    """Return this user's name; looking it up may ask a directory in the network."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a uid without a name, as containers have
        return str(uid)


def printable(text: str, longest: int) -> str:
    """Return text that JSON can carry, cut to ``longest`` characters; file names may hold bytes that are no text."""
    return text.encode("utf-8", "replace").decode("utf-8")[:longest]
