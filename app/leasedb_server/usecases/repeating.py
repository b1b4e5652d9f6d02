"""Requests that are repeated: who lost the answer gets it again, and nothing is done twice."""

import contextlib
from collections.abc import Iterator

from leasedb_server.domain.errors import IdempotencyInProgressError, IdempotencyMismatchError
from leasedb_server.domain.inventory import Inventory
from leasedb_server.domain.lease import Lease, ended
from leasedb_server.usecases.asking import LeaseRequest


class Keys:
    """The Idempotency-Keys of requests, those that wait included."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        self._in_progress: set[str] = set()

    def __repr__(self) -> str:
        return f"Keys({len(self._in_progress)} in progress)"

    @contextlib.contextmanager
    def of(self, request: LeaseRequest) -> Iterator[Lease | None]:
        """Keep the request from being answered twice at once; yields the lease of the first time, if there was one.

        Raises:
            IdempotencyInProgressError, IdempotencyMismatchError, LeaseEndedError: the first time stands in the way.
        """
        if request.key is None:
            yield None
            return
        if earlier := self._inventory.lease_by_key(request.key):
            yield _repeated(request, earlier)
            return
        if request.key in self._in_progress:
            raise IdempotencyInProgressError("An earlier request with the same Idempotency-Key still waits.")
        self._in_progress.add(request.key)
        try:
            yield None
        finally:
            self._in_progress.discard(request.key)


def _repeated(request: LeaseRequest, earlier: Lease) -> Lease:
    if earlier.request_digest != request.digest:
        raise IdempotencyMismatchError("The Idempotency-Key was used before, with another body.")
    if not earlier.active:
        raise ended(earlier)
    return earlier
