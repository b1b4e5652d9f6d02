"""The verifier that Postgres keeps of a SCRAM-SHA-256 password, computed without asking the server."""

import base64
import hashlib
import hmac
import secrets
from typing import Final

# The default of Postgres, and the least that the drivers of Java and Bun accept (RFC 7677; ongres/scram issue 20). It
# counts where a client computes: on a server whose access rules are not ours.
SCRAM_ITERATIONS: Final = 4096


def scram_verifier(password: str, iterations: int = SCRAM_ITERATIONS) -> str:
    """Return what Postgres stores for a SCRAM-SHA-256 password (RFC 5803, with the salt and keys in base64)."""
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    parts = [base64.b64encode(part).decode() for part in (salt, stored_key, server_key)]
    return f"SCRAM-SHA-256${iterations}:{parts[0]}${parts[1]}:{parts[2]}"
