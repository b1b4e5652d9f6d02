"""The fake daemon of `leasedb.testing`, with what only the tests of the client itself want of it.

It can break connections off, speak as older and later daemons do, and say of itself what a real one seldom does.
"""

from collections import deque
from typing import Any

import leasedb
from leasedb._discovery import pid_space
from leasedb.testing import FakeDaemon, ReceivedRequest
from leasedb.testing._leases import MAX_TTL
from leasedb.testing._logins import Login
from leasedb.testing._templates import FAILS
from leasedb.testing._wire import STATUS, Fault, Problem, Reply, as_time, nothing_at

__all__ = ["FAILS", "STATUS", "Fault", "StandIn"]

PASSWORD = "it's $ecret"
NEWS_OF_LEASES = {"image", "server", "database", "user"}  # what the first daemons did not take
NEWS_OF_SERVERS = {"cloning", "workers", "memory", "place", "connections"}


class StandIn(FakeDaemon):
    """The daemon. ``with StandIn() as daemon: daemon.url``.

    Args:
        most: the most databases leased at a time.
        token: bearer token to ask for.
        space: ``pid_space`` of its health; None: that of this process.
        pids: whether the processes of its clients are its own to see.
        max_life: seconds after which a lease cannot be renewed any more.
        old: speak as the first daemons did, which took no announcements and told less of themselves.
        version: what it says it is.
    """

    def __init__(
        self,
        *,
        most: int = 100,
        token: str = "",
        space: str | None = None,
        pids: bool = True,
        max_life: float = MAX_TTL,
        old: bool = False,
        version: str = leasedb.__version__,
    ) -> None:
        super().__init__(most=most, token=token)
        self.old, self.version = old, version
        self.space = pid_space() if space is None else space
        self.ready_problem = ""
        self.asleep = False
        self.server_now: dict[str, Any] = {}  # what differs from what it says of its server else
        self._book.max_life = max_life
        self._book.backend = "stand-in"
        if not pids:
            self._book.sees = lambda _pid: False
        self._templates.notes = ("1 statement left out",)

    # --- what tests do to it and look at ---

    @property
    def seen(self) -> list[ReceivedRequest]:
        return self.requests

    @property
    def faults(self) -> deque[Fault]:
        return self._faults

    @property
    def to_come(self) -> dict[tuple[str, str], int]:
        return self._to_come

    @property
    def keys(self) -> dict[str, tuple[Any, str | None]]:
        return self._book.keys

    @property
    def waiting(self) -> int:
        return self._book.waiting

    @waiting.setter
    def waiting(self, number: int) -> None:
        self._book.waiting = number

    @property
    def templates(self) -> dict[Any, dict[str, Any]]:
        return self._templates.entries

    @property
    def built(self) -> int:
        return self._templates.built

    @property
    def waiting_for_builds(self) -> int:
        return self._templates.waiting

    @property
    def sessions(self) -> list[dict[str, Any]]:
        return self._templates.sessions

    @sessions.setter
    def sessions(self, sessions: list[dict[str, Any]]) -> None:
        self._templates.sessions = sessions

    def evict(self, name: str) -> None:
        with self._state:
            self._templates.evict(name)

    def fail(self, code: str, times: int = 1, *, headers: dict[str, str] | None = None, **more: Any) -> None:
        super().fail(code, times, headers=headers, **{"hint": "Do this."} | more)

    # --- how its answers differ ---

    def answer(self, request: ReceivedRequest) -> Reply:
        try:
            return super().answer(request)
        except Problem as problem:
            problem.body["hint"] = "Do this."
            raise

    def _answer(self, request: ReceivedRequest, segments: list[str]) -> Reply:
        if self.old:
            if segments[0] in {"templates", "demand"} or segments[2:] in (["keep"], ["hold"]):
                raise nothing_at(request)
            if request.path == "/leases" and (unknown := NEWS_OF_LEASES & (request.body or {}).keys()):
                raise Problem("invalid-request", f"Unknown: {unknown}.", errors=[])
        return super()._answer(request, segments)

    def _health(self) -> dict[str, Any]:
        return super()._health() | {"version": self.version, "pid_space": self.space, "news": 1}

    def _readiness(self) -> dict[str, Any]:
        if self.ready_problem:
            raise Problem("not-ready", self.ready_problem)
        now = {"status": "asleep", "servers": 0, "ready": 0} if self.asleep else {}
        return super()._readiness() | {"backend": "stand-in"} | now

    def _summary(self, lease: dict[str, Any]) -> dict[str, Any]:
        return super()._summary(lease) | {"some_later_field": {"unknown": True}}

    def _told(self, lease: dict[str, Any]) -> dict[str, Any]:
        told = Login("127.0.0.1", 1, f"d_{lease['id']}", f"r_{lease['id']}", PASSWORD).told()
        if self.old:
            del told["socket"], told["urls"]["socket"]
            return told
        by_socket = f"postgresql://{told['user']}:it%27s%20%24ecret@/{told['database']}?host=%2Frun%2Fx&port=1"
        return told | {"socket": "/run/x", "urls": told["urls"] | {"socket": by_socket}}

    def _servers(self) -> dict[str, Any]:
        known = super()._servers() | {"backend": "stand-in"}
        if self.asleep:
            return known | {"servers": []}
        server = known["servers"][0] | {
            "backend": "stand-in",
            "port": 54321,
            "versions": {"postgres": "18.4", "vector": "0.8.1"},
            "created_at": as_time(1.0),
            "ready_at": as_time(2.5),
            "databases": {"ready": 10, "making": 0, "leased": 1, "condemned": 0},
            "notes": ["made of air"],
            "cloning": _cloning(),
            "workers": 3,
            "memory": 2**30,
            "connections": {"used": 14, "most": 97},
        }
        if self.old:
            return known | {"servers": [{name: server[name] for name in server.keys() - NEWS_OF_SERVERS}]}
        return known | {"servers": [server | self.server_now]}

    def _pool(self) -> dict[str, Any]:
        pool = super()._pool()
        pool["per"] = [] if self.asleep else [share | {"target": 12} for share in pool["per"]]
        if self.old:
            return {name: pool[name] for name in pool.keys() - {"demand", "asleep"}}
        forecasts = [one | {"target": 12, "rate": 0.52, "peak": 9.4, "later": 1} for one in pool["demand"]]
        return pool | {"demand": forecasts, "asleep": self.asleep}

    def _expect(self, body: dict[str, Any]) -> dict[str, Any]:
        expected = super()._expect(body)
        return expected | {"target": max(12, expected["count"])}


def _cloning() -> list[dict[str, Any]]:
    ways = {"file_copy": (9.14, 30, ""), "wal_log": (16.0, 2, ""), "file_copy_clone": (None, 0, "not here")}
    return [
        {
            "template": "base",
            "strategy": strategy,
            "milliseconds": milliseconds,
            "clones": clones,
            "chosen": strategy == "file_copy",
            "refused": refused,
        }
        for strategy, (milliseconds, clones, refused) in ways.items()
    ]
