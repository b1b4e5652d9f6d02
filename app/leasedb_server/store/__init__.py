"""The store: what the daemon writes down, in SQLite."""

from leasedb_server.store.sqlite import COLUMNS, SCHEMA, STORE_FILE, SqliteStore

__all__ = ["COLUMNS", "SCHEMA", "STORE_FILE", "SqliteStore"]
