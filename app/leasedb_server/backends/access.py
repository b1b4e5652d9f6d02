"""Who may connect to a server of ours (pg_hba.conf), whatever backend it comes from; see `Endpoint.guarded`."""

from typing import Final

SUPERUSER: Final = "postgres"
BASE: Final = "leasedb_base"  # the database that waits to become the base template; see `Endpoint.base`

# A lease's login has the name of its database and reaches no other. Its password, 128 random bits that live as long as
# the lease, never leaves the machine, so that it is sent as it is: every program can, and no time is lost.
RULES: Final = f"""\
local all         {SUPERUSER}      scram-sha-256
host  all         {SUPERUSER} all  scram-sha-256
local sameuser    all           password
host  sameuser    all      all  password
"""
