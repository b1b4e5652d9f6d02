"""The theatre's tables and rows are put into a template once; each test's database is a clone of it."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def pg_template():
    return Path(__file__).with_name("schema.sql")
