"""Both clients offer the same: names, arguments, defaults, documentation."""

import inspect
from typing import Any

import pytest

import leasedb


def _public(kind: type[Any]) -> dict[str, Any]:
    lists = vars(list)
    return {name: value for name, value in inspect.getmembers(kind) if not name.startswith("_") and name not in lists}


TWINS = [
    (leasedb.Client, leasedb.AsyncClient),
    (leasedb.Lease, leasedb.AsyncLease),
    (leasedb.Leases, leasedb.AsyncLeases),
]


@pytest.mark.parametrize(("sync", "twin"), TWINS)
def test_same_methods_with_the_same_signatures(sync, twin):
    ours, theirs = _public(sync), _public(twin)
    assert ours.keys() == theirs.keys()
    for name, method in ours.items():
        if not callable(method):
            assert not callable(theirs[name])
            continue
        assert inspect.signature(method).parameters == inspect.signature(theirs[name]).parameters, name
        is_async = inspect.iscoroutinefunction(theirs[name]) or name == "lease"
        assert is_async, f"{twin.__name__}.{name} blocks"
        assert (method.__doc__ or "").replace("`with`", "`async with`").replace("`Lease", "`AsyncLease") == (
            theirs[name].__doc__ or ""
        ), name


def test_same_constructor():
    assert inspect.signature(leasedb.Client) == inspect.signature(leasedb.AsyncClient)


def test_acquire_and_lease_take_the_same():
    acquire, lease = (inspect.signature(getattr(leasedb.Client, name)).parameters for name in ("acquire", "lease"))
    assert acquire == lease


def test_every_exported_name_exists_and_is_listed_once():
    assert len(set(leasedb.__all__)) == len(leasedb.__all__)
    for name in leasedb.__all__:
        assert getattr(leasedb, name) is not None
    assert dir(leasedb) == sorted(leasedb.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        leasedb.Nonsense  # noqa: B018 - the access is the test
