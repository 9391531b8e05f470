"""The pictures of a study, accuracy against FLOPs before all, one definition for the page
(interactive), SVG and PNG.
"""

from __future__ import annotations

import functools
import json
import math
import re
import resource
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from typing import Any, Literal

import altair as alt
import numpy as np
import pandas as pd
import vl_convert

from ..inference.attainment import CHARGES, PERCENT
from ..inference.compare import MARGIN
from ..points import front
from ..rows.mistake import Mistake
from ..rows.published import CAVEAT
from ..sections.certificates import ROUNDING
from . import bundle

# Okabe & Ito's colours, safe for the colour-blind; grey stands for black and ochre for yellow,
# which vanish on a dark and on a light page. Seven colours and eight shapes share no divisor: 56
# arms before a pair comes again.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
SHAPES = (
    "circle",
    "square",
    "triangle-up",
    "diamond",
    "cross",
    "triangle-down",
    "triangle-right",
    "triangle-left",
)
Picture = dict[str, Any]
"""A Vega-Lite specification."""
COSTS = {
    "flops_masked": "removed weights cost nothing (ideal sparse hardware)",
    "flops_shrunk": "dead units cut out, the rest dense (any hardware)",
}
WIDTH, HEIGHT = 720, 440
ROOM = 60
"""Pixels on the right of a picture that is a file."""
SQUEEZED = 0.2
"""Share of the height for accuracies below a break in the axis."""
PANELS = 12
"""Settings of a search that are drawn, the first ones."""
FEW = 12
"""Counts of candidates that are marked on their line; of more, the line alone is drawn."""


ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no XML, and so no SVG, may hold."""
GRADED = ("#0072B2", "#CC79A7", "#E69F00")
"""A scale from few to much, visible on a dark and on a light page."""


def chart(
    summary: pd.DataFrame,
    study: str,
    cost: front.Cost = "flops_masked",
    published: pd.DataFrame | None = None,
) -> Picture:
    """Mean validation accuracy against mean FLOPs, one colour and shape for each label, its front
    joined by a line.

    A label is an arm, or those of its points that are controls.
    summary: as from `front.summarise`.  Points without a done member are left out, as are, with a
    note, points of no FLOPs, which a logarithmic axis cannot hold.  Text and axes have the colour
    of the surrounding text, black alone.
    published: points as from `published.read`, faint crosses with names; those counted as masked
    only beside masked FLOPs.
    """
    points = _points(summary, cost)
    drawn = points[front.eligible(points)]
    if drawn.empty:
        raise Mistake(
            f"{study}: no point has FLOPs left ({cost}), so a logarithmic axis cannot hold any"
        )
    base = alt.Chart(
        alt.NamedData("points")
    )  # altair would copy and check the points in each layer
    others = _published(published, cost)
    every = (
        pd.concat([drawn, others.assign(low=others["accuracy"], high=others["accuracy"])])
        if len(others)
        else drawn
    )
    low, ticks, scale = _accuracy_axis(every)
    x = alt.X(
        "cost:Q",
        scale=alt.Scale(type="log", nice=False, padding=24),
        axis=alt.Axis(format="~s", tickCount=6),
    )
    x = x.title(["FLOPs (2 per multiply-accumulate, one example, forward)", COSTS[cost]])
    axis = alt.Axis(
        format="~%", values=ticks, labelOverlap="greedy"
    )  # the default would drop every other label
    y = alt.Y("accuracy:Q", scale=scale, axis=axis, title="accuracy, validation data")
    looks = _looks(drawn)
    faint = alt.condition("datum.front", alt.value(1), alt.value(0.35))
    lines = [
        base.transform_filter(f"datum.front && {which}datum.control")
        .mark_line(strokeWidth=2, strokeDash=dash)
        .encode(x, y, looks["stroke"])
        for which, dash in (("!", [1, 0]), ("", [6, 4]))
    ]
    bars = base.transform_filter("isValid(datum.std)").mark_rule(strokeWidth=1.5)
    bars = bars.encode(
        x, alt.Y("low:Q", scale=scale), alt.Y2("high:Q"), looks["stroke"], opacity=faint
    )
    marks = base.mark_point(size=90, strokeWidth=2, opacity=1).encode(
        x,
        y,
        looks["stroke"],
        looks["fill"],
        looks["shape"],
        opacity=faint,
        tooltip=_tooltips(summary),
    )
    layers = [*_notes(drawn, low), *_crosses(others, x, y), *lines, bars, marks]
    title = _title(points, study, cost, len(others))
    picture = alt.LayerChart(
        layer=layers, width=WIDTH, height=HEIGHT, title=title, config=_config()
    ).to_dict(validate=False)
    return {**picture, "datasets": {"points": json.loads(drawn.to_json(orient="records"))}}


def attained(surfaces: pd.DataFrame, study: str, cost: front.Cost = "flops_masked") -> Picture:
    """Attainment surfaces over seeds: for each label the median as stairs, and a band between the
    outer percentages.

    surfaces: as from `attainment.surfaces`.  At each cost, the band's upper edge is the accuracy
    that the least percentage of the seeds attains, the lower that of the largest; where the largest
    attains nothing yet, it goes to the foot of the axis. Corners of no FLOPs, which a logarithmic
    axis cannot hold, are left out with a note.
    """
    corners = surfaces.assign(label=_labels(surfaces))
    there = corners[corners["relative"] > 0]
    if there.empty:
        raise Mistake(
            f"{study}: no attained point has FLOPs left ({cost}), so a logarithmic axis cannot hold any"
        )
    low, middle, high = PERCENT
    drawn = pd.concat(
        [_band(group, low, middle, high) for _, group in there.groupby(["control", "arm"])]
    )
    broken, ticks, scale = _accuracy_axis(drawn.assign(front=True))
    drawn["low"] = drawn["low"].fillna(scale.to_dict()["domain"][0])
    base = alt.Chart(alt.NamedData("bands"))
    x = alt.X(
        "relative:Q",
        scale=alt.Scale(type="log", nice=False, padding=16),
        axis=alt.Axis(format="~%", tickCount=6),
    )
    x = x.title(["share of the parent's FLOPs", COSTS[cost]])
    axis = alt.Axis(format="~%", values=ticks, labelOverlap="greedy")
    y = alt.Y("accuracy:Q", scale=scale, axis=axis, title="accuracy, validation data")
    looks = _looks(drawn)
    bands = _bands(base, drawn, x, alt.Y("low:Q", scale=scale), interpolate="step-after")
    medians = base.transform_filter("isValid(datum.accuracy)")
    lines = [
        medians.transform_filter(f"{which}datum.control")
        .mark_line(strokeWidth=2, strokeDash=dash, interpolate="step-after")
        .encode(x, y, looks["stroke"])
        for which, dash in (("!", [1, 0]), ("", [6, 4]))
    ]
    tips = _tips(drawn[["label", "seeds", "relative", "accuracy", "low", "high"]])
    marks = medians.transform_filter("datum.corner").mark_point(size=60, strokeWidth=2, opacity=1)
    layers = [
        *bands,
        *lines,
        marks.encode(x, y, looks["stroke"], looks["fill"], looks["shape"], tooltip=tips),
        *_squeezed(broken),
    ]
    said = [
        f"Over {_seeds(drawn['seeds'])}, validation data. Line: what {middle} % of the seeds attain; "
        f"band: between what {low} % and {high} % do.",
        "Hollow, dashed: control. Stairs, not slopes: between two networks there is none.",
    ]
    if nothing := len(corners) - len(there):
        said.append(f"Not drawn: {nothing} of {len(corners)} corners have no FLOPs left.")
    title = alt.TitleParams(f"{study}: what seeds attain", subtitle=said)
    picture = alt.LayerChart(
        layer=layers, width=WIDTH, height=HEIGHT, title=title, config=_config()
    ).to_dict(validate=False)
    return {**picture, "datasets": {"bands": json.loads(drawn.to_json(orient="records"))}}


def _band(group: pd.DataFrame, low: int, middle: int, high: int) -> pd.DataFrame:
    """At each cost at which a surface of a label has a corner: the accuracies attained by then; NaN
    where there is none.
    """
    costs = np.unique(group["relative"])
    stairs = {}
    for name, percent in (("high", low), ("accuracy", middle), ("low", high)):
        part = group[group["percent"] == percent].sort_values("relative")
        best = np.concatenate([[np.nan], part["accuracy_valid"]])
        stairs[name] = best[np.searchsorted(part["relative"], costs, side="right")]
    first = group[["label", "control", "seeds"]].iloc[0].to_dict()
    corner = np.isin(costs, group.loc[group["percent"] == middle, "relative"])
    return pd.DataFrame({**first, "relative": costs, **stairs, "corner": corner})


def compute(
    means: pd.DataFrame, study: str, charge: Literal["train_flops", "seconds"] = "train_flops"
) -> Picture:
    """Hypervolume reached against what the networks were charged in all, a line for each label with
    its 95 % t interval.

    means: as from `attainment.spent`.  Labels without any hypervolume, as the dense parent, are
    left out with a note.
    """
    some = means.groupby(["arm", "control"])["hypervolume"].transform("max") > 0
    nothing = _labels(means[~some]).unique()
    if not some.any():
        raise Mistake(
            f"{study}: no network is cheaper than the parent, so no hypervolume can be drawn"
        )
    means = means[some]
    drawn = means.assign(label=_labels(means)).sort_values(["control", "arm", "networks"])
    bounds = {
        "low": drawn["hypervolume_low"].clip(lower=0),
        "high": drawn["hypervolume_high"].clip(upper=1),
    }
    drawn = drawn.assign(
        **bounds
    )  # no hypervolume lies beyond, though an interval of few seeds may
    base = alt.Chart(alt.NamedData("spent"))
    named = {
        "train_flops": "training FLOPs charged, search included",
        "seconds": "seconds charged, search included",
    }[charge]
    axis = alt.Axis(
        format="~s",
        values=_round(drawn[charge]) if _kind(drawn[charge]) == "log" else alt.Undefined,
    )
    x = alt.X(
        f"{charge}:Q",
        scale=alt.Scale(type=_kind(drawn[charge]), nice=False, padding=16),
        axis=axis,
        title=named,
    )
    scale = alt.Scale(zero=False, nice=False, padding=10)
    y = alt.Y(
        "hypervolume:Q",
        scale=scale,
        axis=alt.Axis(format="~g", tickCount=6),
        title="hypervolume, validation data",
    )
    looks = _looks(drawn)
    low = alt.Y("low:Q", scale=scale, title="hypervolume, validation data")
    tips = _tips(drawn[["label", "seeds", "networks", *CHARGES, "hypervolume", "low", "high"]])
    marks = base.mark_point(size=50, strokeWidth=2, opacity=1)
    if drawn.groupby("label").size().max() > FEW:
        marks = marks.transform_filter("datum.end")
    lines = [
        base.transform_filter(f"{which}datum.control")
        .mark_line(strokeWidth=2, strokeDash=dash)
        .encode(x, y, looks["stroke"])
        for which, dash in (("!", [1, 0]), ("", [6, 4]))
    ]
    layers = [
        *_bands(base.transform_filter("isValid(datum.low)"), drawn, x, low),
        *lines,
        marks.encode(x, y, looks["stroke"], looks["fill"], looks["shape"], tooltip=tips),
    ]
    said = [
        f"Mean over {_seeds(drawn['seeds'])} with its 95 % t interval; networks in random order, the mean over all orders.",
        "Hollow, dashed: control. What networks share is charged to each of them.",
    ]
    if len(nothing):
        said.append(
            f"Not drawn: {', '.join(nothing)}, without a network that is cheaper than the parent."
        )
    title = alt.TitleParams(f"{study}: hypervolume against compute", subtitle=said)
    picture = alt.LayerChart(
        layer=layers, width=WIDTH, height=HEIGHT, title=title, config=_config()
    ).to_dict(validate=False)
    ends = drawn.groupby("label")["networks"].transform("max") == drawn["networks"]
    return {
        **picture,
        "datasets": {"spent": json.loads(drawn.assign(end=ends).to_json(orient="records"))},
    }


def _bands(
    base: alt.Chart, drawn: pd.DataFrame, x: alt.X, low: alt.Y, **how: Any
) -> list[alt.Chart]:
    """An area for each label; by no scale of colours, whose legend would displace that of the
    lines.
    """
    labels = drawn["label"].unique()
    areas = [
        base.transform_filter(alt.FieldEqualPredicate(field="label", equal=label)).mark_area(
            opacity=0.18, color=COLOURS[i % len(COLOURS)], **how
        )
        for i, label in enumerate(labels)
    ]
    return [area.encode(x, low, alt.Y2("high:Q")) for area in areas]


def _labels(frame: pd.DataFrame) -> pd.Series:
    return frame["arm"] + frame["control"].map({True: " (control)", False: ""})


def search(curves: pd.DataFrame, random: pd.DataFrame, study: str) -> Picture:
    """Mean validation accuracy against the number of candidates, a panel for each setting of a
    search.

    curves: as from `searches.curves`.  random: the lines of `searches.found` whose network is
    `random`; its mean is a line, its interval a band.
    """
    settings = curves[["algorithm", "setting"]].drop_duplicates()
    counts = curves.groupby(["algorithm", "setting"])["candidates"].transform("nunique")
    several = curves.loc[counts > 1, ["algorithm", "setting"]].drop_duplicates()
    settings = several if len(several) else settings  # a panel of one count shows nothing
    shown = settings.head(PANELS)
    panels = [
        _panel(algorithm, setting, curves, random)
        for algorithm, setting in shown.itertuples(index=False)
    ]
    least, most = int(curves["seeds"].min()), int(curves["seeds"].max())
    seeds = f"{most}" if least == most else f"{least} to {most}"
    lines = [
        f"Mean over {seeds} seeds, validation data, an axis for each panel. Blue: the best of the first n; orange: the worst.",
        "Dotted, with its 95 % interval as a band: candidate 1, the random network.",
    ]
    if len(shown) < len(settings):
        lines.append(f"Drawn: the first {len(shown)} of {len(settings)} settings.")
    title = alt.TitleParams(f"{study}: accuracy against candidates scored", subtitle=lines)
    return alt.ConcatChart(concat=panels, columns=3, title=title, config=_config()).to_dict(
        validate=False
    )


def _panel(
    algorithm: str, setting: str, curves: pd.DataFrame, random: pd.DataFrame
) -> alt.LayerChart:
    lines, first = (
        frame[(frame["algorithm"] == algorithm) & (frame["setting"] == setting)]
        for frame in (curves, random)
    )
    level = first[["accuracy_valid", "accuracy_valid_low", "accuracy_valid_high"]].set_axis(
        ["accuracy", "low", "high"], axis=1
    )
    band = alt.Chart(alt.Data(values=json.loads(level.to_json(orient="records"))))
    scale, axis = alt.Scale(zero=False), alt.Axis(format="~%", tickCount=5)
    y, low = (
        alt.Y(f"{field}:Q", scale=scale, axis=axis, title=None) for field in ("accuracy", "low")
    )
    x = alt.X("candidates:Q", title="candidates", scale=alt.Scale(type="log", nice=False))
    x = x.axis(values=[4**i for i in range(12)], format="~s")
    layers = [
        band.transform_filter("isValid(datum.low)")
        .mark_rect(opacity=0.12, color="currentColor")
        .encode(low, alt.Y2("high:Q")),
        band.mark_rule(opacity=0.6, strokeDash=[2, 3], color="currentColor").encode(y),
    ]
    for pick, colour, dash in (("best", COLOURS[0], [1, 0]), ("worst", COLOURS[1], [6, 4])):
        part = lines.loc[lines["pick"] == pick, ["candidates", "accuracy"]]
        flat = part["accuracy"].diff().eq(0) & part["accuracy"].diff(-1).eq(
            0
        )  # adds nothing to the line
        marks = alt.OverlayMarkDef(color=colour) if len(part) <= FEW else False
        line = alt.Chart(alt.Data(values=json.loads(part[~flat].to_json(orient="records"))))
        layers.append(
            line.mark_line(strokeWidth=2, strokeDash=dash, color=colour, point=marks).encode(x, y)
        )
    title = alt.TitleParams(f"{algorithm}: {setting}", fontSize=13, offset=6, limit=240)
    return alt.LayerChart(layer=layers, width=200, height=150, title=title)


def latency(frame: pd.DataFrame, study: str) -> Picture:
    """Milliseconds of a call against FLOPs of the shrunk network, a panel for each batch and place,
    a colour for each mode.

    frame: as from `latency.shown`, at least one of its lines measured.  Bars go from the fastest
    round to the slowest. Networks of no FLOPs, which a logarithmic axis cannot hold, are left out
    with a note.
    """
    measured = frame[frame["milliseconds"].notna()]
    drawn = measured[measured["flops_shrunk"] > 0]
    places = drawn.groupby(["device", "threads", "torch", "batch"])
    panels = [
        _timed(group, f"{device}, threads: {threads}, batch: {batch}")
        for (device, threads, _, batch), group in places
    ]  # type: ignore[misc]
    lines = [
        "Median of rounds of calls, bars from the fastest to the slowest; hollow: the dense parent."
    ]
    if nothing := measured["member"].nunique() - drawn["member"].nunique():
        lines.append(f"Not drawn: {nothing} networks have no FLOPs left (they are in the table).")
    title = alt.TitleParams(f"{study}: latency against FLOPs", subtitle=lines)
    return alt.ConcatChart(concat=panels, columns=2, title=title, config=_config()).to_dict(
        validate=False
    )


def _timed(group: pd.DataFrame, title: str) -> alt.LayerChart:
    names = [
        "mode",
        "flops_shrunk",
        "milliseconds",
        "milliseconds_min",
        "milliseconds_max",
        "parent",
        "arm",
        "setting",
    ]
    base = alt.Chart(alt.Data(values=json.loads(group[names].to_json(orient="records"))))
    x = alt.X(
        "flops_shrunk:Q",
        scale=alt.Scale(type="log", nice=False, padding=16),
        axis=alt.Axis(format="~s", tickCount=5),
    )
    x = x.title("FLOPs of the shrunk network (one example)")
    y = alt.Y(
        "milliseconds:Q",
        scale=alt.Scale(type="log", nice=False, padding=10),
        axis=alt.Axis(tickCount=5),
        title="milliseconds",
    )
    colours = alt.Scale(domain=["eager", "compiled"], range=list(COLOURS[:2]))
    filling = alt.condition(
        "datum.parent", alt.value("transparent"), alt.Fill("mode:N", scale=colours, legend=None)
    )
    stroke = alt.Stroke("mode:N", scale=colours, legend=alt.Legend(title=None))
    shape = alt.Shape(
        "mode:N", scale=alt.Scale(domain=["eager", "compiled"], range=list(SHAPES[:2])), legend=None
    )
    tips = [alt.Tooltip(f"{name}:N", title=name.replace("_", " ")) for name in names]
    bars = base.mark_rule(strokeWidth=1.5).encode(
        x, alt.Y("milliseconds_min:Q"), alt.Y2("milliseconds_max:Q"), stroke
    )
    marks = base.mark_point(size=70, strokeWidth=2, opacity=1).encode(
        x, y, stroke, shape, fill=filling, tooltip=tips
    )
    head = alt.TitleParams(title, fontSize=13, offset=6, limit=360)
    return alt.LayerChart(layer=[bars, marks], width=330, height=260, title=head)


def certificates(curves: pd.DataFrame, study: str) -> Picture:
    """Median relative gap against median seconds, both logarithmic, a line for each setting and a
    point for each rung.

    curves: as from `certificates.curves`, all of them `certificates.drawable`.  Colours are a scale
    of the one number in which settings differ, else one for each arm.  Gaps at or below rounding,
    which are no positive numbers, are drawn a decade below the least positive one, with another
    mark.
    """
    rounded = curves["relative"] <= ROUNDING
    foot = (
        max(float(curves["relative"].where(~rounded).min()) / 10, ROUNDING)
        if not rounded.all()
        else ROUNDING
    )
    number = front.varying(curves)
    drawn = curves.assign(rounded=rounded, place=curves["relative"].where(~rounded, foot))
    names = [
        "arm",
        "hp",
        "setting",
        "n",
        "rung",
        "seconds",
        "relative",
        "relative_worst",
        "rounded",
        "place",
    ]
    names += [number] if number else []
    base = alt.Chart(alt.Data(values=_exact(drawn[names])))
    scale = alt.Scale(type="log", nice=False, padding=16)
    axis = alt.Axis(format=".3~g", values=_round(drawn["seconds"]))
    x = alt.X("seconds:Q", scale=scale, axis=axis, title="seconds charged to a member")
    y = alt.Y(
        "place:Q",
        scale=scale,
        axis=alt.Axis(format="~e", tickCount=8),
        title="relative gap (gap / primal)",
    )
    arms = drawn["arm"].unique().tolist()
    ink = "currentColor"
    several = (
        alt.Legend(title=None, symbolFillColor=ink, symbolStrokeColor=ink)
        if len(arms) > 1
        else None
    )
    if number:
        legend = alt.Legend(title=number.removeprefix("hp_"), titleColor=ink, format="~g")
        colour = alt.Color(
            field=_field(number),
            type="quantitative",
            scale=alt.Scale(type=_kind(drawn[number]), range=list(GRADED), nice=False),
            legend=legend,
        )
    else:
        colours = [COLOURS[i % len(COLOURS)] for i in range(len(arms))]
        colour = alt.Color(
            "arm:N", scale=alt.Scale(domain=arms, range=colours), legend=alt.Legend(title=None)
        )
    shapes = [SHAPES[i % len(SHAPES)] for i in range(len(arms))]
    shape = alt.Shape("arm:N", scale=alt.Scale(domain=arms, range=shapes), legend=several)
    tips = _tips(drawn[[name for name in names if name not in ("hp", "rounded", "place")]])
    lines = base.mark_line(strokeWidth=1.5).encode(
        x, y, colour, detail=["arm:N", "hp:N"], order="rung:Q"
    )
    marks = base.transform_filter("!datum.rounded").mark_point(size=40, filled=True, opacity=1)
    feet = base.transform_filter("datum.rounded").mark_point(
        size=110, strokeWidth=2, shape="triangle-down", opacity=1
    )
    layers: list[alt.Chart] = [
        lines,
        marks.encode(x, y, colour, shape, tooltip=tips),
        feet.encode(x, y, colour, tooltip=tips),
    ]
    said = [
        f"Medians over {_seeds(curves['n'])}, a point for each rung. Seconds are a member's share of its cohort's."
    ]
    if rounded.any():
        rule = alt.Chart(alt.Data(values=[{}])).mark_rule(strokeDash=[2, 3], color=ink, opacity=0.6)
        layers.append(rule.encode(alt.Y(datum=foot)))
        said.append(
            f"Hollow triangles on the dotted line: {rounded.sum()} of {len(curves)} points at or below rounding "
            f"({ROUNDING:.1e}); their height says nothing."
        )
    title = alt.TitleParams(f"{study}: proven gap against seconds", subtitle=said)
    return alt.LayerChart(
        layer=layers, width=WIDTH, height=HEIGHT, title=title, config=_config()
    ).to_dict(validate=False)


def stopping(lines: pd.DataFrame, study: str) -> Picture:
    """Mean share of the hypervolume kept against the share of epochs trained, a point for each
    reduction factor.

    lines: as from `dominance.means`.
    """
    base = alt.Chart(alt.Data(values=json.loads(lines.to_json(orient="records"))))
    scale, axis = alt.Scale(zero=False, padding=16), alt.Axis(format="~%", tickCount=6)
    x = alt.X(
        "share:Q",
        scale=alt.Scale(zero=False, padding=24),
        axis=axis,
        title="epochs trained, of those without stopping",
    )
    y = alt.Y("kept:Q", scale=scale, axis=axis, title="hypervolume kept")
    ink = COLOURS[0]
    bars = base.mark_rule(strokeWidth=1.5, color=ink).encode(
        x, alt.Y("low:Q", scale=scale, title="hypervolume kept"), alt.Y2("high:Q")
    )
    marks = base.mark_line(
        strokeWidth=2, color=ink, point=alt.OverlayMarkDef(color=ink, size=70)
    ).encode(x, y, order="factor:Q", tooltip=_tips(lines))
    names = base.mark_text(align="right", dx=-7, dy=-9, fontSize=13, color="currentColor").encode(
        x, y, alt.Text("factor:N")
    )
    said = [
        f"Mean over {_seeds(lines['n'])}, bars one standard deviation. Beside each point: one in so many goes on."
    ]
    title = alt.TitleParams(f"{study}: stopping by dominance", subtitle=said)
    return alt.LayerChart(
        layer=[bars, marks, names], width=WIDTH, height=300, title=title, config=_config()
    ).to_dict(validate=False)


def budget(curves: pd.DataFrame, study: str) -> Picture:
    """Mean validation accuracy against epochs, a panel for each arm, a line for each setting, a
    ring at its best rung.

    curves: as from `budget.shown`.
    """
    panels = [_spent(group, str(arm)) for arm, group in curves.groupby("arm", sort=False)]
    said = [
        f"Mean over {_seeds(curves['n'])}, validation data, axes for each panel. Ring: the best rung.",
        "Colours go by the order of the number above each panel.",
    ]
    title = alt.TitleParams(f"{study}: accuracy over the budget", subtitle=said)
    return alt.ConcatChart(concat=panels, columns=3, title=title, config=_config()).to_dict(
        validate=False
    )


def _spent(curves: pd.DataFrame, arm: str) -> alt.LayerChart:
    number = front.varying(curves) or "flops_masked"
    level = curves[number].where(curves["last"]).groupby(curves["hp"]).transform("max")
    order = level.rank(method="dense")
    names = ["setting", "hp", "rung", "epochs", "n", "accuracy_valid", "flops_masked"]
    drawn = curves[[*names, "best"]].assign(level=(order - 1) / max(order.max() - 1, 1))
    base = alt.Chart(alt.Data(values=json.loads(drawn.to_json(orient="records"))))
    kind = _kind(curves["epochs"])
    axis = (
        alt.Axis(format="~s", values=_round(curves["epochs"]))
        if kind == "log"
        else alt.Axis(format="~s", tickCount=5)
    )
    x = alt.X("epochs:Q", axis=axis, scale=alt.Scale(type=kind, nice=False, zero=False, padding=8))
    y = alt.Y(
        "accuracy_valid:Q",
        scale=alt.Scale(zero=False),
        axis=alt.Axis(format="~%", tickCount=5),
        title=None,
    )
    colour = alt.Color(
        "level:Q", scale=alt.Scale(domain=[0, 0.5, 1], range=list(GRADED)), legend=None
    )
    tips = _tips(curves[[name for name in names if name != "hp"]])
    lines = base.mark_line(strokeWidth=1.5).encode(x, y, colour, detail="hp:N", order="rung:Q")
    rings = (
        base.transform_filter("datum.best")
        .mark_point(size=60, strokeWidth=2, opacity=1)
        .encode(x, y, colour, tooltip=tips)
    )
    ends = [
        f"{value:,.4g}" if number != "flops_masked" else f"{value:,.0f}"
        for value in (level.min(), level.max())
    ]
    named = "masked FLOPs" if number == "flops_masked" else number.removeprefix("hp_")
    told = f"{named} {ends[0]} (blue) to {ends[1]} (ochre)"
    if curves["hp"].nunique() == 1:
        told = str(curves["setting"].iloc[0])
    title = alt.TitleParams(
        arm, subtitle=told, fontSize=13, subtitleFontSize=11, offset=6, limit=240
    )
    return alt.LayerChart(layer=[lines, rings], width=210, height=160, title=title)


def differences(lines: pd.DataFrame, study: str, baseline: str, notes: Sequence[str]) -> Picture:
    """Differences of accuracy to a baseline at equal FLOPs, with their intervals, a panel for each
    arm, a colour for each cost.

    lines: arm, cost, flops, n, difference, low, high, verdict and unlike; those without FLOPs are
    left out with a note.
    notes: sentences about what is unlike.
    """
    drawn = lines[lines["flops"].notna() & (lines["n"] > 0)]
    shown = drawn["arm"].unique().tolist()[:PANELS]
    drawn = _possible(drawn.assign(sure=drawn["verdict"].str.startswith(("better", "worse"))))
    panels = [_differing(drawn[drawn["arm"] == arm], arm) for arm in shown]
    margin = f"{100 * MARGIN:g}"
    said = [
        f"Test accuracy minus that of {baseline}, same seed and FLOPs: mean over {_seeds(drawn['n'])}, 95 % t interval.",
        f"Filled: better or worse after Holm's correction. Dotted: ± {margin} points. Blue: masked FLOPs, orange: shrunk.",
    ]
    left = [arm for arm in lines["arm"].unique() if arm not in shown]
    said += [f"Not drawn (see the table): {'; '.join(left)}."] if left else []
    said += textwrap.wrap(" ".join(notes), 130)
    title = alt.TitleParams(f"{study}: differences at equal FLOPs", subtitle=said)
    return alt.ConcatChart(concat=panels, columns=3, title=title, config=_config()).to_dict(
        validate=False
    )


def checks(lines: pd.DataFrame, study: str) -> Picture:
    """Settings minus the sanity checks of them, with intervals, a panel for each arm, a colour and
    a shape for each check.

    lines: as from `controls.checked`, with difference, low, high, n and verdict.
    """
    drawn = _possible(lines.assign(sure=lines["verdict"].str.startswith(("better", "worse"))))
    shown = drawn["arm"].unique().tolist()[:PANELS]
    panels = [
        _checked(drawn[drawn["arm"] == arm], arm, lines["check"].unique().tolist()) for arm in shown
    ]
    said = [
        f"Test accuracy of a setting minus its check's, same seed: mean over {_seeds(drawn['n'])}, 95 % t interval.",
        f"Filled: better or worse after Holm's correction. Dotted: ± {100 * MARGIN:g} points.",
    ]
    if left := drawn["arm"].nunique() - len(shown):
        said.append(f"Drawn: the first {len(shown)} of {len(shown) + left} arms.")
    title = alt.TitleParams(f"{study}: are the weights and the mask needed?", subtitle=said)
    return alt.ConcatChart(concat=panels, columns=3, title=title, config=_config()).to_dict(
        validate=False
    )


def _checked(lines: pd.DataFrame, arm: str, every: list[str]) -> alt.LayerChart:
    names = ["setting", "check", "flops_masked", "n", "difference", "low", "high", "verdict"]
    base = alt.Chart(alt.Data(values=_exact(lines[[*names, "sure"]])))
    x = alt.X(
        "flops_masked:Q",
        scale=alt.Scale(type="log", nice=False, padding=12),
        axis=alt.Axis(format="~s", tickCount=4),
    ).title("masked FLOPs of the setting")
    y, low = (
        alt.Y(f"{name}:Q", axis=alt.Axis(format="+~%", tickCount=5), title=None)
        for name in ("difference", "low")
    )
    scale = alt.Scale(domain=every, range=list(COLOURS[: len(every)]))
    legend = alt.Legend(title=None, orient="bottom")
    stroke = alt.Stroke("check:N", scale=scale, legend=legend)
    shape = alt.Shape(
        "check:N", scale=alt.Scale(domain=every, range=list(SHAPES[: len(every)])), legend=legend
    )
    filling = alt.condition(
        "datum.sure", alt.Fill("check:N", scale=scale, legend=None), alt.value("transparent")
    )
    layers = [
        *_margins(),
        base.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=1.5)
        .encode(x, low, alt.Y2("high:Q"), stroke),
        base.mark_point(size=60, strokeWidth=2, opacity=1).encode(
            x, y, stroke, shape, fill=filling, tooltip=_tips(lines[names])
        ),
    ]
    title = alt.TitleParams(arm, fontSize=13, offset=6, limit=240)
    return alt.LayerChart(layer=layers, width=210, height=170, title=title)


def _possible(lines: pd.DataFrame) -> pd.DataFrame:
    """Lines whose intervals are drawn up to the differences of accuracy that there are; of few
    seeds they are wider.
    """
    return lines.assign(low=lines["low"].clip(lower=-1), high=lines["high"].clip(upper=1))


def _margins() -> list[alt.Chart]:
    """Zero, and the differences that count as none."""
    one, ink = alt.Chart(alt.Data(values=[{}])), {"color": "currentColor", "opacity": 0.6}
    ends = [
        one.mark_rule(strokeDash=[2, 3], **ink).encode(alt.Y(datum=end))
        for end in (-MARGIN, MARGIN)
    ]
    return [one.mark_rule(**ink).encode(alt.Y(datum=0)), *ends]


def layers(shares: pd.DataFrame, study: str) -> Picture:
    """The share that each layer keeps, a panel for each arm, a line for each setting, its colour by
    FLOPs.

    shares: as from `layers.shares`.
    """
    arms = shares["arm"].unique().tolist()
    panels = [_layered(shares[shares["arm"] == arm], arm) for arm in arms[:PANELS]]
    said = [
        f"Mean over {_seeds(shares['n'])}; settings on the front of their arm, layers in the order of the network.",
        "Blue: the most FLOPs (masked) of the panel, ochre: the fewest.",
    ]
    if len(arms) > PANELS:
        said.append(f"Drawn: the first {PANELS} of {len(arms)} arms.")
    title = alt.TitleParams(f"{study}: parameters kept, layer by layer", subtitle=said)
    return alt.ConcatChart(concat=panels, columns=3, title=title, config=_config()).to_dict(
        validate=False
    )


def _layered(shares: pd.DataFrame, arm: str) -> alt.LayerChart:
    order = shares["flops_masked"].rank(method="dense", ascending=False)
    drawn = shares.assign(level=(order - 1) / max(order.max() - 1, 1))
    base = alt.Chart(alt.Data(values=_exact(drawn)))
    names = drawn.drop_duplicates("place").sort_values("place")["layer"].tolist()
    few = len(names) <= FEW
    axis = alt.Axis(labelAngle=-45 if few else 0, labels=few, ticks=few, labelLimit=80)
    x = alt.X("layer:N", sort=names, axis=axis, title=None if few else f"{len(names)} layers")
    y = alt.Y(
        "kept:Q",
        scale=alt.Scale(domain=[0, 1]),
        axis=alt.Axis(format="~%", tickCount=5),
        title=None,
    )
    colour = alt.Color(
        "level:Q", scale=alt.Scale(domain=[0, 0.5, 1], range=list(GRADED)), legend=None
    )
    marks = base.mark_point(size=40, filled=True, opacity=1)
    tips = _tips(shares[["setting", "layer", "kept", "flops_masked", "n"]])
    lines = base.mark_line(strokeWidth=1.5).encode(x, y, colour, detail="hp:N")
    title = alt.TitleParams(arm, fontSize=13, offset=6, limit=240)
    return alt.LayerChart(
        layer=[lines, marks.encode(x, y, colour, tooltip=tips)], width=210, height=150, title=title
    )


def _differing(lines: pd.DataFrame, arm: str) -> alt.LayerChart:
    names = ["cost", "flops", "n", "difference", "low", "high", "verdict", "unlike"]
    base = alt.Chart(alt.Data(values=_exact(lines[[*names, "sure"]])))
    x = alt.X(
        "flops:Q",
        scale=alt.Scale(type="log", nice=False, padding=12),
        axis=alt.Axis(format="~s", tickCount=4),
        title="FLOPs",
    )
    y, low = (
        alt.Y(f"{name}:Q", axis=alt.Axis(format="+~%", tickCount=5), title=None)
        for name in ("difference", "low")
    )
    scale = alt.Scale(domain=list(COSTS), range=list(COLOURS[:2]))
    stroke = alt.Stroke("cost:N", scale=scale, legend=None)
    filling = alt.condition(
        "datum.sure", alt.Fill("cost:N", scale=scale, legend=None), alt.value("transparent")
    )
    shape = alt.Shape(
        "cost:N", scale=alt.Scale(domain=list(COSTS), range=list(SHAPES[:2])), legend=None
    )
    layers = [
        *_margins(),
        base.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=1.5)
        .encode(x, low, alt.Y2("high:Q"), stroke),
        base.mark_point(size=60, strokeWidth=2, opacity=1).encode(
            x, y, stroke, shape, fill=filling, tooltip=_tips(lines[names])
        ),
    ]
    unlike = lines["unlike"].iloc[0]
    told = textwrap.wrap(f"trained unlike: {unlike}", 40)[:3] if unlike else []
    title = alt.TitleParams(
        arm, subtitle=told, fontSize=13, subtitleFontSize=11, offset=6, limit=240
    )
    return alt.LayerChart(layer=layers, width=210, height=170, title=title)


def _exact(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The lines of a frame, None for what is not finite; `to_json` would round a gap of 1e-16 to
    nothing.
    """
    lines = frame.to_dict("records")
    return [
        {
            str(k): None if isinstance(v, float) and not math.isfinite(v) else v
            for k, v in line.items()
        }
        for line in lines
    ]


