"""The fronts: mean validation accuracy against mean FLOPs, masked and shrunk."""

from __future__ import annotations

from collections.abc import Iterator

import altair as alt
import numpy as np
import pandas as pd

from .. import page
from ..draw import axes, looks
from ..draw.looks import Data
from ..draw.render import Picture
from ..points import front
from ..rows.mistake import Mistake
from ..rows.published import CAVEAT
from ._section import Drawings, Section
from ._study import Study

DRAWN = 2000
"""Points that a chart has room for: of more, those on a front, and others evenly spread."""
COUNTED = {"flops_masked": "FLOPs", "flops_shrunk": "FLOPs after dead units are cut out"}
CROSS = "M-1,-1L1,1M-1,1L1,-1"


def gathered(points: pd.DataFrame) -> pd.DataFrame:
    """Operating points with those of sanity checks under the name of the check, one for all arms.

    Arms of checks are called after the arm that they are about, a comma, and what the check does.
    """
    names = points["arm"]
    parts = names.str.rpartition(", ")
    own = ~front.is_check(points)
    gathered_names = names.where(own, parts[2])
    return points.assign(arm=gathered_names)


def shrinks(points: pd.DataFrame) -> bool:
    """Whether FLOPs after shrinking differ from the parent's."""
    done = points[points["done"] > 0]
    is_smaller = done["flops_shrunk"] != done["flops_dense"]
    return bool(is_smaller.any())


def masked_chart(study: Study, points: pd.DataFrame) -> Picture:
    return chart(points, study.name, "flops_masked", study.published)


def shrunk_chart(study: Study, points: pd.DataFrame) -> Picture | None:
    if not shrinks(points):
        return None
    return chart(points, study.name, "flops_shrunk", study.published)


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
    note, points of no FLOPs, which a logarithmic axis cannot hold.
    published: points as from `published.points_of`, faint crosses with names; those counted as
    masked only beside masked FLOPs.
    """
    points = _points(summary, cost)
    able = points[front.eligible(points)]
    if able.empty:
        raise Mistake(
            f"{study}: no point has FLOPs left ({cost}), so a logarithmic axis cannot hold any"
        )
    drawn = able[_shown(able)]
    others = _published(published, cost)
    vertical = axes.accuracy(_with_others(drawn, others))
    title = ["FLOPs (2 per multiply-accumulate, one example, forward)", axes.COSTS[cost]]
    x = axes.logarithmic("cost", title, alt.Axis(format="~s", tickCount=6), 24)
    y = vertical.y()
    data = Data()
    base = data.chart(drawn)
    layers = [
        *_notes(data, drawn, vertical.broken),
        *_crosses(data, others, x, y),
        *_marks(base, x, y, vertical.scale, looks.looks(drawn), _tooltips(summary)),
    ]
    said = _explained(points, bool(len(others)))
    if len(drawn) < len(able):
        said.append(f"Drawn: all fronts, and of the other points so many that {len(drawn)} of "
                    f"{len(able)} are there.")  # fmt: skip
    heading = f"{study}: accuracy against {COUNTED[cost]}"
    return looks.layered(layers, data, alt.TitleParams(heading, subtitle=said))


def _points(summary: pd.DataFrame, cost: front.Cost) -> pd.DataFrame:
    """The points with a mean, as the chart names them; colours and shapes go by the order of the
    labels.
    """
    done = summary[summary["done"] > 0]
    mean, std = done["accuracy_valid"], done["accuracy_valid_std"]
    drawn = done.assign(
        label=looks.labels(done),
        cost=done[cost],
        accuracy=mean,
        std=std,
        low=(mean - std).clip(lower=0),
        high=(mean + std).clip(upper=1),
    )
    best = front.fronts(drawn, cost)
    drawn = drawn.assign(best=best, front=front.fronts(drawn, cost, within="label"))
    return drawn.sort_values(["control", "arm", "cost"])


def _shown(points: pd.DataFrame) -> np.ndarray:
    """Which points are drawn: all of them, or all on a front and every so-many-th of the others."""
    shown = points["front"].to_numpy(dtype=bool)
    room = max(DRAWN - shown.sum(), 0)
    others = np.flatnonzero(~shown)
    if len(others) > room:
        last = len(others) - 1
        spread = np.linspace(0, last, room)
        places = spread.round().astype(int)
        others = others[places]
    shown = shown.copy()
    shown[others] = True
    return shown


def _with_others(drawn: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    if others.empty:
        return drawn
    accuracy = others["accuracy"]
    ranges = others.assign(low=accuracy, high=accuracy)
    return pd.concat([drawn, ranges])


def _marks(
    base: alt.Chart,
    x: alt.X,
    y: alt.Y,
    scale: alt.Scale,
    look: looks.Looks,
    tooltips: list[alt.Tooltip],
) -> list[alt.Chart]:
    """Fronts, bars of one deviation, and points; faint where they are dominated."""
    faint = alt.condition("datum.front", alt.value(1), alt.value(0.35))
    lines = [line.encode(x, y, look.stroke) for line in looks.lines(base, "datum.front")]
    bars = base.transform_filter("isValid(datum.std)").mark_rule(strokeWidth=1.5)
    low, high = alt.Y("low:Q", scale=scale), alt.Y2("high:Q")
    points = base.mark_point(
        size=90,
        strokeWidth=2,
        opacity=1,
    )
    return [
        *lines,
        bars.encode(x, low, high, look.stroke, opacity=faint),
        points.encode(
            x,
            y,
            look.stroke,
            look.fill,
            look.shape,
            opacity=faint,
            tooltip=tooltips,
        ),
    ]


def _notes(data: Data, drawn: pd.DataFrame, broken: float | None) -> list[alt.Chart]:
    """The parent's FLOPs, the front of all arms, and where the axis breaks."""
    best = drawn.loc[drawn["best"], ["cost", "accuracy"]]
    band = data.chart(best).mark_line(
        strokeWidth=14,
        opacity=0.12,
        color=looks.TEXT,
        strokeCap="round",
    )
    dense = drawn["flops_dense"].max()
    parent = alt.X(datum=float(dense))
    rule = looks.one_mark().mark_rule(strokeDash=looks.DOTTED, **looks.FAINT)
    name = looks.one_mark().mark_text(
        align="right",
        dx=-5,
        dy=-6,
        baseline="bottom",
        fontSize=12,
        **looks.FAINT,
    )
    foot = alt.Y(value=looks.HEIGHT)
    layers = [
        band.encode(alt.X("cost:Q"), alt.Y("accuracy:Q")),
        rule.encode(parent),
        name.encode(parent, foot, alt.TextValue("parent")),
    ]
    if broken is not None:
        below = int((drawn["accuracy"] < broken).sum())
        layers += axes.squeezed(broken, f"; {below} of {len(drawn)} points are there")
    return layers


