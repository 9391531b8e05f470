"""Structured: the base of pruners that remove whole units and blocks for good and train the rest as a smaller stack."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..analysis.mistake import Mistake
from . import masks
from .contract import Value
from .gradient import Context, GradientPruner, Params, Pruning
from .structure import Structure
from .task import Task


class Structured(GradientPruner):
    """What is left is `pruning["mask"]`: `structure.node_masks`, with the blocks that may be gone. A subclass makes it.

    The batch-norm entries of a removed unit do not matter, since the columns that read the unit are gone.
    """

    def check(self, task: Task, hp: Mapping[str, Value]) -> None:
        if not task.structure.hidden:
            raise Mistake(f"whole units need a model in which all that reads them is known; model {task.model} has none")

    def effective(self, params: Params, pruning: Pruning, ctx: Context) -> Params:
        return removed(ctx.structure, params, pruning["mask"])

    def kept(self, params: Params, pruning: Pruning, ctx: Context) -> Params:
        return pruning["mask"]

    def lasting(self, params: Params, pruning: Pruning, ctx: Context) -> Params:
        return pruning["mask"]


def removed(structure: Structure, params: Params, mask: Params) -> dict[str, Tensor]:
    """Parameters with all that `mask` removes at zero, and with the last affine layer of blocks that it removes at zero."""
    found = masks.apply(params, mask)
    for block in structure.blocks:
        if block.name in mask:
            found |= {name: found[name] * mask[block.name] for name in block.last}
    return found
