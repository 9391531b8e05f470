"""Sections of the report: one of another package, those that raise, those without their columns."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import re
import sys
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from test_report import Visible, rows, save

from prunefront.analysis import report, sections
from prunefront.analysis.draw import render
from prunefront.analysis.rows import storage, table
from prunefront.analysis.rows.mistake import Mistake
from prunefront.analysis.sections import Section, budget
from prunefront.search import cli

ROOT = Path(__file__).resolve().parents[2]
MARKUP = "<script>alert('&')</script>"


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return save(tmp_path / "study", rows())


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "pdf", str.encode)  # the slow part


def installed(place: Path, monkeypatch: pytest.MonkeyPatch, code: str, *names: str) -> None:
    """A package `bubbles` with the module `timing`, and entry points to its SECTION."""
    (place / "bubbles").mkdir(parents=True)
    (place / "bubbles" / "__init__.py").touch()
    (place / "bubbles" / "timing.py").write_text(code)
    info = place / "bubbles-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bubbles\nVersion: 1\n")
    points = "".join(f"{name} = bubbles.timing:SECTION\n" for name in names or ("timing",))
    (info / "entry_points.txt").write_text(f"[prunefront.sections]\n{points}")
    monkeypatch.syspath_prepend(str(place))
    for name in [name for name in sys.modules if name.split(".")[0] == "bubbles"]:
        monkeypatch.delitem(sys.modules, name)
    importlib.invalidate_caches()


def documented() -> str:
    """The section of the documentation."""
    text = (ROOT / "docs" / "sections.md").read_text()
    [code] = re.findall(r"```python bubbles/timing.py\n(.*?)```", text, re.DOTALL)
    return code


def test_a_package_adds_a_section_in_less_than_sixty_lines(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = documented()
    assert len(code.splitlines()) < 60
    installed(tmp_path / "site", monkeypatch, code)
    page = report.build(study)
    text = page.read_text()
    seen = Visible.of(text)
    assert 'id="timing"' in text
    assert seen.index("Hypervolume") < seen.index("Where the time went") < seen.index("Provenance")
    assert "48 members were charged 72 s." in seen
    written = pd.read_csv(study / "report" / "timing.csv").set_index("arm")["seconds"]
    assert written.to_dict() == {"chance": 22.5, "dense": 4.5, "dns": 22.5, "magnitude": 22.5}
    assert "where the time went" in (page.parent / "timing.svg").read_text()
    assert (page.parent / "timing.pdf").exists()


RAISING = """
from prunefront.analysis import page
from prunefront.analysis.rows.mistake import Mistake
from prunefront.analysis.sections import Section

def maybe(place, value):
    if place == {place!r}:
        raise {error}
    return value

