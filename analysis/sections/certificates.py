"""Certificates: how near the optimum of its program each member is, where an algorithm can prove
it.

Known by columns alone: `m_primal` (value of the program at what is measured), `m_dual` (a lower
bound on its optimum) and `m_gap` (primal - dual and what violated constraints may hide, at least
0), at every rung. The relative gap is m_gap / m_primal.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from .. import page
from ..draw import axes, looks
from ..draw.looks import Data
from ..draw.render import Picture
from ..points import front, words
from ..rows import table as rows_table
from ._section import Drawings, Section
from ._study import Study

MEASURES = ("primal", "dual", "gap", "violation", "stationarity", "gates", "neurons")
"""What `m_<name>` may hold; violation and stationarity are relative KKT residuals."""
FORMS = {
    "primal": ".6g",
    "dual": ".6g",
    "relative": ".2g",
    "relative_worst": ".2g",
    "violation_worst": ".2g",
    "stationarity_worst": ".2g",
    "gates": "g",
    "neurons": "g",
}
"""Columns that are listed, and the format of each."""
SETTING = ["arm", "hp", "setting"]
ABOUT = ["member", "seed", "rung", "epochs", "seconds"]
SETTINGS_SHOWN = 30
"""Settings that a page has room for."""
ROUNDING = float(np.finfo(np.float64).eps)
"""A relative gap up to it is at or below rounding: no positive number to place on a logarithmic
axis.
"""


def holding(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that hold a certificate."""
    measures = rows.reindex(columns=["m_primal", "m_gap"])
    is_proven = measures.notna().any(axis=1)
    return rows[is_proven]


def measured(rows: pd.DataFrame, points: pd.DataFrame) -> pd.DataFrame:
    """The rows of done members of `points` that hold a certificate, one for each rung; empty
    without any.

    rows: all of a study.  points: as from `front.summarise`.  Columns: `SETTING`, member, seed,
    rung, epochs, seconds, `MEASURES` (NaN where there is no such column), `relative` (NaN where the
    primal is not positive), and those `hp_<name>` that have a value.
    """
    done = rows_table.done(front.selectable(rows))
    settings = points[SETTING].drop_duplicates()
    proven = holding(done)
    seen = proven.merge(settings)
    given = []
    for name in _hyper(seen):
        is_given = seen[name].notna()
        if is_given.any():
            given.append(name)
    kept = seen[[*SETTING, *ABOUT, *given]]
    measures = _measures(seen)
    kept = kept.join(measures)
    primal = kept["primal"]
    positive = primal.where(primal > 0)
    relative = kept["gap"] / positive
    return kept.assign(relative=relative)


def _measures(rows: pd.DataFrame) -> pd.DataFrame:
    """`MEASURES`, NaN where the rows have no such column."""
    columns = [f"m_{name}" for name in MEASURES]
    measures = rows.reindex(columns=columns).astype(float)
    return measures.set_axis(list(MEASURES), axis=1)


def _hyper(rows: pd.DataFrame) -> list[str]:
    """The columns of hyper-parameters."""
    return [name for name in map(str, rows) if name.startswith("hp_")]


def curves(certified: pd.DataFrame) -> pd.DataFrame:
    """One line per setting and rung, in the order of arm and hyper-parameters.

    certified: as from `measured`.  Columns: `SETTING`, rung, `hp_<name>`, members (`n`) and those
    with a relative gap (`known`); medians over members of epochs, seconds, `MEASURES` and
    `relative`; the largest of relative gap, violation and stationarity (`*_worst`); `last`: whether
    it is the setting's last rung.
    """
    names = _hyper(certified)
    grouped = certified.groupby([*SETTING, "rung"], sort=False)
    parts = [
        grouped["relative"].count().rename("known"),
        grouped[names].first(),
        grouped[["epochs", "seconds", *MEASURES, "relative"]].median(),
        grouped[["relative", "violation", "stationarity"]].max().add_suffix("_worst"),
    ]
    counts = grouped.size().to_frame("n")
    lines = counts.join(parts).reset_index()
    last = lines.groupby(SETTING)["rung"].transform("max")
    lines["last"] = lines["rung"] == last
    key = ["arm", *names, "hp", "rung"]
    return lines.sort_values(key, ignore_index=True)


def shown(lines: pd.DataFrame, most: int = SETTINGS_SHOWN) -> pd.DataFrame:
    """The lines of at most `most` settings, evenly spread over their order; that of the largest
    last gap is one of them.

    lines: as from `curves`.
    """
    last = lines[lines["last"]]
    if last.empty:
        return lines
    worst = last["relative_worst"].fillna(np.inf)
    place = int(worst.to_numpy().argmax())
    settings = front.evenly(last, most, place)
    return lines.merge(settings[SETTING])


