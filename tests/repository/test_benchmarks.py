"""The benchmarks name what they measure, go on when a group fails, and the README has what they would write."""

import re
import subprocess
import sys
from xml.etree import ElementTree as ET

import pytest

from benchmarks import __main__ as command
from benchmarks import contest, peers, peers_fifty, plot, pytest_fixtures, report, schemas
from benchmarks.bench import Bench
from benchmarks.machine import BenchmarkError
from benchmarks.outcome import Group, Mark, Outcome, Panel, Row, Table, left_out
from benchmarks.samples import Samples
from benchmarks.suites import ways
from leasedb._plugin import ALL
from tests.repository.sources import ROOT

ROWS = [row for group in command.GROUPS for row in group.rows]
SVG = "{http://www.w3.org/2000/svg}"


def outcome() -> Outcome:
    table = Table("Clones", ["clone", "took", "again"], [Row("small", ["1 ms", "2 ms"]), left_out("big", "no room")])
    panel = Panel("Clones", "ms", [Mark("small", 1.0, 2.0, ours=True), Mark("a <big> & slow one", 40.0)])
    return Outcome([table], [panel, Panel("The same", "ms", panel.marks, logarithmic=True)], ["as it *is*"])


def test_the_command_lists_every_row_and_measures_nothing():
    answer = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--list"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    listed = [line.strip() for line in answer.stdout.splitlines()]
    assert answer.stderr == ""
    assert [row for row in ROWS if row not in listed] == []
    assert [group.name for group in command.GROUPS if f"{group.name}: {group.about}" not in listed] == []


def test_no_name_is_used_twice():
    assert sorted(set(ROWS)) == sorted(ROWS)
    names = [group.name for group in command.GROUPS]
    assert sorted(set(names)) == sorted(names)


def test_a_failing_group_says_why_and_the_others_go_on(capsys):
    places = []

    def fails(bench: Bench) -> Outcome:
        places.append(bench.place.path)
        assert bench.place.path.is_dir()
        raise BenchmarkError("first line\nthe server did not start")

    groups = [Group("broken", "fails", [], fails), Group("whole", "works", ["small"], lambda _bench: outcome())]
    assert command.main([], groups) == 1
    said = capsys.readouterr()
    assert "**broken** was not measured: the server did not start" in said.out
    assert "| small | 1 ms | 2 ms |" in said.out
    assert [path for path in places if path.exists()] == []


def test_a_group_that_is_not_there_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(["--only", "warm,cold"])
    assert ended.value.code == 2
    assert "there is no group cold" in capsys.readouterr().err


@pytest.mark.parametrize("cut", ["--quick", "--only=warm"])
def test_the_readme_is_written_from_a_full_run_only(cut, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(["--write-readme", cut])
    assert ended.value.code == 2
    assert "--write-readme" in capsys.readouterr().err


def test_tables_and_plot_go_between_the_marks(tmp_path):
    page, file = tmp_path / "README.md", tmp_path / "figures.svg"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    found = [outcome()]
    text = report.markdown(["Here, today."], found, {})
    report.write(text, report.drawing(found, "Here."), page, file)
    written = page.read_text()
    assert written.startswith(f"before\n{report.BEGIN}\n{report.PLOT}\n\nHere, today.\n")
    assert written.endswith(f"as it *is*\n{report.END}\nafter\n")
    assert "| big | not measured: no room |  |" in written
    assert "old" not in written
    report.write(text, report.drawing(found, "Here."), page, file)
    assert page.read_text() == written


def test_a_page_without_marks_is_left_as_it_is(tmp_path):
    page, file = tmp_path / "README.md", tmp_path / "figures.svg"
    page.write_text("nothing")
    with pytest.raises(BenchmarkError, match="does not have the lines"):
        report.write("text", "<svg/>", page, file)
    assert page.read_text() == "nothing"
    assert not file.exists()


def test_the_plot_is_well_formed_and_has_every_mark():
    drawn = ET.fromstring(report.drawing([outcome()], "2 cores & <more>"))
    texts = [text.text for text in drawn.iter(f"{SVG}text")]
    assert texts.count("a <big> & slow one") == 2
    assert "2 cores & <more>" in texts
    assert len(list(drawn.iter(f"{SVG}rect"))) == 2
    assert len(list(drawn.iter(f"{SVG}circle"))) == 2
    width = float(drawn.attrib["width"])
    ends = [float(bar.attrib["x"]) + float(bar.attrib["width"]) for bar in drawn.iter(f"{SVG}rect")]
    assert all(end <= width for end in ends)


def test_a_panel_without_marks_is_not_drawn():
    drawn = ET.fromstring(plot.draw([Panel("Nothing", "ms", [])], "about"))
    assert [text.text for text in drawn.iter(f"{SVG}text")] == ["about"]


@pytest.mark.parametrize(("count", "expected"), [(1, 1.0), (100, 99.0), (101, 100.0), (1000, 990.0)])
def test_p99_is_the_smallest_sample_that_99_of_100_do_not_exceed(count, expected):
    assert Samples([float(number) for number in range(count, 0, -1)]).p99 == expected


def test_p95_is_the_smallest_sample_that_95_of_100_do_not_exceed():
    assert Samples([float(number) for number in range(100, 0, -1)]).p95 == 95.0


def test_a_median_is_sure_within_ranks_that_close_in_as_samples_grow():
    assert Samples([3.0]).sure == (3.0, 3.0)
    assert Samples([float(number) for number in range(10, 0, -1)]).sure == (1.0, 10.0)
    assert Samples([float(number) for number in range(1, 101)]).sure == (40.0, 61.0)


def test_what_a_run_recorded_is_read_once(tmp_path):
    file = tmp_path / "record.json"
    file.write_text('[{"setup": 1.0, "call": 2.0, "teardown": 4.0, "passed": true}, {"setup": 8.0, "passed": false}]')
    passed, failed = contest.recorded(file)
    assert (passed.whole, passed.fixtures, passed.passed) == (7.0, 5.0, True)
    assert (failed.whole, failed.fixtures, failed.passed) == (8.0, 8.0, False)
    assert contest.recorded(file) == []


def test_the_plugin_has_every_fixture_that_is_measured():
    assert ALL.issuperset(pytest_fixtures.FIXTURES.values())
    assert {way.name for way in pytest_fixtures.WAYS if way.ours} == set(pytest_fixtures.FIXTURES)


@pytest.mark.parametrize("schema", [schemas.ONE, schemas.FIFTY, schemas.MANY], ids=lambda schema: schema.key)
def test_a_schema_has_as_many_tables_as_its_name_says(schema):
    created = re.findall(r"CREATE TABLE (\w+)", schema.sql)
    assert schema.name.split()[0] == str(len(set(created))) == str(len(created))


@pytest.mark.parametrize("way", [*peers.WAYS, *peers_fifty.WAYS, *pytest_fixtures.WAYS], ids=lambda way: way.name)
def test_every_way_is_there(way):
    if way.plugin:
        assert (ROOT / "benchmarks" / "suites" / f"{way.plugin}.py").is_file()
    assert way.way is None or way.way in ways.WAYS
    assert (way.plugin == "by_way") <= (way.way is not None)


def test_the_readme_has_every_row_and_the_plot():
    found = re.search(
        rf"{re.escape(report.BEGIN)}\n(.*){re.escape(report.END)}", (ROOT / "README.md").read_text(), re.DOTALL
    )
    assert found
    assert [row for row in ROWS if f"| {row} |" not in found[1]] == []
    assert report.PLOT in found[1]
    assert ET.parse(plot.FILE).getroot().tag == f"{SVG}svg"
