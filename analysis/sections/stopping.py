"""What stopping by dominance took and spared, or would have."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import altair as alt
import pandas as pd

from .. import page
from ..draw import looks
from ..draw.looks import Data
from ..draw.render import Picture
from ..inference import dominance
from ..points import words
from ._section import Drawings, Section
from ._study import Study

KEPT = "hypervolume kept"
HEIGHT = 300


@dataclasses.dataclass(frozen=True)
class Figures:
    """As from `dominance.tried` of a study that ran whole, and `dominance.departures` of one that
    losers left; one of the two is empty.
    """

    tried: pd.DataFrame
    departures: pd.DataFrame


def figures(study: Study) -> Figures | None:
    tried = dominance.tried(study.rows, study.goals)
    departures = dominance.departures(study.rows)
    if tried.empty and departures.empty:
        return None
    return Figures(tried, departures)


def picture(study: Study, figures: Figures) -> Picture | None:
    if figures.tried.empty:
        return None
    return chart(dominance.means(figures.tried), study.name)


def chart(lines: pd.DataFrame, study: str) -> Picture:
    """Mean share of the hypervolume kept against the share of epochs trained, a point for each
    reduction factor.

    lines: as from `dominance.means`.
    """
    data = Data()
    base = data.chart(lines)
    scale = alt.Scale(zero=False, padding=16)
    axis = alt.Axis(format="~%", tickCount=6)
    x = alt.X(
        "share:Q",
        scale=alt.Scale(zero=False, padding=24),
        axis=axis,
        title="epochs trained, of those without stopping",
    )
    y = alt.Y("kept:Q", scale=scale, axis=axis, title=KEPT)
    low = alt.Y("low:Q", scale=scale, title=KEPT)
    high = alt.Y2("high:Q")
    ink = looks.COLOURS[0]
    bars = base.mark_rule(strokeWidth=1.5, color=ink)
    points = alt.OverlayMarkDef(color=ink, size=70)
    marks = base.mark_line(strokeWidth=2, color=ink, point=points)
    names = base.mark_text(
        align="right",
        dx=-7,
        dy=-9,
        fontSize=13,
        color=looks.TEXT,
    )
    layers = [
        bars.encode(x, low, high),
        marks.encode(x, y, order="factor:Q", tooltip=looks.tips(lines)),
        names.encode(x, y, alt.Text("factor:N")),
    ]
    said = [
        f"Mean over {looks.seeds(lines['n'])}, bars one standard deviation. "
        "Beside each point: one in so many goes on."
    ]
    title = alt.TitleParams(f"{study}: stopping by dominance", subtitle=said)
    return looks.layered(layers, data, title, HEIGHT)


def table(_: Study, figures: Figures) -> pd.DataFrame:
    return figures.tried if len(figures.tried) else figures.departures


def html(study: Study, figures: Figures, drawings: Drawings) -> Iterator[str]:
    if len(figures.departures):
        yield from _left(study, figures.departures)
        return
    yield page.say(dominance.told(figures.tried, study.goals))
    yield page.figure("stopping", drawings)
    means = dominance.means(figures.tried)
    lines = [_cells(line) for line in page.records(means)]
    head = ["one in", "settings at the end", "epochs", "hypervolume kept %", "least of a seed"]
    yield page.grid(head, lines)


def _left(study: Study, departures: pd.DataFrame) -> Iterator[str]:
    """Who left at which rung."""
    share, charged = dominance.saved(study.rows)
    yield page.say(
        "At each rung but the last the dominated settings left, all seeds of a setting together; "
        f"`reason` in the rows says at which place. Epochs trained: {_percent(share)} of what all "
        f"members would have taken ({_percent(charged)} as charged to each). Fronts are drawn from "
        "the members that are done."
    )
    lines = departures[["rung", "settings", "stopped"]].astype(str)
    yield page.grid(["rung", "settings", "stopped"], lines.to_numpy().tolist())


def _cells(line: Mapping[str, Any]) -> list[str]:
    return [
        f"{line['factor']:g}",
        str(line["settings"]),
        f"{_percent(line['share'])} ({_percent(line['share_charged'])})",
        words.spread(line["kept"], line["std"]),
        _percent(line["least"]),
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


SECTION = Section(
    name="stopping",
    title="Stopping by dominance",
    figures=figures,
    html=html,
    charts={"stopping": picture},
    tables={"stopping": table},
)
