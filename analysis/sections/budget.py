"""Accuracy over the training budget: what members measured at their rungs, and whether the last
rung is the best one.

Validation data alone.
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
from ..inference import paired
from ..points import front, words
from ..rows import table as rows_table
from ._section import Drawings, Section
from ._study import Study

SETTING = ["arm", "hp", "setting"]
MEMBER = ["arm", "member"]
PANELS, LINES = 6, 12
"""Arms that are drawn, and settings of each."""
MEANS = ["epochs", "flops_masked", "accuracy_valid"]
LISTED = 12
"""Settings with a best rung before the last that are listed."""
ENDS = ["rung", "epochs", "flops_masked", "accuracy_valid"]
"""What is told of the best and of the last rung."""


def measured(rows: pd.DataFrame, points: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """The rows, at every rung, of done members of `points` that have two rungs or more; and how
    many members lack a rung.

    rows: all of a study.  points: as from `front.listed`.  A member that lacks the validation
    accuracy of a rung that others of its setting have is left out, so that every rung of a setting
    is of the same members.
    """
    done = rows_table.done(front.selectable(rows))
    settings = points[SETTING].drop_duplicates()
    seen = done.merge(settings)
    by_setting = seen.groupby(SETTING)
    rungs = by_setting["rung"].transform("nunique")
    seen = seen.assign(rungs=rungs)
    several = rungs > 1
    seen = seen[several]
    by_member = seen.groupby(MEMBER)
    known = by_member["accuracy_valid"].transform("count")
    whole = known == seen["rungs"]
    lacking = seen[~whole]
    members = lacking.drop_duplicates(MEMBER)
    return seen[whole], len(members)


def curves(seen: pd.DataFrame) -> pd.DataFrame:
    """One line per setting and rung, from the fewest to the most FLOPs at the last rung of a
    setting.

    seen: as from `measured`.  Columns: `SETTING`, rung, `hp_<name>`; `n` members; means of epochs,
    flops_masked and accuracy_valid; `best` and `last`: whether it is that rung of its setting. The
    best rung has the largest mean; the last one wins ties, then the first.
    """
    names = [name for name in map(str, seen) if name.startswith("hp_")]
    grouped = seen.groupby([*SETTING, "rung"])
    sizes = grouped.size()
    parts = [
        sizes.rename("n"),
        grouped[MEANS].mean(),
    ]
    lines = grouped[names].first()
    lines = lines.join(parts).reset_index()
    settings = lines.groupby(SETTING)
    last = settings["rung"].transform("max")
    lines["last"] = lines["rung"] == last
    best = _best(lines)
    lines["best"] = lines.index.isin(best)
    lines["cost"] = settings["flops_masked"].transform("last")
    key = ["arm", "cost", "hp", "rung"]
    lines = lines.sort_values(key, ignore_index=True)
    columns = [*SETTING, "rung", *names, "n", *MEANS, "last", "best"]
    return lines[columns]


def _best(lines: pd.DataFrame) -> pd.Index:
    """The lines of the best rung of each setting."""
    by_setting = lines.groupby(SETTING)
    highest = by_setting["accuracy_valid"].transform("max")
    is_top = lines["accuracy_valid"] >= highest - paired.ALIKE
    top = lines[is_top]
    last_first = top.sort_values("last", ascending=False, kind="stable")
    best = last_first.drop_duplicates(SETTING)
    return best.index


def shown(lines: pd.DataFrame) -> pd.DataFrame:
    """The lines of at most `PANELS` arms and `LINES` settings of each, the arms that lose most
    after a best rung first.

    lines: as from `curves`.  Settings are evenly spread over their cost; the one that loses most is
    among them.
    """
    last = lines.loc[lines["last"], [*SETTING, "accuracy_valid"]]
    best = lines[lines["best"]]
    best = best.merge(last, on=SETTING, suffixes=("", "_last"))
    best["lost"] = best["accuracy_valid"] - best["accuracy_valid_last"]
    by_arm = best.groupby("arm")
    most = by_arm["lost"].max()
    most = most.sort_values(ascending=False, kind="stable")
    parts = []
    for arm in most.index[:PANELS]:
        own = best[best["arm"] == arm]
        lost = own["lost"].to_numpy()
        place = int(lost.argmax())
        spread = front.evenly(own, LINES, place)
        parts.append(spread)
    chosen = pd.concat(parts)
    return chosen[SETTING].merge(lines, on=SETTING)


def early(seen: pd.DataFrame, lines: pd.DataFrame) -> pd.DataFrame:
    """The settings whose best rung is not the last, from the largest difference to the smallest.

    seen: as from `measured`.  lines: as from `curves`.  Columns: `SETTING`, `n`; rung, epochs,
    flops_masked and accuracy_valid with `_best` and `_last`; `difference`, the mean over members of
    accuracy at the best rung minus that at the last, with its 95 % t interval `difference_low` and
    `difference_high` (NaN where `paired.paired` has none, and after the first `LISTED`).
    """
    key = [*SETTING, "n"]
    told = lines[[*key, *ENDS]]
    best = told[lines["best"]]
    last = told[lines["last"]]
    both = best.merge(last, on=key, suffixes=("_best", "_last"))
    is_early = both["rung_best"] != both["rung_last"]
    both = both[is_early].reset_index(drop=True)
    differences = _differences(seen, both)
    means = [difference.mean() for difference in differences]
    both["difference"] = pd.Series(means, dtype=float)
    both = both.sort_values("difference", ascending=False, kind="stable")
    lows = []
    highs = []
    for place in both.index[:LISTED]:
        difference = differences[place]
        test = paired.paired(difference)
        lows.append(test.low)
        highs.append(test.high)
    both = both.reset_index(drop=True)
    both["difference_low"] = pd.Series(lows, dtype=float)
    both["difference_high"] = pd.Series(highs, dtype=float)
    return both


def _differences(seen: pd.DataFrame, both: pd.DataFrame) -> list[np.ndarray]:
    """For each line of `both` its members' accuracy at the best rung minus that at the last."""
    if both.empty:
        return []
    best = _members(seen, both, "rung_best")
    last = _members(seen, both, "rung_last")
    key = ["place", "member"]
    joined = best.merge(last, on=key, suffixes=("_best", "_last"))
    joined = joined.sort_values(key)
    difference = joined["accuracy_valid_best"] - joined["accuracy_valid_last"]
    following = both.index[1:]
    starts = np.searchsorted(joined["place"], following)
    values = difference.to_numpy()
    return np.split(values, starts)


