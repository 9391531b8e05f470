"""What a study answers at a glance: each arm's accuracy at given FLOPs, FLOPs at given accuracy,
hypervolume and cost.

A line for each label, (arm, control). Sanity checks have a table of their own (`controls.checked`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..inference import attainment, equal_flops, paired
from ..points import front
from . import controls

SHARES = (0.5, 0.25, 0.1, 0.05, 0.02, 0.01)
"""Shares of the parent's FLOPs at which accuracy is told, of those that two labels reach at most
`MOST`.
"""
MOST = 4
BY_COST = ("accuracy_at_", "flops_within_", "hypervolume")
"""How the columns begin that are others for another cost."""
DROPS = (0.005, 0.02)
"""How much less validation accuracy than the parent's is asked for, where the fewest FLOPs are
told.
"""


def shares(done: pd.DataFrame, cost: front.Cost = "flops_shrunk") -> list[float]:
    """Of `SHARES` those that at least two labels reach in every seed, the first `MOST`."""
    known = [_lines(rows, cost) for _, rows in _labelled(done)]
    dense = float(done["flops_dense"].max())
    reached = [
        share
        for share in SHARES
        if sum(not _at(lines, share * dense).isna().any() for lines in known) > 1
    ]
    return reached[:MOST]


def both(last_rows: pd.DataFrame) -> pd.DataFrame:
    """`arms` by shrunk FLOPs, and by masked ones where these are others; figures that go by a cost
    end in its name.
    """
    done = last_rows[last_rows["status"] == "done"]
    costs = front.COSTS if (done["flops_masked"] != done["flops_shrunk"]).any() else front.COSTS[:1]
    found = pd.DataFrame()
    for cost in costs:
        kind = cost.removeprefix("flops_")
        lines = arms(last_rows, cost)
        own = [str(name) for name in lines if str(name).startswith(BY_COST)]
        lines = lines.rename(columns={name: f"{name}_{kind}" for name in own})
        if found.empty:
            found = lines
            continue
        found = found.merge(
            lines[["arm", "control", *(f"{name}_{kind}" for name in own)]],
            on=["arm", "control"],
            how="left",
        )
    return found


def arms(
    last_rows: pd.DataFrame, cost: front.Cost = "flops_shrunk", at: Sequence[float] | None = None
) -> pd.DataFrame:
    """One line for each label, in the order of (control, arm).

    last_rows: as from `table.last`.  cost: what leaves is a dense network, which costs its shrunk
    FLOPs.  at: shares of the parent's FLOPs; None: `shares`.  Columns: arm, control; `networks`,
    the most that a seed has; for each share `accuracy_at_<percent>` and `_std`, of test data, read
    off each seed's own front of validation accuracy as comparisons are (`equal_flops.at`), NaN if a
    seed does not reach it; for each of `DROPS` `flops_within_<points>`, the fewest FLOPs of a
    network whose validation accuracy is at most so much below the parent's of the same seed, mean
    over seeds, NaN if a seed has none; as from `attainment.averaged`: seeds and `hypervolume`; and
    `train_flops` and `seconds`, charged to all networks of a seed, mean over seeds.
    """
    last_rows = last_rows[~controls.is_check(last_rows)]
    done = last_rows[last_rows["status"] == "done"]
    wanted, dense = shares(done, cost) if at is None else list(at), float(done["flops_dense"].max())
    parent = front.parent_scores(done)["accuracy_valid"]
    found = []
    for (arm, control), rows in _labelled(done):
        line: dict[str, object] = {"arm": arm, "control": bool(control)}
        lines = _lines(rows, cost)
        for share in wanted:
            scores = _at(lines, share * dense)
            reached = not scores.isna().any()
            name = f"accuracy_at_{100 * share:g}"
            line[name], line[f"{name}_std"] = (
                (scores.mean(), scores.std()) if reached else (math.nan, math.nan)
            )
        for drop in DROPS:
            able = rows[front.eligible(rows)]
            enough = able[able["accuracy_valid"] >= able["seed"].map(parent) - drop - paired.ALIKE]
            least = enough.groupby("seed")[cost].min()
            line[f"flops_within_{100 * drop:g}"] = (
                least.mean() if len(least) == rows["seed"].nunique() else math.nan
            )
        found.append(line)
    volumes = attainment.hypervolumes(attainment.points(done, cost)).rename(
        columns={"points_most": "networks"}
    )
    charged = (
        attainment.compute(last_rows, cost)
        .groupby([*attainment.LABEL, "seed"])[list(attainment.CHARGES)]
        .max()
    )
    spent = charged.groupby(attainment.LABEL).mean().reset_index()
    frame = (
        pd.DataFrame(found)
        .merge(volumes.drop(columns="points_least"), how="left")
        .merge(spent, how="left")
    )
    return frame.sort_values(["control", "arm"], ignore_index=True)


def _labelled(done: pd.DataFrame) -> list[tuple[tuple[str, bool], pd.DataFrame]]:
    return list(done.groupby(attainment.LABEL))  # type: ignore[arg-type]


def _lines(rows: pd.DataFrame, cost: front.Cost) -> dict[int, np.ndarray]:
    """As `equal_flops.lines`, a line without points for a seed all of whose networks have no FLOPs
    left.
    """
    return dict.fromkeys(rows["seed"].tolist(), np.empty((0, 3))) | equal_flops.lines(rows, cost)


def _at(lines: dict[int, np.ndarray], flops: float) -> pd.Series:
    known = {seed: line for seed, line in lines.items() if len(line)}
    return equal_flops.at(known, flops)["accuracy_test"].reindex(list(lines))
