"""Where everything is, for the tests of the repository itself."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
DAEMON = ROOT / "app" / "leasedb_server"
CLIENT = ROOT / "client" / "leasedb"


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def trees(*folders: str) -> Iterator[tuple[str, ast.Module]]:
    """Yield every Python file below the folders as (path from the root, syntax tree)."""
    for path in python_files(*folders):
        yield str(path.relative_to(ROOT)), ast.parse(path.read_text())


def marked_block(page: Path, mark: str) -> str:
    """Return the fenced block that follows the line ``<!-- mark -->`` on a page."""
    pattern = rf"^<!-- {re.escape(mark)} -->\n```\w*\n(.*?)^```$"
    found = re.findall(pattern, page.read_text(), re.MULTILINE | re.DOTALL)
    assert len(found) == 1, f"{page.name} has {len(found)} blocks marked {mark!r}, not 1"
    return str(found[0])


def table_rows(text: str) -> list[list[str]]:
    """Return the cells of every table row in Markdown text, headings and rulers left out."""
    rows = [line.strip().strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in row] for row in rows]
    rulers = {index for index, row in enumerate(cells) if all(re.fullmatch(r":?-+:?", cell) for cell in row)}
    return [row for index, row in enumerate(cells) if index not in rulers and index + 1 not in rulers]
