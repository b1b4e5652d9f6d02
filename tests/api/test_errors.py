"""The one table of errors is complete."""

from collections.abc import Iterator

from leasedb_server.api import errors as api
from leasedb_server.domain import errors as domain
from leasedb_server.domain.errors import LeasedbError

NEVER_ON_THE_WIRE = {domain.StartupError, domain.IllegalTransitionError}


def family(kind: type[LeasedbError] = LeasedbError) -> Iterator[type[LeasedbError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from family(child)


def ours() -> set[type[LeasedbError]]:
    return {kind for kind in family() if kind.__module__ in {api.__name__, domain.__name__}}


def test_every_error_has_a_status():
    assert set(api.STATUS) == ours() - NEVER_ON_THE_WIRE


def test_every_error_has_a_code_of_its_own_and_says_what_to_do():
    kinds = ours() - {domain.IllegalTransitionError}
    codes = [kind.code for kind in kinds]
    assert len(codes) == len(set(codes))
    assert all(kind.title and kind.default_hint.endswith(".") for kind in kinds)
