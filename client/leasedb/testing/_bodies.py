"""Which bodies and parameters the daemon takes, as far as the fake one looks at them."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from leasedb.testing._wire import ReceivedRequest, invalid

MAX_TTL: Final = 86400.0
STATES: Final = frozenset({"active", "released", "expired", "lost"})
_LABEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}")
_KEY: Final = re.compile(r"[!-~]{1,255}")
_MOST_LABELS: Final = 32
_TAKEN: Final = frozenset({"none", "postgres", "public", "template0", "template1"})

Judge = Callable[[Any], bool]


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _labels(value: object) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= _MOST_LABELS
        and all(
            _LABEL.fullmatch(key) and isinstance(text, str) and len(text) < 256  # noqa: PLR2004 - as documented
            for key, text in value.items()
        )
    )


def _text(longest: int) -> Judge:
    return lambda value: isinstance(value, str) and len(value) <= longest


def _free_name(value: object) -> bool:
    fits = isinstance(value, str) and 1 <= len(value.encode()) <= 63  # noqa: PLR2004 - bytes Postgres keeps
    return fits and value not in _TAKEN and not str(value).startswith("pg_")


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _maybe(judge: Judge) -> Judge:
    return lambda value: value is None or judge(value)


def _matching(pattern: str) -> Judge:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _flag(value: object) -> bool:
    return isinstance(value, bool)


def _up_to(most: float) -> Judge:
    return lambda value: _number(value) and 0 < value <= most


def _wait(value: Any) -> bool:
    return _number(value) and 0 <= value <= 3600  # noqa: PLR2004 - as documented


_TEMPLATE = _matching(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_FINGERPRINT = _matching(r"[!-~]{1,200}")
_PID = _maybe(lambda value: _whole(value) and 0 < value < 2**31)
_EDITION: Final[Mapping[str, Judge]] = {
    "postgres": _maybe(_matching(r"\d{2}")),
    "image": _maybe(_matching(r"(?s).{1,255}")),
}

LEASE: Final[Mapping[str, Judge]] = {
    "template": _text(100),
    "ttl": _maybe(_up_to(MAX_TTL)),
    "wait": _wait,
    "holder": _text(200),
    "pid": _PID,
    "labels": _labels,
    "server": lambda value: isinstance(value, str) and value in {"shared", "exclusive"},
    "database": _maybe(_free_name),
    "user": _maybe(_free_name),
    **_EDITION,
}
TTL: Final[Mapping[str, Judge]] = {"ttl": _maybe(lambda value: _number(value) and value > 0)}
DEMAND: Final[Mapping[str, Judge]] = {
    "template": _text(100),
    "count": lambda value: _whole(value) and 0 <= value <= 10_000,  # noqa: PLR2004 - as documented
    "holder": _text(200),
    "ttl": _maybe(_up_to(MAX_TTL)),
}
SQL: Final[Mapping[str, Judge]] = {
    "sql": lambda value: isinstance(value, str),
    "parent": _TEMPLATE,
    "fingerprint": _maybe(_FINGERPRINT),
    "wait": _wait,
    **_EDITION,
}
BUILD: Final[Mapping[str, Judge]] = {
    "fingerprint": _FINGERPRINT,
    "parent": _TEMPLATE,
    "ttl": _maybe(_up_to(MAX_TTL)),
    "wait": _wait,
    "holder": _text(200),
    "pid": _PID,
    "labels": _labels,
    **_EDITION,
}
SEAL: Final[Mapping[str, Judge]] = {"lease": _text(1000), "force": _flag}
ABANDON: Final[Mapping[str, Judge]] = {"lease": _text(1000), "error": _maybe(_matching(r"(?s).{1,10000}"))}
RESET: Final[Mapping[str, Judge]] = {"template": _maybe(_TEMPLATE), "wait": _wait}
BRANCH: Final[Mapping[str, Judge]] = {
    "name": _maybe(_TEMPLATE),
    "fingerprint": _maybe(_FINGERPRINT),
    "force": _flag,
}


def checked(body: Any, fields: Mapping[str, Judge], *needed: str) -> dict[str, Any]:
    """Return the members of a body that were given; an empty body gives none.

    Raises:
        Problem: ``invalid-request``, naming the first member that cannot be.
    """
    if body is None:
        body = {}
    if not isinstance(body, dict):
        raise invalid("body", "not an object")
    for name, value in body.items():
        if name not in fields:
            raise invalid(name, "there is no such field")
        if not fields[name](value):
            raise invalid(name, "not of the right type, or out of its range")
    for name in needed:
        if name not in body:
            raise invalid(name, "missing")
    return {name: value for name, value in body.items() if value is not None}


def key_of(request: ReceivedRequest) -> str | None:
    """Return the request's Idempotency-Key."""
    key = request.headers.get("idempotency-key")
    if key is not None and not _KEY.fullmatch(key):
        raise invalid("Idempotency-Key", "not 1 to 255 visible ASCII characters")
    return key


def labels_of(request: ReceivedRequest) -> dict[str, str]:
    """Return the labels that a listing or a release is asked for with."""
    labels: dict[str, str] = {}
    for text in request.query.get("label", ()):
        key, colon, value = text.partition(":")
        if not key or not colon:
            raise invalid("label", f"{text!r} is not of the form key:value")
        labels[key] = value
    return labels


def one_of(request: ReceivedRequest, name: str, *values: str) -> str | None:
    """Return a parameter that has one value of a few; None when it was not sent."""
    sent = request.query.get(name, [None])[-1]
    if sent is not None and values and sent not in values:
        raise invalid(name, f"{sent!r} is none of {', '.join(values)}")
    return sent
