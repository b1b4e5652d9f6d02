"""What to send and what an answer means where templates are concerned, without I/O."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from leasedb import _models, _template
from leasedb._discovery import Address, default_holder
from leasedb._errors import (
    BuildFailedError,
    InvalidRequestError,
    LeaseEndedError,
    LeaseNotFoundError,
    NotTheBuilderError,
    ParentMissingError,
    SqlFailedError,
    TemplateBuildingError,
    TemplateExistsError,
    TemplateNotFoundError,
    TemplateSealedError,
)
from leasedb._exchange import (
    DEFAULT_WAIT,
    Calls,
    Exchange,
    Pid,
    Request,
    given,
    key_header,
    nothing,
    seconds,
    segment,
)
from leasedb._models import LeaseRecord
from leasedb._sql import Sql
from leasedb._template import Checkpoint, Template, Templates

T = TypeVar("T")

# Seconds. SQL runs as long as it runs, and a template is compacted and its files are kept before the answer comes.
_WORK_LIMIT: Final = 3600.0
_MARGIN: Final = 60.0  # seconds beyond `wait` for what should not take long
_LONGEST_WAIT: Final = 3600.0  # seconds that the daemon takes
_ASK_AGAIN: Final = 0.5  # seconds
_LONGEST_ERROR: Final = 2000  # characters of a failed build's error


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A template that is asked for. ``fingerprint`` may be left out where it is made of SQL."""

    name: str
    fingerprint: str | None = None
    parent: str = "base"
    postgres: str | None = None
    image: str | None = None
    wait: float = DEFAULT_WAIT
    ttl: float | None = None
    holder: str | None = None
    labels: Mapping[str, str] | None = None

    def made_of(self, wait: float) -> dict[str, Any]:
        return given(
            {
                "parent": None if self.parent == "base" else self.parent,
                "fingerprint": self.fingerprint,
                "postgres": self.postgres,
                "image": self.image,
                "wait": round(min(wait, _LONGEST_WAIT), 3),
            }
        )


