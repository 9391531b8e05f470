"""The report of a study: one page that needs no network, its pictures as SVG and PDF, its tables as
CSV and Markdown.

Everything is computed from the rows. Points are marked and ordered by validation data alone
(`front.py`).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator

import pandas as pd

from . import page
from .draw import plot
from .inference import attainment, dominance, latency, verdicts
from .points import front
from .points import words as wording
from .rows import goals, table
from .rows import published as literature
from .rows.mistake import Mistake
from .rows.storage import Location, Where, locate, save
from .sections import answer, blocks, budget, certificates, controls, layers, searches


class Incomplete(ExceptionGroup[Exception]):
    """The report is written, but for parts that failed by a fault of ours; `page` is its path."""

    page: Location


class Found:
    """What a report is made of, each frame computed when it is first asked for.

    published: a file of published points, or None.
    """

    def __init__(
        self, folder: Location, rows: pd.DataFrame, summary: pd.DataFrame, published: Where | None
    ) -> None:
        self.folder, self.rows, self.summary = folder, rows, summary
        self.study = str(rows["study"].iloc[0])
        self.others = None
        if published is not None:
            self.others = literature.beside(
                literature.read(published), str(rows["dataset"].iloc[0]), published
            )

    @functools.cached_property
    def last(self) -> pd.DataFrame:
        return table.last(self.rows)

    @functools.cached_property
    def own(self) -> pd.DataFrame:
        """Last rows that are of no sanity check."""
        return self.last[~controls.is_check(self.last)]

    @functools.cached_property
    def points(self) -> pd.DataFrame:
        return front.listed(self.summary, self.last)

    @functools.cached_property
    def smaller(self) -> bool:
        """Whether FLOPs after shrinking differ from the parent's."""
        done = self.points[self.points["done"] > 0]
        return bool((done["flops_shrunk"] != done["flops_dense"]).any())

    @functools.cached_property
    def arms(self) -> pd.DataFrame:
        return answer.both(self.last)

    @functools.cached_property
    def uncounted(self) -> list[str]:
        """Operations without a FLOPs formula."""
        return front.unknown_operations(self.last[self.last["status"] == "done"])

    @functools.cached_property
    def compared(self) -> verdicts.Verdicts | str:
        """The comparisons of the study's arms, or why there are none."""
        try:
            return verdicts.build([self.folder])
        except Mistake as error:
            return str(error).removeprefix(f"{self.folder}: ")

    @functools.cached_property
    def surfaces(self) -> tuple[pd.DataFrame, dict[tuple[str, bool], str]]:
        return attainment.surfaces(attainment.points(self.own))

    @functools.cached_property
    def checked(self) -> pd.DataFrame:
        return controls.checked(self.last)

    @functools.cached_property
    def kept(self) -> pd.DataFrame:
        return layers.shares(self.last)

    @functools.cached_property
    def spent(self) -> pd.DataFrame:
        return attainment.spent(attainment.compute(self.own))

    @functools.cached_property
    def searched(self) -> pd.DataFrame:
        return searches.found(self.last)

    @functools.cached_property
    def correlations(self) -> pd.DataFrame:
        return searches.correlations(self.last)

    @functools.cached_property
    def measured(self) -> tuple[pd.DataFrame, int]:
        return budget.measured(self.rows, self.points[~controls.is_check(self.points)])

    @functools.cached_property
    def over(self) -> pd.DataFrame:
        return budget.curves(self.measured[0])

    @functools.cached_property
    def wanted(self) -> goals.Goals:
        return goals.recorded(self.folder)

    @functools.cached_property
    def tried(self) -> pd.DataFrame:
        return dominance.tried(self.rows, self.wanted)

    @functools.cached_property
    def departures(self) -> pd.DataFrame:
        return dominance.departures(self.rows)

    @functools.cached_property
    def proven(self) -> pd.DataFrame:
        return certificates.measured(self.rows, self.summary)

    @functools.cached_property
    def gaps(self) -> pd.DataFrame:
        return certificates.curves(self.proven)

    @functools.cached_property
    def proofs(self) -> pd.DataFrame:
        return certificates.shown(self.gaps)

    @functools.cached_property
    def timed(self) -> pd.DataFrame:
        return latency.shown(self.folder, self.last)


