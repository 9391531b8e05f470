"""What pruning changes at each value of the task that a study sweeps.

Accuracies at different values are of different parents, and say nothing of pruning: compared are
only differences to the parent of the same value and seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from ..draw import intervals, render
from ..points import front, words
from ..rows import rundir
from ..rows.loaded import Loaded, open_rows
from ..rows.mistake import Mistake
from ..rows.storage import Location, Where, save
from ..rows.swept import studies
from . import paired

POINT = ["arm", "hp"]
SHOWN = ("arm: setting", "value", "FLOPs %", "n", "minus parent", "95 % interval", "verdict",
         "change", "its interval", "p (Holm)")  # fmt: skip
ABOUT = (
    "Minus parent: test accuracy minus that of the parent of the same value and seed, mean over n "
    "seeds, in percentage points, with its 95 % t interval; verdict: better or worse after Holm's "
    "correction for all lines, else equivalent (two one-sided t tests, "
    f"{100 * paired.MARGIN:g} points), else inconclusive.",
    "Change: that difference minus the difference at the first value, paired by seed, with its "
    "interval, and the p value that it is 0, after Holm's correction for all changes.",
)


def lines(by_value: Mapping[str, Loaded]) -> pd.DataFrame:
    """A line for each (arm, hp) and value: what it costs and changes.

    Columns: arm, hp, setting, control, value, `share` (mean masked FLOPs over dense ones), and
    `difference_*` of test accuracy to the parent, `change_*` of that difference to the one at the
    first value, each as from `paired.tested`.  Settings of the parent itself, and sanity checks,
    are left out. Raises Mistake if a value has no parent that is done.
    """
    parts: list[pd.DataFrame] = []
    for value, study in by_value.items():
        part = _differences(study, value)
        parts.append(part)
    points = pd.concat(parts, ignore_index=True)
    first = next(iter(by_value))
    at_first = points[points["value"] == first].set_index(POINT)["by_seed"]
    changes: list[pd.Series] = []
    for point in points.to_dict("records"):
        key = point["arm"], point["hp"]
        known = point["value"] != first and key in at_first.index
        before = at_first[key] if known else math.nan
        changes.append(point["by_seed"] - before)
    differences = points.pop("by_seed")
    tests = paired.tested(list(differences), "difference")
    table = points.join(tests).join(paired.tested(changes, "change"))
    places = {value: number for number, value in enumerate(by_value)}
    order = table["value"].map(places)
    share = table.groupby(POINT)["share"].transform("mean")  # which values change a little
    table = table.assign(order=order, least=-share)
    table = table.sort_values(["arm", "least", "hp", "order"], ignore_index=True)
    return table.drop(columns=["order", "least"])


def _differences(study: Loaded, value: str) -> pd.DataFrame:
    """A line for each setting, with its differences to the parent by seed."""
    parents = front.parents(study.done)
    if not parents:
        rule = "settings are compared with the dense parent of the same value"
        raise Mistake(f"{study.folder}: {rule}; got none that is done: an arm `dense` gives it")
    parent = front.parent_scores(study.done)["accuracy_test"]
    is_parent = study.done["arm"].isin(parents)
    compared = study.done[~is_parent & ~front.is_check(study.done)]
    compared = compared.assign(setting=front.settings(compared))
    found: list[dict[str, Any]] = []
    for (arm, hp), rows in compared.groupby(POINT, sort=False):
        accuracy = rows.groupby("seed")["accuracy_test"].mean()
        point: dict[str, Any] = {"arm": arm, "hp": hp, "value": value}
        point["setting"] = rows["setting"].iloc[0]
        point["control"] = bool(rows["control"].all())
        point["share"] = (rows["flops_masked"] / rows["flops_dense"]).mean()
        point["by_seed"] = accuracy - parent.reindex(accuracy.index)
        found.append(point)
    return pd.DataFrame(found)


def write(folder: Where) -> tuple[pd.DataFrame, Location]:
    """Write `across/` of a folder of swept values: `across.csv`, `across.md`, and the picture as
    SVG and PNG where one can be drawn; the lines, and where they are.

    Raises Mistake as `lines` and `load` do.
    """
    by_value: dict[str, Loaded] = {}
    for value, place in studies(folder).items():
        by_value[value] = open_rows(place)
    table = lines(by_value)
    target = rundir.across(folder)
    content = table.to_csv(index=False, lineterminator="\n")
    save(target / "across.csv", content.encode())
    value, first = next(iter(by_value.items()))
    name = first.name.removesuffix(f", {value}")
    text = markdown(table, name)
    save(target / "across.md", text.encode())
    if not render.hindrance() and len(table):
        picture = intervals.values(drawn(table), name)
        drawing = render.svg(picture)
        save(target / "across.svg", render.paper(drawing).encode())
        save(target / "across.png", render.png(drawing))
    return table, target


def drawn(table: pd.DataFrame) -> pd.DataFrame:
    """The lines under the names that charts know."""
    names = {}
    for name in ("low", "high", "n", "verdict"):
        names[f"difference_{name}"] = name
    return table.rename(columns=names)


def markdown(table: pd.DataFrame, name: str) -> str:
    """The lines as Markdown, and how to read them."""
    cells = [list(texts(line).values()) for line in table.to_dict("records")]
    grid = words.grid(SHOWN, cells)
    heading = f"# {name}: what pruning changes at each value"
    return "\n\n".join([heading, grid, *ABOUT]) + "\n"


def texts(line: Mapping[Any, Any]) -> dict[str, str]:
    """One line as text, by heading."""
    cells = [
        f"{line['arm']}: {line['setting']}",
        line["value"],
        words.number(100 * line["share"], ".1f"),
        str(line["difference_n"]),
        words.number(100 * line["difference"], "+z.2f"),
        words.interval(line["difference_low"], line["difference_high"], "+z.2f"),
        line["difference_verdict"],
        words.number(100 * line["change"], "+z.2f"),
        words.interval(line["change_low"], line["change_high"], "+z.2f"),
        words.p(line["change_holm"]),
    ]
    if not line["change_n"]:
        cells[-3:] = ["", "", ""]
    return dict(zip(SHOWN, cells, strict=True))