def _published(points: pd.DataFrame | None, cost: front.Cost) -> pd.DataFrame:
    """Published points as the chart names them: what is shrunk costs the same where removed weights
    cost nothing.
    """
    if points is None:
        return pd.DataFrame()
    known = points
    if cost != "flops_masked":
        is_shrunk = points["counted"] == "shrunk"
        known = points[is_shrunk]
    named = known.rename(columns={"flops": "cost"})
    return named.assign(front=False)


def _crosses(
    data: Data,
    others: pd.DataFrame,
    x: alt.X,
    y: alt.Y,
) -> list[alt.Chart]:
    if others.empty:
        return []
    names = ["name", "source", "model", "protocol", "counted", "accuracy", "cost", "params"]
    told = others[names]
    base = data.chart(told, exact=True).encode(x, y)
    faint = {"color": looks.TEXT, "opacity": 0.45}
    marks = base.mark_point(
        shape=CROSS,
        size=60,
        strokeWidth=1.5,
        **faint,
    )
    words = base.mark_text(
        align="left",
        dx=8,
        fontSize=11,
        **faint,
    )
    tooltip = looks.tips(told)
    name = alt.Text("name:N")
    return [marks.encode(tooltip=tooltip), words.encode(name)]


def _tooltips(summary: pd.DataFrame) -> list[alt.Tooltip]:
    """Everything that the summary says of a point."""
    arm = alt.Tooltip("label:N", title="arm")
    told = summary.drop(columns=["algorithm", "control", "arm"])
    return [arm, *looks.tips(told)]


def _explained(points: pd.DataFrame, others: bool) -> list[str]:
    """Split, seeds, and how to read the marks; and how many points the axes cannot hold."""
    spread = ", bars one standard deviation" if points["done"].max() > 1 else ""
    seeds = looks.seeds(points["done"])
    said = [
        f"Mean over {seeds}{spread}; nothing here was chosen by test data.",
        "Lines: each arm's front; faint: dominated there; hollow, dashed: control; "
        "grey band: front of all arms.",
    ]
    computing = front.computes(points)
    count = len(points)
    if nothing := int((~computing).sum()):
        said.append(
            f"Not drawn: {nothing} of {count} points have no FLOPs left (they are in the table)."
        )
    if unknown := int((computing & ~front.eligible(points)).sum()):
        said.append(
            f"Not drawn: {unknown} of {count} points have an accuracy that is no finite number."
        )
    if operations := front.unknown_operations(points):
        said.append(f"FLOPs leave out what has no formula: {', '.join(operations)}.")
    if others:
        said.append(CAVEAT)
    return said


def html(study: Study, points: pd.DataFrame, drawings: Drawings) -> Iterator[str]:
    yield from map(page.say, front.left_out(study.last))
    for name in drawings:
        yield page.figure(name, drawings)
    if not shrinks(points):
        yield page.say(
            "No unit died at any point: FLOPs after shrinking are the parent's, and have no figure."
        )


def figures(study: Study) -> pd.DataFrame:
    return gathered(study.points)


SECTION = Section(
    name="fronts",
    title="Fronts",
    figures=figures,
    html=html,
    charts={"flops_masked": masked_chart, "flops_shrunk": shrunk_chart},
)
