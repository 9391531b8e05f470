"""The report of a study: one page that needs no network, its pictures as SVG and PDF, its tables as CSV and Markdown.

Everything is computed from the rows. Points are marked and ordered by validation data alone (`front.py`).
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from . import (
    answer,
    attainment,
    budget,
    certificates,
    controls,
    dominance,
    front,
    goals,
    latency,
    layers,
    page,
    plot,
    searches,
    sections,
    table,
    verdicts,
    wording,
)
from . import published as literature
from .mistake import Mistake
from .storage import Location, save

TABLES = ("front", "arms", "checks", "layers", "search", "budget", "stopping", "certificates")
"""The CSV files of a report: those that have lines."""


def build(folder: Location, published: Path | None = None) -> Location:
    """Write `report/` of a study's output folder: `report.html`, each chart as SVG and PDF, `front.png`, `arms.md`, `TABLES`.

    published: a file of published points (`published.read`), drawn in the fronts and listed.
    Returns the page's path. Raises Mistake if there are no rows, a file cannot be trusted, or no member is done.
    """
    rows, summary = _load(folder)
    last, study = table.last(rows), str(rows["study"].iloc[0])
    own = last[~controls.is_check(last)]
    points = front.listed(summary, last)
    others = (
        None if published is None else literature.beside(literature.read(published), str(rows["dataset"].iloc[0]), published)
    )
    arms, compared = answer.arms(last), _compared(folder)
    surfaces, refused = attainment.surfaces(attainment.points(own))
    checked, kept = controls.checked(last), layers.shares(last)
    spent = attainment.spent(attainment.compute(own))
    found, correlations = searches.found(last), searches.correlations(last)
    measured, lacking = budget.measured(rows, points[~controls.is_check(points)])
    over = budget.curves(measured)
    wanted = goals.recorded(folder)
    tried, departures = dominance.tried(rows, wanted), dominance.departures(rows)
    proven = certificates.measured(rows, summary)
    gaps = certificates.curves(proven)
    proofs = certificates.shown(gaps)
    timed = latency.shown(folder, last)

    pictures = _fronts(controls.gathered(points), study, others)
    if (surfaces["relative"] > 0).any():
        pictures["attained"] = plot.attained(surfaces, study)
    if not isinstance(compared, str):
        pictures["differences"] = verdicts.picture(compared)
    if len(checked):
        pictures["checks"] = plot.checks(verdicts.drawn(checked), study)
    if len(kept):
        pictures["layers"] = plot.layers(kept, study)
    if spent["hypervolume"].gt(0).any():
        pictures["compute"] = plot.compute(spent, study)
    if len(found):
        pictures["search"] = plot.search(searches.curves(last), found[found["network"] == "random"], study)
    if len(over):
        pictures["budget"] = plot.budget(budget.shown(over), study)
    if len(tried):
        pictures["stopping"] = plot.stopping(dominance.means(tried), study)
    if certificates.drawable(proofs).any():
        pictures["certificates"] = plot.certificates(proofs[certificates.drawable(proofs)], study)
    if (timed["milliseconds"].notna() & (timed["flops_shrunk"] > 0)).any():
        pictures["latency"] = plot.latency(timed, study)

    drawings = {name: plot.svg(picture) for name, picture in pictures.items()}
    body = [
        *sections.headline(rows, table.cautions(folder)),
        *sections.question(arms, compared),
        *sections.fronts(drawings),
        *sections.bands(refused, drawings),
        *sections.published_points(others),
        *sections.operating_points(summary, points),
        *sections.differences(compared, drawings),
        *sections.sanity(checked, drawings, table.cautions(folder)),
        *sections.hypervolumes(own),
        *sections.compute(drawings),
        *sections.by_layer(drawings),
        *sections.latencies(timed, last, drawings),
        *sections.search_against_chance(found, correlations, drawings),
        *sections.over_the_budget(over, budget.early(measured, over), lacking, drawings),
        *sections.stopping_by_dominance(rows, tried, wanted, departures, drawings),
        *sections.proofs(rows, proven, proofs, drawings),
        *sections.measurement_checks(folder, rows, summary),
        *sections.provenance(folder),
    ]
    marked = summary.assign(front_masked=front.fronts(summary), front_shrunk=front.fronts(summary, "flops_shrunk"))
    searched = found.merge(correlations, how="left", on=["algorithm", "setting"]) if len(correlations) else found
    frames = (front.ordered(marked), arms, checked, kept, searched, over, tried if len(tried) else departures, gaps)
    target = folder / "report"
    for name, frame in zip(TABLES, frames, strict=True):
        (target / f"{name}.csv").unlink(missing_ok=True)
        if len(frame):
            save(target / f"{name}.csv", frame.to_csv(index=False, lineterminator="\n").encode())
    save(target / "arms.md", (wording.grid(*sections.arms_table(arms)) + "\n").encode())
    for name, drawing in drawings.items():
        file = "front" if name == "flops_masked" else name
        save(target / f"{file}.svg", plot.paper(drawing).encode())
        save(target / f"{file}.pdf", plot.pdf(drawing))
    save(target / "front.png", plot.png(drawings["flops_masked"]))
    save(target / "report.html", page.page(study, "".join(body), pictures).encode())
    return target / "report.html"


def front_table(folder: Location) -> list[list[str]]:
    """The front of all arms as rows of text, the heading first; points as `front.listed` has them.

    Raises Mistake as `build` does.
    """
    rows, summary = _load(folder)
    points = front.listed(summary, table.last(rows))
    points = points[~controls.is_check(points)]
    lines = [sections.point(each) for each in sections.records(front.ordered(points[front.fronts(points)]))]
    return [list(lines[0]), *[list(line.values()) for line in lines]]


def _load(folder: Location) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All rows, and the summary of the last ones."""
    if not folder.is_dir():
        raise Mistake(f"{folder}: no such folder; a report is made from a study's output folder")
    rows = table.current(folder, table.read(folder))
    summary = front.summarise(table.last(rows))
    if not summary["done"].sum():
        counts = [f"{summary[status].sum()} {status}" for status in table.FINAL if summary[status].sum()]
        counts.append(f"{len(table.unfinished(rows))} unfinished")
        raise Mistake(f"{folder}: no member is done yet ({', '.join(counts)}); a report needs at least one")
    return rows, summary


def _compared(folder: Location) -> verdicts.Verdicts | str:
    """The comparisons of the study's arms, or why there are none."""
    try:
        return verdicts.build([folder])
    except Mistake as error:
        return str(error).removeprefix(f"{folder}: ")


def _fronts(points: pd.DataFrame, study: str, others: pd.DataFrame | None) -> dict[str, plot.Picture]:
    """The figure, and a second one where counts after shrinking differ from the parent's."""
    pictures = {"flops_masked": plot.chart(points, study, published=others)}
    done = points[points["done"] > 0]
    if (done["flops_shrunk"] != done["flops_dense"]).any():
        pictures["flops_shrunk"] = plot.chart(points, study, "flops_shrunk", others)
    return pictures
