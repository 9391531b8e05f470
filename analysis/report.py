"""The report of a study: one page that needs no network, its pictures as SVG and PDF, its tables as
CSV and Markdown.

Everything is computed from the rows, by the sections of the page (`sections`); this file goes
through them and writes what they make. Points are marked and ordered by validation data alone
(`front.py`).
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from html import escape
from typing import Any

import pandas as pd

from . import page, sections
from .draw import render
from .points import front
from .rows import rundir
from .rows.mistake import Mistake, raised
from .rows.storage import Location, Where, save
from .sections import Entry, Section, Study, answer, open_study, operating

PREVIEW = "flops_masked"
"""The chart whose files are called `front`, and that is there as PNG too."""
OTHERS = "compare."
"""How the files of another command in the folder begin."""


class Incomplete(ExceptionGroup[Exception]):
    """The report is written, but for parts that failed by a fault of ours, or of another package;
    `page` is its path, `ours` whether one is ours.
    """

    page: Location
    ours: bool


@dataclasses.dataclass(frozen=True)
class Failure:
    """What a part of a report raised. origin: the entry point of another package; empty: ours."""

    part: str
    error: BaseException
    origin: str

    @property
    def is_fault(self) -> bool:
        """Whether a program is wrong, and not what a user did."""
        return not isinstance(self.error, Mistake)

    def told(self) -> str:
        """The failure in a sentence."""
        if not self.is_fault:
            return f"{self.part}: {self.error}"
        whose = f"of {self.origin}, which is no part of" if self.origin else "of"
        return f"{self.part}: failed, by a fault {whose} prunefront ({raised(self.error)})"


@dataclasses.dataclass
class Parts:
    """What a report is put together from."""

    study: Study
    target: Location
    body: list[str] = dataclasses.field(default_factory=list)
    drawings: dict[str, str] = dataclasses.field(default_factory=dict)
    """Charts that could be drawn, as SVG text."""
    pictures: dict[str, render.Picture] = dataclasses.field(default_factory=dict)
    failures: list[Failure] = dataclasses.field(default_factory=list)

    @contextlib.contextmanager
    def alone(self, part: str, origin: str = "") -> Iterator[None]:
        """Keep what goes wrong in a part of a report, so that it does not cost the others. A folder
        that fails fails them all.
        """
        try:
            yield
        except OSError as error:
            if not origin:
                raise
            self.failures.append(Failure(part, error, origin))
        except (Exception, SystemExit) as error:  # a package's own code may raise anything
            error.add_note(f"in {part} of a report")
            self.failures.append(Failure(part, error, origin))

    def save(self, name: str, text: str) -> None:
        """Write a file of text; names of others may hold what UTF-8 has no place for."""
        save(self.target / name, text.encode(errors="backslashreplace"))


def build(folder: Where | Study, published: Where | None = None) -> Location:
    """Write `report/` of a study's output folder: `report.html`, each chart as SVG and PDF,
    `front.png`, `arms.md`, and the sections' tables.

    folder: or the study in it, as from `open_study`.  published: a file of published points
    (`published.points_of`), drawn in the fronts and listed.
    Returns the page's path. Each part is tried alone: what fails is named on the page, and all else
    is written. Raises Mistake if there are no rows, a file cannot be trusted, or no member is done;
    and at the end Incomplete, if parts failed.
    """
    study = folder if isinstance(folder, Study) else open_study(folder, published)
    parts = Parts(study, rundir.report(study.folder))
    entries = sections.entries()
    _sweep(parts.target, entries)
    for entry in entries:
        _add(parts, entry)
    for name, drawing in parts.drawings.items():
        _save_drawing(parts, name, drawing)
    missing = "".join(_missing(parts.failures))
    body = "".join(parts.body)
    text = page.page(study.name, missing + body, parts.pictures)
    parts.save("report.html", text)
    _complain(parts)
    return parts.target / "report.html"


def _sweep(target: Location, entries: list[Entry]) -> None:
    """Remove what an earlier report left: its pictures, and the tables of sections."""
    drawings = [*target.glob("*.svg"), *target.glob("*.pdf")]
    preview = target / "front.png"
    for path in [*drawings, preview]:
        if not path.name.startswith(OTHERS):
            path.unlink(missing_ok=True)
    for entry in entries:
        if not isinstance(entry.section, Section):
            continue
        for name in entry.section.tables:
            path = target / f"{name}.csv"
            path.unlink(missing_ok=True)


def _add(parts: Parts, entry: Entry) -> None:
    """Make a section of the report, and write its tables and texts."""
    section = entry.section
    origin = entry.origin
    part = f"the section {entry.name}"
    if isinstance(section, Mistake):
        parts.failures.append(Failure(part, section, origin))
        return
    study = parts.study
    if section.lacks(study.rows):
        return
    figures = None
    with parts.alone(part, origin):
        figures = section.figures(study)
    if figures is None:
        return
    drawings = _drawn(parts, section, figures, origin)
    with parts.alone(part, origin):
        told = section.html(study, figures, drawings)
        parts.body.append(_headed(section.title, "".join(told)))
    for name, make in section.tables.items():
        with parts.alone(f"{name}.csv", origin):
            _save_table(parts, f"{name}.csv", make(study, figures))
    for name, tell in section.texts.items():
        with parts.alone(name, origin):
            parts.save(name, tell(study, figures))


def _headed(title: str, text: str) -> str:
    """A text with its heading, if it has both."""
    if not text or not title:
        return text
    return f"<h2>{escape(title)}</h2>\n{text}"


def _drawn(
    parts: Parts,
    section: Section[Any],
    figures: Any,
    origin: str,
) -> dict[str, str]:
    """The section's charts that could be drawn."""
    drawings = {}
    for name, draw in section.charts.items():
        with parts.alone(f"the figure {name}", origin):
            picture = draw(parts.study, figures)
            if picture is not None:
                drawings[name] = render.svg(picture)
                parts.pictures[name] = picture
    parts.drawings |= drawings
    return drawings