def _kind(values: pd.Series) -> Literal["log", "linear"]:
    """Logarithmic where the values are positive and span more than a factor 10."""
    return "log" if 0 < 10 * values.min() < values.max() else "linear"


def _round(values: pd.Series) -> list[float]:
    """Ticks of a logarithmic axis: 1, 2 and 5 times powers of ten, over three decades the powers
    alone; else the ends.
    """
    low, high = float(values.min()), float(values.max())
    times = (1, 2, 5) if high <= 1000 * low else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [float(f"{time}e{power}") for power in powers for time in times]
    inside = [tick for tick in ticks if low <= tick <= high]
    return inside if len(inside) > 1 else [low, high]


def _seeds(counts: pd.Series) -> str:
    """How many seeds are behind each mean, in words."""
    least, most = int(counts.min()), int(counts.max())
    return (
        f"{least} seed{'' if most == 1 else 's'}" if least == most else f"{least} to {most} seeds"
    )


@functools.cache
def hindrance() -> str:
    """Why no picture can be drawn in this process; empty if they can.

    vl_convert holds a JavaScript engine that reserves more than 60 GB of addresses, and where it
    may not, it ends the process.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return ""
    code = (
        "import vl_convert; vl_convert.vegalite_to_svg({'mark': 'point', 'data': {'values': []}})"
    )
    tried = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    if not tried.returncode:
        return ""
    return f"pictures take addresses for 80 GB (vl_convert reserves them); `ulimit -v` allows {limit / 1e9:.0f} GB"


def svg(picture: Picture) -> str:
    """The chart as SVG text, without a background. Raises Mistake where nothing can be drawn."""
    if why := hindrance():
        raise Mistake(why)
    return vl_convert.vegalite_to_svg(
        {**_legal(picture), "background": "transparent"}, vl_version=_version()
    )


def _legal(value: Any) -> Any:
    """The same with every character that XML has no place for escaped: of one of them vl_convert
    would abort the process.
    """
    if isinstance(value, str):
        return ILLEGAL.sub(_escaped, value)
    if isinstance(value, dict):
        return {_legal(key): _legal(inner) for key, inner in value.items()}
    return [_legal(inner) for inner in value] if isinstance(value, list | tuple) else value


def _escaped(found: re.Match[str]) -> str:
    return found.group().encode("unicode_escape").decode()


def paper(drawing: str) -> str:
    """A drawing as from `svg`, on white, with room on the right: a reader's fonts may be wider than
    ours.
    """
    head, rest = drawing.split(">", 1)
    width = int(re.findall(r'width="(\d+)"', head)[0])
    head = head.replace(f'width="{width}"', f'width="{width + ROOM}"', 1)
    head = head.replace(f'viewBox="0 0 {width} ', f'viewBox="0 0 {width + ROOM} ', 1)
    return f'{head}><rect width="100%" height="100%" fill="white"/>{rest}'


def pdf(drawing: str) -> bytes:
    """A drawing as from `svg` as PDF, on white."""
    return vl_convert.svg_to_pdf(paper(drawing))


def png(drawing: str) -> bytes:
    """A drawing as from `svg` as PNG, on white, at twice its size."""
    return vl_convert.svg_to_png(paper(drawing), scale=2)


@functools.cache
def script() -> str:
    """JavaScript, complete in itself, that defines `vegaEmbed` for the version the charts are
    written in.
    """
    return bundle.script(_version())


def _version() -> str:
    return ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])


def _points(summary: pd.DataFrame, cost: front.Cost) -> pd.DataFrame:
    """The points with a mean, as the chart names them; colours and shapes go by the order of the
    labels.
    """
    done = summary[summary["done"] > 0]
    label = _labels(done)
    mean, std = done["accuracy_valid"], done["accuracy_valid_std"]
    ends = {"low": (mean - std).clip(lower=0), "high": (mean + std).clip(upper=1)}
    drawn = done.assign(label=label, cost=done[cost], accuracy=mean, std=std, **ends)
    drawn = drawn.assign(
        best=front.fronts(drawn, cost), front=front.fronts(drawn, cost, within="label")
    )
    return drawn.sort_values(["control", "arm", "cost"])


def _accuracy_axis(drawn: pd.DataFrame) -> tuple[float | None, list[float], alt.Scale]:
    """Where the axis breaks (None: nowhere), its ticks, its scale.

    Networks that collapsed to guessing would press all others into one line. If the better three
    quarters of the points on a front fill less than half of the range, what lies below them is
    squeezed, and a note says so.
    """
    low, high = drawn[["accuracy", "low"]].min().min(), drawn[["accuracy", "high"]].max().max()
    low = (
        drawn["high"].min() if math.isnan(low) else low
    )  # of attained levels there may be the highest alone,
    high = drawn["low"].max() if math.isnan(high) else high  # or the lowest
    pad = 0.03 * (high - low) + 0.002
    quarter = drawn.loc[drawn["front"], "accuracy"].quantile(0.25)
    if math.isnan(quarter) or high - quarter >= (high - low) / 2:
        return (
            None,
            _ticks(low - pad, high + pad, 6),
            alt.Scale(domain=[low - pad, high + pad], zero=False, nice=False),
        )
    upper = _ticks(quarter - max((high - quarter) / 4, 0.005), high, 6)
    low, middle, high = low - pad, upper[0], high + (high - upper[0]) / 20
    places = [HEIGHT, (1 - SQUEEZED) * HEIGHT, 0]
    scale = alt.Scale(domain=[low, middle, high], range=places, zero=False, nice=False)
    return middle, [*[tick for tick in _ticks(low, middle, 4) if tick < middle], *upper], scale


def _ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers from `low` to `high`, none above 1, `about` as many as asked."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * nice for nice in (1, 2, 5, 10) if power * nice >= rough)
    first, last = math.ceil(low / step), math.floor(min(high, 1.0) / step)
    return [round(step * i, 10) for i in range(first, last + 1)]


def _looks(drawn: pd.DataFrame) -> dict[str, Any]:
    """Colour, filling and shape of each label; a control is hollow."""
    arms = drawn.drop_duplicates("label")
    labels, control = arms["label"].tolist(), arms["control"].tolist()
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(labels))]
    filling = [
        "transparent" if hollow else colour for colour, hollow in zip(colours, control, strict=True)
    ]
    shapes = [SHAPES[i % len(SHAPES)] for i in range(len(labels))]
    legend = alt.Legend(title=None)
    return {
        "stroke": alt.Stroke(
            "label:N", scale=alt.Scale(domain=labels, range=colours), legend=legend
        ),
        "fill": alt.Fill("label:N", scale=alt.Scale(domain=labels, range=filling), legend=legend),
        "shape": alt.Shape("label:N", scale=alt.Scale(domain=labels, range=shapes), legend=legend),
    }


def _notes(drawn: pd.DataFrame, low: float | None) -> list[alt.Chart]:
    """The parent's FLOPs, the front of all arms, and where the axis breaks."""
    one = alt.Chart(alt.Data(values=[{}]))
    parent = alt.X(datum=float(drawn["flops_dense"].max()))
    ink = {"color": "currentColor", "opacity": 0.6}
    band = alt.Chart(alt.Data(values=json.loads(drawn[drawn["best"]].to_json(orient="records"))))
    layers = [
        band.mark_line(
            strokeWidth=14, opacity=0.12, color="currentColor", strokeCap="round"
        ).encode(alt.X("cost:Q"), alt.Y("accuracy:Q")),
        one.mark_rule(strokeDash=[2, 3], **ink).encode(parent),
        one.mark_text(align="right", dx=-5, dy=-6, baseline="bottom", fontSize=12, **ink).encode(
            parent, alt.Y(value=HEIGHT), alt.TextValue("parent")
        ),
    ]
    if low is not None:
        below = int((drawn["accuracy"] < low).sum())
        layers += _squeezed(low, f"; {below} of {len(drawn)} points are there")
    return layers