def _members(seen: pd.DataFrame, both: pd.DataFrame, rung: str) -> pd.DataFrame:
    """Accuracies at a rung, a line for each member of each line of `both`, whose index is `place`.

    rung: the column of `both` that names it.
    """
    wanted = both[SETTING].assign(
        rung=both[rung],
        place=both.index,
    )
    key = [*SETTING, "rung"]
    members = wanted.merge(seen, on=key)
    return members[["place", "member", "accuracy_valid"]]


# ---- the chart


def chart(curves: pd.DataFrame, study: str) -> Picture:
    """Mean validation accuracy against epochs, a panel for each arm, a line for each setting, a
    ring at its best rung.

    curves: as from `shown`.
    """
    data = Data()
    arms = curves.groupby("arm", sort=False)
    panels = [_panel(data, group, str(arm)) for arm, group in arms]
    said = [
        f"Mean over {looks.seeds(curves['n'])}, validation data, axes for each panel. "
        "Ring: the best rung.",
        "Colours go by the order of the number above each panel.",
    ]
    title = alt.TitleParams(f"{study}: accuracy over the budget", subtitle=said)
    return looks.panelled(panels, data, title)


def _panel(data: Data, curves: pd.DataFrame, arm: str) -> alt.LayerChart:
    number = front.varying(curves) or "flops_masked"
    last = curves[number].where(curves["last"])
    by_setting = last.groupby(curves["hp"])
    level = by_setting.transform("max")
    order = level.rank(method="dense")
    steps = max(order.max() - 1, 1)
    share = (order - 1) / steps
    names = ["setting", "rung", "epochs", "n", "accuracy_valid", "flops_masked"]
    drawn = curves[[*names, "hp", "best"]]
    drawn = drawn.assign(level=share)
    base = data.chart(drawn)
    x = _epochs(curves["epochs"])
    scale = alt.Scale(zero=False)
    y = axes.percent("accuracy_valid", scale)
    colour = looks.graded("level")
    lines = base.mark_line(strokeWidth=1.5)
    best = base.transform_filter("datum.best")
    rings = best.mark_point(size=60, strokeWidth=2, opacity=1)
    tips = looks.tips(curves[names])
    layers = [
        lines.encode(x, y, colour, detail="hp:N", order="rung:Q"),
        rings.encode(x, y, colour, tooltip=tips),
    ]
    told = _coloured(number, level)
    if curves["hp"].nunique() == 1:
        told = str(curves["setting"].iloc[0])
    title = looks.panel_title(arm, told)
    return alt.LayerChart(layer=layers, width=210, height=160, title=title)


