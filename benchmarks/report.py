"""The table: printed, and written into the README."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.machine import BenchmarkError
from benchmarks.measuring import Figures
from benchmarks.samples import MILLISECONDS, Samples

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"
_MEGABYTE = 1024 * 1024
NOTHING = "-"


def table(
    about: Sequence[str],
    figures: Mapping[str, Figures],
    starts: Mapping[str, Mapping[str, Samples]],
    skipped: Mapping[str, str],
) -> str:
    """Return the figures as Markdown.

    Args:
        about: sentences on what was measured, and where.
        figures: by title of the source.
        starts: by name of the row, then by title of the source.
        skipped: by title of the source, why it was not measured.
    """
    titles = list(figures)
    lines = [*about, *(f"{title}: not measured, {reason}" for title, reason in skipped.items()), ""]
    heads = [f"{title} ({figures[title].versions})" for title in titles]
    lines.append(_row(["median / p99", *heads, "aim"]))
    lines.append(_row(["---"] * (len(titles) + 2)))
    for name, show, aim in _ROWS:
        lines.append(_row([name, *(show(figures[title]) for title in titles), aim]))
        if name == _BEFORE_STARTS:
            lines += [
                _row([start, *(_start(by_title.get(title)) for title in titles), _START_AIMS[start]])
                for start, by_title in starts.items()
            ]
    return "\n".join(lines)


def write(text: str, page: Path = README) -> None:
    """Put the table between the two marks of the page.

    Raises:
        BenchmarkError: when the page does not have both, once each.
    """
    before, begin, rest = page.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise BenchmarkError(f"{page} does not have the lines {BEGIN} and {END}.")
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", "utf-8")


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _pair(samples: Samples) -> str:
    if not samples:
        return NOTHING
    return f"{samples.median * MILLISECONDS:.2f} / {samples.p99 * MILLISECONDS:.2f} ms"


def _ratio(figures: Figures) -> str:
    post, bare = figures.post, figures.bare
    return f"{post.median / bare.median:.2f} / {post.p99 / bare.p99:.2f} times (minima: {post.least / bare.least:.2f})"


def _parts(figures: Figures) -> str:
    medians = (f"{part.median * MILLISECONDS:.2f}" for part in figures.parts)
    return f"{' + '.join(medians)} ms"


def _daemon_memory(figures: Figures) -> str:
    memory = figures.daemon_memory
    if memory is None:
        return NOTHING
    share = f", {memory.pss / _MEGABYTE:.0f} MB its own share" if memory.pss is not None else ""
    return f"{memory.rss / _MEGABYTE:.0f} MB (after {memory.leases} leases{share})"


def _server_memory(figures: Figures) -> str:
    return NOTHING if figures.server_memory is None else f"{figures.server_memory / _MEGABYTE:.0f} MB"


def _rate(clients: int) -> Callable[[Figures], str]:
    def show(figures: Figures) -> str:
        rate, posts = figures.rates[clients]
        return f"{rate:.0f} per second (`POST`: {_pair(posts)})"

    return show


def _start(samples: Samples | None) -> str:
    if not samples:
        return NOTHING
    return f"{samples.median:.2f} s ({samples.least:.2f} to {samples.most:.2f} in {len(samples)} runs)"


START, START_CACHED = "daemon start to first lease", "the same with a prepared data directory"
_START_AIMS = {START: "embedded < 1 s, container < 2.5 s", START_CACHED: "< 0.6 s"}
_BEFORE_STARTS = "release, fenced"
_ROWS: Sequence[tuple[str, Callable[[Figures], str], str]] = (
    ("warm `POST /leases`", lambda figures: _pair(figures.post), "p50 < 2 ms, p99 < 10 ms"),
    ("a bare FastAPI `POST` with one SQLite commit", lambda figures: _pair(figures.bare), ""),
    ("ratio of the two", _ratio, "<= 1.5 times"),
    ("lease to first query", lambda figures: _pair(figures.first_query), ""),
    ("its medians: lease + connect + query", _parts, ""),
    (_BEFORE_STARTS, lambda figures: _pair(figures.release), ""),
    ("daemon's memory", _daemon_memory, "< 90 MB"),
    ("server's memory, pool full", _server_memory, ""),
    ("lease + release, 1 client", _rate(1), ""),
    ("lease + release, 8 clients", _rate(8), ""),
)
