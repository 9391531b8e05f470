"""Axes of charts: accuracies, costs, their ticks, and where an axis breaks."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import altair as alt
import pandas as pd

from . import looks

COSTS = {
    "flops_masked": "removed weights cost nothing (ideal sparse hardware)",
    "flops_shrunk": "dead units cut out, the rest dense (any hardware)",
}
"""What each count of FLOPs says."""
SQUEEZED = 0.2
"""Share of the height for accuracies below a break in the axis."""
DECADES = 1000
"""An axis that spans more than this factor has ticks at powers of ten alone."""


class AccuracyAxis(NamedTuple):
    """An axis of accuracies.

    broken: where it breaks; None: nowhere.
    """

    broken: float | None
    ticks: list[float]
    scale: alt.Scale
    low: float

    def y(self) -> alt.Y:
        """The encoding of the column `accuracy`; of its own, labels would drop every other one."""
        axis = alt.Axis(format="~%", values=self.ticks, labelOverlap="greedy")
        return alt.Y("accuracy:Q", scale=self.scale, axis=axis, title="accuracy, validation data")


def accuracy(drawn: pd.DataFrame) -> AccuracyAxis:
    """The axis for these columns: accuracy, low, high, and front, whether a point is on one.

    Networks that collapsed to guessing would press all others into one line. If the better three
    quarters of the points on a front fill less than half of the range, what lies below them is
    squeezed, and a note says so (`squeezed`).
    """
    low, high = _range(drawn)
    height = high - low
    pad = 0.03 * height + 0.002
    on_front = drawn.loc[drawn["front"], "accuracy"]
    quarter = float(on_front.quantile(0.25))
    start = low - pad
    if math.isnan(quarter) or high - quarter >= height / 2:
        return _whole(start, high + pad)
    return _broken(start, quarter, high)


def _whole(low: float, high: float) -> AccuracyAxis:
    scale = alt.Scale(domain=[low, high], zero=False, nice=False)
    ticks = _ticks(low, high, 6)
    return AccuracyAxis(None, ticks, scale, low)


def _broken(low: float, quarter: float, high: float) -> AccuracyAxis:
    """The axis that is squeezed below the front. quarter: of the accuracies on it."""
    below = max((high - quarter) / 4, 0.005)
    upper = _ticks(quarter - below, high, 6)
    middle = upper[0]
    top = high + (high - middle) / 20
    squeezed_ticks = _ticks(low, middle, 4)
    lower = [tick for tick in squeezed_ticks if tick < middle]
    scale = alt.Scale(
        domain=[low, middle, top],
        range=[looks.HEIGHT, (1 - SQUEEZED) * looks.HEIGHT, 0],
        zero=False,
        nice=False,
    )
    ticks = [*lower, *upper]
    return AccuracyAxis(middle, ticks, scale, low)


def _range(drawn: pd.DataFrame) -> tuple[float, float]:
    """The least and the largest accuracy, bars included."""
    lower = drawn[["accuracy", "low"]]
    upper = drawn[["accuracy", "high"]]
    low = lower.min().min()
    high = upper.max().max()
    if math.isnan(low):  # of attained levels there may be the highest alone,
        low = drawn["high"].min()
    if math.isnan(high):  # or the lowest
        high = drawn["low"].max()
    return low, high


def squeezed(broken: float | None, more: str = "") -> list[alt.Chart]:
    """The line and the note where the axis breaks; nothing where it does not."""
    if broken is None:
        return []
    place = alt.Y(datum=broken)
    text = f"axis squeezed below {100 * broken:.4g}%{more}"
    rule = looks.one_mark().mark_rule(strokeDash=[6, 3], **looks.FAINT)
    note = looks.one_mark().mark_text(
        align="right",
        dx=-5,
        dy=5,
        baseline="top",
        fontSize=12,
        **looks.FAINT,
    )
    return [
        rule.encode(place),
        note.encode(alt.X(value=looks.WIDTH), place, alt.TextValue(text)),
    ]


def logarithmic(
    column: str,
    title: Any,
    axis: alt.Axis,
    padding: int,
) -> alt.X:
    """A horizontal axis of a column whose values lie above 0. padding: pixels at its ends."""
    return alt.X(
        f"{column}:Q",
        scale=alt.Scale(type="log", nice=False, padding=padding),
        axis=axis,
        title=title,
    )


def percent(column: str, scale: alt.Scale) -> alt.Y:
    """A vertical axis of shares in a panel, without a title."""
    axis = alt.Axis(format="~%", tickCount=5)
    return alt.Y(f"{column}:Q", scale=scale, axis=axis, title=None)


def kind(values: pd.Series) -> Literal["log", "linear"]:
    """Logarithmic where the values are positive and span more than a factor 10."""
    low = values.min()
    high = values.max()
    if 0 < 10 * low < high:
        return "log"
    return "linear"


def round_ticks(values: pd.Series) -> list[float]:
    """Ticks of a logarithmic axis: 1, 2 and 5 times powers of ten, over three decades the powers
    alone; else the ends.
    """
    low = float(values.min())
    high = float(values.max())
    multiples = (1, 2, 5)
    if high > DECADES * low:
        multiples = (1,)
    first = math.floor(math.log10(low))
    last = math.ceil(math.log10(high))
    inside = []
    for power in range(first, last + 1):
        for multiple in multiples:
            tick = float(f"{multiple}e{power}")
            if low <= tick <= high:
                inside.append(tick)
    if len(inside) > 1:
        return inside
    return [low, high]


def _ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers from `low` to `high`, none above 1, `about` as many as asked."""
    height = high - low
    step = _round_step(height / about)
    first = math.ceil(low / step)
    end = min(high, 1.0)
    last = math.floor(end / step)
    ticks = []
    for place in range(first, last + 1):
        tick = round(step * place, 10)
        ticks.append(tick)
    return ticks


def _round_step(least: float) -> float:
    """The least of 1, 2 and 5 times powers of ten that is no less than this."""
    exponent = math.floor(math.log10(least))
    power = 10.0**exponent
    for multiple in (1, 2, 5):
        step = power * multiple
        if step >= least:
            return step
    return power * 10
