"""Hypervolume reached against what the networks were charged in all: equal total compute."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import altair as alt
import pandas as pd

from .. import page
from ..draw import axes, looks
from ..draw.looks import Data
from ..draw.render import Picture
from ..inference import attainment
from ..rows.mistake import Mistake
from ._section import Drawings, Section
from ._study import Study

Charge = Literal["train_flops", "seconds"]
COUNTS = 200
"""Numbers of networks at which a line is computed, of more than so many."""
NAMED = {
    "train_flops": "training FLOPs charged, search included",
    "seconds": "seconds charged, search included",
}
REACHED = "hypervolume, validation data"


def figures(study: Study) -> pd.DataFrame | None:
    reached = attainment.compute(study.own, most=COUNTS)
    means = attainment.spent(reached)
    is_positive = means["hypervolume"].gt(0)
    if is_positive.any():
        return means
    return None


def picture(study: Study, means: pd.DataFrame) -> Picture:
    return chart(means, study.name)


def chart(means: pd.DataFrame, study: str, charge: Charge = "train_flops") -> Picture:
    """Hypervolume reached against what the networks were charged in all, a line for each label with
    its 95 % t interval.

    means: as from `attainment.spent`.  Labels without any hypervolume, as the dense parent, are
    left out with a note.
    """
    reached = means.groupby(attainment.LABEL)["hypervolume"].transform("max") > 0
    if not reached.any():
        raise Mistake(
            f"{study}: no network is cheaper than the parent, so no hypervolume can be drawn"
        )
    nothing = looks.labels(means[~reached]).unique()
    drawn = _drawable(means[reached])
    data = Data()
    layers = _layers(data.chart(drawn), drawn, charge)
    seeds = looks.seeds(drawn["seeds"])
    said = [
        f"Mean over {seeds} with its 95 % t interval; networks in random order, the mean over all "
        "orders.",
        "Hollow, dashed: control. What networks share is charged to each of them.",
    ]
    if len(nothing):
        left_out = ", ".join(nothing)
        said.append(f"Not drawn: {left_out}, without a network that is cheaper than the parent.")
    title = alt.TitleParams(f"{study}: hypervolume against compute", subtitle=said)
    return looks.layered(layers, data, title)


def _drawable(means: pd.DataFrame) -> pd.DataFrame:
    """Means with label, bounds, and whether a line ends there; no hypervolume lies beyond 0 and 1,
    though an interval of few seeds may.
    """
    drawn = means.assign(
        label=looks.labels(means),
        low=means["hypervolume_low"].clip(lower=0),
        high=means["hypervolume_high"].clip(upper=1),
    )
    drawn = drawn.sort_values(["control", "arm", "networks"])
    by_label = drawn.groupby("label")
    last = by_label["networks"].transform("max")
    is_end = last == drawn["networks"]
    return drawn.assign(end=is_end)


def _layers(base: alt.Chart, drawn: pd.DataFrame, charge: Charge) -> list[alt.Chart]:
    """Intervals, means, and marks: of lines of many networks at their ends alone."""
    x = _charged(drawn[charge], charge)
    scale = alt.Scale(zero=False, nice=False, padding=10)
    axis = alt.Axis(format="~g", tickCount=6)
    y = alt.Y("hypervolume:Q", scale=scale, axis=axis, title=REACHED)
    low = alt.Y("low:Q", scale=scale, title=REACHED)
    high = alt.Y2("high:Q")
    look = looks.looks(drawn)
    layers = []
    known = base.transform_filter("isValid(datum.low)")
    for area in looks.areas(known, drawn):
        intervals = area.encode(x, low, high)
        layers.append(intervals)
    for line in looks.lines(base):
        means = line.encode(x, y, look.stroke)
        layers.append(means)
    points = base.mark_point(size=50, strokeWidth=2, opacity=1)
    by_label = drawn.groupby("label")
    longest = by_label.size().max()
    if longest > looks.FEW:
        points = points.transform_filter("datum.end")
    told = ["label", "seeds", "networks", *attainment.CHARGES, "hypervolume", "low", "high"]
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


def _charged(values: pd.Series, charge: Charge) -> alt.X:
    """The horizontal axis."""
    kind = axes.kind(values)
    ticks = axes.round_ticks(values) if kind == "log" else alt.Undefined
    return alt.X(
        f"{charge}:Q",
        scale=alt.Scale(type=kind, nice=False, padding=16),
        axis=alt.Axis(format="~s", values=ticks),
        title=NAMED[charge],
    )


def html(_: Study, __: pd.DataFrame, drawings: Drawings) -> Iterator[str]:
    if drawings:
        yield page.figure("compute", drawings)


SECTION = Section(
    name="compute",
    title="Equal total compute",
    figures=figures,
    html=html,
    charts={"compute": picture},
)
