"""How long the networks of the front took on a machine, and whether FLOPs told it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import altair as alt
import pandas as pd

from .. import page
from ..draw import axes, looks
from ..draw.looks import Data
from ..draw.render import Picture
from ..inference import attainment, latency
from ..points import words
from ..rows.mistake import Mistake
from ._section import Drawings, Section
from ._study import Study

MODES = ["eager", "compiled"]
REASON = 80
"""Characters of a reason in a cell."""


def figures(study: Study) -> pd.DataFrame | None:
    timed = latency.shown(study.folder, study.last)
    return timed if len(timed) else None


def picture(study: Study, timed: pd.DataFrame) -> Picture | None:
    measured = timed["milliseconds"].notna()
    computing = timed["flops_shrunk"] > 0
    if not (measured & computing).any():
        return None
    return chart(timed, study.name)


def chart(timed: pd.DataFrame, study: str) -> Picture:
    """Milliseconds of a call against FLOPs of the shrunk network, a panel for each batch and place,
    a colour for each mode.

    timed: as from `latency.shown`, at least one of its lines measured.  Bars go from the fastest
    round to the slowest. Networks of no FLOPs, which a logarithmic axis cannot hold, are left out
    with a note.
    """
    measured = timed[timed["milliseconds"].notna()]
    drawn = measured[measured["flops_shrunk"] > 0]
    data = Data()
    panels = []
    for place, group in drawn.groupby(["device", "threads", "torch", "batch"]):
        device, threads, _, batch = place  # type: ignore[misc]
        head = f"{device}, threads: {threads}, batch: {batch}"
        panel = _panel(data, group, head)
        panels.append(panel)
    said = [
        "Median of rounds of calls, bars from the fastest to the slowest; hollow: the dense parent."
    ]
    nothing = measured["member"].nunique() - drawn["member"].nunique()
    if nothing:
        said.append(f"Not drawn: {nothing} networks have no FLOPs left (they are in the table).")
    title = alt.TitleParams(f"{study}: latency against FLOPs", subtitle=said)
    return looks.panelled(panels, data, title, columns=2)


def _panel(data: Data, group: pd.DataFrame, title: str) -> alt.LayerChart:
    times = ["milliseconds", "milliseconds_min", "milliseconds_max"]
    names = ["mode", "flops_shrunk", *times, "parent", "arm", "setting"]
    base = data.chart(group[names])
    axis = alt.Axis(format="~s", tickCount=5)
    x = axes.logarithmic("flops_shrunk", "FLOPs of the shrunk network (one example)", axis, 16)
    y = alt.Y(
        "milliseconds:Q",
        scale=alt.Scale(type="log", nice=False, padding=10),
        axis=alt.Axis(tickCount=5),
        title="milliseconds",
    )
    colours = alt.Scale(domain=MODES, range=list(looks.COLOURS[:2]))
    stroke = alt.Stroke("mode:N", scale=colours, legend=alt.Legend(title=None))
    fill = alt.Fill("mode:N", scale=colours, legend=None)
    shapes = alt.Scale(domain=MODES, range=list(looks.SHAPES[:2]))
    shape = alt.Shape("mode:N", scale=shapes, legend=None)
    hollow = alt.value("transparent")
    filling = alt.condition("datum.parent", hollow, fill)
    tips = []
    for name in names:
        heading = name.replace("_", " ")
        tips.append(alt.Tooltip(f"{name}:N", title=heading))
    fastest = alt.Y("milliseconds_min:Q")
    slowest = alt.Y2("milliseconds_max:Q")
    bars = base.mark_rule(strokeWidth=1.5)
    marks = base.mark_point(size=70, strokeWidth=2, opacity=1)
    layers = [
        bars.encode(x, fastest, slowest, stroke),
        marks.encode(x, y, stroke, shape, fill=filling, tooltip=tips),
    ]
    head = looks.panel_title(title, limit=360)
    return alt.LayerChart(
        layer=layers,
        width=330,
        height=260,
        title=head,
    )


def html(study: Study, timed: pd.DataFrame, drawings: Drawings) -> Iterator[str]:
    yield page.say(
        "The networks of the front without the units and blocks that cannot influence their "
        "output, and the dense parent, each run alone: eager, and compiled by torch.compile for "
        "each batch. A round is as many calls as fill a twentieth of a second, after a warm-up; "
        "figures are the median of the rounds and, in brackets, the fastest and the slowest. "
        f"Of a large front at most {latency.NETWORKS} networks are measured, spread over their "
        "FLOPs."
    )
    yield page.figure("latency", drawings)
    yield page.say(
        "Spearman's rank correlation of FLOPs and milliseconds: 1 if more FLOPs always took "
        "longer. Not dominated: in validation accuracy, shrunk FLOPs and milliseconds, with their "
        "hypervolume (reference point: accuracy 0, the parent's FLOPs and milliseconds); “-” where "
        "the parent was not measured."
    )
    points = attainment.points(study.last, "flops_shrunk")
    head = ["device", "mode", "batch", "threads", "torch", "networks", "rank correlation"]
    lines = []
    for line in page.records(latency.correlations(timed)):
        lines.append([*_correlated(line), *_together(timed, line, points)])
    yield page.grid([*head, "not dominated", "hypervolume"], lines)
    yield page.grid(*_networks(timed))


def _correlated(line: Mapping[str, Any]) -> list[str]:
    return [
        line["device"],
        line["mode"],
        str(line["batch"]),
        str(line["threads"]),
        line["torch"],
        str(line["networks"]),
        words.number(line["correlation"], "+z.2f"),
    ]


def _together(
    timed: pd.DataFrame, place: Mapping[str, Any], points: pd.DataFrame
) -> tuple[str, str]:
    """How many timed networks none dominates in accuracy, FLOPs and latency, and their
    hypervolume.
    """
    wanted = [place[name] for name in latency.GROUP]
    is_same = timed[latency.GROUP] == wanted
    here = timed[is_same.all(axis=1)]
    try:
        measured = attainment.timed(points, here)
    except Mistake:
        return "-", "-"
    count, volume = attainment.together(measured, attainment.TIMED)
    return f"{count} of {len(measured)}", f"{volume:.4f}"


def _networks(timed: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """The table of networks, the parent and the costliest first: headings and lines."""
    places = list(latency.PLACE)
    about = ["arm", "setting"]
    if timed.groupby(places).ngroups > 1:
        about = [*places, *about]
    columns = _columns(timed)
    head = [*about, "FLOPs", "parameters"]
    for mode, batch in columns:
        head.append(f"{mode}, batch {batch}, ms")
    key = [*places, "parent", "flops_shrunk", "member"]
    ascending = [True, True, True, False, False, True]
    ordered = timed.sort_values(key, ascending=ascending)
    lines = []
    for _, network in ordered.groupby(key, sort=False):
        first = network.iloc[0]
        names = [str(first[name]) for name in about]
        flops = words.large(first["flops_shrunk"])
        parameters = words.large(first["params_shrunk"])
        times = _times(network, columns)
        lines.append([*names, flops, parameters, *times])
    return head, lines


def _columns(timed: pd.DataFrame) -> list[tuple[str, int]]:
    """The modes and batches, from the smallest batch."""
    key = ["batch", "mode"]
    kinds = timed[key].drop_duplicates()
    ordered = kinds.sort_values(key, ascending=[True, False])
    columns = []
    for batch, mode in ordered.to_numpy():
        columns.append((mode, batch))
    return columns


def _times(network: pd.DataFrame, columns: list[tuple[str, int]]) -> list[str]:
    """What a network took in each mode and batch."""
    known = {}
    for line in page.records(network):
        column = (line["mode"], line["batch"])
        known[column] = _took(line)
    times: list[str] = []
    for column in columns:
        times.append(known.get(column, "-"))
    return times


def _took(line: Mapping[str, Any]) -> str:
    """Milliseconds of a call, or why there are none."""
    median = line["milliseconds"]
    if math.isnan(median):
        return f"not measured: {line['reason'][:REASON]}"
    fastest = words.number(line["milliseconds_min"], ".3g")
    slowest = words.number(line["milliseconds_max"], ".3g")
    middle = words.number(median, ".3g")
    return f"{middle} ({fastest} to {slowest})"


SECTION = Section(
    name="latency", title="Latency", figures=figures, html=html, charts={"latency": picture}
)
