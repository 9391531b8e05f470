"""Charts of paired differences with their intervals, a panel for each arm: arms at equal FLOPs, and
settings against the sanity checks of them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import altair as alt
import pandas as pd

from ..inference.paired import MARGIN
from . import axes, looks
from .looks import Data
from .render import Picture

NOTE_WIDTH, REASON_WIDTH = 130, 40
"""Characters of a line of notes above a chart, and above a panel."""
REASON_LINES = 3
APART = 1.05
"""The factor between the places of two values of one setting."""


def differences(
    lines: pd.DataFrame,
    study: str,
    baseline: str,
    notes: Sequence[str],
) -> Picture:
    """Differences of accuracy to a baseline at equal FLOPs, with their intervals, a panel for each
    arm, a colour for each cost.

    lines: arm, cost, flops, n, difference, low, high, verdict and unlike; those without FLOPs are
    left out with a note.
    notes: sentences about what is unlike.
    """
    reached = lines["flops"].notna()
    compared = lines["n"] > 0
    drawn = _drawable(lines[reached & compared])
    arms = drawn["arm"].unique().tolist()
    shown = arms[: looks.PANELS]
    data = Data()
    panels: list[alt.LayerChart] = []
    for arm in shown:
        own = drawn[drawn["arm"] == arm]
        panels.append(_differing(data, own, arm))
    seeds = looks.seeds(drawn["n"])
    margin = f"{100 * MARGIN:g}"
    said = [
        f"Test accuracy minus that of {baseline}, same seed and FLOPs: mean over {seeds}, "
        "95 % t interval.",
        f"Filled: better or worse after Holm's correction. Dotted: ± {margin} points. "
        "Blue: masked FLOPs, orange: shrunk.",
    ]
    left = [arm for arm in lines["arm"].unique() if arm not in shown]
    if left:
        names = "; ".join(left)
        said.append(f"Not drawn (see the table): {names}.")
    unlike = " ".join(notes)
    said += textwrap.wrap(unlike, NOTE_WIDTH)
    title = alt.TitleParams(f"{study}: differences at equal FLOPs", subtitle=said)
    return looks.panelled(panels, data, title)


def checks(lines: pd.DataFrame, study: str) -> Picture:
    """Settings minus the sanity checks of them, with intervals, a panel for each arm, a colour and
    a shape for each check.

    lines: arm, setting, check, flops_masked, difference, low, high, n and verdict.
    """
    drawn = _drawable(lines)
    arms = drawn["arm"].unique().tolist()
    shown = arms[: looks.PANELS]
    kinds = lines["check"].unique().tolist()
    data = Data()
    panels: list[alt.LayerChart] = []
    for arm in shown:
        own = drawn[drawn["arm"] == arm]
        panels.append(_checked(data, own, arm, kinds))
    seeds = looks.seeds(drawn["n"])
    margin = f"{100 * MARGIN:g}"
    said = [
        f"Test accuracy of a setting minus its check's, same seed: mean over {seeds}, "
        "95 % t interval.",
        f"Filled: better or worse after Holm's correction. Dotted: ± {margin} points.",
    ]
    if len(shown) < len(arms):
        said.append(f"Drawn: the first {len(shown)} of {len(arms)} arms.")
    title = alt.TitleParams(f"{study}: are the weights and the mask needed?", subtitle=said)
    return looks.panelled(panels, data, title)


def values(lines: pd.DataFrame, study: str) -> Picture:
    """Settings minus the parent at each value of the task, with intervals, a panel for each arm, a
    colour and a shape for each value.

    lines: arm, setting, value, share, difference, low, high, n and verdict.
    """
    drawn = _side_by_side(_drawable(lines))
    arms = drawn["arm"].unique().tolist()
    shown = arms[: looks.PANELS]
    names = ["setting", "value", "share", "n", "difference", "low", "high", "verdict"]
    axis = alt.Axis(format="~%", tickCount=4)
    legend = alt.Legend(title=None, orient="bottom")
    data = Data()
    panels: list[alt.LayerChart] = []
    for arm in shown:
        own = drawn[drawn["arm"] == arm]
        x = axes.logarithmic("beside", "masked FLOPs, of the parent's", axis, 12)
        kinds = lines["value"].unique().tolist()
        layers = _marks(data, own, [*names, "beside"], x, "value", kinds, legend)
        title = looks.panel_title(arm)
        panels.append(alt.LayerChart(layer=layers, width=210, height=170, title=title))
    seeds = looks.seeds(drawn["n"])
    margin = f"{100 * MARGIN:g}"
    said = [
        f"Test accuracy minus that of the parent of the same value and seed: mean over {seeds}, "
        "95 % t interval.",
        f"Filled: better or worse after Holm's correction; hollow: not shown. Dotted: ± {margin} "
        "points.",
        "Values of one setting stand side by side; without an interval: all seeds alike.",
    ]
    if len(shown) < len(arms):
        said.append(f"Drawn: the first {len(shown)} of {len(arms)} arms.")
    title = alt.TitleParams(f"{study}: what pruning changes at each value", subtitle=said)
    return looks.panelled(panels, data, title)


def _side_by_side(lines: pd.DataFrame) -> pd.DataFrame:
    """The lines with `beside`, where each is drawn: values of one setting a little apart."""
    number = lines.groupby(["arm", "hp"]).cumcount()
    count = lines["value"].nunique()
    apart = number - (count - 1) / 2
    mean = lines.groupby(["arm", "hp"])["share"].transform("mean")
    return lines.assign(beside=mean * APART**apart)


def _differing(data: Data, lines: pd.DataFrame, arm: str) -> alt.LayerChart:
    names = ["cost", "flops", "n", "difference", "low", "high", "verdict", "unlike"]
    axis = alt.Axis(format="~s", tickCount=4)
    x = axes.logarithmic("flops", "FLOPs", axis, 12)
    costs = list(axes.COSTS)
    layers = _marks(data, lines, names, x, "cost", costs, None)
    unlike = lines["unlike"].iloc[0]
    told: list[str] = []
    if unlike:
        reasons = textwrap.wrap(f"trained unlike: {unlike}", REASON_WIDTH)
        told = reasons[:REASON_LINES]
    title = looks.panel_title(arm, told)
    return alt.LayerChart(layer=layers, width=210, height=170, title=title)


def _checked(
    data: Data,
    lines: pd.DataFrame,
    arm: str,
    kinds: list[str],
) -> alt.LayerChart:
    names = ["setting", "check", "flops_masked", "n", "difference", "low", "high", "verdict"]
    axis = alt.Axis(format="~s", tickCount=4)
    x = axes.logarithmic("flops_masked", "masked FLOPs of the setting", axis, 12)
    legend = alt.Legend(title=None, orient="bottom")
    layers = _marks(data, lines, names, x, "check", kinds, legend)
    title = looks.panel_title(arm)
    return alt.LayerChart(layer=layers, width=210, height=170, title=title)


def _marks(
    data: Data,
    lines: pd.DataFrame,
    names: list[str],
    x: alt.X,
    kind: str,
    kinds: list[str],
    legend: alt.Legend | None,
) -> list[alt.Chart]:
    """A point and its interval for each line, in the looks of its kind; filled where it is sure.

    names: columns of the tooltip.
    """
    base = data.chart(lines[[*names, "sure"]], exact=True)
    axis = alt.Axis(format="+~%", tickCount=5)
    y = alt.Y("difference:Q", axis=axis, title=None)
    low = alt.Y("low:Q", axis=axis, title=None)
    high = alt.Y2("high:Q")
    count = len(kinds)
    colours = alt.Scale(domain=kinds, range=list(looks.COLOURS[:count]))
    stroke = alt.Stroke(f"{kind}:N", scale=colours, legend=legend)
    fill = alt.Fill(f"{kind}:N", scale=colours, legend=None)
    hollow = alt.value("transparent")
    filling = alt.condition("datum.sure", fill, hollow)
    shapes = alt.Scale(domain=kinds, range=list(looks.SHAPES[:count]))
    shape = alt.Shape(f"{kind}:N", scale=shapes, legend=legend)
    known = base.transform_filter("isValid(datum.low)")
    bars = known.mark_rule(strokeWidth=1.5)
    points = base.mark_point(size=60, strokeWidth=2, opacity=1)
    tips = looks.tips(lines[names])
    return [
        *_margins(),
        bars.encode(x, low, high, stroke),
        points.encode(x, y, stroke, shape, fill=filling, tooltip=tips),
    ]


def _drawable(lines: pd.DataFrame) -> pd.DataFrame:
    """Lines with `sure`, whether a verdict is one, and intervals up to the differences of accuracy
    that there are; of few seeds they are wider.
    """
    verdicts = lines["verdict"].str
    sure = verdicts.startswith(("better", "worse"))
    low = lines["low"].clip(lower=-1)
    high = lines["high"].clip(upper=1)
    return lines.assign(sure=sure, low=low, high=high)


def _margins() -> list[alt.Chart]:
    """Zero, and the differences that count as none."""
    zero = looks.one_mark().mark_rule(**looks.FAINT)
    margin = looks.one_mark().mark_rule(strokeDash=looks.DOTTED, **looks.FAINT)
    return [
        zero.encode(alt.Y(datum=0)),
        margin.encode(alt.Y(datum=-MARGIN)),
        margin.encode(alt.Y(datum=MARGIN)),
    ]
