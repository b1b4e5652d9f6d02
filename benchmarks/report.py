"""The tables: printed, and written into the README with the plot beside them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks import plot
from benchmarks.machine import BenchmarkError
from benchmarks.outcome import Outcome, Row, Table

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"
PLOT = "![The figures as a plot](docs/figures.svg)"


def markdown(about: Sequence[str], outcomes: Iterable[Outcome], failed: Mapping[str, str]) -> str:
    """Return the figures as Markdown.

    Args:
        about: sentences on where and when they were measured.
        outcomes: of the groups that were measured.
        failed: by name of the group, why it was not.
    """
    parts = [" ".join(about), *(f"**{name}** was not measured: {reason}" for name, reason in failed.items())]
    for outcome in outcomes:
        parts += ["\n".join(_lines(table)) for table in outcome.tables]
        parts += outcome.texts
    return "\n\n".join(parts)


def drawing(outcomes: Iterable[Outcome], about: str) -> str:
    return plot.draw([panel for outcome in outcomes for panel in outcome.panels], about)


def write(text: str, drawn: str, page: Path = README, file: Path = plot.FILE) -> None:
    """Put plot and tables between the two marks of the page, and the plot into its file.

    Raises:
        BenchmarkError: when the page does not have both marks, once each.
    """
    before, begin, rest = page.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise BenchmarkError(f"{page} does not have the lines {BEGIN} and {END}.")
    file.write_text(drawn, "utf-8")
    page.write_text(f"{before}{BEGIN}\n{PLOT}\n\n{text}\n{END}{after}", "utf-8")


def _lines(table: Table) -> Iterator[str]:
    yield f"**{table.title}**"
    yield ""
    yield _row(table.head)
    yield _row(["---"] * len(table.head))
    for row in table.rows:
        yield _row(_filled(row, len(table.head)))
    for note in table.notes:
        yield ""
        yield " ".join(note.split())


def _filled(row: Row, width: int) -> list[str]:
    return [row.name, *row.cells, *[""] * (width - 1 - len(row.cells))]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
