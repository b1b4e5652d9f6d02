"""All that is said to a server in SQL, with psycopg."""

from leasedb_server.postgres.admin import PostgresAdmin
from leasedb_server.postgres.connecting import endpoint_of

__all__ = ["PostgresAdmin", "endpoint_of"]