def _save_table(parts: Parts, name: str, lines: pd.DataFrame) -> None:
    if len(lines):
        parts.save(name, lines.to_csv(index=False, lineterminator="\n"))


def _save_drawing(parts: Parts, name: str, drawing: str) -> None:
    file = "front" if name == PREVIEW else name
    folder = parts.target
    with parts.alone(f"{file}.svg and {file}.pdf"):
        parts.save(f"{file}.svg", render.paper(drawing))
        document = render.pdf(drawing)
        save(folder / f"{file}.pdf", document)
    if name == PREVIEW:
        with parts.alone("front.png"):
            pixels = render.png(drawing)
            save(folder / "front.png", pixels)


def _missing(failures: list[Failure]) -> Iterator[str]:
    """The parts that could not be made, before all else; nothing if there are none."""
    if failures:
        yield "<h2>Not in this report</h2>\n<ul>\n"
        for failure in failures:
            yield f"<li>{escape(failure.told())}</li>\n"
        yield "</ul>\n"


def _complain(parts: Parts) -> None:
    """Raise Incomplete if parts failed by a program's fault."""
    faults = [failure for failure in parts.failures if failure.is_fault]
    if not faults:
        return
    path = parts.target / "report.html"
    missing: list[str] = []
    errors: list[Exception] = []
    for fault in faults:
        missing.append(f"{fault.part} ({raised(fault.error)})")
        errors.append(_as_exception(fault.error))
    listed = "; ".join(missing)
    incomplete = Incomplete(f"{path} is written without {listed}", errors)
    incomplete.page = path
    incomplete.ours = not all(fault.origin for fault in faults)
    raise incomplete


def _as_exception(error: BaseException) -> Exception:
    """An exception that a group may hold: one that would end the process is told in another."""
    if isinstance(error, Exception):
        return error
    other = RuntimeError(raised(error))
    for note in error.__notes__:
        other.add_note(note)
    return other


# ---- for a terminal


def front_table(folder: Where | Study) -> list[list[str]]:
    """The fronts of all arms as rows of text, the heading first; points as `front.listed` has them.

    What leaves costs its shrunk FLOPs: the front by these comes first, then what is on the one by
    masked FLOPs alone. The column `front` says by which.  Raises Mistake as `build` does.
    """
    study = folder if isinstance(folder, Study) else open_study(folder)
    first = study.summary.head(1)
    example = page.records(first)[0]
    heading = operating.cells(example)
    lines = [[*heading, "front"]]
    chosen = _on_fronts(study.points)
    for point in page.records(chosen):
        cells = operating.cells(point)
        which = _which(point)
        line = [*cells.values(), which]
        lines.append(line)
    return lines


def _on_fronts(points: pd.DataFrame) -> pd.DataFrame:
    """The points on the front by shrunk or by masked FLOPs, and on which; none of a check."""
    is_check = front.is_check(points)
    compared = points[~is_check]
    shrunk = front.fronts(compared, "flops_shrunk")
    masked = front.fronts(compared, "flops_masked")
    is_on_one = shrunk | masked
    known = compared.assign(by_shrunk=shrunk, by_masked=masked)
    on_front = known[is_on_one]
    return front.ordered(on_front, "flops_shrunk")


def _which(point: dict[str, Any]) -> str:
    """The front that a point is on."""
    if not point["by_masked"]:
        return "shrunk"
    return "both" if point["by_shrunk"] else "masked"


def cautions(folder: Where | Study) -> list[str]:
    """What is to be known beside every figure of FLOPs: operations that are not counted, networks
    that are no points.
    """
    return answer.notes_on(folder if isinstance(folder, Study) else open_study(folder))
