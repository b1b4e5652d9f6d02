"""`leasedb kept`: the databases of failed tests that stay for somebody to look at."""

import argparse
import json
from collections.abc import Sequence
from datetime import UTC, datetime

import leasedb
from leasedb._arguments import UsageError, client, say, show
from leasedb._errors import LeaseNotFoundError
from leasedb._models import LeaseSummary, as_json
from leasedb._tables import count, cut, duration, table


def run(args: argparse.Namespace) -> int:
    """List the kept leases, or drop some."""
    if args.json and (args.drop or args.drop_all):
        raise UsageError("--json lists, and goes with neither --drop nor --drop-all")
    with client(args) as daemon:
        # an older daemon keeps none, and lists all
        kept = [lease for lease in daemon.leases(state="active", kept=True) if lease.kept]
        if args.drop_all or args.drop:
            return _drop(daemon, kept, args.drop)
    if args.json:
        show(json.dumps({"leases": [as_json(lease) for lease in kept]}, indent=2))
    else:
        show("\n".join(_lines(kept, datetime.now(UTC))))
    return 0


def _lines(leases: Sequence[LeaseSummary], now: datetime) -> list[str]:
    if not leases:
        return ["no leases are kept"]
    rows = [["LEASE", "AGE", "LEFT", "TEST", "HOLDER"]]
    rows += [
        [
            lease.id,
            duration((now - lease.created_at).total_seconds()),
            duration((lease.expires_at - now).total_seconds()),
            lease.labels.get("pytest", "-"),  # whole: it is what one looks for
            cut(lease.holder.name) or "-",
        ]
        for lease in leases
    ]
    return [*table(rows), f"look at one with: leasedb psql {leases[0].id}"]


def _drop(daemon: "leasedb.Client", kept: Sequence[LeaseSummary], wanted: Sequence[str] | None) -> int:
    dropped, known = 0, [lease.id for lease in kept]
    for lease_id in known if wanted is None else wanted:
        if lease_id not in known:
            say(f"lease {lease_id} is not kept; 'leasedb kept' lists those that are")
            continue
        try:
            daemon.release(lease_id)
        except LeaseNotFoundError as error:
            say(str(error))
        else:
            dropped += 1
    if dropped or wanted is None:
        show(f"dropped {count(dropped, 'lease')}")
    return int(dropped < len(known if wanted is None else wanted))
