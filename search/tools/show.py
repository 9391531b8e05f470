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
from ...trainables.structure.units import Layer
from ..console import Console, columns

COUNTS = tuple(name.removeprefix("flops_") for name in front.COUNTS if name.startswith("flops_"))
"""Dense, masked and shrunk, as the rows count FLOPs."""
DENSE, *LEFT = COUNTS
SCORES = {"train %": "accuracy_train", "valid %": front.SCORES[0], "test %": front.SCORES[1]}
"""Heading -> column."""
Row = Mapping[Any, Any]
Line = dict[str, Any]
"""Of the table of layers."""
Counts = dict[str, int]
WIDTH = 160
"""Columns that a table may take, whatever the terminal has."""


def show(folder: Where, member: str, console: Console) -> None:
    """Print the story of the member whose name begins with `member`.

    Raises Mistake if that is not one member. Without its network, which a study may not have kept,
    layers are left out.
    """
    rows = table.current(folder, table.read(folder))
    member = pick.find(rows, member)
    mine = rows[rows["member"] == member]
    steps = mine.drop_duplicates("rung").sort_values("rung")
    last: Row = steps.to_dict("records")[-1]
    _say_origin(mine, last, console)
    _say_end(last, console)
    uncounted = front.unknown_operations(mine)
    if uncounted:
        console.say(front.uncounted(uncounted))
    console.width = max(console.width, WIDTH)  # or digits would be cut off
    ended = last["status"] != table.RUNNING
    console.grid("rung by rung, FLOPs", _rungs(steps, ended, bool(uncounted)))
    if member not in kept_members(folder):
        why = "the study kept no network of it (`keep` says which are kept when it ends)"
        console.say(f"layers are not shown: {why}")
        return
    module, kept, parent = load(folder, member)
    lines, whole = layers(module, kept, parent)
    console.grid("layer by layer, FLOPs", _layers(lines, whole, bool(uncounted)))
    gone: list[str] = []
    for block in parent.structure.blocks:
        if not kept.get(block.name, True):
            gone.append(block.name)
    if gone:
        console.say(f"residual blocks removed: {', '.join(gone)}")


def _say_origin(mine: pd.DataFrame, last: Row, console: Console) -> None:
    """Of what study and arms a member is. mine: all its rows."""
    model = f"{last['model']} on {last['dataset']}"
    member = f"member {last['member']}: {last['algorithm']}"
    console.say(f"{member}, {model}, seed {last['seed']}")
    arms: list[str] = []
    pairs = zip(mine["arm"], mine["control"], strict=True)
    for arm, control in set(pairs):
        arms.append(f"{arm} (control)" if control else str(arm))
    names = ", ".join(sorted(arms))
    study = f"of {names} in the study {last['study']}"
    console.say(f"{study}; cohort {last['cohort']}")
    hp: Line = {}
    for name, value in last.items():
        if name.startswith("hp_") and not pd.isna(value):
            hp[name.removeprefix("hp_")] = value
    hp |= json.loads(last["hp"])
    settings = [f"{name} {hp[name]}" for name in sorted(hp)]
    console.say(f"hyper-parameters: {', '.join(settings) or 'none'}")


def _say_end(last: Row, console: Console) -> None:
    """How far a member came, and what it cost."""
    status = "running" if last["status"] == table.RUNNING else last["status"]
    reason = f": {last['reason']}" if last["reason"] else ""
    console.say(f"{status} at rung {last['rung']}{reason}")
    costs = (
        f"{last['seconds']:.3g} s",
        f"{last['train_flops']:,.0f} training FLOPs "
        f"({last['search_flops']:,.0f} of them for a search)",
        f"{last['steps']:,.0f} steps",
        f"{last['examples']:,.0f} examples",
    )
    console.say(f"cost: {', '.join(costs)}")


