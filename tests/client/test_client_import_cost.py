"""What importing costs: everybody who has leasedb installed pays for the plugin at each pytest start."""

from tests.client.processes import python


def test_the_plugin_imports_nothing_that_pytest_has_not():
    code = (
        "import sys, pytest; before = set(sys.modules)\n"
        "import leasedb.pytest_plugin\n"
        "print(sorted(set(sys.modules) - before))"
    )
    ours = [
        "leasedb",
        *(f"leasedb.{name}" for name in ("_plugin", "pytest_plugin")),
    ]
    assert python(code).strip() == str(ours)


def test_importing_the_package_does_not_import_httpx():
    code = "import sys, leasedb; assert 'httpx' not in sys.modules; leasedb.Client; assert 'httpx' in sys.modules"
    python(code)


def test_a_client_imports_what_starts_a_daemon_only_to_start_one():
    code = (
        "import sys, leasedb\n"
        "for client in (leasedb.Client(), leasedb.AsyncClient()): client.log\n"
        "assert 'leasedb._starting' not in sys.modules"
    )
    python(code, {"LEASEDB_AUTOSTART": "1"})


def test_version_and_help_do_not_import_httpx():
    code = (
        "import sys; from leasedb.cli import main\n"
        "try: main(['--version'])\n"
        "except SystemExit: pass\n"
        "assert 'httpx' not in sys.modules"
    )
    assert python(code).startswith("leasedb 0.")


def test_the_client_does_not_import_the_daemon():
    code = (
        "import sys, leasedb\n"
        "for name in leasedb.__all__: getattr(leasedb, name)\n"
        "import leasedb.cli, leasedb._showing, leasedb._running, leasedb.pytest_plugin\n"
        "assert not [name for name in sys.modules if name.startswith('leasedb_server')]"
    )
    python(code)
