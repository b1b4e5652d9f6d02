"""The README's table of settings, the flags of `leasedb serve` and the compose file say what the code does."""

import re
import subprocess
import sys
from pathlib import Path

from pydantic import SecretStr

from leasedb_server.settings import PREFIX, Settings
from tests.repository.sources import ROOT, table_rows


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def default_of(name: str) -> str:
    match Settings.model_fields[name].get_default(call_default_factory=True):
        case None:
            return "-"
        case Path():
            return "`/var/lib/leasedb` for root, else the user's state directory"
        case SecretStr():
            raise AssertionError(f"{name}: a secret has no default")
        case float(number) if number.is_integer():
            return f"`{number:.0f}`"
        case value:
            return f"`{value}`"


def expected_row(name: str) -> list[str]:
    meaning = Settings.model_fields[name].description
    assert meaning, f"{name} has no description"
    capital = f"{meaning[0].upper()}{meaning[1:]}."
    return [f"`{name}`", f"`{PREFIX}{name.upper()}`", f"`{flag(name)}`", default_of(name), capital]


def test_the_readme_lists_every_setting_as_it_is_and_no_other():
    section = re.search(r"^## Settings\n(.*?)^## ", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert section is not None
    expected = [expected_row(name) for name in Settings.model_fields]
    lines = "\n".join(f"| {' | '.join(row)} |" for row in expected)
    assert table_rows(section[1]) == expected, f"the rows of the README should be\n{lines}"


def test_every_setting_is_a_flag():
    command = [sys.executable, "-m", "leasedb.cli", "serve", "--help"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert set(re.findall(r"(?<!\S)--[a-z][a-z-]*", text)) - {"--help"} == {
        flag(name) for name in Settings.model_fields
    }


def test_compose_passes_every_setting_on():
    # the state directory is the volume, fixed in the image
    expected = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} - {"LEASEDB_STATE_DIR"}
    assert set(re.findall(r"^ +(LEASEDB_\w+):", (ROOT / "compose.yaml").read_text(), re.MULTILINE)) == expected
