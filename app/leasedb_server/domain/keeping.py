"""Which leases may be kept at once."""

from collections.abc import Iterable

from leasedb_server.domain.lease import Lease


def makes_room(active: Iterable[Lease], lease: Lease, most: int) -> list[Lease] | None:
    """Return the leases that are kept no longer once this one is; None when it cannot be kept.

    The oldest ones of other holders go first. What a holder keeps itself stays: it can look and choose.

    Args:
        active: all active leases.
        lease: the one to be kept.
        most: leases that may be kept at once.
    """
    if most <= 0:
        return None
    kept = [one for one in active if one.kept]
    too_many = len(kept) + 1 - most
    if lease.kept or too_many <= 0:
        return []
    others = sorted((one for one in kept if one.holder.name != lease.holder.name), key=lambda one: one.created_at)
    return others[:too_many] if len(others) >= too_many else None
