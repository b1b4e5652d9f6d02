"""Numbers and tables as people read them."""

import shutil
import sys
from collections.abc import Sequence

_LONGEST_CELL = 60


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows, the first one being the head, with their columns aligned, cut to the terminal's width if any."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if not sys.stdout.isatty():
        return lines
    width = shutil.get_terminal_size().columns
    return [line if len(line) <= width else f"{line[: width - 1]}…" for line in lines]


def duration(seconds: float) -> str:
    """Return seconds as "48s", "4m 48s", "3h 05m" or "2d 03h"; never negative."""
    whole = max(0, round(seconds))
    minutes, seconds_left = divmod(whole, 60)
    hours, minutes_left = divmod(minutes, 60)
    days, hours_left = divmod(hours, 24)
    if days:
        return f"{days}d {hours_left:02}h"
    if hours:
        return f"{hours}h {minutes_left:02}m"
    return f"{minutes}m {seconds_left:02}s" if minutes else f"{whole}s"


def count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def size(bytes_: float) -> str:
    """Return bytes as "812 B", "7.8 MB" or "120 GB"."""
    units = ["B", "kB", "MB", "GB", "TB"]
    while bytes_ >= 1000 and len(units) > 1:  # noqa: PLR2004 - of one unit in the next
        bytes_ /= 1000
        units.pop(0)
    digits = 0 if units[0] == "B" or bytes_ >= 100 else 1  # noqa: PLR2004 - three digits are enough
    return f"{bytes_:.{digits}f} {units[0]}"


def cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_CELL else f"{text[: _LONGEST_CELL - 1]}…"