def _squeezed(low: float | None, more: str = "") -> list[alt.Chart]:
    """The line and the note where the axis breaks."""
    if low is None:
        return []
    one, ink = alt.Chart(alt.Data(values=[{}])), {"color": "currentColor", "opacity": 0.6}
    return [
        one.mark_rule(strokeDash=[6, 3], **ink).encode(alt.Y(datum=low)),
        one.mark_text(align="right", dx=-5, dy=5, baseline="top", fontSize=12, **ink).encode(
            alt.X(value=WIDTH),
            alt.Y(datum=low),
            alt.TextValue(f"axis squeezed below {100 * low:.4g}%{more}"),
        ),
    ]


def _published(points: pd.DataFrame | None, cost: front.Cost) -> pd.DataFrame:
    """Published points as the chart names them: what is shrunk costs the same where removed weights
    cost nothing.
    """
    if points is None:
        return pd.DataFrame()
    known = points if cost == "flops_masked" else points[points["counted"] == "shrunk"]
    return known.rename(columns={"flops": "cost"}).assign(front=False)


def _crosses(others: pd.DataFrame, x: alt.X, y: alt.Y) -> list[alt.Chart]:
    if others.empty:
        return []
    names = ["name", "source", "model", "protocol", "counted", "accuracy", "cost", "params"]
    base = alt.Chart(alt.Data(values=_exact(others[names]))).encode(x, y)
    ink = {"color": "currentColor", "opacity": 0.45}
    marks = base.mark_point(shape="M-1,-1L1,1M-1,1L1,-1", size=60, strokeWidth=1.5, **ink)
    return [
        marks.encode(tooltip=_tips(others[names])),
        base.mark_text(align="left", dx=8, fontSize=11, **ink).encode(alt.Text("name:N")),
    ]