def layers(
    module: nn.Module, kept: Mapping[str, Tensor], parent: Parent
) -> tuple[list[Line], Counts]:
    """What is left of each removable layer of one network, in order, and in all, as its row counts
    it.

    Names of a line: `layer`, `shape` (of its weight), `parameters` and `kept` of them, `units` and
    `removed` of them, `dense`, `masked` and `shrunk` FLOPs. The last line is what is computed
    elsewhere, if that has FLOPs.  module, kept, parent: as from `kept.load`.
    """
    structure = parent.structure
    counts = flops.count(module, parent.input_shape)
    stack = {name: mask[None] for name, mask in kept.items()}
    units, columns = alive(structure, stack)
    others = elsewhere(structure, counts, stack, columns)
    left = by_layer(structure, counts, stack, units, columns, others)
    lines: list[Line] = []
    for layer in structure.layers:
        dense_flops = counts.layers.get(layer.name, 0)
        lines.append(_layer_line(layer, kept, left[layer.name], dense_flops))
    rest = counts.flops - sum(line[DENSE] for line in lines)
    if rest:
        lines.append({"layer": "elsewhere", **dict.fromkeys(COUNTS, rest)})
    whole = compression(structure, counts, stack)
    return lines, {DENSE: counts.flops, **_left_flops(whole)}


def _layer_line(
    layer: Layer,
    kept: Mapping[str, Tensor],
    left: Row,
    dense_flops: int,
) -> Line:
    """left: what is left of the layer."""
    units = int(left["units"])
    return {
        "layer": layer.name,
        "shape": tuple(kept[layer.weight].shape),
        "parameters": sum(kept[name].numel() for name in layer.parameters),
        "kept": int(left["kept"]),
        "units": units,
        "removed": layer.units - units,
        DENSE: dense_flops,
        **_left_flops(left),
    }


def _left_flops(left: Row) -> Counts:
    """Masked and shrunk."""
    counts: Counts = {}
    for kind in LEFT:
        counts[kind] = int(left[f"flops_{kind}"])
    return counts


def _layers(lines: list[Line], whole: Counts, uncounted: bool) -> Table:
    """uncounted: whether FLOPs are lower bounds."""
    grid = columns(["layer", "weight", "kept", "units", "removed", *COUNTS], left=("layer",))
    for line in lines:
        counts = [_count(line[kind], False) for kind in COUNTS]
        grid.add_row(line["layer"], *_weight(line), *counts)
    grid.add_section()
    totals = [_count(whole[kind], uncounted) for kind in COUNTS]
    grid.add_row("all", "", "", "", "", *totals)
    return grid


def _weight(line: Row) -> list[str]:
    """Shape of the weight, what is kept of the parameters, units and those removed."""
    if "shape" not in line:
        return ["", "", "", ""]
    shape = "x".join(map(str, line["shape"]))
    kept = f"{100 * line['kept'] / line['parameters']:.1f} %"
    return [shape, kept, str(line["units"]), str(line["removed"])]


def _rungs(steps: pd.DataFrame, ended: bool, uncounted: bool) -> Table:
    """A line for each rung; test data at the last row only. uncounted: whether FLOPs are lower
    bounds.
    """
    grid = columns(["rung", "epochs", "loss", *SCORES, "sparsity", *LEFT])
    for number, row in enumerate(steps.to_dict("records"), 1):
        scores = [_percent(row[name]) for name in SCORES.values()]
        if not ended or number < len(steps):
            scores[-1] = ""
        grid.add_row(
            str(row["rung"]),
            _real(row["epochs"], ".4g"),
            _real(row["loss_valid"], ".4f"),
            *scores,
            _real(row["sparsity"], ".4f"),
            *(_count(row[f"flops_{kind}"], uncounted) for kind in LEFT),
        )
    return grid


def _percent(share: float) -> str:
    return "" if pd.isna(share) else f"{100 * share:.2f}"


def _real(value: float, form: str) -> str:
    return "" if math.isnan(value) else format(value, form)


def _count(value: float, uncounted: bool) -> str:
    if math.isnan(value):
        return ""
    bound = "≥ " if uncounted else ""
    return f"{bound}{value:,.0f}"
