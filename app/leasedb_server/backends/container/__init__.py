"""Servers as containers of Docker or Podman, through the Docker API that both serve.

``backend`` is the adapter, ``preparing`` makes the image that servers start from, ``launching`` says how they start,
``places`` knows where an engine may listen, ``engine`` is the only file that speaks to one, ``tail`` keeps the last
words of containers that are gone.
"""

from leasedb_server.backends.container.backend import ContainerBackend
from leasedb_server.backends.container.settings import ContainerSettings

__all__ = ["ContainerBackend", "ContainerSettings"]
