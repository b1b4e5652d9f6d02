"""What to do when a text's CREATE EXTENSION fails."""

import re
from collections.abc import Mapping
from typing import Final

_CREATE: Final = re.compile(r'CREATE\s+EXTENSION\s+(?:IF\s+NOT\s+EXISTS\s+)?("(?:[^"]|"")+"|\w+)', re.IGNORECASE)
_THERE_ALREADY: Final = "42710"
_NOT_THERE: Final = frozenset({"0A000", "58P01"})  # the latter before Postgres 14, and where a part of it is missing
_REMEDIES: Final[Mapping[str, str]] = {
    "embedded": "The Postgres that comes as a Python package has pgvector and no contrib modules: use"
    " LEASEDB_BACKEND=container, or set LEASEDB_PG_BIN to the bin folder of an installed Postgres that has {0}.",
    "container": "The image does not have {0}: set LEASEDB_IMAGE to one with {0} and pgvector.",
    "existing": "Have {0} installed on the machine of the server.",
}


def extension_remedy(sqlstate: str | None, statement: str, backend: str) -> str | None:
    """Return what to do about the failed statement; None where it is no CREATE EXTENSION, or failed otherwise.

    Args:
        sqlstate: Postgres's five characters.
        statement: the beginning of it is enough.
        backend: the kind of the one that its server is from.
    """
    found = _CREATE.match(statement)
    if found is None:
        return None
    if sqlstate == _THERE_ALREADY:
        return f"It is there already, as it may be in any template: write CREATE EXTENSION IF NOT EXISTS {found[1]}."
    return _REMEDIES[backend].format(found[1]) if sqlstate in _NOT_THERE and backend in _REMEDIES else None
