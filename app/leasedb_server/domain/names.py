"""Names of everything the daemon creates, built and parsed here and nowhere else.

A name is ``leasedb_<daemon>_<kind>_<ident>``, for example ``leasedb_k3x9qa_d_7f3ab2qpxm4yc``: 30 characters, within
the 63 bytes Postgres keeps of an identifier and the characters that container names allow. The ident is random and
never used twice, so that a name, once its thing is gone, means nothing again.
"""

import base64
import re
import secrets
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

PREFIX = "leasedb"
DAEMON_LENGTH = 6
IDENT_LENGTH = 13  # 65 bits


class Kind(StrEnum):
    """What a name names. A database's login has the database's own name."""

    SERVER = "s"
    TEMPLATE = "t"
    DATABASE = "d"


_PATTERN = re.compile(
    rf"{PREFIX}_([a-z2-7]{{{DAEMON_LENGTH}}})_([{''.join(Kind)}])_([a-z2-7]{{{IDENT_LENGTH}}})",
)


@dataclass(frozen=True, slots=True)
class Name:
    """One thing of one daemon."""

    daemon: str
    kind: Kind
    ident: str

    def __str__(self) -> str:
        return f"{PREFIX}_{self.daemon}_{self.kind}_{self.ident}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return the name that ``text`` is, or None when no leasedb daemon wrote it."""
        match = _PATTERN.fullmatch(text)
        return cls(match[1], Kind(match[2]), match[3]) if match else None


def _random(length: int) -> str:
    return base64.b32encode(secrets.token_bytes(length)).decode().lower()[:length]


def new_ident() -> str:
    return _random(IDENT_LENGTH)


def new_daemon_id() -> str:
    return _random(DAEMON_LENGTH)


def new_password() -> str:
    """Return 128 random bits in characters that need no quoting in a URL or a shell."""
    return secrets.token_hex(16)


def daemon_prefix(daemon: str) -> str:
    """Return what the names of all things of this daemon start with."""
    return f"{PREFIX}_{daemon}_"
