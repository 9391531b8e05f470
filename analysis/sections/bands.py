"""What shares of the seeds attain: attainment surfaces, a band for each arm."""

from __future__ import annotations

from collections.abc import Iterator

import altair as alt
import numpy as np
import pandas as pd

from .. import page
from ..draw import axes, looks
from ..draw.looks import Data
from ..draw.render import Picture
from ..inference import attainment
from ..points import front
from ..rows.mistake import Mistake
from ._section import Drawings, Section
from ._study import Study

Surfaces = tuple[pd.DataFrame, dict[tuple[str, bool], str]]
"""As from `attainment.surfaces`: the surfaces, and for labels without any, why."""


def figures(study: Study) -> Surfaces:
    points = attainment.points(study.own)
    return attainment.surfaces(points)


def picture(study: Study, surfaces: Surfaces) -> Picture | None:
    corners, _ = surfaces
    computing = corners["relative"] > 0
    if not computing.any():
        return None
    return chart(corners, study.name)


def chart(surfaces: pd.DataFrame, study: str, cost: front.Cost = "flops_masked") -> Picture:
    """Attainment surfaces over seeds: for each label the median as stairs, and a band between the
    outer percentages.

    surfaces: as from `attainment.surfaces`.  At each cost, the band's upper edge is the accuracy
    that the least percentage of the seeds attains, the lower that of the largest; where the largest
    attains nothing yet, it goes to the foot of the axis. Corners of no FLOPs, which a logarithmic
    axis cannot hold, are left out with a note.
    """
    corners = surfaces.assign(label=looks.labels(surfaces))
    there = corners[corners["relative"] > 0]
    if there.empty:
        raise Mistake(
            f"{study}: no attained point has FLOPs left ({cost}), "
            "so a logarithmic axis cannot hold any"
        )
    drawn = pd.concat([_band(group) for _, group in there.groupby(["control", "arm"])])
    vertical = axes.accuracy(drawn.assign(front=True))
    drawn["low"] = drawn["low"].fillna(vertical.low)
    data = Data()
    axis = alt.Axis(format="~%", tickCount=6)
    x = axes.logarithmic("relative", ["share of the parent's FLOPs", axes.COSTS[cost]], axis, 16)
    layers = [*_layers(data.chart(drawn), drawn, x, vertical), *axes.squeezed(vertical.broken)]
    low, middle, high = attainment.PERCENT
    seeds = looks.seeds(drawn["seeds"])
    said = [
        f"Over {seeds}, validation data. Line: what {middle} % of the seeds attain; "
        f"band: between what {low} % and {high} % do.",
        "Hollow, dashed: control. Stairs, not slopes: between two networks there is none.",
    ]
    if nothing := len(corners) - len(there):
        said.append(f"Not drawn: {nothing} of {len(corners)} corners have no FLOPs left.")
    title = alt.TitleParams(f"{study}: what seeds attain", subtitle=said)
    return looks.layered(layers, data, title)


def _layers(
    base: alt.Chart,
    drawn: pd.DataFrame,
    x: alt.X,
    vertical: axes.AccuracyAxis,
) -> list[alt.Chart]:
    """Bands, medians, and a mark at each corner of a median."""
    look = looks.looks(drawn)
    y = vertical.y()
    low = alt.Y("low:Q", scale=vertical.scale)
    high = alt.Y2("high:Q")
    layers = []
    for area in looks.areas(base, drawn, interpolate="step-after"):
        band = area.encode(x, low, high)
        layers.append(band)
    medians = base.transform_filter("isValid(datum.accuracy)")
    for line in looks.lines(medians, interpolate="step-after"):
        stairs = line.encode(x, y, look.stroke)
        layers.append(stairs)
    corners = medians.transform_filter("datum.corner")
    points = corners.mark_point(size=60, strokeWidth=2, opacity=1)
    told = ["label", "seeds", "relative", "accuracy", "low", "high"]
    tips = looks.tips(drawn[told])
    marks = points.encode(
        x,
        y,
        look.stroke,
        look.fill,
        look.shape,
        tooltip=tips,
    )
    layers.append(marks)
    return layers


def _band(group: pd.DataFrame) -> pd.DataFrame:
    """At each cost at which a surface of a label has a corner: the accuracies attained by then; NaN
    where there is none.
    """
    least, middle, most = attainment.PERCENT
    costs = np.unique(group["relative"])
    median = group[group["percent"] == middle]
    first = group.iloc[0]
    return pd.DataFrame(
        {
            "label": first["label"],
            "control": first["control"],
            "seeds": first["seeds"],
            "relative": costs,
            "high": _attained(group, least, costs),
            "accuracy": _attained(group, middle, costs),
            "low": _attained(group, most, costs),
            "corner": np.isin(costs, median["relative"]),
        }
    )


def _attained(group: pd.DataFrame, percent: int, costs: np.ndarray) -> np.ndarray:
    """The accuracy that so many percent of the seeds attain by each cost."""
    is_own = group["percent"] == percent
    corners = group[is_own].sort_values("relative")
    accuracies = corners["accuracy_valid"]
    best = np.concatenate([[np.nan], accuracies])
    reached = corners["relative"]
    places = np.searchsorted(reached, costs, side="right")
    return best[places]


def html(study: Study, surfaces: Surfaces, drawings: Drawings) -> Iterator[str]:
    yield page.figure("attained", drawings)
    _, refused = surfaces
    for reason in dict.fromkeys(refused.values()):
        names = []
        for (arm, control), why in refused.items():
            if why == reason:
                names.append(page.label({"arm": arm, "control": control}))
        yield page.say(f"No band for {', '.join(names)}: {reason}.")


SECTION = Section(name="bands", figures=figures, html=html, charts={"attained": picture})
