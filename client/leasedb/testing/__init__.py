"""For the tests of programs that use leasedb.

`FakeDaemon` is a daemon in memory, for unit tests; `PostgresContainer` has the methods of testcontainers' class of this
name, and a lease behind them. Nothing here needs more than the client itself does.
"""

from leasedb.testing._fake import FakeDaemon as FakeDaemon
from leasedb.testing._postgres import ContainerUnsupportedError as ContainerUnsupportedError
from leasedb.testing._postgres import PostgresContainer as PostgresContainer
from leasedb.testing._wire import ReceivedRequest as ReceivedRequest

__all__ = ["ContainerUnsupportedError", "FakeDaemon", "PostgresContainer", "ReceivedRequest"]
