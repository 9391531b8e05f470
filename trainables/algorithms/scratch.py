"""Scratch training of a structure that something else found (Liu et al. 2019): were its weights
worth anything?
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ...analysis.rows.mistake import Mistake
from ..contract import Domain, Value
from ..structure.alive import alive
from ..structure.units import Structure, node_masks
from ..task import Task
from ..training.pruner import Context, Params, Pruning, space
from ._structured import Structured


class Scratch(Structured):
    """The first `units` of each hidden layer, and some blocks, of a network with initial weights,
    for the whole budget.

    units: how many units each hidden layer keeps, in the order of `Structure.hidden`; then 1 or 0
    for each block, in the order of `Structure.blocks`: whether it is there. Layers of a block that
    is not there keep 0 units, others at least 1. Weights are drawn at the parent's scale, which for
    wide parents is less than the found network would be drawn at.
    """

    source = (
        "Liu et al. 2019, Rethinking the value of network pruning (arXiv 1810.05270): Scratch-E"
    )
    control = True
    space = space(
        units=Domain(
            "reals",
            None,
            "the units of each hidden layer, then 1 or 0 for each block (default: all)",
            low=0,
        ),
    )

    def skip(self, task: Task) -> str | None:
        return super().skip(task) or task.loaded_reason

    def check(self, task: Task, hp: Mapping[str, Value]) -> None:
        if not isinstance(units := hp["units"], tuple):
            return
        hidden, blocks = task.structure.hidden, task.structure.blocks
        if len(units) != len(hidden) + len(blocks):
            wanted = f"{len(hidden)} hidden layers and {len(blocks)} blocks"
            raise Mistake(
                f"`units` has one number for each of the model's {wanted}; got {len(units)}"
            )
        for block, there in zip(blocks, units[len(hidden) :], strict=True):
            if there not in (0, 1):
                raise Mistake(
                    f"`units` ends with 1 or 0 for each block; got {there:g} for {block.name}"
                )
        gone = {
            name
            for block, there in zip(blocks, units[len(hidden) :], strict=True)
            if not there
            for name in block.layers
        }
        for layer, kept in zip(hidden, units, strict=False):
            low, high = (0, 0) if layer.name in gone else (1, layer.units)
            if kept != int(kept) or not low <= kept <= high:
                why = ", in a block that is gone" if layer.name in gone else ""
                raise Mistake(
                    f"`units` of layer {layer.name}{why}: a whole number in [{low}, {high}]; got {kept:g}"
                )

    def fixed(self, hp: Mapping[str, Value]) -> bool:
        return True

    def init(self, params: Params, ctx: Context) -> Pruning:
        structure, device = ctx.structure, ctx.seed.device
        count = ctx.hp.get("units")
        if count is None:
            count = torch.tensor(
                [*(layer.units for layer in structure.hidden), *(1 for _ in structure.blocks)],
                device=device,
            )
        first = {
            layer.name: torch.arange(layer.units, device=device) < count[place]
            for place, layer in enumerate(structure.hidden)
        }
        blocks = {
            block.name: count[len(first) + place] > 0
            for place, block in enumerate(structure.blocks)
        }
        return {"mask": node_masks(structure, first, params, blocks)}


def found(structure: Structure, kept: Mapping[str, Tensor]) -> tuple[float, ...]:
    """`units` for the structure of one network: the units of each hidden layer that can influence
    the output, and the blocks.

    kept: removable parameter -> bool of its shape, block -> () bool, True keeps; of one network. A
    block through which nothing passes is gone, though the constant that it may still add is lost
    with it.
    """
    live, _ = alive(structure, {name: mask[None] for name, mask in kept.items()})
    counts = {layer.name: int(live[layer.name].sum()) for layer in structure.hidden}
    there = [
        bool(kept[block.name]) and all(counts.get(name, 1) for name in block.layers)
        for block in structure.blocks
    ]
    gone = {
        name
        for block, stays in zip(structure.blocks, there, strict=True)
        if not stays
        for name in block.layers
    }
    return (
        *(0.0 if n in gone else float(max(1, count)) for n, count in counts.items()),
        *map(float, there),
    )