SECTION = Section(
    name="timing",
    title="Where the time went",
    figures=lambda study: maybe("figures", study.last[["arm"]]),
    html=lambda study, frame, drawings: iter(["<p>begun</p>", maybe("html", "<p>told</p>")]),
    charts={{"timing": lambda study, frame: maybe("chart", None)}},
    tables={{"timing": lambda study, frame: maybe("table", frame)}},
)
"""
PARTS = {
    "figures": "the section timing",
    "html": "the section timing",
    "chart": "the figure timing",
    "table": "timing.csv",
}
ERRORS = {
    'KeyError("accuracy_valdi")': "KeyError: 'accuracy_valdi'",
    f'ValueError("{MARKUP}\\nand more")': f"ValueError: {MARKUP} ...",
    'FileNotFoundError("its own file")': "FileNotFoundError: its own file",
    'SystemExit("it ends here")': "SystemExit: it ends here",
}


@pytest.mark.parametrize(
    ("place", "error"),
    [*zip(PARTS, itertools.repeat(next(iter(ERRORS)))), *zip(itertools.cycle(PARTS), ERRORS)],
)
def test_a_section_that_raises_is_named_and_costs_no_other(
    place: str, error: str, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render, "hindrance", lambda: "")
    monkeypatch.setattr(render, "svg", lambda picture: '<svg width="1" viewBox="0 0 1 1"></svg>')
    monkeypatch.setattr(render, "png", str.encode)
    installed(tmp_path / "site", monkeypatch, RAISING.format(place=place, error=error))
    with pytest.raises(report.Incomplete) as incomplete:
        report.build(study)
    page = incomplete.value.page
    text = page.read_text()
    whose = "of bubbles.timing:SECTION, which is no part of prunefront"
    told = f"{PARTS[place]}: failed, by a fault {whose} ({ERRORS[error]})"
    assert f"<li>{escape(told)}</li>" in text
    assert MARKUP not in text
    assert not incomplete.value.ours
    assert f"{PARTS[place]} ({ERRORS[error]})" in str(incomplete.value)
    assert ("Where the time went" in text) == (place in ("chart", "table"))
    assert "begun" not in text or place in ("chart", "table")
    assert (page.parent / "timing.csv").exists() == (place in ("chart", "html"))
    for heading in ("Fronts", "Operating points", "Hypervolume", "Checks", "Provenance"):
        assert f"<h2>{heading}</h2>" in text
    assert (page.parent / "front.csv").exists()


@pytest.mark.parametrize("place", PARTS)
def test_what_a_user_can_put_right_is_said_as_it_is(
    place: str, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = RAISING.format(place=place, error=f"Mistake({MARKUP!r})")
    installed(tmp_path / "site", monkeypatch, code)
    text = report.build(study).read_text()
    assert f"<li>{PARTS[place]}: {escape(MARKUP)}</li>" in text


def test_the_command_says_in_a_line_which_section_of_a_package_failed(
    study: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = RAISING.format(place="figures", error='KeyError("x")')
    installed(tmp_path / "site", monkeypatch, code)
    monkeypatch.setattr(sys, "argv", ["prunefront", "report", str(study)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    assert ended.value.code == 1
    assert said.err.count("\n") == 1
    assert "report.html is written without the section timing (KeyError: 'x')" in said.err
    assert "dns: sparsity 0.5" in said.out, "the front is told all the same"


@pytest.mark.parametrize("function", ["curves", "chart", "_introduced"])
@pytest.mark.parametrize("error", [KeyError("x"), Mistake(MARKUP)])
def test_one_of_ours_that_raises_costs_no_other(
    function: str, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its figures, its chart, its text."""

    def fails(*_: object) -> None:
        raise error

    first = [{**row, "rung": 1, "status": table.RUNNING} for row in rows()]
    study = save(tmp_path, [*first, *rows()])
    monkeypatch.setattr(budget, function, fails)
    part = "the figure budget" if function == "chart" else "the section budget"
    if isinstance(error, Mistake):
        text = report.build(study).read_text()
        assert f"<li>{part}: {escape(MARKUP)}</li>" in text
    else:
        with pytest.raises(report.Incomplete) as incomplete:
            report.build(study)
        assert incomplete.value.ours
        text = incomplete.value.page.read_text()
        assert f"{part}: failed, by a fault of prunefront (KeyError: &#x27;x&#x27;)" in text
    assert ("Over the budget" in text) == (function == "chart")
    assert "<h2>Provenance</h2>" in text


def test_entry_points_that_are_no_sections_are_named(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path / "site", monkeypatch, "SECTION = 3", "timing")
    text = Visible.of(report.build(study).read_text())
    assert "an entry point in prunefront.sections is a Section; got 3 from bubbles.timing" in text
    installed(tmp_path / "other", monkeypatch, "import nothing_of_that_name", "timing")
    with_both = Visible.of(report.build(study).read_text())
    assert "entry point bubbles.timing:SECTION cannot be loaded (ModuleNotFoundError" in with_both


def test_names_are_of_one_section_alone(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = documented().replace('tables={"timing"', 'tables={"front"')
    installed(tmp_path / "site", monkeypatch, code)
    text = Visible.of(report.build(study).read_text())
    assert "the section timing: its name 'front' is taken, by prunefront; got it from" in text
    assert "setting" in (study / "report" / "front.csv").read_text().splitlines()[0]
    with pytest.raises(Mistake, match="names of small letters, digits and _"):
        Section(name="../up", figures=lambda study: study.name, html=lambda *_: [])


def test_a_section_is_skipped_without_its_columns() -> None:
    frame = pd.DataFrame({"a": [1.0, None], "b": [None, None]})
    section = Section(name="x", figures=lambda study: study.name, html=lambda *_: [])
    for columns, lacks in (((), False), (("a",), False), (("a", "b"), True), (("c",), True)):
        assert dataclasses.replace(section, columns=columns).lacks(frame) == lacks


def test_every_file_of_the_folder_is_a_section_in_the_order() -> None:
    folder = Path(str(sections.__file__)).parent
    files = {path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")}
    assert files == {*sections.ORDER, *sections.CLOSING}


def test_rows_are_read_once(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every file: when the study is opened, and its footer again for the provenance."""
    opened: list[Any] = []
    source = storage.source

    def counted(path: Any) -> Any:
        opened.append(path)
        return source(path)

    monkeypatch.setattr(table, "source", counted)
    loaded = report.open_study(study)
    files = table.files(study)
    assert opened == files
    report.build(loaded)
    report.front_table(loaded)
    report.cautions(loaded)
    assert opened[len(files) :] == files
