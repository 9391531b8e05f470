"""Structured: the base of pruners that remove whole units and blocks for good and train the rest as
a smaller stack.
"""

from __future__ import annotations

from ..task import Task
from ..training.pruner import Context, Params, Pruning
from ._masked import Masked


class Structured(Masked):
    """The mask is one of whole units: `structure.node_masks`, with the blocks that may be gone.

    The batch-norm entries of a removed unit do not matter, since the columns that read the unit are
    gone.
    """

    narrows = True

    def skip(self, task: Task) -> str | None:
        return no_units(task)

    def lasting(self, params: Params, pruning: Pruning, ctx: Context) -> Params:
        return pruning["mask"]


def no_units(task: Task) -> str | None:
    """Why no hidden units of the task's model can be removed, with the first that stood in the way;
    None if some can.
    """
    if task.structure.hidden:
        return None
    needs = "it needs hidden units whose readers are all known"
    return f"{needs}; model {task.model} has none{obstacle(task)}"


def obstacle(task: Task) -> str:
    """The first thing that stood in the way of removing units or blocks, as the end of a sentence;
    empty if nothing did.
    """
    for name, why in task.structure.obstacles[:1]:
        return f" ({name}: {why})" if name else f" ({why})"
    return ""