def _tooltips(summary: pd.DataFrame) -> list[alt.Tooltip]:
    """Everything that the summary says of a point."""
    skipped = {"algorithm", "control", "arm"}
    names = [name for name in summary.columns if name not in skipped]
    return [alt.Tooltip("label:N", title="arm"), *_tips(summary[names])]


def _tips(frame: pd.DataFrame) -> list[alt.Tooltip]:
    """One for each column."""
    formats = {"float64": ".4~g", "int64": ","}
    return [
        alt.Tooltip(
            field=_field(name),
            type="quantitative",
            title=name.replace("_", " "),
            format=formats[str(kind)],
        )
        if str(kind) in formats
        else alt.Tooltip(field=_field(name), type="nominal", title=name.replace("_", " "))
        for name, kind in zip(map(str, frame), frame.dtypes, strict=True)
    ]


def _field(name: str) -> str:
    """A column whose name may have dots, brackets and quotes, which Vega takes for a path into its
    values.
    """
    return re.sub(r"""([\\.\[\]'"])""", r"\\\1", name)


def _title(points: pd.DataFrame, study: str, cost: front.Cost, others: int) -> alt.TitleParams:
    """Study, split, seeds, and how to read the marks; and how many points the logarithmic axis
    cannot hold.
    """
    spread = ", bars one standard deviation" if points["done"].max() > 1 else ""
    lines = [
        f"Mean over {_seeds(points['done'])}{spread}; nothing here was chosen by test data.",
        "Lines: each arm's front; faint: dominated there; hollow, dashed: control; grey band: front of all arms.",
    ]
    computing = front.computes(points)
    if nothing := int((~computing).sum()):
        lines.append(
            f"Not drawn: {nothing} of {len(points)} points have no FLOPs left (they are in the table)."
        )
    if unknown := int((computing & ~front.eligible(points)).sum()):
        lines.append(
            f"Not drawn: {unknown} of {len(points)} points have an accuracy that is no finite number."
        )
    if operations := front.unknown_operations(points):
        lines.append(f"FLOPs leave out what has no formula: {', '.join(operations)}.")
    if others:
        lines.append(CAVEAT)
    counted = {"flops_masked": "FLOPs", "flops_shrunk": "FLOPs after dead units are cut out"}[cost]
    return alt.TitleParams(f"{study}: accuracy against {counted}", subtitle=lines)


def _config() -> dict[str, Any]:
    ink = "currentColor"
    axis = {f"{part}Color": ink for part in ("label", "title", "domain", "tick", "grid")}
    title = {
        "color": ink,
        "subtitleColor": ink,
        "anchor": "start",
        "fontSize": 18,
        "subtitleFontSize": 12,
    }
    legend = {
        "labelColor": ink,
        "labelFontSize": 14,
        "labelLimit": 300,
        "symbolSize": 110,
        "symbolStrokeWidth": 2,
    }
    return {
        "background": "transparent",
        "font": "Helvetica, Arial, sans-serif",
        "axis": {
            **axis,
            "gridOpacity": 0.1,
            "labelFontSize": 13,
            "titleFontSize": 13,
            "titleFontWeight": "normal",
        },
        "title": {**title, "subtitlePadding": 6, "offset": 14},
        "legend": {**legend, "rowPadding": 5},
        "view": {"stroke": None},
    }
