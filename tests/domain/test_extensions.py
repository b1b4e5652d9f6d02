"""What to do when a template's CREATE EXTENSION fails."""

import pytest

from leasedb_server.domain.extensions import extension_remedy


@pytest.mark.parametrize(
    ("sqlstate", "statement", "backend", "said"),
    [
        ("42710", "create extension vector", "existing", "write CREATE EXTENSION IF NOT EXISTS vector."),
        ("42710", 'CREATE\nEXTENSION "vector" WITH SCHEMA public', "container", 'IF NOT EXISTS "vector".'),
        ("0A000", "CREATE EXTENSION IF NOT EXISTS pg_trgm", "embedded", "use LEASEDB_BACKEND=container"),
        ("0A000", "CREATE EXTENSION pg_trgm", "embedded", "LEASEDB_PG_BIN"),
        ("58P01", "CREATE EXTENSION postgis", "container", "LEASEDB_IMAGE"),
        ("0A000", "CREATE EXTENSION postgis", "existing", "Have postgis installed"),
    ],
)
def test_the_remedy_is_told(sqlstate, statement, backend, said):
    assert said in extension_remedy(sqlstate, statement, backend)


@pytest.mark.parametrize(
    ("sqlstate", "statement", "backend"),
    [
        ("42710", "CREATE TYPE mood AS ENUM ()", "embedded"),
        ("42501", "CREATE EXTENSION plpython3u", "embedded"),
        (None, "CREATE EXTENSION vector", "embedded"),
        ("0A000", "CREATE EXTENSION vector", "of a later version"),
    ],
)
def test_of_what_else_fails_nothing_is_said(sqlstate, statement, backend):
    assert extension_remedy(sqlstate, statement, backend) is None
