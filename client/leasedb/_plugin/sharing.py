"""A lease that several tests use one after the other, and how it is put right between them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import TYPE_CHECKING

import leasedb
from leasedb._plugin.choices import Wishes
from leasedb._plugin.connecting import FixtureError
from leasedb._plugin.run import Run

if TYPE_CHECKING:
    from typing import Any

    import psycopg

    from leasedb._plugin.rollback import Rollback
    from leasedb._plugin.truncating import Truncater


class _Left(IntEnum):
    """What a test that counts on others cleaning up before themselves may have left."""

    NOTHING = 0
    ROWS = 1
    ANYTHING = 2


class Shared:
    """One lease, taken when it is first wanted, and taken anew when it was lost.

    Args:
        run: whose it is.
        wishes: what is wanted.
        template: what it is a clone of.
    """

    def __init__(self, run: Run, wishes: Wishes, template: leasedb.Template | str) -> None:
        self._run = run
        self._wishes = wishes
        self._template = template
        self._lease: leasedb.Lease | None = None
        self._left = _Left.NOTHING
        self.keep_for = ""  # the first test that wants it looked at afterwards, while nothing is cleaned up
        self._truncater: Truncater | None = None
        self._rollback: Rollback | None = None

    def lease(self) -> leasedb.Lease:
        if self._lease is not None and self._lease.state != "active":
            self.close()
        if self._lease is None:
            self._lease = self._run.acquire(self._wishes, self._template, "")
            self._left = _Left.NOTHING
        return self._lease

    def reset(self, nodeid: str) -> leasedb.Lease:
        """Return the lease with its template's content.

        Raises:
            LeasedbError: it could not be reset; when it was lost, the next test gets another.
        """
        lease = self.lease()
        self._disconnect()
        begin = time.perf_counter()
        lease.reset()
        self._run.tally.reset(time.perf_counter() - begin, nodeid)
        self._left = _Left.ANYTHING
        return lease

    def truncate(self, nodeid: str) -> leasedb.Lease:
        """Return the lease with all tables empty."""
        from leasedb._plugin.truncating import Truncater  # noqa: PLC0415 - it needs psycopg

        lease = self.clean(nodeid, of=_Left.ANYTHING)
        if self._truncater is None:
            self._truncater = Truncater(lease.dsn)
        self._truncater.truncate()
        self._left = _Left.ROWS
        return lease

    def begin(self, nodeid: str) -> psycopg.Connection[Any]:
        """Return a connection in a transaction, for `end`."""
        from leasedb._plugin.rollback import Rollback  # noqa: PLC0415 - it needs psycopg

        lease = self.clean(nodeid)
        if self._rollback is None:
            self._rollback = Rollback(lease.dsn)
        return self._rollback.begin()

    def clean(self, nodeid: str, of: _Left = _Left.ROWS) -> leasedb.Lease:
        """Return the lease without what tests have left there, if that is so much."""
        lease = self.lease()
        if self._left >= of:
            self.reset(nodeid)
            self._left = _Left.NOTHING
        return lease

    def end(self, nodeid: str) -> str | None:
        """Roll back; return why that was not enough and the database was reset, if so."""
        why = self._rollback.end() if self._rollback is not None else None
        if why is not None:
            self.spoil()
            self.clean(nodeid)
        return why

    def spoil(self) -> None:
        """Take note that a transaction could not be taken back."""
        self._left = _Left.ANYTHING

    def keep_copy(self, nodeid: str) -> None:
        """Keep a copy of what a test left: the next one needs this database's URL."""
        self._disconnect()
        try:
            [copy] = self.lease().fork(1, labels=self._run.labels(nodeid))
        except leasedb.LeasedbError as error:
            self._run.not_kept(error)
        else:
            if not self._run.keeps(copy, nodeid):
                copy.__exit__(None, None, None)

    @contextmanager
    def minding_loss(self) -> Iterator[None]:
        """Say of an error that the lease had been lost, where it had; the next test gets another.

        Raises:
            FixtureError: it had.
        """
        try:
            yield
        except leasedb.LeasedbError:
            raise  # says it, and the lease knows
        except Exception:
            lost = self._lease is not None and self._run.lost(self._lease)
            if not lost:
                raise
            self.close()
            raise FixtureError(f"The database that tests share was lost before this one: {lost}") from None

    def close(self) -> None:
        """Give the lease back, or keep it where a test wants that."""
        self._disconnect()
        lease, self._lease = self._lease, None
        if lease is not None and not (self.keep_for and self._run.keeps(lease, self.keep_for)):
            lease.__exit__(None, None, None)  # a release that fails is logged

    def _disconnect(self) -> None:
        for open_one in (self._truncater, self._rollback):
            if open_one is not None:
                open_one.close()
        self._truncater = self._rollback = None
