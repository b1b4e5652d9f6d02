"""The README's table of settings, the flags of `leasedb serve` and the compose file say what the code does."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from leasedb_server.domain.errors import StartupError
from leasedb_server.settings import FILE, PREFIX, Settings, load
from tests.repository.sources import ROOT, table_rows


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def default_of(name: str) -> str:
    match Settings.model_fields[name].get_default(call_default_factory=True):
        case None | ():
            return "-"
        case Path():
            return "`/var/lib/leasedb` for root, else the user's state directory"
        case SecretStr():
            raise AssertionError(f"{name}: a secret has no default")
        case float(number) if number.is_integer():
            return f"`{number:.0f}`"
        case bool(choice):
            return f"`{choice}`".lower()
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


def test_lists_are_written_with_commas_and_in_the_file_as_lists_too(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert (load({}).versions, load({}).images) == (None, ())
    (tmp_path / FILE).write_text('versions = [16, "17"]\nimages = "acme/postgres:1, acme/gis@sha256:0a"\n')
    assert load({}).versions == ("16", "17")
    assert load({}).images == ("acme/postgres:1", "acme/gis@sha256:0a")
    monkeypatch.setenv(f"{PREFIX}VERSIONS", "17, 16,17,")
    assert load({}).versions == ("17", "16")
    assert load({"versions": "15"}).versions == ("15",)
    assert load({"versions": ""}).versions == ()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"versions": "17.2"}, "versions: '17.2' is no major version of Postgres"),
        ({"images": "acme postgres"}, "images: 'acme postgres' is no reference of an image"),
        ({"images": "17"}, "images: '17' looks like a version: write it as library/17"),
        ({"integresql": "1", "host": "0.0.0.0", "token": "x"}, "served on loopback only, and host is 0.0.0.0"),
        ({"integresql": "1", "token": "x"}, "IntegreSQL's clients cannot send a token"),
        ({"template_budget": "much"}, "template_budget: "),
        ({"pool_exclusive": "17"}, "pool_exclusive: "),
    ],
)
def test_what_is_wrong_is_told_by_name(monkeypatch, tmp_path, flags, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StartupError) as refused:
        load(flags)
    assert said in str(refused.value)
