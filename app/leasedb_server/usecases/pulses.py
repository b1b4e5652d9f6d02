"""How the servers are: room for databases, connections in use."""

import logging
from dataclasses import replace

from leasedb_server.domain.inventory import Inventory
from leasedb_server.domain.room import LAST, Place, crowded, place_for
from leasedb_server.ports import Pulse

log = logging.getLogger(__name__)


class Pulses:
    """The last pulse of each server, and what follows from it."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        self._by_server: dict[str, Pulse] = {}

    def __repr__(self) -> str:
        return f"Pulses({self._by_server})"

    def get(self, server_id: str) -> Pulse | None:
        return self._by_server.get(server_id)

    def take(self, server_id: str, pulse: Pulse) -> None:
        """Take note of a pulse; a server with hardly a connection left is not leased from until some are closed."""
        before, place = server_id in self._inventory.crowded, self.place(server_id)
        self._by_server[server_id] = pulse
        if not crowded(pulse.connections, pulse.most, before=before):
            self._inventory.crowded.discard(server_id)
        elif not before:
            self._inventory.crowded.add(server_id)
            log.warning(
                "server %s has %d of %d connections in use: nothing more is leased there until some are closed",
                server_id,
                pulse.connections,
                pulse.most,
            )
        if self.place(server_id) is not place:
            log.log(
                logging.WARNING if self.place(server_id) is Place.NONE else logging.INFO,
                "server %s: %s",
                server_id,
                _WORDS[self.place(server_id)],
            )

    def used_up(self, server_id: str) -> None:
        """Take note that the server had no room for a database, before its next pulse tells."""
        if pulse := self._by_server.get(server_id):
            on_disk = self.place(server_id) is not Place.MAIN or self._memory(server_id) is None
            self.take(server_id, replace(pulse, **({"disk_free": 0} if on_disk else {"memory_free": 0})))

    def exhausted(self, server_id: str) -> bool:
        """Tell whether the server's memory is used up to the last."""
        pulse = self._by_server.get(server_id)
        free = pulse.memory_free if pulse and self._memory(server_id) is not None else None
        return free is not None and free < LAST

    def place(self, server_id: str) -> Place:
        """Return where the server's next database goes."""
        pulse = self._by_server.get(server_id)
        return place_for(
            self._memory(server_id), pulse.memory_free if pulse else None, pulse.disk_free if pulse else None
        )

    def _memory(self, server_id: str) -> int | None:
        server = self._inventory.servers.get(server_id)
        return server.endpoint.memory if server and server.endpoint else None

    def forget(self, server_id: str) -> None:
        self._by_server.pop(server_id, None)
        self._inventory.crowded.discard(server_id)


_WORDS = {
    Place.MAIN: "there is room again, databases go to their usual place",
    Place.OVERFLOW: "its memory is used up, further databases go to the disk",
    Place.NONE: "its disk is nearly full, no database is made there until there is room",
}