def drawable(lines: pd.DataFrame) -> pd.Series[bool]:
    """Which lines logarithmic axes can hold: a finite relative gap (`ROUNDING` and less go to the
    foot), seconds above 0.
    """
    gap = lines["relative"].abs()
    seconds = lines["seconds"]
    is_positive = seconds > 0
    is_finite = seconds < np.inf
    return (gap < np.inf) & is_positive & is_finite


# ---- the chart


def chart(curves: pd.DataFrame, study: str) -> Picture:
    """Median relative gap against median seconds, both logarithmic, a line for each setting and a
    point for each rung.

    curves: as from `curves`, all of them `drawable`.  Colours are a scale of the one number in
    which settings differ, else one for each arm.  Gaps at or below rounding, which are no positive
    numbers, are drawn a decade below the least positive one, with another mark.
    """
    rounded = curves["relative"] <= ROUNDING
    foot = _foot(curves["relative"][~rounded])
    number = front.varying(curves)
    drawn = curves.assign(rounded=rounded, place=curves["relative"].where(~rounded, foot))
    names = ["arm", "setting", "n", "rung", "seconds", "relative", "relative_worst"]
    if number:
        names.append(number)
    data = Data()
    base = data.chart(drawn[[*names, "hp", "rounded", "place"]], exact=True)
    layers = _layers(base, drawn, number, looks.tips(drawn[names]))
    said = [
        f"Medians over {looks.seeds(curves['n'])}, a point for each rung. "
        "Seconds are a member's share of its cohort's."
    ]
    if rounded.any():
        rule = looks.one_mark().mark_rule(strokeDash=looks.DOTTED, **looks.FAINT)
        layers.append(rule.encode(alt.Y(datum=foot)))
        said.append(
            f"Hollow triangles on the dotted line: {rounded.sum()} of {len(curves)} points at or "
            f"below rounding ({ROUNDING:.1e}); their height says nothing."
        )
    title = alt.TitleParams(f"{study}: proven gap against seconds", subtitle=said)
    return looks.layered(layers, data, title)


def _foot(positive: pd.Series) -> float:
    """Where gaps are drawn that are no positive numbers."""
    if positive.empty:
        return ROUNDING
    least = float(positive.min())
    return max(least / 10, ROUNDING)


def _layers(
    base: alt.Chart,
    drawn: pd.DataFrame,
    number: str | None,
    tips: list[alt.Tooltip],
) -> list[alt.Chart]:
    """Lines, points, and hollow triangles for what is at the foot."""
    scale = alt.Scale(type="log", nice=False, padding=16)
    ticks = axes.round_ticks(drawn["seconds"])
    seconds = alt.Axis(format=".3~g", values=ticks)
    x = alt.X("seconds:Q", scale=scale, axis=seconds, title="seconds charged to a member")
    gaps = alt.Axis(format="~e", tickCount=8)
    y = alt.Y("place:Q", scale=scale, axis=gaps, title="relative gap (gap / primal)")
    colour = _colour(drawn, number)
    shape = _shape(drawn)
    lines = base.mark_line(strokeWidth=1.5)
    above = base.transform_filter("!datum.rounded")
    marks = above.mark_point(size=40, filled=True, opacity=1)
    below = base.transform_filter("datum.rounded")
    feet = below.mark_point(
        size=110,
        strokeWidth=2,
        shape="triangle-down",
        opacity=1,
    )
    return [
        lines.encode(x, y, colour, detail=["arm:N", "hp:N"], order="rung:Q"),
        marks.encode(x, y, colour, shape, tooltip=tips),
        feet.encode(x, y, colour, tooltip=tips),
    ]


def _colour(drawn: pd.DataFrame, number: str | None) -> alt.Color:
    if number is None:
        arms = drawn["arm"].unique().tolist()
        colours = looks.cycled(looks.COLOURS, len(arms))
        scale = alt.Scale(domain=arms, range=colours)
        legend = alt.Legend(title=None)
        return alt.Color("arm:N", scale=scale, legend=legend)
    name = number.removeprefix("hp_")
    legend = alt.Legend(title=name, titleColor=looks.TEXT, format="~g")
    kind = axes.kind(drawn[number])
    scale = alt.Scale(type=kind, range=list(looks.GRADED), nice=False)
    path = looks.field(number)
    return alt.Color(field=path, type="quantitative", scale=scale, legend=legend)


