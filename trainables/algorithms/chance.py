"""Chance: random masks at a method's sparsity, the control that a pruning criterion must beat."""

from __future__ import annotations

from collections.abc import Mapping

from .. import masks
from ..contract import Domain, Value
from ..gradient import Context, GradientPruner, Params, Pruning, space
from ..structure import node_masks
from ..task import Task


class Chance(GradientPruner):
    """A random mask drawn before training and kept; weights train from their initial values.

    weight: every layer keeps round((1 - sparsity) n) of its n weights and biases.  node: every hidden layer keeps
    round((1 - sparsity) n) of its n units, at least one; removing a unit removes its row, its bias and its outgoing columns.
    """

    source = "random control (Frankle et al. 2021; Su et al. 2020; node space of Weedout, arXiv 2403.08265)"
    control = True
    space = space(
        sparsity=Domain("real", 0.5, "the share removed", low=0, high=1, open_high=True),
        granularity=Domain("choice", "weight", "what is removed", choices=("weight", "node"), static=True),
    )

    def check(self, task: Task, hp: Mapping[str, Value]) -> None:
        if hp["granularity"] == "node" and not task.structure.hidden:
            raise ValueError(f"`granularity` node needs units whose readers are known; model {task.model} has none")

    def init(self, params: Params, ctx: Context) -> Pruning:
        structure, sparsity = ctx.structure, ctx.hp["sparsity"]
        if ctx.hp["granularity"] == "node":
            drawn = {layer.name: ctx.uniform(f"chance/{layer.name}", (layer.units,)) for layer in structure.hidden}
            alive = {name: masks.top(u, masks.kept_count(sparsity, len(u))) for name, u in drawn.items()}
            return {"mask": node_masks(structure, alive, params)}
        scores = {name: ctx.uniform(f"chance/{name}", tuple(params[name].shape)) for name in structure.parameters}
        return {"mask": masks.layerwise(structure, scores, sparsity)}

    def effective(self, params: Params, pruning: Pruning, ctx: Context) -> Params:
        return masks.apply(params, pruning["mask"])

    def kept(self, params: Params, pruning: Pruning) -> Params:
        return pruning["mask"]
