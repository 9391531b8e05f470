"""Certificates: how near the optimum of its program each member is, where an algorithm can prove
it.

Known by columns alone: `m_primal` (value of the program at what is measured), `m_dual` (a lower
bound on its optimum) and `m_gap` (primal - dual and what violated constraints may hide, at least
0), at every rung. The relative gap is m_gap / m_primal.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..points import front
from ..rows import table

MEASURES = ("primal", "dual", "gap", "violation", "stationarity", "gates", "neurons")
"""What `m_<name>` may hold; violation and stationarity are relative KKT residuals."""
SETTING = ["arm", "hp", "setting"]
MOST = 30
"""Settings that a page has room for."""
ROUNDING = float(np.finfo(np.float64).eps)
"""A relative gap up to it is at or below rounding: no positive number to place on a logarithmic
axis.
"""


def holding(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that hold a certificate."""
    return rows[rows.reindex(columns=["m_primal", "m_gap"]).notna().any(axis=1)]


def measured(rows: pd.DataFrame, points: pd.DataFrame) -> pd.DataFrame:
    """The rows of done members of `points` that hold a certificate, one for each rung; empty
    without any.

    rows: all of a study.  points: as from `front.summarise`.  Columns: `SETTING`, member, seed,
    rung, epochs, seconds, `MEASURES` (NaN where there is no such column), `relative` (NaN where the
    primal is not positive), and those `hp_<name>` that have a value.
    """
    seen = holding(table.done(front.selectable(rows))).merge(points[SETTING].drop_duplicates())
    measures = (
        seen.reindex(columns=[f"m_{name}" for name in MEASURES])
        .set_axis(list(MEASURES), axis=1)
        .astype(float)
    )
    names = [name for name in seen if str(name).startswith("hp_") and seen[name].notna().any()]
    kept = seen[[*SETTING, "member", "seed", "rung", "epochs", "seconds", *names]].join(measures)
    return kept.assign(relative=kept["gap"] / kept["primal"].where(kept["primal"] > 0))


def curves(certified: pd.DataFrame) -> pd.DataFrame:
    """One line per setting and rung, in the order of arm and hyper-parameters.

    certified: as from `measured`.  Columns: `SETTING`, rung, `hp_<name>`, members (`n`) and those
    with a relative gap (`known`); medians over members of epochs, seconds, `MEASURES` and
    `relative`; the largest of relative gap, violation and stationarity (`*_worst`); `last`: whether
    it is the setting's last rung.
    """
    names = [str(name) for name in certified if str(name).startswith("hp_")]
    grouped = certified.groupby([*SETTING, "rung"], sort=False)
    medians = grouped[["epochs", "seconds", *MEASURES, "relative"]].median()
    worst = grouped[["relative", "violation", "stationarity"]].max().add_suffix("_worst")
    counts = pd.DataFrame({"n": grouped.size(), "known": grouped["relative"].count()})
    lines = counts.join([grouped[names].first(), medians, worst]).reset_index()
    lines["last"] = lines["rung"] == lines.groupby(SETTING)["rung"].transform("max")
    return lines.sort_values(["arm", *names, "hp", "rung"], ignore_index=True)


def shown(lines: pd.DataFrame, most: int = MOST) -> pd.DataFrame:
    """The lines of at most `most` settings, evenly spread over their order; that of the largest
    last gap is one of them.

    lines: as from `curves`.
    """
    last = lines[lines["last"]]
    worst = last["relative_worst"].fillna(np.inf).to_numpy()
    return lines.merge(front.evenly(last, most, int(worst.argmax()) if len(last) else 0)[SETTING])


def drawable(lines: pd.DataFrame) -> pd.Series[bool]:
    """Which lines logarithmic axes can hold: a finite relative gap (`ROUNDING` and less go to the
    foot), seconds above 0.
    """
    return lines["relative"].abs().lt(np.inf) & lines["seconds"].between(
        0, np.inf, inclusive="neither"
    )
