"""Magnitude pruning: a trained network loses its smallest weights and trains on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from ...analysis.rows.mistake import Mistake
from ..domain import Domain, Value
from ..structure import masks
from ..task import Task
from ..training.pruner import Context, Params, Pruning, space
from ._masked import SPARSITY, Masked

LADDER = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
"""Sparsities of the standard controls."""


class Magnitude(Masked):
    """Removes the weights and biases of smallest absolute value, at once or gradually, and
    fine-tunes the rest.

    schedule one-shot: the whole sparsity before the first step.  gradual: s_t = s (1 - (1 - t /
    ramp)^3) (Zhu & Gupta 2017, eq. 1, from s_0 = 0), t in shares of the steps, a new mask every
    `every` steps; what was removed stays removed. scope layerwise: the same share of every layer.
    global: one ranking, but a layer keeps at least the share `floor`.
    """

    source = "Han et al. 2015 (one-shot, layerwise); Zhu & Gupta 2017, eq. 1 (gradual)"
    from_dense = True
    follows = True
    space = space(
        sparsity=dataclasses.replace(SPARSITY, default=0.9),
        schedule=Domain(
            "choice",
            "one-shot",
            "when weights are removed",
            choices=("one-shot", "gradual"),
            static=True,
        ),
        scope=Domain(
            "choice",
            "layerwise",
            "what is ranked together",
            choices=("layerwise", "global"),
            static=True,
        ),
        floor=Domain(
            "real", 0.01, "the least share that a layer keeps under the global scope", low=0, high=1
        ),
        ramp=Domain(
            "real",
            0.5,
            "the share of the steps after which a gradual schedule is at its end",
            low=0.01,
            high=1,
        ),
        every=Domain(
            "whole",
            20,
            "the number of steps between masks of a gradual schedule",
            low=1,
            static=True,
        ),
    )
    standard = {
        "magnitude, layerwise": {"sparsity": LADDER, "scope": ("layerwise",)},
        "magnitude, global": {"sparsity": LADDER, "scope": ("global",)},
    }

    def check(self, task: Task, hp: Mapping[str, Value]) -> None:
        if hp["scope"] != "global":
            return
        sparsity = torch.tensor(hp["sparsity"], dtype=torch.float64)
        floor = torch.tensor(hp["floor"], dtype=torch.float64)
        total = 0
        least = 0
        for layer in task.structure.layers:
            size = 0
            for name in layer.parameters:
                parameter = task.template.get_parameter(name)
                size += parameter.numel()
            floored = masks.floor_count(floor, size)
            total += size
            least += int(floored)
        kept = int(masks.kept_count(sparsity, total))
        if least <= kept:
            return
        rule = f"`floor` keeps {least} of {total} at least"
        raise Mistake(f"{rule}, `sparsity` {float(sparsity):g} keeps {kept}")

    def fixed(self, hp: Mapping[str, Value]) -> bool:
        return hp["schedule"] == "one-shot"

    def mask(self, params: Params, ctx: Context) -> Params:
        sparsity = ctx.hp["sparsity"]
        if ctx.hp["schedule"] == "gradual":
            sparsity = torch.zeros_like(sparsity)
        return _largest(params, ctx, sparsity)

    def after_step(
        self,
        params: Params,
        pruning: Pruning,
        ctx: Context,
    ) -> tuple[Params, Pruning]:
        hp = ctx.hp
        if hp["schedule"] == "one-shot":
            return params, pruning
        is_between = ctx.step % hp["every"] > 0
        if is_between and ctx.step != ctx.steps:
            return params, pruning
        ramp = hp["ramp"] * ctx.steps
        progress = torch.clamp(ctx.step / ramp, max=1)
        share = 1 - (1 - progress) ** 3
        sparsity = hp["sparsity"] * share
        left = masks.apply(params, pruning["mask"])
        mask = _largest(left, ctx, sparsity)
        return params, {"mask": mask}


def _largest(params: Params, ctx: Context, sparsity: Tensor) -> dict[str, Tensor]:
    """The mask that keeps the weights and biases of largest absolute value."""
    structure = ctx.structure
    hp = ctx.hp
    scores = {name: params[name].abs() for name in structure.parameters}
    if hp["scope"] != "global":
        return masks.weights(structure, scores, sparsity)
    return masks.weights(
        structure,
        scores,
        sparsity,
        allocation="global",
        floor=hp["floor"],
    )
