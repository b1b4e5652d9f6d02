"""What all errors of the client have."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


class LeasedbError(Exception):
    """Something went wrong between a program and its database lease.

    Raised as itself for a code this version of the client does not know.

    Attributes:
        code: stable, such as "pool-exhausted"; branch on it or on the class, never on the text.
        status: the HTTP status of the answer; None when there was no answer.
        title: the error's name in words.
        detail: what happened and why.
        hint: what to do.
        errors: for each field of the request that was refused, its name and why.
        retry_after: seconds after which asking again makes sense; None when the daemon did not say.
    """

    code: str = "unknown"
    retry_after: float | None = None
    default_hint: ClassVar[str] = ""

    def __init__(
        self,
        detail: str,
        *,
        code: str | None = None,
        status: int | None = None,
        title: str = "",
        hint: str | None = None,
        errors: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or type(self).code
        self.status = status
        self.title = title
        self.hint = self.default_hint if hint is None else hint
        self.errors = tuple(errors)

    def __str__(self) -> str:
        between = "\n" if "\n" in self.detail else " "
        return f"{self.detail.rstrip()}{between}{self.hint}".rstrip()

    def take(self, problem: Mapping[str, Any]) -> None:
        """Keep what answers with this code tell beyond what all tell; not for callers."""
