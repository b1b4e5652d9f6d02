"""What to send and what an answer means, without I/O: the part that both clients share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from leasedb import _models
from leasedb._discovery import default_holder
from leasedb._errors import (
    InvalidRequestError,
    LeasedbError,
    LeaseEndedError,
    ServerNotFoundError,
)
from leasedb._exchange import (
    DEFAULT_WAIT,
    TIMEOUT,
    Exchange,
    Pid,
    Request,
    given,
    key_header,
    nothing,
    seconds,
    segment,
)
from leasedb._models import Demand, LeaseRecord, LeaseSummary, Pool, Readiness, Servers
from leasedb._template_calls import TemplateCalls, lease_path

_SYNC_TIMEOUT: Final = 120.0  # a drop may wait for a checkpoint, and for others' drops


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a lease is asked for with, see `Client.acquire`."""

    template: str = "base"
    ttl: float | None = None
    wait: float | None = None
    holder: str | None = None
    labels: Mapping[str, str] | None = None
    postgres: str | None = None
    image: str | None = None
    server: str = "shared"
    database: str | None = None
    user: str | None = None
    pid: Pid = "auto"
    idempotency_key: str | None = None

    @property
    def key(self) -> tuple[str, str | None, str | None]:
        """Which template, for which Postgres."""
        return self.template, self.postgres, self.image

    def body(self) -> dict[str, Any]:
        """Return the body, without the pid; what is left out of it an older daemon does not know."""
        return given(
            {
                "template": self.template,
                "ttl": seconds("ttl", self.ttl),
                "wait": seconds("wait", self.wait),
                "holder": default_holder() if self.holder is None else self.holder,
                "labels": dict(self.labels) if self.labels else None,
                "postgres": self.postgres,
                "image": self.image,
                "server": None if self.server == "shared" else self.server,
                "database": self.database,
                "user": self.user,
            }
        )


class Wire(TemplateCalls):
    """The calls of one client to one daemon."""

    # --- leases ---

    def acquire(self, terms: Terms) -> Exchange[LeaseRecord]:
        request = Request(
            "POST",
            "/leases",
            json=terms.body(),
            headers=key_header(terms.idempotency_key),
            timeout=(DEFAULT_WAIT if terms.wait is None else terms.wait) + TIMEOUT,
        )
        return self._call_as(terms.pid, request, _models.lease_record)

    def get(self, lease_id: str) -> Exchange[LeaseRecord]:
        return self._call(Request("GET", lease_path(lease_id)), _models.lease_record)

    def leases(
        self, *, state: str | None, holder: str | None, labels: Mapping[str, str] | None, kept: bool | None = None
    ) -> Exchange[list[LeaseSummary]]:
        filters = [(name, value) for name, value in (("state", state), ("holder", holder)) if value is not None]
        if kept is not None:
            filters.append(("kept", "true" if kept else "false"))
        return self._call(Request("GET", "/leases", params=(*filters, *_label_params(labels))), _models.lease_summaries)

    def renew(self, lease_id: str, ttl: float | None, timeout: float = TIMEOUT) -> Exchange[LeaseRecord]:
        """Renew; an error that says the lease has ended also carries how, when the daemon still knows."""
        body = None if ttl is None else {"ttl": seconds("ttl", ttl)}
        request = Request("POST", f"{lease_path(lease_id)}/renew", json=body, timeout=timeout)
        try:
            return (yield from self._call(request, _models.lease_record))
        except LeaseEndedError as error:
            try:
                error.lease = yield from self.get(lease_id)
            except LeasedbError:
                error.lease = None
            raise

    def keep(self, lease_id: str, ttl: float) -> Exchange[LeaseRecord]:
        request = Request("POST", f"{lease_path(lease_id)}/keep", json={"ttl": seconds("ttl", ttl)})
        return self._call(request, _models.lease_record)

    def release(self, lease_id: str, *, sync: bool) -> Exchange[None]:
        return self._call(Request("DELETE", lease_path(lease_id), **_sync(sync)), nothing)

    def release_all(self, labels: Mapping[str, str], *, sync: bool) -> Exchange[int]:
        if not labels:
            raise InvalidRequestError("release_all needs at least one label.", hint="It releases what has all of them.")
        options = _sync(sync)
        options["params"] = (*_label_params(labels), *options.get("params", ()))
        return self._call(Request("DELETE", "/leases", **options), lambda data: int(data["released"]))

    # --- servers, stock, health ---

    def servers(self) -> Exchange[Servers]:
        return self._call(Request("GET", "/servers"), _models.servers)

    def server_logs(self, server_id: str, lines: int) -> Exchange[str]:
        path = f"/servers/{segment(server_id, ServerNotFoundError)}/logs"
        return self._call(Request("GET", path, params=(("lines", str(lines)),)), str, text=True)

    def pool(self) -> Exchange[Pool]:
        return self._call(Request("GET", "/pool"), _models.pool)

    def expect(self, count: int, *, template: str, holder: str | None, ttl: float | None) -> Exchange[Demand]:
        body = {
            "template": template,
            "count": count,
            "holder": default_holder() if holder is None else holder,
            "ttl": seconds("ttl", ttl),
        }
        return self._call(Request("PUT", "/demand", json=given(body)), _models.demand, starts=True)

    def ready(self) -> Exchange[Readiness]:
        return self._call(Request("GET", "/readyz"), _models.readiness)


def _sync(sync: bool) -> dict[str, Any]:  # noqa: FBT001 - the wire's own word
    return {"params": (("sync", "true"),), "timeout": _SYNC_TIMEOUT} if sync else {}


def _label_params(labels: Mapping[str, str] | None) -> list[tuple[str, str]]:
    return [("label", f"{key}:{value}") for key, value in (labels or {}).items()]
