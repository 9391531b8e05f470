"""Group lasso: training under a penalty on the norm of every unit's scale, which brings whole units
to exact zero.

    min  loss(w) + penalty * sum over units g of sqrt(n_g) |w_g|  (Yuan & Lin 2006, eq. 2.1)
    w_g <- w_g max(0, 1 - rate * penalty * sqrt(n_g) / |w_g|)  (its proximal operator, each step)

w_g are the n_g numbers that set how much a unit gives: the weight and bias of its batch-norm if it
has one (Liu et al. 2017; with the shift, so that a unit at zero gives nothing), and else its row
and bias (Wen et al. 2016).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ...analysis.rows.mistake import Mistake
from ..domain import Domain, Value
from ..structure import masks
from ..structure.units import Layer, Structure, node_masks
from ..task import Task
from ..training.pruner import Context, Params, Pruning, space
from ._structured import Structured


class GroupLasso(Structured):
    """Trains from initial weights under the penalty; after the share `stop` of the steps, units at
    zero are removed for good.

    Until then a unit at zero may return, and nothing counts as removed; afterwards the rest trains
    on without the penalty. rate is the learning rate of the step just made. A layer outside of
    blocks keeps its largest unit; a block in which a layer keeps none is gone, with the constant
    that it would still add. Weight decay is plain and stays.
    """

    source = (
        "Yuan & Lin 2006 (group lasso); Wen et al. 2016 (units); "
        "Liu et al. 2017 (batch-norm scales); stop: ours"
    )
    follows = True
    space = space(
        penalty=Domain("real", 1e-2, "the weight of the penalty", low=0, log=True, tunable=True),
        stop=Domain(
            "real", 0.7, "the share of the steps under the penalty", low=0, high=1, static=True
        ),
    )

    def check(self, task: Task, hp: Mapping[str, Value]) -> None:
        if task.optimizer.startswith("dadapt"):  # finds a rate for itself
            rule = "the proximal step is as long as the learning rate says: sgd or adam"
            raise Mistake(f"{rule}; got {task.optimizer}")

    def fixed(self, hp: Mapping[str, Value]) -> bool:
        return False

    def mask(self, params: Params, ctx: Context) -> Params:
        structure = ctx.structure
        seed = ctx.seed
        units: dict[str, Tensor] = {}
        for layer in structure.hidden:
            units[layer.name] = torch.ones(
                layer.units,
                dtype=torch.bool,
                device=seed.device,
            )
        blocks: dict[str, Tensor] = {}
        for block in structure.blocks:
            blocks[block.name] = torch.ones_like(seed, dtype=torch.bool)
        return node_masks(structure, units, params, blocks)

    def effective(self, params: Params, pruning: Pruning, ctx: Context) -> Params:
        if ctx.step < _end(ctx):
            return params
        return super().effective(params, pruning, ctx)

    def after_step(
        self,
        params: Params,
        pruning: Pruning,
        ctx: Context,
    ) -> tuple[Params, Pruning]:
        end = _end(ctx)
        if ctx.step > end:
            return params, pruning
        structure = ctx.structure
        shrunk = dict(params)
        alive: dict[str, Tensor] = {}
        rate = ctx.hp["lr"] * ctx.schedule(ctx.step - 1)
        threshold = rate * ctx.hp["penalty"]
        for layer in structure.hidden:
            group = {name: params[name] for name in structure.scale(layer.name)}
            stays = structure.block_of(layer.name) is None
            factors = _factors(layer, group, threshold, stays)
            for name, parameter in group.items():
                shrunk[name] = parameter * _beside(factors, parameter)
            alive[layer.name] = factors > 0
        if ctx.step < end:
            return shrunk, pruning
        blocks = _blocks(structure, pruning["mask"], alive)
        mask = node_masks(structure, alive, params, blocks)
        return shrunk, {"mask": mask}


def _blocks(structure: Structure, mask: Params, alive: Params) -> dict[str, Tensor]:
    """The blocks that were there and in which every layer keeps a unit."""
    blocks: dict[str, Tensor] = {}
    for block in structure.blocks:
        there = [mask[block.name]]
        for name in block.layers:
            if name in alive:
                there.append(alive[name].any())
        blocks[block.name] = torch.stack(there).all()
    return blocks


def _end(ctx: Context) -> int:
    """The step after which units at zero are removed."""
    penalised = ctx.hp["stop"] * ctx.steps
    return max(1, round(penalised))


def _factors(
    layer: Layer,
    group: Params,
    threshold: Tensor,
    stays: bool,
) -> Tensor:
    """What each unit is multiplied by, (units,) in [0, 1]. stays: the largest unit is left as it is
    if it would go to zero.
    """
    parts = [parameter.reshape(layer.units, -1) for parameter in group.values()]
    rows = torch.cat(parts, 1)
    norms = rows.norm(dim=1)
    size = math.sqrt(rows.shape[1])
    share_lost = threshold * size / norms
    factors = (1 - share_lost).clamp(min=0)
    factors = factors.nan_to_num(nan=0)
    if not stays:
        return factors
    is_largest = masks.top(norms, 1)
    is_last = is_largest & (factors == 0)
    return torch.where(is_last, 1.0, factors)


def _beside(factors: Tensor, parameter: Tensor) -> Tensor:
    """Factors (units,) in the type of a parameter (units, ...), to be multiplied by it."""
    ones = (1,) * (parameter.ndim - 1)
    alike = factors.to(parameter.dtype)
    return alike.view(-1, *ones)
