"""The picture of a study: accuracy against FLOPs, one definition for the page (interactive), SVG and PNG."""

from __future__ import annotations

import functools
import json
import math
from typing import Any

import altair as alt
import pandas as pd
import vl_convert

from . import front

# Okabe & Ito's colours, safe for the colour-blind; grey stands for black and ochre for yellow, which vanish on a
# dark and on a light page. Seven colours and eight shapes share no divisor: 56 arms before a pair comes again.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")
COSTS = {
    "flops_masked": "removed weights cost nothing (ideal sparse hardware)",
    "flops_shrunk": "dead units cut out, the rest dense (any hardware)",
}
WIDTH, HEIGHT = 720, 440
SQUEEZED = 0.2
"""Share of the height for accuracies below a break in the axis."""


def chart(summary: pd.DataFrame, study: str, cost: front.Cost = "flops_masked") -> alt.LayerChart:
    """Mean validation accuracy against mean FLOPs, one colour and shape for each arm, its front joined by a line.

    summary: as from `front.summarise`.  Points without a done member are left out, as are, with a note, points of no
    FLOPs, which a logarithmic axis cannot hold.  Text and axes have the colour of the surrounding text, black alone.
    """
    points = _points(summary, cost)
    drawn = points[points["cost"] > 0]
    if drawn.empty:
        raise ValueError(f"{study}: no point has FLOPs left ({cost}), so a logarithmic axis cannot hold any")
    base = alt.Chart(alt.Data(values=json.loads(drawn.to_json(orient="records"))))
    low, ticks, scale = _accuracy_axis(drawn)
    x = alt.X("cost:Q", scale=alt.Scale(type="log", nice=False, padding=24), axis=alt.Axis(format="~s", tickCount=6))
    x = x.title(["FLOPs (2 per multiply-accumulate, one example, forward)", COSTS[cost]])
    y = alt.Y("accuracy:Q", scale=scale, axis=alt.Axis(format="~%", values=ticks), title="accuracy, validation data")
    looks = _looks(drawn)
    faint = alt.condition("datum.front", alt.value(1), alt.value(0.35))
    lines = [
        base.transform_filter(f"datum.front && {which}datum.control")
        .mark_line(strokeWidth=2, strokeDash=dash)
        .encode(x, y, looks["stroke"])
        for which, dash in (("!", [1, 0]), ("", [6, 4]))
    ]
    bars = base.transform_filter("isValid(datum.std)").mark_rule(strokeWidth=1.5)
    bars = bars.encode(x, alt.Y("low:Q", scale=scale), alt.Y2("high:Q"), looks["stroke"], opacity=faint)
    marks = base.mark_point(size=90, strokeWidth=2, opacity=1).encode(
        x, y, looks["stroke"], looks["fill"], looks["shape"], opacity=faint, tooltip=_tooltips(summary)
    )
    layers = [*_notes(drawn, low), *lines, bars, marks]
    return alt.LayerChart(layer=layers, width=WIDTH, height=HEIGHT, title=_title(points, study, cost), config=_config())


def svg(picture: alt.LayerChart, background: str = "white") -> str:
    """The chart as SVG text."""
    return vl_convert.vegalite_to_svg({**picture.to_dict(), "background": background}, vl_version=_version())


def png(picture: alt.LayerChart) -> bytes:
    """The chart as PNG, on white, at twice the size of the SVG."""
    return vl_convert.vegalite_to_png({**picture.to_dict(), "background": "white"}, vl_version=_version(), scale=2)


