"""Django's test database is a lease; each worker has one, a clone of what the migrations made."""

from pathlib import Path

import dj_database_url
import pytest
from django.core.management import call_command
from django.db import connection

PROJECT = Path(__file__).parents[1]


def point_to(lease):
    """Let Django's default connection lead to a lease's database from now on."""
    connection.close()
    connection.settings_dict.update(dj_database_url.parse(lease.dsn))


@pytest.fixture(scope="session")
def pg_template(leasedb_client, django_db_blocker):
    def migrate(lease):
        with django_db_blocker.unblock():
            point_to(lease)
            call_command("migrate", verbosity=0)
            connection.close()

    return leasedb_client.template("shop-django", migrate, fingerprint=[*PROJECT.glob("*/migrations")])


@pytest.fixture(scope="session")
def django_db_setup(pg_session_lease):
    """Take the place of pytest-django's, which would create a database and migrate it in every run."""
    point_to(pg_session_lease)


@pytest.fixture
def fresh_db(pg_lease, pg_session_lease, django_db_setup, django_db_blocker):
    """For a test that `db` cannot hold: a database of its own, in which commits are commits."""
    point_to(pg_lease)
    with django_db_blocker.unblock():
        yield
    point_to(pg_session_lease)