def build(folder: Where, published: Where | None = None) -> Location:
    """Write `report/` of a study's output folder: `report.html`, each chart as SVG and PDF,
    `front.png`, `arms.md`, `TABLES`.

    published: a file of published points (`published.read`), drawn in the fronts and listed.
    Returns the page's path. Each part is tried alone: what fails is named on the page, and all else
    is written. Raises Mistake if there are no rows, a file cannot be trusted, or no member is done;
    and at the end Incomplete, if parts failed.
    """
    folder = locate(folder)
    found = Found(folder, *_load(folder), published)
    failed: dict[str, Exception] = {}
    target = folder / "report"
    drawings, pictures = dict[str, str](), dict[str, plot.Picture]()
    for name, draw in _PICTURES.items():
        with _alone(f"the figure {name}", failed):
            picture = draw(found)
            if picture is not None:
                drawings[name] = plot.svg(picture)
                pictures[name] = picture
    body = list[str]()
    for name, told in _SECTIONS.items():
        with _alone(f"the section {name}", failed):
            body += list(told(found, drawings))
    for name, frame in _FRAMES.items():
        (target / f"{name}.csv").unlink(missing_ok=True)
        with _alone(f"{name}.csv", failed):
            if len(lines := frame(found)):
                save(
                    target / f"{name}.csv", _encoded(lines.to_csv(index=False, lineterminator="\n"))
                )
    with _alone("arms.md", failed):
        table_of_arms = wording.grid(*blocks.arms_table(found.arms, found.uncounted))
        notes = "".join(f"\n{sentence}\n" for sentence in _cautions(found.last))
        save(target / "arms.md", _encoded(f"{table_of_arms}\n{notes}"))
    for path in [*target.glob("*.svg"), *target.glob("*.pdf"), target / "front.png"]:
        if not path.name.startswith("compare."):  # those of another command
            path.unlink(missing_ok=True)
    for name, drawing in drawings.items():
        file = "front" if name == "flops_masked" else name
        with _alone(f"{file}.svg and {file}.pdf", failed):
            save(target / f"{file}.svg", _encoded(plot.paper(drawing)))
            save(target / f"{file}.pdf", plot.pdf(drawing))
    if "flops_masked" in drawings:
        with _alone("front.png", failed):
            save(target / "front.png", plot.png(drawings["flops_masked"]))
    missing = "".join(blocks.lacking(failed))
    save(
        target / "report.html", _encoded(page.page(found.study, missing + "".join(body), pictures))
    )
    faults = [error for error in failed.values() if not isinstance(error, Mistake)]
    if faults:
        incomplete = Incomplete(f"{target / 'report.html'} is written without what failed", faults)
        incomplete.page = target / "report.html"
        raise incomplete
    return target / "report.html"


