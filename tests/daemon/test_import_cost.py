"""What a start does not wait for: Postgres starts before the HTTP side is imported, which is as much again."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("library", ["fastapi", "starlette", "uvicorn", "sqlmodel", "sqlalchemy"])
def test_not_imported_before_postgres_starts(library):
    code = f"import sys, leasedb_server.assembly; assert {library!r} not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
