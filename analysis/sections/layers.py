"""What each layer keeps: the column `layers` of rows, as means of settings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import altair as alt
import pandas as pd

from .. import page
from ..draw import looks
from ..draw.looks import Data
from ..draw.render import Picture
from ..points import front
from ._section import Drawings, Section
from ._study import Study

SETTINGS_DRAWN = 6
"""Settings of an arm that are drawn, spread over its front."""
SETTING = ["arm", "hp", "setting", "flops_masked"]


def shares(last_rows: pd.DataFrame) -> pd.DataFrame:
    """The share of its parameters that each layer keeps, in settings on the front of their arm that
    removed something.

    last_rows: as from `table.last`.  Columns: arm, hp, setting, flops_masked (mean), n, layer,
    place (from 1, in the order of the network), kept (mean over done members).  At most
    `SETTINGS_DRAWN` settings of an arm; without sanity checks.
    """
    columns = [*SETTING, "n", "layer", "place", "kept"]
    is_done = last_rows["status"] == "done"
    done = last_rows[is_done]
    is_check = front.is_check(done)
    done = done[~is_check]
    removed = done["sparsity"] > 0
    pruned = done["layers"].notna() & removed
    if not pruned.any():
        return pd.DataFrame(columns=columns)
    done = done[pruned]
    by_setting = done.groupby(["arm", "hp"])
    texts = by_setting["layers"]
    summary = front.summarise(done)
    chosen = _chosen(summary)
    lines: list[dict[str, Any]] = []
    for point in chosen.to_dict("records"):
        setting = (point["arm"], point["hp"])
        own = texts.get_group(setting)
        about = {name: point[name] for name in SETTING}
        about["n"] = len(own)
        lines += _by_layer(about, own)
    return pd.DataFrame(lines, columns=columns)


def _chosen(summary: pd.DataFrame) -> pd.DataFrame:
    """Settings on the front of their arm, from the most FLOPs, evenly spread."""
    fronts = summary[front.fronts(summary, "flops_masked", "arm")]
    fronts = fronts.sort_values("flops_masked", ascending=False)
    if fronts.empty:
        return fronts
    arms = fronts.groupby("arm")
    return pd.concat([front.evenly(group, SETTINGS_DRAWN, 0) for _, group in arms])


def _by_layer(about: dict[str, Any], texts: pd.Series) -> list[dict[str, Any]]:
    """A line for each layer of a setting. texts: the column `layers` of its members."""
    members = []
    for text in texts:
        shares = {}
        for layer, (left, every) in json.loads(text).items():
            shares[layer] = left / every
        members.append(shares)
    means = pd.DataFrame(members).mean()
    lines = []
    for place, (layer, kept) in enumerate(means.items(), 1):
        lines.append({**about, "layer": layer, "place": place, "kept": kept})
    return lines


def figures(study: Study) -> pd.DataFrame | None:
    lines = shares(study.last)
    if lines.empty:
        return None
    return lines


def picture(study: Study, lines: pd.DataFrame) -> Picture:
    return chart(lines, study.name)


def chart(shares: pd.DataFrame, study: str) -> Picture:
    """The share that each layer keeps, a panel for each arm, a line for each setting, its colour by
    FLOPs.

    shares: as from `shares`.
    """
    arms = shares["arm"].unique().tolist()
    shown = arms[: looks.PANELS]
    data = Data()
    panels = [_panel(data, shares[shares["arm"] == arm], arm) for arm in shown]
    said = [
        f"Mean over {looks.seeds(shares['n'])}; settings on the front of their arm, layers in the "
        "order of the network.",
        "Blue: the most FLOPs (masked) of the panel, ochre: the fewest.",
    ]
    if len(shown) < len(arms):
        said.append(f"Drawn: the first {len(shown)} of {len(arms)} arms.")
    title = alt.TitleParams(f"{study}: parameters kept, layer by layer", subtitle=said)
    return looks.panelled(panels, data, title)


def _panel(data: Data, shares: pd.DataFrame, arm: str) -> alt.LayerChart:
    order = shares["flops_masked"].rank(method="dense", ascending=False)
    level = (order - 1) / max(order.max() - 1, 1)
    base = data.chart(shares.assign(level=level), exact=True)
    places = shares.drop_duplicates("place").sort_values("place")
    names = places["layer"].tolist()
    few = len(names) <= looks.FEW
    x = alt.X(
        "layer:N",
        sort=names,
        axis=alt.Axis(labelAngle=-45 if few else 0, labels=few, ticks=few, labelLimit=80),
        title=None if few else f"{len(names)} layers",
    )
    y = alt.Y(
        "kept:Q",
        scale=alt.Scale(domain=[0, 1]),
        axis=alt.Axis(format="~%", tickCount=5),
        title=None,
    )
    colour = looks.graded("level")
    lines = base.mark_line(strokeWidth=1.5)
    marks = base.mark_point(size=40, filled=True, opacity=1)
    tips = looks.tips(shares[["setting", "layer", "kept", "flops_masked", "n"]])
    layers = [
        lines.encode(x, y, colour, detail="hp:N"),
        marks.encode(x, y, colour, tooltip=tips),
    ]
    title = looks.panel_title(arm)
    return alt.LayerChart(layer=layers, width=210, height=150, title=title)


def table(_: Study, lines: pd.DataFrame) -> pd.DataFrame:
    return lines


def html(_: Study, __: pd.DataFrame, drawings: Drawings) -> Iterator[str]:
    if drawings:
        yield page.figure("layers", drawings)


SECTION = Section(
    name="layers",
    title="Layer by layer",
    columns=("layers",),
    figures=figures,
    html=html,
    charts={"layers": picture},
    tables={"layers": table},
)
