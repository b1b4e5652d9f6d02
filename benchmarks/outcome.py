"""What a group of measurements hands back: tables, and panels of the plot."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.bench import Bench


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table; ``cells`` may be fewer than the table's columns, as where a row says why it was left out."""

    name: str
    cells: Sequence[str]


@dataclass(frozen=True, slots=True)
class Table:
    """``head`` names the columns, that of the rows' names included; ``notes`` say how it was measured."""

    title: str
    head: Sequence[str]
    rows: Sequence[Row]
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Mark:
    """A bar, or a dot where the panel is logarithmic. ``tail`` is its p99; ``ours`` gives it the strong colour."""

    label: str
    value: float
    tail: float | None = None
    ours: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """One part of the plot, with one scale."""

    title: str
    unit: str
    marks: Sequence[Mark]
    logarithmic: bool = False


@dataclass(slots=True)
class Outcome:
    """All that one group found."""

    tables: list[Table] = field(default_factory=list)
    panels: list[Panel] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)  # Markdown that is complete as it is


@dataclass(frozen=True, slots=True)
class Group:
    """One module's measurements.

    Args:
        name: as ``--only`` takes it.
        about: what is measured, in one line.
        rows: the names of all rows that its tables have, measured or with a reason why not.
        measure: does it.
    """

    name: str
    about: str
    rows: Sequence[str]
    measure: Callable[[Bench], Outcome]


def left_out(name: str, reason: str) -> Row:
    return Row(name, [f"not measured: {reason}"])