@functools.cache
def script() -> str:
    """JavaScript, complete in itself, that defines `vegaEmbed` for the version the charts are written in."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=_version())


def _version() -> str:
    return ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])


def _points(summary: pd.DataFrame, cost: front.Cost) -> pd.DataFrame:
    """The points with a mean, as the chart names them; colours and shapes go by the order of the labels."""
    done = summary[summary["done"] > 0]
    label = done["arm"] + done["control"].map({True: " (control)", False: ""})
    mean, std = done["accuracy_valid"], done["accuracy_valid_std"]
    drawn = done.assign(label=label, cost=done[cost], accuracy=mean, std=std, low=mean - std, high=mean + std)
    drawn = drawn.assign(front=front.fronts(done, cost, within="arm"), best=front.fronts(done, cost))
    return drawn.sort_values(["control", "arm", "cost"])


def _accuracy_axis(drawn: pd.DataFrame) -> tuple[float | None, list[float], alt.Scale]:
    """Where the axis breaks (None: nowhere), its ticks, its scale.

    Networks that collapsed to guessing would press all others into one line. If the better three quarters of the
    points on a front fill less than half of the range, what lies below them is squeezed, and a note says so.
    """
    low, high = drawn[["accuracy", "low"]].min().min(), drawn[["accuracy", "high"]].max().max()
    pad = 0.03 * (high - low) + 0.002
    quarter = drawn.loc[drawn["front"], "accuracy"].quantile(0.25)
    if high - quarter >= (high - low) / 2:
        return None, _ticks(low - pad, high + pad, 6), alt.Scale(domain=[low - pad, high + pad], zero=False, nice=False)
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
    """Colour, filling and shape of each arm; a control is hollow."""
    arms = drawn.drop_duplicates("label")
    labels, control = arms["label"].tolist(), arms["control"].tolist()
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(labels))]
    filling = ["transparent" if hollow else colour for colour, hollow in zip(colours, control, strict=True)]
    shapes = [SHAPES[i % len(SHAPES)] for i in range(len(labels))]
    legend = alt.Legend(title=None)
    return {
        "stroke": alt.Stroke("label:N", scale=alt.Scale(domain=labels, range=colours), legend=legend),
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
        band.mark_line(strokeWidth=14, opacity=0.12, color="currentColor", strokeCap="round").encode(
            alt.X("cost:Q"), alt.Y("accuracy:Q")
        ),
        one.mark_rule(strokeDash=[2, 3], **ink).encode(parent),
        one.mark_text(align="right", dx=-5, dy=-6, baseline="bottom", fontSize=12, **ink).encode(
            parent, alt.Y(value=HEIGHT), alt.TextValue("parent")
        ),
    ]
    if low is not None:
        below = int((drawn["accuracy"] < low).sum())
        note = f"axis squeezed below {100 * low:.4g}%; {below} of {len(drawn)} points are there"
        layers += [
            one.mark_rule(strokeDash=[6, 3], **ink).encode(alt.Y(datum=low)),
            one.mark_text(align="right", dx=-5, dy=5, baseline="top", fontSize=12, **ink).encode(
                parent, alt.Y(datum=low), alt.TextValue(note)
            ),
        ]
    return layers


def _tooltips(summary: pd.DataFrame) -> list[alt.Tooltip]:
    """Everything that the summary says of a point."""
    formats = {"float64": ".4~g", "int64": ","}
    skipped = {"algorithm", "control", "arm"}
    names = [name for name in summary.columns if name not in skipped]
    return [alt.Tooltip("label:N", title="arm")] + [
        alt.Tooltip(f"{name}:Q", title=name.replace("_", " "), format=formats[str(summary[name].dtype)])
        if str(summary[name].dtype) in formats
        else alt.Tooltip(f"{name}:N", title=name.replace("_", " "))
        for name in names
    ]


def _title(points: pd.DataFrame, study: str, cost: front.Cost) -> alt.TitleParams:
    """Study, split, seeds, and how to read the marks; and how many points the logarithmic axis cannot hold."""
    least, most = int(points["done"].min()), int(points["done"].max())
    seeds = f"{least} seed{'' if most == 1 else 's'}" if least == most else f"{least} to {most} seeds"
    spread = ", bars one standard deviation" if most > 1 else ""
    lines = [
        f"Mean over {seeds}{spread}; nothing here was chosen by test data.",
        "Lines: each arm's front; faint: dominated in its arm; hollow, dashed: control; grey band: front of all arms.",
    ]
    if nothing := int((points["cost"] <= 0).sum()):
        lines.append(f"Not drawn: {nothing} of {len(points)} points have no FLOPs left (they are in the table).")
    counted = {"flops_masked": "FLOPs", "flops_shrunk": "FLOPs after dead units are cut out"}[cost]
    return alt.TitleParams(f"{study}: accuracy against {counted}", subtitle=lines)


def _config() -> dict[str, Any]:
    ink = "currentColor"
    axis = {f"{part}Color": ink for part in ("label", "title", "domain", "tick", "grid")}
    title = {"color": ink, "subtitleColor": ink, "anchor": "start", "fontSize": 18, "subtitleFontSize": 12}
    legend = {"labelColor": ink, "labelFontSize": 14, "labelLimit": 300, "symbolSize": 110, "symbolStrokeWidth": 2}
    return {
        "background": "transparent",
        "font": "Helvetica, Arial, sans-serif",
        "axis": {**axis, "gridOpacity": 0.1, "labelFontSize": 13, "titleFontSize": 13, "titleFontWeight": "normal"},
        "title": {**title, "subtitlePadding": 6, "offset": 14},
        "legend": {**legend, "rowPadding": 5},
        "view": {"stroke": None},
    }
