"""On a lent server: a login that lacks a right is told which, in one line, and nothing is touched."""

import psycopg
import pytest

from tests.contracts import places
from tests.daemons import RealDaemon


@pytest.fixture(scope="module")
def lent():
    with places.place("existing") as ready, psycopg.connect(ready.admin_dsn, autocommit=True) as admin:
        admin.execute("CREATE ROLE makes_roles LOGIN PASSWORD 'lent' CREATEROLE")
        admin.execute("CREATE ROLE makes_databases LOGIN PASSWORD 'lent' CREATEDB")
        with psycopg.connect(ready.admin_dsn.removesuffix("postgres") + "template1") as template:
            template.execute("DROP EXTENSION vector")
        yield ready


@pytest.mark.parametrize(
    ("login", "said"),
    [
        ("makes_roles:lent", 'ALTER ROLE "makes_roles" CREATEDB'),
        ("makes_databases:lent", 'ALTER ROLE "makes_databases" CREATEROLE'),
        ("lender:lent", "CREATE EXTENSION vector in template1"),
        ("lender:wrong", "refused the login 'lender'"),
        ("nobody_at_all:lent", "refused the login 'nobody_at_all'"),
    ],
)
def test_the_missing_right_is_named(lent, login, said):
    address = lent.settings["EXISTING_DSN"].partition("@")[2]
    daemon = RealDaemon({"BACKEND": "existing", "EXISTING_DSN": f"postgresql://{login}@{address}"})
    try:
        assert daemon.spawn().wait(30) == 1
        [line] = [line for line in daemon.log.splitlines() if line.startswith("leasedb: ")]
        assert said in line
        assert "Traceback" not in daemon.log
    finally:
        daemon.remove()
    with psycopg.connect(lent.admin_dsn) as admin:
        assert admin.execute("SELECT FROM pg_database WHERE datname LIKE 'leasedb_%'").fetchall() == []
