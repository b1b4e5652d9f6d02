"""The leasedb daemon: a warm pool of Postgres databases, leased over HTTP."""