def _epochs(epochs: pd.Series) -> alt.X:
    """The horizontal axis."""
    kind = axes.kind(epochs)
    axis = alt.Axis(format="~s", tickCount=5)
    if kind == "log":
        ticks = axes.round_ticks(epochs)
        axis = alt.Axis(format="~s", values=ticks)
    scale = alt.Scale(type=kind, nice=False, zero=False, padding=8)
    return alt.X("epochs:Q", axis=axis, scale=scale)


def _coloured(number: str, level: pd.Series) -> str:
    """What the colours go by."""
    name = number.removeprefix("hp_")
    form = ",.4g"
    if number == "flops_masked":
        name = "masked FLOPs"
        form = ",.0f"
    low = format(level.min(), form)
    high = format(level.max(), form)
    return f"{name} {low} (blue) to {high} (ochre)"


# ---- as text


@dataclasses.dataclass(frozen=True)
class Figures:
    """lines: as from `curves`.  early: as from `early`.  lacking: members that lack a rung."""

    lines: pd.DataFrame
    early: pd.DataFrame
    lacking: int


def figures(study: Study) -> Figures | None:
    points = study.points
    is_check = front.is_check(points)
    own = points[~is_check]
    seen, lacking = measured(study.rows, own)
    lines = curves(seen)
    if lines.empty:
        return None
    return Figures(lines, early(seen, lines), lacking)


def picture(study: Study, figures: Figures) -> Picture:
    drawn = shown(figures.lines)
    return chart(drawn, study.name)


def table(_: Study, figures: Figures) -> pd.DataFrame:
    return figures.lines


def html(_: Study, figures: Figures, drawings: Drawings) -> Iterator[str]:
    settings = len(figures.lines.drop_duplicates(SETTING))
    yield page.say(_introduced(figures, settings))
    yield page.figure("budget", drawings)
    yield "<h3>Early stopping</h3>\n"
    early = figures.early
    if early.empty:
        yield page.say(f"The last rung is the best one of each of {settings} settings.")
        return
    listed = ""
    if len(early) > LISTED:
        listed = f" Listed: the {LISTED} with the largest difference."
    yield page.say(
        f"In {len(early)} of {settings} settings the best rung by mean validation accuracy is not "
        f"the last.{listed} Difference: best minus last, mean over the pairs of the same seed, in "
        "percentage points, with its 95 % t interval. The best rung was chosen on the same "
        "validation data, so the difference is flattered by selection, and its interval does not "
        "allow for it. Where FLOPs differ too, it is not one of early stopping alone."
    )
    head = ["arm", "setting", "n", "best rung", "last rung", "epochs, best", "last"]
    head += ["accuracy %, best", "last", "difference", "interval", "FLOPs masked, best", "last"]
    yield page.grid(head, [_cells(line) for line in page.records(early.head(LISTED))])


def _introduced(figures: Figures, settings: int) -> str:
    drawn = shown(figures.lines)
    lines, arms = len(drawn.drop_duplicates(SETTING)), figures.lines["arm"].nunique()
    said = (
        "Validation accuracy of the done members at their rungs. Epochs are as the rows count them "
        "(a solver's iterations). An earlier rung is a point on the way of the longer run, not the "
        "end of a shorter one."
    )
    if lines < settings:
        said += (
            f" Drawn: {lines} of {settings} settings, {drawn['arm'].nunique()} of {arms} arms, "
            "those that lose most after their best rung; in budget.csv: all."
        )
    if figures.lacking:
        said += f" Left out: {figures.lacking} members that lack a rung of their setting."
    return said


def _cells(line: Mapping[str, Any]) -> list[str]:
    low, high = line["difference_low"], line["difference_high"]
    return [
        line["arm"],
        line["setting"],
        str(line["n"]),
        str(line["rung_best"]),
        str(line["rung_last"]),
        words.large(line["epochs_best"]),
        words.large(line["epochs_last"]),
        words.number(100 * line["accuracy_valid_best"], ".2f"),
        words.number(100 * line["accuracy_valid_last"], ".2f"),
        f"{100 * line['difference']:+.2f}",
        words.interval(low, high, "+z.2f"),
        words.large(line["flops_masked_best"]),
        words.large(line["flops_masked_last"]),
    ]


SECTION = Section(
    name="budget",
    title="Over the budget",
    figures=figures,
    html=html,
    charts={"budget": picture},
    tables={"budget": table},
)
