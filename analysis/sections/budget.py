"""Accuracy over the training budget: what members measured at their rungs, and whether the last
rung is the best one.

Validation data alone.
"""

from __future__ import annotations

import pandas as pd

from ..inference import paired
from ..points import front
from ..rows import table

SETTING = ["arm", "hp", "setting"]

PANELS, LINES = 6, 12
"""Arms that are drawn, and settings of each."""
LISTED = 12
"""Settings with a best rung before the last that are listed."""


def measured(rows: pd.DataFrame, points: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """The rows, at every rung, of done members of `points` that have two rungs or more; and how
    many members lack a rung.

    rows: all of a study.  points: as from `front.listed`.  A member that lacks the validation
    accuracy of a rung that others of its setting have is left out, so that every rung of a setting
    is of the same members.
    """
    seen = table.done(front.selectable(rows)).merge(points[SETTING].drop_duplicates())
    seen["rungs"] = seen.groupby(SETTING)["rung"].transform("nunique")
    seen = seen[seen["rungs"] > 1]
    known = seen.groupby(["arm", "member"])["accuracy_valid"].transform("count")
    whole = known == seen["rungs"]
    return seen[whole], len(seen[~whole].drop_duplicates(["arm", "member"]))


def curves(seen: pd.DataFrame) -> pd.DataFrame:
    """One line per setting and rung, from the fewest to the most FLOPs at the last rung of a
    setting.

    seen: as from `measured`.  Columns: `SETTING`, rung, `hp_<name>`; `n` members; means of epochs,
    flops_masked and accuracy_valid; `best` and `last`: whether it is that rung of its setting. The
    best rung has the largest mean; the last one wins ties, then the first.
    """
    names = [str(name) for name in seen if str(name).startswith("hp_")]
    grouped = seen.groupby([*SETTING, "rung"])
    means = grouped[["epochs", "flops_masked", "accuracy_valid"]].mean()
    lines = grouped[names].first().join([grouped.size().rename("n"), means]).reset_index()
    settings = lines.groupby(SETTING)
    lines["last"] = lines["rung"] == settings["rung"].transform("max")
    top = lines[
        lines["accuracy_valid"] >= settings["accuracy_valid"].transform("max") - paired.ALIKE
    ]
    best = top.sort_values("last", ascending=False, kind="stable").drop_duplicates(SETTING)
    lines = lines.assign(
        best=lines.index.isin(best.index), cost=settings["flops_masked"].transform("last")
    )
    return lines.sort_values(["arm", "cost", "hp", "rung"], ignore_index=True).drop(columns="cost")


def shown(lines: pd.DataFrame) -> pd.DataFrame:
    """The lines of at most `PANELS` arms and `LINES` settings of each, the arms that lose most
    after a best rung first.

    lines: as from `curves`.  Settings are evenly spread over their cost; the one that loses most is
    among them.
    """
    last = lines.loc[lines["last"], [*SETTING, "accuracy_valid"]]
    lost = lines[lines["best"]].merge(last, on=SETTING, suffixes=("", "_last"))
    lost = lost.assign(lost=lost["accuracy_valid"] - lost["accuracy_valid_last"])
    arms = (
        lost.groupby("arm")["lost"].max().sort_values(ascending=False, kind="stable").index[:PANELS]
    )
    parts = [lost[lost["arm"] == arm] for arm in arms]
    chosen = pd.concat(
        [front.evenly(part, LINES, int(part["lost"].to_numpy().argmax())) for part in parts]
    )
    return chosen[SETTING].merge(lines, on=SETTING)


def early(seen: pd.DataFrame, lines: pd.DataFrame) -> pd.DataFrame:
    """The settings whose best rung is not the last, from the largest difference to the smallest.

    seen: as from `measured`.  lines: as from `curves`.  Columns: `SETTING`, `n`; rung, epochs,
    flops_masked and accuracy_valid with `_best` and `_last`; `difference`, the mean over members of
    accuracy at the best rung minus that at the last, with its 95 % t interval `difference_low` and
    `difference_high` (NaN where `paired.paired` has none).
    """
    ends = ["rung", "epochs", "flops_masked", "accuracy_valid"]
    best, last = (lines.loc[lines[end], [*SETTING, "n", *ends]] for end in ("best", "last"))
    both = best.merge(last, on=[*SETTING, "n"], suffixes=("_best", "_last"))
    both = both[both["rung_best"] != both["rung_last"]].reset_index(drop=True)
    members = {
        key: group.pivot(index="member", columns="rung", values="accuracy_valid")
        for key, group in seen.groupby(SETTING)
    }
    tests = []
    for arm, hp, setting, one, other in both[[*SETTING, "rung_best", "rung_last"]].itertuples(
        index=False
    ):
        accuracy = members[arm, hp, setting]
        tests.append(paired.paired(accuracy[one] - accuracy[other]))
    for field, end in (("mean", ""), ("low", "_low"), ("high", "_high")):
        both[f"difference{end}"] = pd.Series([getattr(test, field) for test in tests], dtype=float)
    return both.sort_values("difference", ascending=False, kind="stable", ignore_index=True)
