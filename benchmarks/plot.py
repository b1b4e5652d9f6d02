"""The plot: panels of bars, or of dots on a logarithmic scale, as SVG that is readable on light and on dark ground."""

import math
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from benchmarks.outcome import Mark, Panel

FILE = Path(__file__).parents[1] / "docs" / "figures.svg"
_COLUMN, _LABEL, _VALUE, _GAP = 500, 236, 56, 24  # pixels
_LINE, _BAR, _HEAD, _FOOT = 19, 11, 34, 22
_LONGEST = 38  # characters of a label
_STYLE = """
  text { font: 11.5px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328; }
  .title { font-size: 13px; font-weight: 600; }
  .quiet, .value { fill: #59636e; }
  .value { font-size: 10.5px; }
  .axis { stroke: #d1d9e0; stroke-width: 1; }
  .ours { fill: #0969da; }
  .theirs { fill: #9aa4af; }
  .tail { stroke: #59636e; stroke-width: 1.2; }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc; }
    .quiet, .value { fill: #9198a1; }
    .axis { stroke: #3d444d; }
    .ours { fill: #4493f8; }
    .theirs { fill: #656c76; }
    .tail { stroke: #9198a1; }
  }
"""


def draw(panels: Sequence[Panel], about: str) -> str:
    """Return the plot; ``about`` is the line below it."""
    heights = [0, 0]
    parts: list[str] = []
    for panel in panels:
        if not panel.marks:
            continue
        column = heights.index(min(heights))
        parts += _panel(panel, column * (_COLUMN + _GAP), heights[column])
        heights[column] += _HEAD + len(panel.marks) * _LINE + _FOOT
    width, height = 2 * _COLUMN + _GAP, max(heights) + _LINE
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-6 0 {width + 12} {height}"'
        f' width="{width + 12}" height="{height}" role="img">\n'
        f"<title>leasedb: the figures</title>\n<style>{_STYLE}</style>"
    )
    foot = f'<text class="quiet" x="0" y="{height - 6}">{escape(about)}</text>'
    return "\n".join([head, *parts, foot, "</svg>", ""])


def _panel(panel: Panel, left: int, top: int) -> Iterator[str]:
    title = f"{panel.title}, {panel.unit}"
    yield f'<text class="title" x="{left}" y="{top + 16}">{escape(title)}</text>'
    scale = _Scale(panel)
    bottom = top + _HEAD - 8 + len(panel.marks) * _LINE
    for value in scale.lines:
        x = left + _LABEL + scale.at(value)
        yield f'<line class="axis" x1="{x:.1f}" y1="{top + _HEAD - 10}" x2="{x:.1f}" y2="{bottom}"/>'
        if panel.logarithmic:
            yield f'<text class="value" x="{x:.1f}" y="{bottom + 12}" text-anchor="middle">{_number(value)}</text>'
    for number, mark in enumerate(panel.marks):
        yield from _mark(mark, scale, left, top + _HEAD - 6 + number * _LINE)


def _mark(mark: Mark, scale: "_Scale", left: int, top: int) -> Iterator[str]:
    middle, start = top + _BAR / 2, left + _LABEL
    kind = "ours" if mark.ours else "theirs"
    end = scale.at(mark.value)
    label = mark.label if len(mark.label) <= _LONGEST else f"{mark.label[: _LONGEST - 1]}…"
    yield f'<text x="{start - 8}" y="{middle + 4:.1f}" text-anchor="end">{escape(label)}</text>'
    if scale.logarithmic:
        yield f'<circle class="{kind}" cx="{start + end:.1f}" cy="{middle:.1f}" r="5"/>'
    else:
        yield f'<rect class="{kind}" x="{start}" y="{top}" width="{max(end, 1):.1f}" height="{_BAR}" rx="1.5"/>'
    last = end + (6 if scale.logarithmic else 0)
    if mark.tail is not None and mark.tail > mark.value:
        last = scale.at(mark.tail)
        ends = f'x1="{start + end:.1f}" x2="{start + last:.1f}"'
        yield f'<line class="tail" {ends} y1="{middle:.1f}" y2="{middle:.1f}"/>'
    yield f'<text class="value" x="{start + last + 5:.1f}" y="{middle + 3.5:.1f}">{_number(mark.value)}</text>'


class _Scale:
    """From a value to pixels right of the labels."""

    def __init__(self, panel: Panel) -> None:
        self.logarithmic = panel.logarithmic
        self._room = _COLUMN - _LABEL - _VALUE
        most = max(max(mark.value, mark.tail or 0) for mark in panel.marks)
        least = min(mark.value for mark in panel.marks)
        self._low = math.floor(math.log10(least)) if self.logarithmic and least > 0 else 0
        self._high = max(math.ceil(math.log10(most)), self._low + 1) if self.logarithmic and most > 0 else 1
        self._most = most or 1.0

    @property
    def lines(self) -> list[float]:
        """Where to draw a line across all marks."""
        return [10.0**power for power in range(self._low, self._high + 1)] if self.logarithmic else [0.0]

    def at(self, value: float) -> float:
        if self.logarithmic:
            return self._room * (math.log10(max(value, 10.0**self._low)) - self._low) / (self._high - self._low)
        return self._room * value / self._most


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
