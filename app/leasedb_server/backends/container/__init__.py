"""Servers as containers of Docker or Podman, through the Docker API that both serve.

``backend`` is the adapter, ``places`` knows where an engine may listen, ``engine`` is the only file that speaks to
one, ``tail`` keeps the last words of containers that are gone.
"""

from leasedb_server.backends.container.backend import ContainerBackend, ContainerSettings

__all__ = ["ContainerBackend", "ContainerSettings"]
