"""The backend for a server that is there already: it has one edition."""

import asyncio

import pytest

from leasedb_server.backends.existing import ExistingBackend
from leasedb_server.domain.edition import Editions
from leasedb_server.domain.errors import ServerStartError
from leasedb_server.domain.server import Endpoint


def test_the_lent_server_is_what_it_is():
    backend = ExistingBackend(Endpoint("127.0.0.1", 1, "lender", "lent"))
    assert backend.editions == Editions(None, None)
    assert asyncio.run(backend.start("any")) == backend.endpoint
    with pytest.raises(ServerStartError, match="cannot be 17"):
        asyncio.run(backend.start("any", "17"))
