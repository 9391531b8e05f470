"""Chance: random masks at a method's sparsity, the control that a pruning criterion must beat."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ...analysis.rows.mistake import Mistake
from ..domain import Value
from ..structure import masks
from ..task import Task
from ..training.pruner import Context, Params, space
from ._masked import SPARSITY, Masked
from ._structured import no_units


class Chance(Masked):
    """A random mask drawn before training and kept; weights train from their initial values.

    weight: every layer keeps round((1 - sparsity) n) of its n weights and biases.  node: every
    hidden layer keeps round((1 - sparsity) n) of its n units, at least one; removing a unit removes
    its row, its bias and its outgoing columns. That is the uniform allocation; `masks.allocate` has
    the others.
    """

    source = (
        "random control (Frankle et al. 2021; Su et al. 2020; "
        "node space of Weedout, arXiv 2403.08265)"
    )
    control = True
    space = space(
        sparsity=SPARSITY,
        granularity=masks.GRANULARITY,
        allocation=masks.ALLOCATION,
    )

    def check(self, task: Task, hp: Mapping[str, Value]) -> None:
        if hp["granularity"] != "node":
            return
        if why := no_units(task):
            raise Mistake(f"`granularity` node: {why}")

    def mask(self, params: Params, ctx: Context) -> Params:
        hp = ctx.hp

        def draw(site: str, shape: tuple[int, ...]) -> Tensor:
            return ctx.uniform(f"chance/{site}", shape)

        return masks.at_random(
            ctx.structure,
            params,
            draw,
            hp["sparsity"],
            hp["granularity"],
            hp["allocation"],
        )