@contextlib.contextmanager
def _alone(part: str, failed: dict[str, Exception]) -> Iterator[None]:
    """Keep what goes wrong in a part of a report, so that it does not cost the others. A folder
    that fails fails them all.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        error.add_note(f"in {part} of a report")
        failed[part] = error


def _encoded(text: str) -> bytes:
    """UTF-8; names of files may hold what it has no place for."""
    return text.encode(errors="backslashreplace")


# ---- the parts, in the order of the page


def _attained(found: Found) -> plot.Picture | None:
    surfaces, _ = found.surfaces
    return plot.attained(surfaces, found.study) if (surfaces["relative"] > 0).any() else None


def _shrunk(found: Found) -> plot.Picture | None:
    if not found.smaller:
        return None
    return plot.chart(controls.gathered(found.points), found.study, "flops_shrunk", found.others)


def _masked(found: Found) -> plot.Picture:
    return plot.chart(controls.gathered(found.points), found.study, published=found.others)


def _differences(found: Found) -> plot.Picture | None:
    return None if isinstance(found.compared, str) else verdicts.picture(found.compared)


def _checks(found: Found) -> plot.Picture | None:
    return plot.checks(verdicts.drawn(found.checked), found.study) if len(found.checked) else None


def _layers(found: Found) -> plot.Picture | None:
    return plot.layers(found.kept, found.study) if len(found.kept) else None


def _compute(found: Found) -> plot.Picture | None:
    return (
        plot.compute(found.spent, found.study) if found.spent["hypervolume"].gt(0).any() else None
    )


def _search(found: Found) -> plot.Picture | None:
    lines = found.searched
    if lines.empty:
        return None
    return plot.search(
        searches.curves(found.last), lines[lines["network"] == "random"], found.study
    )


def _budget(found: Found) -> plot.Picture | None:
    return plot.budget(budget.shown(found.over), found.study) if len(found.over) else None


def _stopping(found: Found) -> plot.Picture | None:
    return plot.stopping(dominance.means(found.tried), found.study) if len(found.tried) else None


def _certificates(found: Found) -> plot.Picture | None:
    drawable = found.proofs[certificates.drawable(found.proofs)]
    return plot.certificates(drawable, found.study) if len(drawable) else None


def _latency(found: Found) -> plot.Picture | None:
    drawable = found.timed["milliseconds"].notna() & (found.timed["flops_shrunk"] > 0)
    return plot.latency(found.timed, found.study) if drawable.any() else None


_PICTURES: dict[str, Callable[[Found], plot.Picture | None]] = {
    "flops_masked": _masked,
    "flops_shrunk": _shrunk,
    "attained": _attained,
    "differences": _differences,
    "checks": _checks,
    "layers": _layers,
    "compute": _compute,
    "search": _search,
    "budget": _budget,
    "stopping": _stopping,
    "certificates": _certificates,
    "latency": _latency,
}
"""Figures by the name of their file; None where there is nothing to draw."""


def _over(found: Found, drawings: blocks.Drawings) -> Iterator[str]:
    lines, lacking = found.measured
    return blocks.over_the_budget(found.over, budget.early(lines, found.over), lacking, drawings)


def _dominance(found: Found, drawings: blocks.Drawings) -> Iterator[str]:
    return blocks.stopping_by_dominance(
        found.rows, found.tried, found.wanted, found.departures, drawings
    )


_SECTIONS: dict[str, Callable[[Found, blocks.Drawings], Iterator[str]]] = {
    "headline": lambda found, _: blocks.headline(found.rows, table.cautions(found.folder)),
    "question": lambda found, _: blocks.question(found.arms, found.compared, found.uncounted),
    "fronts": lambda found, drawings: blocks.fronts(found.smaller, found.last, drawings),
    "bands": lambda found, drawings: blocks.bands(found.surfaces[1], drawings),
    "published points": lambda found, _: blocks.published_points(found.others),
    "operating points": lambda found, _: blocks.operating_points(found.summary, found.points),
    "differences": lambda found, drawings: blocks.differences(found.compared, drawings),
    "sanity checks": lambda found, drawings: blocks.sanity(
        found.checked, drawings, table.cautions(found.folder)
    ),
    "hypervolume": lambda found, _: blocks.hypervolumes(found.own),
    "compute": lambda _, drawings: blocks.compute(drawings),
    "layers": lambda _, drawings: blocks.by_layer(drawings),
    "latency": lambda found, drawings: blocks.latencies(found.timed, found.last, drawings),
    "search": lambda found, drawings: blocks.search_against_chance(
        found.searched, found.correlations, drawings
    ),
    "budget": _over,
    "stopping": _dominance,
    "certificates": lambda found, drawings: blocks.proofs(
        found.rows, found.proven, found.proofs, drawings
    ),
    "checks": lambda found, _: blocks.measurement_checks(found.folder, found.rows, found.summary),
    "provenance": lambda found, _: blocks.provenance(found.folder),
}


def _front(found: Found) -> pd.DataFrame:
    summary = found.summary
    marked = summary.assign(
        front_masked=front.fronts(summary), front_shrunk=front.fronts(summary, "flops_shrunk")
    )
    return front.ordered(marked)


def _searched(found: Found) -> pd.DataFrame:
    if found.correlations.empty:
        return found.searched
    return found.searched.merge(found.correlations, how="left", on=["algorithm", "setting"])


_FRAMES: dict[str, Callable[[Found], pd.DataFrame]] = {
    "front": _front,
    "arms": lambda found: found.arms,
    "checks": lambda found: found.checked,
    "layers": lambda found: found.kept,
    "search": _searched,
    "budget": lambda found: found.over,
    "stopping": lambda found: found.tried if len(found.tried) else found.departures,
    "certificates": lambda found: found.gaps,
}
TABLES = tuple(_FRAMES)
"""The CSV files of a report: those that have lines."""


def front_table(folder: Where) -> list[list[str]]:
    """The fronts of all arms as rows of text, the heading first; points as `front.listed` has them.

    What leaves costs its shrunk FLOPs: the front by these comes first, then what is on the one by
    masked FLOPs alone. The column `front` says by which.  Raises Mistake as `build` does.
    """
    folder = locate(folder)
    rows, summary = _load(folder)
    points = front.listed(summary, table.last(rows))
    points = points[~controls.is_check(points)]
    on = {cost: front.fronts(points, cost) for cost in front.COSTS}
    words = (
        on["flops_shrunk"]
        .map({True: "shrunk", False: "masked"})
        .where(~on["flops_shrunk"] | ~on["flops_masked"], "both")
    )
    chosen = points.assign(on=words)[on["flops_shrunk"] | on["flops_masked"]]
    chosen = front.ordered(chosen, "flops_shrunk")
    lines = [blocks.point(each) | {"front": each["on"]} for each in blocks.records(chosen)]
    head = list(lines[0]) if lines else [*blocks.point(blocks.records(summary)[0]), "front"]
    return [head, *[list(line.values()) for line in lines]]


def cautions(folder: Where) -> list[str]:
    """What is to be known beside every figure of FLOPs: operations that are not counted, networks
    that are no points.
    """
    return _cautions(table.last(table.current(folder, table.read(folder))))


def _cautions(last: pd.DataFrame) -> list[str]:
    uncounted = front.uncounted(front.unknown_operations(last[last["status"] == "done"]))
    return [sentence for sentence in [uncounted, *front.left_out(last)] if sentence]


def _load(folder: Location) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All rows, and the summary of the last ones."""
    if not folder.is_dir():
        raise Mistake(f"{folder}: no such folder; a report is made from a study's output folder")
    rows = table.current(folder, table.read(folder))
    summary = front.summarise(table.last(rows))
    if not summary["done"].sum():
        counts = [
            f"{summary[status].sum()} {status}" for status in table.FINAL if summary[status].sum()
        ]
        if waiting := len(table.unfinished(rows)):
            counts.append(f"{waiting} unfinished")
        raise Mistake(
            f"{folder}: a report needs a member that is done; got none ({', '.join(counts)})"
        )
    return rows, summary
