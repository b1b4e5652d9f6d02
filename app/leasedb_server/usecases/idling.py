"""When a daemon that nobody needs may go."""

import contextlib
from collections.abc import Callable, Iterator

from leasedb_server.domain.inventory import Inventory
from leasedb_server.domain.template import TemplateState
from leasedb_server.ports import Clock


class Idling:
    """For how long there has been nothing to do.

    Args:
        announced: tells whether somebody said that leases are coming.
        after: seconds without anything to do after which the daemon may stop; None: never.
    """

    def __init__(
        self, inventory: Inventory, clock: Clock, *, announced: Callable[[], bool], after: float | None
    ) -> None:
        self._inventory = inventory
        self._clock = clock
        self._announced = announced
        self.after = after
        self._requests = 0
        self._last_use = clock.now()

    def __repr__(self) -> str:
        return f"Idling(after={self.after}, {self._requests} requests)"

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Count as busy. Who waits for a database or a build does so in a request."""
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1
            self._last_use = self._clock.now()

    def begin(self) -> None:
        """Count from now on: what came before was the start."""
        self._last_use = self._clock.now()

    @property
    def busy(self) -> bool:
        """Whether there is anything to do, or going to be."""
        building = any(one.state is TemplateState.BUILDING for one in self._inventory.templates.values())
        return bool(self._requests or self._inventory.active_leases() or building or self._announced())

    def over(self) -> bool:
        """Tell whether there has been nothing to do for so long; to be asked again and again."""
        if self.after is None:
            return False
        if self.busy:
            self.begin()
            return False
        return self._clock.now() - self._last_use >= self.after
