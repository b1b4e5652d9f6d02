"""Postgres without a container engine: binaries from a wheel, or an installed Postgres."""

from leasedb_server.backends.embedded.backend import EmbeddedBackend, EmbeddedSettings

__all__ = ["EmbeddedBackend", "EmbeddedSettings"]
