"""What charts look like: colours, shapes and tooltips of arms, titles, and the data of marks."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd

from .render import Picture

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
GRADED = ("#0072B2", "#CC79A7", "#E69F00")
"""A scale from few to much, visible on a dark and on a light page."""
WIDTH, HEIGHT = 720, 440
"""Pixels of a chart that stands alone."""
PANELS = 12
"""Panels of a chart of many, the first ones."""
FEW = 12
"""Points that are marked on their line; of more, the line alone is drawn."""
TEXT = "currentColor"
"""Text and axes have the colour of the surrounding text; in a file it is black."""
FAINT: dict[str, Any] = {"color": TEXT, "opacity": 0.6}
"""What notes and rules look like."""
SOLID, DASHED, DOTTED = [1, 0], [6, 4], [2, 3]
"""Pixels drawn and left out along a line."""


class Data:
    """The data behind the marks of one picture, apart from its layers: altair would copy and check
    every point in each of them.
    """

    def __init__(self) -> None:
        self.sets: dict[str, list[dict[str, Any]]] = {}

    def chart(self, lines: pd.DataFrame, exact: bool = False) -> alt.Chart:
        """A chart of these lines, without a mark.

        exact: with every digit; otherwise ten after the point are kept, and a gap of 1e-16 is 0.
        """
        name = f"lines{len(self.sets)}"
        if exact:
            self.sets[name] = _exact(lines)
        else:
            rounded = lines.to_json(orient="records")
            self.sets[name] = json.loads(rounded)
        return alt.Chart(alt.NamedData(name))


def one_mark() -> alt.Chart:
    """A chart of a single mark, whose place its encoding states."""
    return alt.Chart(alt.Data(values=[{}]))


def layered(
    layers: Sequence[alt.Chart],
    data: Data,
    title: alt.TitleParams,
    height: int = HEIGHT,
) -> Picture:
    """A picture of layers on common axes."""
    chart = alt.LayerChart(
        layer=layers,
        width=WIDTH,
        height=height,
        title=title,
        config=_config(),
    )
    specification = chart.to_dict(validate=False)
    return {**specification, "datasets": data.sets}


def panelled(
    panels: Sequence[alt.LayerChart],
    data: Data,
    title: alt.TitleParams,
    columns: int = 3,
) -> Picture:
    """A picture of panels side by side."""
    chart = alt.ConcatChart(
        concat=panels,
        columns=columns,
        title=title,
        config=_config(),
    )
    specification = chart.to_dict(validate=False)
    return {**specification, "datasets": data.sets}


def panel_title(
    text: str, subtitle: str | Sequence[str] | None = None, limit: int = 240
) -> alt.TitleParams:
    """The title of a panel. limit: pixels."""
    if subtitle is None:
        return alt.TitleParams(text, fontSize=13, offset=6, limit=limit)
    return alt.TitleParams(
        text, subtitle=subtitle, fontSize=13, subtitleFontSize=11, offset=6, limit=limit
    )


# ---- arms


def labels(frame: pd.DataFrame) -> pd.Series[str]:
    """What a legend calls each line: its arm, controls marked."""
    ending = frame["control"].map({True: " (control)", False: ""})
    return frame["arm"] + ending


@dataclasses.dataclass(frozen=True)
class Looks:
    """Colour, filling and shape of each label; a control is hollow."""

    stroke: alt.Stroke
    fill: alt.Fill
    shape: alt.Shape


def looks(drawn: pd.DataFrame) -> Looks:
    """Looks by the order of the column `label`."""
    arms = drawn.drop_duplicates("label")
    names = arms["label"].tolist()
    count = len(names)
    colours = cycled(COLOURS, count)
    filling = list(colours)
    hollow = arms["control"].tolist()
    for place, is_hollow in enumerate(hollow):
        if is_hollow:
            filling[place] = "transparent"
    shapes = cycled(SHAPES, count)
    legend = alt.Legend(title=None)
    strokes = alt.Scale(domain=names, range=colours)
    fills = alt.Scale(domain=names, range=filling)
    outlines = alt.Scale(domain=names, range=shapes)
    return Looks(
        alt.Stroke("label:N", scale=strokes, legend=legend),
        alt.Fill("label:N", scale=fills, legend=legend),
        alt.Shape("label:N", scale=outlines, legend=legend),
    )


def cycled(looks: Sequence[str], count: int) -> list[str]:
    """So many of these looks, from the first again where there are fewer."""
    endless = itertools.cycle(looks)
    first = itertools.islice(endless, count)
    return list(first)


def lines(base: alt.Chart, which: str = "", **how: Any) -> list[alt.Chart]:
    """Two layers of lines: arms, and controls dashed.

    which: a condition on what is joined.  how: of the mark.
    """
    also = f"{which} && " if which else ""
    own = base.transform_filter(f"{also}!datum.control")
    control = base.transform_filter(f"{also}datum.control")
    return [
        own.mark_line(strokeWidth=2, strokeDash=SOLID, **how),
        control.mark_line(strokeWidth=2, strokeDash=DASHED, **how),
    ]


def areas(base: alt.Chart, drawn: pd.DataFrame, **how: Any) -> list[alt.Chart]:
    """An area for each label; by no scale of colours, whose legend would displace that of the
    lines.
    """
    names = drawn["label"].unique().tolist()
    colours = cycled(COLOURS, len(names))
    layers = []
    for name, colour in zip(names, colours, strict=True):
        is_own = alt.FieldEqualPredicate(field="label", equal=name)
        own = base.transform_filter(is_own)
        area = own.mark_area(opacity=0.18, color=colour, **how)
        layers.append(area)
    return layers


def graded(column: str) -> alt.Color:
    """The colour of a column of shares, from few to much."""
    colours = list(GRADED)
    scale = alt.Scale(domain=[0, 0.5, 1], range=colours)
    return alt.Color(f"{column}:Q", scale=scale, legend=None)


# ---- words


def seeds(counts: pd.Series) -> str:
    """How many seeds are behind each mean, in words."""
    least = int(counts.min())
    most = int(counts.max())
    if least < most:
        return f"{least} to {most} seeds"
    if most == 1:
        return "1 seed"
    return f"{most} seeds"


def tips(frame: pd.DataFrame) -> list[alt.Tooltip]:
    """A tooltip for each column."""
    tooltips = []
    for name, kind in frame.dtypes.items():
        tip = _tip(str(name), str(kind))
        tooltips.append(tip)
    return tooltips


def _tip(name: str, kind: str) -> alt.Tooltip:
    path = field(name)
    title = name.replace("_", " ")
    forms = {"float64": ".4~g", "int64": ","}
    form = forms.get(kind)
    if form is None:
        return alt.Tooltip(field=path, type="nominal", title=title)
    return alt.Tooltip(field=path, type="quantitative", title=title, format=form)


def field(name: str) -> str:
    """A column whose name may have dots, brackets and quotes, which Vega takes for a path into its
    values.
    """
    return re.sub(r"""([\\.\[\]'"])""", r"\\\1", name)


def _exact(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The lines of a frame, None for what is not finite; `to_json` would round a gap of 1e-16 to
    nothing.
    """
    columns = {}
    for name in frame:
        values = frame[name].tolist()
        columns[str(name)] = [_finite(value) for value in values]
    rows = zip(*columns.values(), strict=True)
    lines = []
    for values in rows:
        line = dict(zip(columns, values, strict=True))
        lines.append(line)
    return lines


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _config() -> dict[str, Any]:
    axis = {f"{part}Color": TEXT for part in ("label", "title", "domain", "tick", "grid")}
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
        "title": {
            "color": TEXT,
            "subtitleColor": TEXT,
            "anchor": "start",
            "fontSize": 18,
            "subtitleFontSize": 12,
            "subtitlePadding": 6,
            "offset": 14,
        },
        "legend": {
            "labelColor": TEXT,
            "labelFontSize": 14,
            "labelLimit": 300,
            "symbolSize": 110,
            "symbolStrokeWidth": 2,
            "rowPadding": 5,
        },
        "view": {"stroke": None},
    }
