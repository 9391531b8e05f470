"""Chance: random masks at a method's sparsity, the control that a pruning criterion must beat."""

from __future__ import annotations

from collections.abc import Mapping

from ...analysis.rows.mistake import Mistake
from ..domain import Domain, Value
from ..structure import masks
from ..task import Task
from ..training.pruner import Context, GradientPruner, Params, Pruning, space
from ._structured import no_units


class Chance(GradientPruner):
    """A random mask drawn before training and kept; weights train from their initial values.

    weight: every layer keeps round((1 - sparsity) n) of its n weights and biases.  node: every
    hidden layer keeps round((1 - sparsity) n) of its n units, at least one; removing a unit removes
    its row, its bias and its outgoing columns. That is the uniform allocation; `masks.allocate` has
    the others.
    """

    source = "random control (Frankle et al. 2021; Su et al. 2020; node space of Weedout, arXiv 2403.08265)"
    control = True
    space = space(
        sparsity=Domain("real", 0.5, "the share removed", low=0, high=1, open_high=True),
        granularity=masks.GRANULARITY,
        allocation=masks.ALLOCATION,
    )

    def check(self, task: Task, hp: Mapping[str, Value]) -> None:
        if hp["granularity"] == "node" and (why := no_units(task)):
            raise Mistake(f"`granularity` node: {why}")

    def fixed(self, hp: Mapping[str, Value]) -> bool:
        return True

    def init(self, params: Params, ctx: Context) -> Pruning:
        hp = ctx.hp
        mask = masks.at_random(
            ctx.structure,
            params,
            lambda site, shape: ctx.uniform(f"chance/{site}", shape),
            hp["sparsity"],
            hp["granularity"],
            hp["allocation"],
        )
        return {"mask": mask}

    def effective(self, params: Params, pruning: Pruning, ctx: Context) -> Params:
        return masks.apply(params, pruning["mask"])

    def kept(self, params: Params, pruning: Pruning, ctx: Context) -> Params:
        return pruning["mask"]
