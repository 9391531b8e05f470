"""One network's story: where it comes from, its rungs, what it cost, what is left of it layer by
layer, and what it says if it is a two-layer ReLU network.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table
from torch import Tensor, nn

from ...analysis import pick, shallow
from ...analysis.draw import render
from ...analysis.draw import shallow as drawing
from ...analysis.points import front
from ...analysis.rows import rundir, table
from ...analysis.rows.mistake import Mistake
from ...analysis.rows.storage import Where, save
from ...trainables.measure import flops
from ...trainables.measure.removed import by_layer, compression, elsewhere
from ...trainables.records.networks import kept_members, load_with_masks
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
NEURONS = 12
"""Of a two-layer network, those that are listed."""
WIDTH = 160
"""Columns that a table may take, whatever the terminal has."""


def show(folder: Where, member: str, console: Console) -> None:
    """Print the story of the member whose name begins with `member`.

    Raises Mistake if that is not one member. Without its network, which a study may not have kept,
    layers are left out.
    """
    rows = table.current(folder, table.read(folder))
    member = pick.full_name(rows, member)
    mine = rows[rows["member"] == member]
    steps = mine.drop_duplicates("rung").sort_values("rung")
    last: Row = steps.to_dict("records")[-1]
    _say_origin(mine, last, console)
    _say_end(last, console)
    uncounted = front.unknown_operations(mine)
    if uncounted:
        beware = front.uncounted(uncounted)
        console.say(beware)
    console.width = max(console.width, WIDTH)  # or digits would be cut off
    ended = last["status"] != table.RUNNING
    by_rung = _rungs(steps, ended, bool(uncounted))
    console.grid("rung by rung, FLOPs", by_rung)
    if member not in kept_members(folder):
        why = "the study kept no network of it (`keep` says which are kept when it ends)"
        console.say(f"layers are not shown: {why}")
        return
    module, kept, parent = load_with_masks(folder, member)
    lines, whole = layers(module, kept, parent)
    by_layer_grid = _layers(lines, whole, bool(uncounted))
    console.grid("layer by layer, FLOPs", by_layer_grid)
    gone: list[str] = []
    for block in parent.structure.blocks:
        if not kept.get(block.name, True):
            gone.append(block.name)
    if gone:
        listed = ", ".join(f"`{name}`" for name in gone)
        console.say(f"residual blocks removed, by the last layer of each: {listed}")
    read = shallow.read(folder, [member])
    if member in read and read[member].says:
        console.grid("neurons, those that contribute most", _neurons(read[member]))
        _draw(folder, member, read[member], console)


def _neurons(network: shallow.Shallow) -> Table:
    """What the neurons of a two-layer network say, the first ones."""
    grid = columns(["share of all", "serves class", "adds", "neuron", "gate", "inputs"])
    lines = network.neurons
    for line in lines[:NEURONS].to_dict("records"):
        gate = ""
        if not math.isnan(line["gate"]):
            gate = f"{line['gate']:.0f}"
        served = str(line["class"])
        if line["contribution"] < 0:
            served = f"not {served}"
        adds = f"{line['contribution']:+.3g}"
        share = f"{100 * line['share']:.1f} %"
        grid.add_row(share, served, adds, str(line["neuron"]), gate, str(line["inputs"]))
    grid.add_section()
    others = lines["share"][NEURONS:]
    if len(others):
        grid.add_row(f"{100 * others.sum():.1f} %", "", "", f"{len(others)} others", "", "")
    read = f"{np.count_nonzero(network.importance)} of {len(network.importance)}"
    grid.add_row("100.0 %", "", "", f"all {len(lines)}", "", read)
    return grid


def _draw(folder: Where, member: str, network: shallow.Shallow, console: Console) -> None:
    """Write the picture of a two-layer network, and say where."""
    path = rundir.drawing_file(folder, member)
    try:
        drawn = render.svg(drawing.picture({member: network}, "What the network says"))
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, render.paper(drawn).encode())
    except (OSError, Mistake) as error:
        console.say(f"not drawn: {error}")
        return
    console.say(f"inputs, gates and neurons drawn: {path}")


def _say_origin(mine: pd.DataFrame, last: Row, console: Console) -> None:
    """Of what study and arms a member is. mine: all its rows."""
    model = f"{last['model']} on {last['dataset']}"
    member = f"member {last['member']}: {last['algorithm']}"
    console.say(f"{member}, {model}, seed {last['seed']}")
    arms: list[str] = []
    pairs = zip(mine["arm"], mine["control"], strict=True)
    for arm, control in set(pairs):
        if control:
            arms.append(f"{arm} (control)")
        else:
            arms.append(str(arm))
    names = ", ".join(sorted(arms))
    study = f"of {names} in the study {last['study']}"
    console.say(f"{study}; cohort {last['cohort']}")
    hp = _hyperparameters(last)
    settings = [f"{name} {hp[name]}" for name in sorted(hp)]
    listed = ", ".join(settings) or "none"
    console.say(f"hyper-parameters: {listed}")


def _hyperparameters(row: Row) -> Line:
    """The hyper-parameters of a row by name."""
    hp: Line = {}
    for column, value in row.items():
        if not column.startswith("hp_") or pd.isna(value):
            continue
        name = column.removeprefix("hp_")
        hp[name] = value
    hp |= json.loads(row["hp"])
    return hp


def _say_end(last: Row, console: Console) -> None:
    """How far a member came, and what it cost."""
    status = last["status"]
    if status == table.RUNNING:
        status = "running"
    reason = ""
    if last["reason"]:
        reason = f": {last['reason']}"
    console.say(f"{status} at rung {last['rung']}{reason}")
    of_search = f"{last['search_flops']:,.0f} of them for a search"
    costs = (
        f"{last['seconds']:.3g} s",
        f"{last['train_flops']:,.0f} training FLOPs ({of_search})",
        f"{last['steps']:,.0f} steps",
        f"{last['examples']:,.0f} examples",
    )
    console.say(f"cost: {', '.join(costs)}")
    times = last["flops_shrunk"] / max(last["flops_dense"], 1)
    if times > 1:
        console.say(f"larger than the task's model: {times:.3g} times its FLOPs")


def layers(
    module: nn.Module,
    kept: Mapping[str, Tensor],
    parent: Parent,
) -> tuple[list[Line], Counts]:
    """What is left of each removable layer of one network, in order, and in all, as its row counts
    it.

    Names of a line: `layer`, `shape` (of its weight), `parameters` and `kept` of them, `units` and
    `removed` of them, `dense`, `masked` and `shrunk` FLOPs. The last line is what is computed
    elsewhere, if that has FLOPs.  module, kept, parent: as from `kept.load`.
    """
    structure = parent.structure
    counts = flops.count(module, parent.input_shape)
    stack: dict[str, Tensor] = {}
    for name, mask in kept.items():
        stack[name] = mask[None]
    units, columns = alive(structure, stack)
    others = elsewhere(structure, counts, stack, columns)
    left = by_layer(structure, counts, stack, units, columns, others)
    lines: list[Line] = []
    for layer in structure.layers:
        dense_flops = counts.layers.get(layer.name, 0)
        line = _layer_line(layer, kept, left[layer.name], dense_flops)
        lines.append(line)
    in_layers = sum(line[DENSE] for line in lines)
    rest = counts.flops - in_layers
    if rest:
        rest_line: Line = {"layer": "elsewhere"}
        rest_line |= dict.fromkeys(COUNTS, rest)
        lines.append(rest_line)
    whole = _left_flops(compression(structure, counts, stack))
    return lines, {DENSE: counts.flops, **whole}


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
    heads = ["layer", "weight", "kept", "units", "removed", *COUNTS]
    grid = columns(heads, left=("layer",))
    for line in lines:
        weight = _weight(line)
        counts = [_count(line[kind], False) for kind in COUNTS]
        grid.add_row(line["layer"], *weight, *counts)
    grid.add_section()
    totals = [_count(whole[kind], uncounted) for kind in COUNTS]
    grid.add_row("all", "", "", "", "", *totals)
    return grid


def _weight(line: Row) -> list[str]:
    """Shape of the weight, what is kept of the parameters, units and those removed."""
    if "shape" not in line:
        return ["", "", "", ""]
    extents = map(str, line["shape"])
    shape = "x".join(extents)
    percent = 100 * line["kept"] / line["parameters"]
    units = str(line["units"])
    removed = str(line["removed"])
    return [shape, f"{percent:.1f} %", units, removed]


def _rungs(steps: pd.DataFrame, ended: bool, uncounted: bool) -> Table:
    """A line for each rung; test data at the last row only. uncounted: whether FLOPs are lower
    bounds.
    """
    grid = columns(["rung", "epochs", "loss", *SCORES, "sparsity", *LEFT])
    for number, row in enumerate(steps.to_dict("records"), 1):
        scores = [_percent(row[name]) for name in SCORES.values()]
        if not ended or number < len(steps):
            scores[-1] = ""
        counts = [_count(row[f"flops_{kind}"], uncounted) for kind in LEFT]
        grid.add_row(
            str(row["rung"]),
            _real(row["epochs"], ".4g"),
            _real(row["loss_valid"], ".4f"),
            *scores,
            _real(row["sparsity"], ".4f"),
            *counts,
        )
    return grid


def _percent(share: float) -> str:
    if pd.isna(share):
        return ""
    return f"{100 * share:.2f}"


def _real(value: float, form: str) -> str:
    if math.isnan(value):
        return ""
    return format(value, form)


def _count(value: float, uncounted: bool) -> str:
    if math.isnan(value):
        return ""
    bound = ""
    if uncounted:
        bound = "≥ "
    return f"{bound}{value:,.0f}"
