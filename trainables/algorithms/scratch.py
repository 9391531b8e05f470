"""Scratch training of a structure that something else found (Liu et al. 2019): were its weights
worth anything?
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ...analysis.rows.mistake import Mistake
from ..domain import Domain, Value
from ..structure.alive import alive
from ..structure.units import Structure, node_masks
from ..task import Task
from ..training.pruner import Context, Params, space
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
        if isinstance(hp["units"], tuple):
            _check_units(task.structure, hp["units"])

    def mask(self, params: Params, ctx: Context) -> Params:
        structure, device = ctx.structure, ctx.seed.device
        counts = ctx.hp.get("units")
        if counts is None:
            widths = [layer.units for layer in structure.hidden]
            whole = [1] * len(structure.blocks)
            counts = torch.tensor(widths + whole, device=device)
        numbers = iter(counts.unbind())
        first: dict[str, Tensor] = {}
        for layer in structure.hidden:
            places = torch.arange(layer.units, device=device)
            first[layer.name] = places < next(numbers)
        there: dict[str, Tensor] = {}
        for block in structure.blocks:
            there[block.name] = next(numbers) > 0
        return node_masks(structure, first, params, there)


def _check_units(structure: Structure, units: tuple[float, ...]) -> None:
    """Raise Mistake unless `units` describes networks of the structure."""
    hidden, blocks = structure.hidden, structure.blocks
    if len(units) != len(hidden) + len(blocks):
        wanted = f"{len(hidden)} hidden layers and {len(blocks)} blocks"
        raise Mistake(f"`units` has one number for each of the model's {wanted}; got {len(units)}")
    gone: set[str] = set()
    for block, there in zip(blocks, units[len(hidden) :], strict=True):
        if there not in (0, 1):
            rule = "`units` ends with 1 or 0 for each block"
            raise Mistake(f"{rule}; got {there:g} for {block.name}")
        if not there:
            gone.update(block.layers)
    for layer, kept in zip(hidden, units, strict=False):
        is_gone = layer.name in gone
        low, high = (0, 0) if is_gone else (1, layer.units)
        if kept != int(kept) or not low <= kept <= high:
            why = ", in a block that is gone" if is_gone else ""
            rule = f"`units` of layer {layer.name}{why}: a whole number in [{low}, {high}]"
            raise Mistake(f"{rule}; got {kept:g}")


def found(structure: Structure, kept: Mapping[str, Tensor]) -> tuple[float, ...]:
    """`units` for the structure of one network: the units of each hidden layer that can influence
    the output, and the blocks.

    kept: removable parameter -> bool of its shape, block -> () bool, True keeps; of one network. A
    block through which nothing passes is gone, though the constant that it may still add is lost
    with it.
    """
    stacked = {name: mask[None] for name, mask in kept.items()}
    live, _ = alive(structure, stacked)
    survivors: dict[str, int] = {}
    for layer in structure.hidden:
        survivors[layer.name] = int(live[layer.name].sum())
    counts = {name: float(max(1, count)) for name, count in survivors.items()}
    there: list[float] = []
    for block in structure.blocks:
        passes = all(survivors.get(name, 1) for name in block.layers)
        stays = bool(kept[block.name]) and passes
        there.append(float(stays))
        if not stays:
            for name in counts.keys() & set(block.layers):
                counts[name] = 0.0
    return (*counts.values(), *there)