def _shape(drawn: pd.DataFrame) -> alt.Shape:
    """A shape for each arm, with a legend where there are several."""
    arms = drawn["arm"].unique().tolist()
    legend = None
    if len(arms) > 1:
        legend = alt.Legend(
            title=None,
            symbolFillColor=looks.TEXT,
            symbolStrokeColor=looks.TEXT,
        )
    shapes = looks.cycled(looks.SHAPES, len(arms))
    scale = alt.Scale(domain=arms, range=shapes)
    return alt.Shape("arm:N", scale=scale, legend=legend)


# ---- as text


@dataclasses.dataclass(frozen=True)
class Figures:
    """proven: as from `measured`.  lines: as from `curves`.  shown: those that the page shows.
    others: members that hold certificates but are not done.
    """

    proven: pd.DataFrame
    lines: pd.DataFrame
    shown: pd.DataFrame
    others: int


def figures(study: Study) -> Figures | None:
    return proofs(study.rows, study.summary)


def proofs(rows: pd.DataFrame, points: pd.DataFrame) -> Figures | None:
    """What is proven of a study's members; None if nothing is. Parameters as of `measured`."""
    proven = measured(rows, points)
    if proven.empty:
        return None
    lines = curves(proven)
    member = ["arm", "member"]
    every = holding(rows).drop_duplicates(member)
    others = len(every) - len(proven.drop_duplicates(member))
    return Figures(proven, lines, shown(lines), others)


def picture(study: Study, figures: Figures) -> Picture | None:
    is_drawable = drawable(figures.shown)
    drawn = figures.shown[is_drawable]
    if drawn.empty:
        return None
    return chart(drawn, study.name)


def table(_: Study, figures: Figures) -> pd.DataFrame:
    return figures.lines


def html(_: Study, figures: Figures, drawings: Drawings) -> Iterator[str]:
    return told(figures, drawings)


def told(figures: Figures, drawings: Drawings) -> Iterator[str]:
    """The text of the section."""
    yield page.say(
        "Relative gap: the value of the program at what is measured (primal) minus a lower bound "
        "on its optimum (dual), plus what violated constraints may hide of it, over primal. It is "
        "about the program that the algorithm solved (where gate patterns are sampled, with those "
        "patterns only), not about all networks, and a small gap says nothing about accuracy on "
        "new data."
    )
    yield page.figure("certificates", drawings)
    yield from map(page.say, _gaps(figures))
    head = ["arm", "setting", "n", "primal", "dual", "relative gap", "largest"]
    head += ["violation, largest", "stationarity, largest", "gates", "neurons"]
    last = figures.shown[figures.shown["last"]]
    yield page.grid(head, [_cells(line) for line in page.records(last)])


def _gaps(figures: Figures) -> Iterator[str]:
    """What a reader should know of the gaps before the table of them."""
    proven, gaps = figures.proven, figures.proven["relative"]
    small = gaps <= ROUNDING
    least = "."
    if small.any():
        least = (
            f", the least {gaps.min():.2g}. One far below zero would mean that what is measured "
            "violates the constraints, or that the bound is none."
        )
    yield (
        f"Relative gaps at or below rounding ({ROUNDING:.1e}), over members and rungs: "
        f"{small.sum()} of {gaps.notna().sum()}{least}"
    )
    if unknown := int((~drawable(proven)).sum()):
        yield (
            f"Not on the axes: {unknown} of {len(proven)} measurements, whose gap is not finite, "
            "not known or relative to no positive primal, or which took no time."
        )
    if figures.others:
        yield (
            f"Members that hold certificates but are not done, and left out here: {figures.others}."
        )
    settings = len(proven.drop_duplicates(SETTING))
    listed = len(figures.shown.drop_duplicates(SETTING))
    drawn = ""
    if listed < settings:
        drawn = (
            f"Drawn and listed: {listed} of {settings} settings, evenly spread, the one with the "
            "largest gap among them. "
        )
    yield (
        "At the last rung: medians over the n seeds, and the largest. Violation and stationarity "
        f"are relative residuals of the optimality conditions (KKT). {drawn}In certificates.csv: "
        "every setting at every rung, in full precision."
    )


def _cells(line: Mapping[str, Any]) -> list[str]:
    count = str(line["n"])
    if line["known"] < line["n"]:
        count = f"{line['known']} of {line['n']}"
    cells = [line["arm"], line["setting"], count]
    for name, form in FORMS.items():
        cells.append(words.number(line[name], form))
    return cells


SECTION = Section(
    name="certificates",
    title="Certificates",
    columns=("m_primal", "m_gap"),
    figures=figures,
    html=html,
    charts={"certificates": picture},
    tables={"certificates": table},
)
