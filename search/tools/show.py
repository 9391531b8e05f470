"""One network's story: where it comes from, its rungs, what it cost, and what is left of it layer
by layer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
from rich.table import Table
from torch import Tensor, nn

from ...analysis import pick
from ...analysis.points import front
from ...analysis.rows import table
from ...analysis.rows.storage import Where
from ...trainables.measure import flops
from ...trainables.measure.removed import by_layer, compression, elsewhere
from ...trainables.records.networks import kept_members, load
from ...trainables.records.physical import Parent
from ...trainables.structure.alive import alive
from ..console import Console, columns

COUNTS = tuple(name.removeprefix("flops_") for name in front.COUNTS if name.startswith("flops_"))
"""Dense, masked and shrunk, as the rows count FLOPs."""
WIDTH = 160
"""Columns that a table may take, whatever the terminal has."""


def show(folder: Where, member: str, console: Console) -> None:
    """Print the story of the member whose name begins with `member`.

    Raises Mistake if that is not one member. Without its network, which a study may not have kept,
    layers are left out.
    """

    say = console.say
    rows = table.current(folder, table.read(folder))
    member = pick.find(rows, member)
    mine = rows[rows["member"] == member]
    steps = mine.drop_duplicates("rung").sort_values("rung")
    last: dict[str, Any] = {str(name): value for name, value in steps.iloc[-1].items()}
    arms = [
        f"{arm} (control)" if control else str(arm)
        for arm, control in set(zip(mine["arm"], mine["control"], strict=True))
    ]
    say(
        f"member {member}: {last['algorithm']}, {last['model']} on {last['dataset']}, seed {last['seed']}"
    )
    say(f"of {', '.join(sorted(arms))} in the study {last['study']}; cohort {last['cohort']}")
    own = {
        name.removeprefix("hp_"): last[name]
        for name in last
        if name.startswith("hp_") and not pd.isna(last[name])
    }
    hp = own | json.loads(last["hp"])
    say(f"hyper-parameters: {', '.join(f'{name} {hp[name]}' for name in sorted(hp)) or 'none'}")
    ended = "running" if last["status"] == table.RUNNING else last["status"]
    say(f"{ended} at rung {last['rung']}{f': {reason}' if (reason := last['reason']) else ''}")
    spent = f"{last['train_flops']:,.0f} training FLOPs ({last['search_flops']:,.0f} of them for a search)"
    say(
        f"cost: {last['seconds']:.3g} s, {spent}, {last['steps']:,.0f} steps, {last['examples']:,.0f} examples"
    )
    uncounted = front.unknown_operations(mine)
    if uncounted:
        say(front.uncounted(uncounted))
    console.width = max(console.width, WIDTH)  # or digits would be cut off
    console.grid(
        "rung by rung, FLOPs", _rungs(steps, last["status"] != table.RUNNING, bool(uncounted))
    )
    if member not in kept_members(folder):
        say(
            "layers are not shown: the study kept no network of it (`keep` says which are kept when it ends)"
        )
        return
    module, kept, parent = load(folder, member)
    console.grid("layer by layer, FLOPs", _layers(*layers(module, kept, parent), bool(uncounted)))
    if gone := [block.name for block in parent.structure.blocks if not kept.get(block.name, True)]:
        say(f"residual blocks removed: {', '.join(gone)}")


def layers(
    module: nn.Module, kept: Mapping[str, Tensor], parent: Parent
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """What is left of each removable layer of one network, in order, and in all, as its row counts
    it.

    Names of a line: `layer`, `shape` (of its weight), `parameters` and `kept` of them, `units` and
    `removed` of them, `dense`, `masked` and `shrunk` FLOPs. The last line is what is computed
    elsewhere, if that has FLOPs.  module, kept, parent: as from `kept.load`.
    """
    found, counts = parent.structure, flops.count(module, parent.input_shape)
    stack = {name: mask[None] for name, mask in kept.items()}
    units, columns = alive(found, stack)
    left = by_layer(found, counts, stack, units, columns, elsewhere(found, counts, stack, columns))
    lines = [
        {
            "layer": layer.name,
            "shape": tuple(kept[layer.weight].shape),
            "parameters": sum(kept[name].numel() for name in layer.parameters),
            "kept": int(left[layer.name]["kept"]),
            "units": int(left[layer.name]["units"]),
            "removed": layer.units - int(left[layer.name]["units"]),
            COUNTS[0]: counts.layers.get(layer.name, 0),
            **{kind: int(left[layer.name][f"flops_{kind}"]) for kind in COUNTS[1:]},
        }
        for layer in found.layers
    ]
    if rest := counts.flops - sum(line[COUNTS[0]] for line in lines):
        lines.append({"layer": "elsewhere", **dict.fromkeys(COUNTS, rest)})
    whole = compression(found, counts, stack)
    return lines, {
        COUNTS[0]: counts.flops,
        **{kind: int(whole[f"flops_{kind}"]) for kind in COUNTS[1:]},
    }


def _layers(lines: list[dict[str, Any]], whole: dict[str, int], uncounted: bool) -> Table:
    grid = columns(["layer", "weight", "kept", "units", "removed", *COUNTS], left=("layer",))
    for line in lines:
        about = ["", "", "", ""]
        if "shape" in line:
            shape = "x".join(map(str, line["shape"]))
            about = [
                shape,
                f"{100 * line['kept'] / line['parameters']:.1f} %",
                str(line["units"]),
                str(line["removed"]),
            ]
        grid.add_row(line["layer"], *about, *(f"{line[kind]:,}" for kind in COUNTS))
    grid.add_section()
    grid.add_row(
        "all", "", "", "", "", *(f"{'≥ ' if uncounted else ''}{whole[kind]:,}" for kind in COUNTS)
    )
    return grid


def _rungs(steps: pd.DataFrame, ended: bool, uncounted: bool) -> Table:
    """A line for each rung; test data at the last row only. uncounted: whether FLOPs are lower
    bounds.
    """
    names = {"train %": "accuracy_train", "valid %": front.SCORES[0], "test %": front.SCORES[1]}
    grid = columns(["rung", "epochs", "loss", *names, "sparsity", *COUNTS[1:]])
    for number, row in enumerate(steps.to_dict("records"), 1):
        scores = [
            f"{100 * row[name]:.2f}" if not pd.isna(row[name]) else "" for name in names.values()
        ]
        counts = [_count(row[f"flops_{kind}"], uncounted) for kind in COUNTS[1:]]
        whole = [_real(row["epochs"], ".4g"), _real(row["loss_valid"], ".4f")]
        scores[-1] = scores[-1] if ended and number == len(steps) else ""
        grid.add_row(str(row["rung"]), *whole, *scores, _real(row["sparsity"], ".4f"), *counts)
    return grid


def _real(value: float, form: str) -> str:
    return "" if math.isnan(value) else format(value, form)


def _count(value: float, uncounted: bool) -> str:
    return "" if math.isnan(value) else f"{'≥ ' if uncounted else ''}{value:,.0f}"
