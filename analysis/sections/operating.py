"""The operating points: a table of the means of every setting, those on the front first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from .. import page
from ..points import front, words
from ._section import Drawings, Section
from ._study import Study

LISTED = 1000
"""Points that the page has room for, in its order; the file has all."""


def figures(study: Study) -> pd.DataFrame:
    """The points that are listed, the front of all arms first; without sanity checks."""
    points = study.points
    own = points[~front.is_check(points)]
    done = own[own["done"] > 0]
    return front.ordered(done)


def table(study: Study, _: pd.DataFrame) -> pd.DataFrame:
    """Every point in full precision, with the fronts that it is on."""
    summary = study.summary
    marked = summary.assign(
        front_masked=front.fronts(summary), front_shrunk=front.fronts(summary, "flops_shrunk")
    )
    return front.ordered(marked)


def html(study: Study, points: pd.DataFrame, _: Drawings) -> Iterator[str]:
    yield page.say(
        "The front of all arms comes first (validation accuracy up, masked FLOPs down), the others "
        "below it, paler; each from the most to the fewest FLOPs. Validation data marked and "
        "ordered them, test data did not. Full precision is in front.csv."
    )
    summary = study.summary
    every = int(((summary["done"] > 0) & ~front.is_check(summary)).sum())
    if every > len(points):
        yield page.say(
            f"{len(points)} of {every} points are listed and drawn; all are in front.csv. Counts "
            "of candidates that chose the same networks in every seed are one point, with the "
            "costs of the fewest. Of these stay the counts at 1, 4, 16 and so on, the largest, and "
            "those on their arm's front: of many near-equal counts that is the luckiest."
        )
    for bend in page.records(points[front.knees(points, "flops_shrunk")]):
        where = f"{page.label(bend)}, {bend['setting']}"
        yield page.say(
            f"The knee of the front by shrunk FLOPs: {where} (`prunefront pick --knee` takes it)."
        )
    if operations := front.unknown_operations(points):
        yield page.say(front.uncounted(operations))
    kinds = ["front" if belongs else "other" for belongs in front.fronts(points)]
    if len(points) > LISTED:
        yield page.say(f"Listed: the first {LISTED} of {len(points)} points.")
    lines = [cells(point) for point in page.records(points.head(LISTED))]
    texts = [list(line.values()) for line in lines]
    yield page.grid(list(lines[0]), texts, kinds[:LISTED])


def cells(point: Mapping[str, Any]) -> dict[str, str]:
    """One operating point as text, by heading; what operations without a FLOPs formula touch is
    marked.
    """
    uncounted = bool(point.get("unknown_ops"))
    doubt = "x ?" if uncounted else "x"
    valid = words.spread(point["accuracy_valid"], point["accuracy_valid_std"])
    difference = words.spread(point["difference_valid"], point["difference_valid_std"], "+z.2f")
    test = words.spread(point["accuracy_test"], point["accuracy_test_std"])
    compression = words.number(point["compression"], ".3g")
    ideal = words.number(point["speedup_masked"], ".3g")
    on_any_hardware = words.number(point["speedup_shrunk"], ".3g")
    trained = words.large(point["train_flops"])
    searched = _searched(point)
    return {
        "arm": page.label(point),
        "setting": str(point["setting"]),
        "n": str(point["done"]),
        "valid. accuracy %": valid,
        "difference": difference,
        "test accuracy %": test,
        "FLOPs masked": words.flops(point["flops_masked"], uncounted),
        "FLOPs shrunk": words.flops(point["flops_shrunk"], uncounted),
        "compression": f"{compression}x",
        "speed-up ideal": f"{ideal}{doubt}",
        "any hardware": f"{on_any_hardware}{doubt}",
        "train FLOPs (search)": f"{trained}{searched}",
        "seconds": words.large(point["seconds"]),
    }


def _searched(point: Mapping[str, Any]) -> str:
    """What a search took of the training FLOPs; nothing if there was none."""
    whole = max(point["train_flops"], 1)
    percent = 100 * (point["search_flops"] / whole)
    if percent > 0:
        share = words.number(percent, ".2g")
        return f" ({share}%)"
    return ""


SECTION = Section(
    name="operating_points",
    title="Operating points",
    figures=figures,
    html=html,
    tables={"front": table},
)
