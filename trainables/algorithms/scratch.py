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
from ..structure.units import Layer, Structure, node_masks
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
        structure = ctx.structure
        device = ctx.seed.device
        counts = ctx.hp.get("units")
        if counts is None:
            widths = [layer.units for layer in structure.hidden]
            whole = [1] * len(structure.blocks)
            counts = torch.tensor(widths + whole).to(device, non_blocking=True)
        numbers = iter(counts.unbind())
        first: dict[str, Tensor] = {}
        for layer in structure.hidden:
            width = next(numbers)
            places = torch.arange(layer.units, device=device)
            first[layer.name] = places < width
        there: dict[str, Tensor] = {}
        for block in structure.blocks:
            stays = next(numbers)
            there[block.name] = stays > 0
        return node_masks(structure, first, params, there)


def _check_units(structure: Structure, units: tuple[float, ...]) -> None:
    """Raise Mistake unless `units` describes networks of the structure."""
    hidden = structure.hidden
    layers = len(hidden)
    blocks = len(structure.blocks)
    if len(units) != layers + blocks:
        wanted = f"{layers} hidden layers and {blocks} blocks"
        rule = f"`units` has one number for each of the model's {wanted}"
        raise Mistake(f"{rule}; got {len(units)}")
    there = units[layers:]
    gone = _layers_gone(structure, there)
    for layer, kept in zip(hidden, units, strict=False):
        is_gone = layer.name in gone
        _check_width(layer, kept, is_gone)


def _layers_gone(structure: Structure, there: tuple[float, ...]) -> set[str]:
    """The layers of blocks that are not there. Raises Mistake if a number is not 1 or 0."""
    gone: set[str] = set()
    for block, stays in zip(structure.blocks, there, strict=True):
        if stays not in (0, 1):
            rule = "`units` ends with 1 or 0 for each block"
            raise Mistake(f"{rule}; got {stays:g} for {block.name}")
        if not stays:
            gone.update(block.layers)
    return gone


def _check_width(layer: Layer, kept: float, is_gone: bool) -> None:
    """Raise Mistake unless a layer can keep so many units."""
    low, high = (0, 0) if is_gone else (1, layer.units)
    is_whole = kept == int(kept)
    if is_whole and low <= kept <= high:
        return
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
    survivors: dict[str, int] = {}
    widths: dict[str, float] = {}
    live = live_units(structure, kept)
    for name, units in live.items():
        count = int(units.sum())
        survivors[name] = count
        widths[name] = float(max(1, count))
    there: list[float] = []
    for block in structure.blocks:
        is_kept = bool(kept[block.name])
        passes = all(survivors.get(name, 1) for name in block.layers)
        stays = is_kept and passes
        there.append(float(stays))
        if stays:
            continue
        for name in block.layers:
            if name in widths:
                widths[name] = 0.0
    return (*widths.values(), *there)


def live_units(structure: Structure, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Hidden layer -> (units,) bool: the units of one network that can influence the output."""
    stacked: dict[str, Tensor] = {}
    for name, mask in kept.items():
        stacked[name] = mask[None]
    live, _ = alive(structure, stacked)
    units: dict[str, Tensor] = {}
    for layer in structure.hidden:
        own = live[layer.name]
        units[layer.name] = own[0]
    return units
