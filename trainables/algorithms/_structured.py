"""Structured: the base of pruners that remove whole units and blocks for good and train the rest as
a smaller stack.
"""

from __future__ import annotations

from torch import Tensor

from ..structure import masks
from ..structure.units import Structure
from ..task import Task
from ..training.pruner import Context, GradientPruner, Params, Pruning


class Structured(GradientPruner):
    """What is left is `pruning["mask"]`: `structure.node_masks`, with the blocks that may be gone.
    A subclass makes it.

    The batch-norm entries of a removed unit do not matter, since the columns that read the unit are
    gone.
    """

    narrows = True

    def skip(self, task: Task) -> str | None:
        return no_units(task)

    def effective(self, params: Params, pruning: Pruning, ctx: Context) -> Params:
        return removed(ctx.structure, params, pruning["mask"])

    def kept(self, params: Params, pruning: Pruning, ctx: Context) -> Params:
        return pruning["mask"]

    def lasting(self, params: Params, pruning: Pruning, ctx: Context) -> Params:
        return pruning["mask"]


def no_units(task: Task) -> str | None:
    """Why no hidden units of the task's model can be removed, with the first that stood in the way;
    None if some can.
    """
    if task.structure.hidden:
        return None
    return f"it needs hidden units whose readers are all known; model {task.model} has none{obstacle(task)}"


def obstacle(task: Task) -> str:
    """The first thing that stood in the way of removing units or blocks, as the end of a sentence;
    empty if nothing did.
    """
    for name, why in task.structure.obstacles[:1]:
        return f" ({name}: {why})" if name else f" ({why})"
    return ""


def removed(structure: Structure, params: Params, mask: Params) -> dict[str, Tensor]:
    """Parameters with all that `mask` removes at zero, and with the last affine layer of blocks
    that it removes at zero.
    """
    found = masks.apply(params, mask)
    for block in structure.blocks:
        if block.name in mask:
            found |= {name: found[name] * mask[block.name] for name in block.last}
    return found