class TemplateCalls(Calls):
    """The calls about templates, of one client to one daemon."""

    def __init__(self, address: Address, *, starts: bool = False) -> None:
        super().__init__(address, starts=starts)
        self._builds: dict[str, str] = {}  # fingerprints of the builds under way, by lease

    def templates(self) -> Exchange[Templates]:
        return self._call(Request("GET", "/templates"), _template.templates)

    def get_template(
        self,
        name: str,
        *,
        postgres: str | None = None,
        image: str | None = None,
        pause: float = 0.0,
        starts: bool = False,
    ) -> Exchange[Template]:
        params = _params({"postgres": postgres, "image": image})
        request = Request("GET", template_path(name), params=params, pause=pause)
        return self._call(request, _template.template, starts=starts)

    def fingerprint_of(self, template: Template | str, postgres: str | None, image: str | None) -> Exchange[str]:
        """Return what stands for a parent in its children's fingerprints."""
        if isinstance(template, Template):
            return "base" if template.name == "base" else template.fingerprint
        if template == "base":
            return "base"
        try:
            found = yield from self.get_template(template, postgres=postgres, image=image, starts=True)
        except TemplateNotFoundError as error:
            raise ParentMissingError(error.detail, status=error.status, hint="Build the parent first.") from None
        return found.fingerprint

    def delete_template(self, name: str, *, postgres: str | None, image: str | None) -> Exchange[None]:
        request = Request("DELETE", template_path(name), params=_params({"postgres": postgres, "image": image}))
        return self._call(request, nothing, done=(TemplateNotFoundError,))

    def put_template(self, order: Order, sql: Sql) -> Exchange[Template]:
        """Build from SQL, or find it built; while somebody else builds it, ask again until ``order.wait`` is over."""

        def send(left: float, pause: float) -> Exchange[Template]:
            request = Request(
                "PUT",
                template_path(order.name),
                params=_params(order.made_of(left)),
                headers={"Content-Type": "application/sql"},
                text=sql,
                timeout=left + _WORK_LIMIT,
                pause=pause,
            )
            return self._call(request, _template.template, starts=True)

        try:
            found, left = None, order.wait
            if not sql.short and order.fingerprint is not None:
                found, left = yield from self._look(order)
            return found or (yield from _patiently(left, send))
        except (SqlFailedError, BuildFailedError) as error:
            sql.explain(error)
            raise

    def _look(self, order: Order) -> Exchange[tuple[Template | None, float]]:
        """Look whether the template is there, or wait until it is, before a file is sent that may be long.

        Returns:
            The template, or None and how many seconds are left of ``order.wait``.
        """
        end, pause = time.monotonic() + order.wait, 0.0
        while True:
            try:
                found = yield from self.get_template(
                    order.name, postgres=order.postgres, image=order.image, pause=pause, starts=True
                )
            except TemplateNotFoundError:
                return None, max(0.0, end - time.monotonic())
            left = max(0.0, end - time.monotonic())
            ours = found.fingerprint == order.fingerprint
            if ours and found.state == "sealed":
                return found, left
            if ours and found.state == "failed" and pause and found.error is not None:
                error = BuildFailedError(
                    found.error.message, hint=found.error.hint or "Mend what failed and build again."
                )
                error.error = found.error
                raise error
            if not (ours and found.state == "building" and left):
                return None, left
            pause = min(left, _ASK_AGAIN)

    def build_template(self, order: Order, pid: Pid) -> Exchange[tuple[Template, LeaseRecord | None]]:
        """Become the template's builder, or find it built; while somebody else builds it, ask again as above."""
        if not order.fingerprint:
            raise InvalidRequestError("A build needs a fingerprint.", hint="leasedb.fingerprint makes one.")
        body = {
            "ttl": seconds("ttl", order.ttl),
            "holder": default_holder() if order.holder is None else order.holder,
            "labels": dict(order.labels) if order.labels else None,
        }

        def ask(left: float, pause: float) -> Exchange[tuple[Template, LeaseRecord | None]]:
            request = Request(
                "POST",
                f"{template_path(order.name)}/build",
                json={**order.made_of(left), **given(body)},
                # else an answer that is lost would leave us waiting for ourselves
                headers=key_header(None),
                timeout=left + _MARGIN,
                pause=pause,
            )
            return self._call_as(pid, request, _build)

        template, lease = yield from _patiently(order.wait, ask)
        if lease is not None:
            self._builds[lease.id] = order.fingerprint
        return template, lease

    def seal_template(self, name: str, lease_id: str, *, force: bool) -> Exchange[Template]:
        """Seal; that it is sealed already, with the fingerprint of this build, is success."""
        body = {"lease": lease_id, "force": force}
        request = Request("POST", f"{template_path(name)}/seal", json=body, timeout=_WORK_LIMIT)
        try:
            sealed = yield from self._call(request, _template.template)
        except TemplateSealedError:
            found = yield from self._of_content(name, self._builds.get(lease_id))
            if found is None:
                raise
            sealed = found
        self._builds.pop(lease_id, None)
        return sealed

    def _of_content(self, name: str, fingerprint: str | None) -> Exchange[Template | None]:
        """Find a sealed template by name and fingerprint, whichever Postgres it is for."""
        found = yield from self.templates()
        return next(
            (one for one in found if (one.name, one.fingerprint, one.state) == (name, fingerprint, "sealed")), None
        )

    def abandon_template(self, name: str, lease_id: str, error: str | None) -> Exchange[None]:
        self._builds.pop(lease_id, None)
        body = given({"lease": lease_id, "error": None if error is None else _sendable(error)})
        request = Request("POST", f"{template_path(name)}/abandon", json=body)
        return self._call(request, nothing, done=(NotTheBuilderError, LeaseEndedError, TemplateNotFoundError))

    # --- what a lease's database holds ---

    def reset(self, lease_id: str, *, template: str | None, wait: float | None) -> Exchange[tuple[LeaseRecord, int]]:
        request = Request(
            "POST",
            f"{lease_path(lease_id)}/reset",
            json=given({"template": template, "wait": seconds("wait", wait)}),
            timeout=(DEFAULT_WAIT if wait is None else wait) + _MARGIN,
        )
        # the next start of a daemon that died takes its leases over
        return self._call(
            request, lambda data: (_models.lease_record(data), int(data.get("ended_sessions") or 0)), starts=True
        )

    def branch(self, lease_id: str, *, name: str, fingerprint: str, force: bool) -> Exchange[Template]:
        """Seal a copy under a name; that it is there already, with this fingerprint, is success."""
        body = {"name": name, "fingerprint": fingerprint, "force": force}
        try:
            return (yield from self._call(_branching(lease_id, body), _template.template, starts=True))
        except TemplateExistsError:
            found = yield from self._of_content(name, fingerprint)
            if found is None:
                raise
            return found

    def checkpoint(self, lease_id: str, *, force: bool) -> Exchange[Checkpoint]:
        return self._call(_branching(lease_id, {"force": force}), _template.checkpoint, starts=True)

    def latest_checkpoint(self, lease_id: str) -> Exchange[str]:
        """Return the name of the last anonymous branch that was made of a lease's database."""
        found = yield from self.templates()
        mine = [one for one in found if one.until_lease == lease_id and one.created_at is not None]
        if not mine:
            raise TemplateNotFoundError(
                f"There is no checkpoint of lease {lease_id}.", hint="Make one with lease.checkpoint()."
            )
        return max(mine, key=lambda one: str(one.created_at)).name


def lease_path(lease_id: str) -> str:
    return f"/leases/{segment(lease_id, LeaseNotFoundError)}"


def template_path(name: str) -> str:
    return f"/templates/{segment(name, TemplateNotFoundError)}"


def _branching(lease_id: str, body: Mapping[str, Any]) -> Request:
    return Request("POST", f"{lease_path(lease_id)}/template", json=body, timeout=_WORK_LIMIT)


def _build(data: Any) -> tuple[Template, LeaseRecord | None]:
    lease = data.get("lease")
    return _template.template(data["template"]), None if lease is None else _models.lease_record(lease)


def _params(options: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(
        (name, f"{value:g}" if isinstance(value, float) else str(value)) for name, value in given(options).items()
    )


def _sendable(text: str) -> str:
    """Return a message that JSON can carry, its beginning if it is long."""
    return text[:_LONGEST_ERROR].encode("utf-8", "replace").decode()


def _patiently(wait: float, ask: Callable[[float, float], Exchange[T]]) -> Exchange[T]:
    """Ask with so many seconds left, after a pause, again and again while somebody else builds the template."""
    if seconds("wait", wait) is None or wait < 0:
        raise InvalidRequestError(f"'wait' is {wait}.", hint="Give a number of seconds, 0 or more.")
    end, pause = time.monotonic() + wait, 0.0
    while True:
        left = max(0.0, end - time.monotonic())
        try:
            return (yield from ask(left, pause))
        except TemplateBuildingError as error:
            left = end - time.monotonic()
            if left <= 0:
                raise
            pause = min(left, _ASK_AGAIN, error.retry_after or _ASK_AGAIN)
