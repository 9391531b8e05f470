"""What each layer keeps: the column `layers` of rows, as means of settings."""

from __future__ import annotations

import json

import pandas as pd

from ..points import front
from . import controls

SHOWN = 6
"""Settings of an arm that are drawn, spread over its front."""


def shares(last_rows: pd.DataFrame) -> pd.DataFrame:
    """The share of its parameters that each layer keeps, in settings on the front of their arm that
    removed something.

    last_rows: as from `table.last`.  Columns: arm, hp, setting, flops_masked (mean), n, layer,
    place (from 1, in the order of the network), kept (mean over done members).  At most `SHOWN`
    settings of an arm; without sanity checks.
    """
    empty = pd.DataFrame(
        columns=["arm", "hp", "setting", "flops_masked", "n", "layer", "place", "kept"]
    )
    done = last_rows[(last_rows["status"] == "done") & ~controls.is_check(last_rows)]
    done = done[done["layers"].notna() & (done["sparsity"] > 0)]
    if done.empty:
        return empty
    summary = front.summarise(done)
    chosen = summary[front.fronts(summary, "flops_masked", "arm")].sort_values(
        "flops_masked", ascending=False
    )
    chosen = pd.concat([front.evenly(group, SHOWN, 0) for _, group in chosen.groupby("arm")])
    lines = []
    for point in chosen.to_dict("records"):
        rows = done[(done["arm"] == point["arm"]) & (done["hp"] == point["hp"])]
        counts = map(json.loads, rows["layers"])
        kept = pd.DataFrame(
            [{name: left / every for name, (left, every) in count.items()} for count in counts]
        )
        about = {name: point[name] for name in ("arm", "hp", "setting", "flops_masked")} | {
            "n": len(rows)
        }
        lines += [
            {**about, "layer": n, "place": i, "kept": share}
            for i, (n, share) in enumerate(kept.mean().items(), 1)
        ]
    return pd.DataFrame(lines, columns=empty.columns)
