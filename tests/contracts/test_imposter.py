"""Somebody else took the port of a server of ours, and asks for the administrator's password as it is."""

import asyncio
import socket
import struct
import threading

import pytest

from leasedb_server.domain.errors import LeasedbError
from leasedb_server.domain.server import Endpoint
from leasedb_server.postgres import PostgresAdmin

SECRET = "the-administrators-secret"
ASK_FOR_PASSWORD = b"R" + struct.pack("!ii", 8, 3)  # AuthenticationCleartextPassword
NO_TLS = b"N"
SSL_REQUEST = struct.pack("!ii", 8, 80877103)


def imposter(listener: socket.socket, heard: list[bytes]) -> None:
    while True:
        try:
            caller, _ = listener.accept()
        except OSError:
            return
        with caller:
            caller.settimeout(5)
            first = caller.recv(8192)
            if first == SSL_REQUEST:
                caller.sendall(NO_TLS)
                first = caller.recv(8192)
            caller.sendall(ASK_FOR_PASSWORD)
            heard += [first, caller.recv(8192)]


def test_it_is_not_told():
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=imposter, args=(listener, heard), daemon=True).start()
        port = listener.getsockname()[1]
        ours = Endpoint("127.0.0.1", port, "postgres", SECRET, heartbeat="/nowhere/heartbeat")
        with pytest.raises(LeasedbError):
            asyncio.run(PostgresAdmin().open("s", ours, 0.5))
        listener.shutdown(socket.SHUT_RDWR)
    assert heard, "nobody called"
    assert SECRET.encode() not in b"".join(heard)
