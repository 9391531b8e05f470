"""Magnitude pruning: a trained network loses its smallest weights and trains on."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ...analysis.rows.mistake import Mistake
from ..domain import Domain, Value
from ..structure import masks
from ..task import Task
from ..training.pruner import Context, GradientPruner, Params, Pruning, space


class Magnitude(GradientPruner):
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
        sparsity=Domain("real", 0.9, "the share removed", low=0, high=1, open_high=True),
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
        f"magnitude, {scope}": {"sparsity": (0.5, 0.7, 0.8, 0.9, 0.95, 0.98), "scope": (scope,)}
        for scope in ("layerwise", "global")
    }

    def check(self, task: Task, hp: Mapping[str, Value]) -> None:
        if hp["scope"] != "global":
            return
        sizes = [
            sum(task.template.get_parameter(name).numel() for name in layer.parameters)
            for layer in task.structure.layers
        ]
        sparsity, floor = (
            torch.tensor(hp[name], dtype=torch.float64) for name in ("sparsity", "floor")
        )
        least, kept = (
            sum(int(masks.floor_count(floor, size)) for size in sizes),
            int(masks.kept_count(sparsity, sum(sizes))),
        )
        if least > kept:
            raise Mistake(
                f"`floor` keeps {least} of {sum(sizes)} at least, `sparsity` {float(sparsity):g} keeps {kept}"
            )

    def fixed(self, hp: Mapping[str, Value]) -> bool:
        return hp["schedule"] == "one-shot"

    def init(self, params: Params, ctx: Context) -> Pruning:
        gradual = ctx.hp["schedule"] == "gradual"
        return {
            "mask": _mask(
                params, ctx, torch.zeros_like(ctx.hp["sparsity"]) if gradual else ctx.hp["sparsity"]
            )
        }

    def effective(self, params: Params, pruning: Pruning, ctx: Context) -> Params:
        return masks.apply(params, pruning["mask"])

    def after_step(self, params: Params, pruning: Pruning, ctx: Context) -> tuple[Params, Pruning]:
        if ctx.hp["schedule"] == "one-shot" or (
            ctx.step % ctx.hp["every"] and ctx.step != ctx.steps
        ):
            return params, pruning
        progress = torch.clamp(ctx.step / (ctx.hp["ramp"] * ctx.steps), max=1)
        sparsity = ctx.hp["sparsity"] * (1 - (1 - progress) ** 3)
        return params, {"mask": _mask(masks.apply(params, pruning["mask"]), ctx, sparsity)}

    def kept(self, params: Params, pruning: Pruning, ctx: Context) -> Params:
        return pruning["mask"]


def _mask(params: Params, ctx: Context, sparsity: torch.Tensor) -> dict[str, torch.Tensor]:
    scores = {
        name: params[name].abs() for layer in ctx.structure.layers for name in layer.parameters
    }
    if ctx.hp["scope"] == "global":
        return masks.weights(ctx.structure, scores, sparsity, "global", ctx.hp["floor"])
    return masks.weights(ctx.structure, scores, sparsity)
