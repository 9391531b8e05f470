"""What is to be saved by complexity-aware training, and what each unit and block costs of it."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..contract import State
from ..structure.units import expected
from ..task import Task
from ._complexity_gates import Gates, sums

LEAST = 1e-12
"""A mean price below this counts as this."""


def complexity(
    task: Task,
    units: Gates,
    blocks: Gates,
    alpha: Tensor,
    beta: Tensor,
    unit: tuple[int, int] | None = None,
) -> Tensor:
    """J, (...): 1 for a network of the complexity `unit`, FLOPs and parameters (default: the whole
    network's). units: hidden layer -> mean number of units (...).  blocks: block -> theta (...).
    """
    counts = task.counts
    flops, params = expected(
        task.structure,
        counts,
        units,
        blocks,
    )
    unit_flops, unit_params = unit or (counts.flops, counts.params)
    share_flops = alpha * flops / unit_flops
    share_params = (1 - alpha) * params / unit_params
    width = share_flops + share_params
    total = beta * sum(blocks.values())
    depth = total / max(1, len(blocks))
    return (1 - beta) * width + depth


def unit_of(task: Task, width: float) -> tuple[int, int]:
    """FLOPs and parameters of the task's model, of which `task` has the given number of widths:
    what prices are in, so that they do not depend on the width that training starts from.
    """
    if width == 1:
        return task.counts.flops, task.counts.params
    options = dict(task.model_options)
    options["width"] = float(options["width"]) / width
    own = dataclasses.replace(task, model_options=options)
    return own.counts.flops, own.counts.params


def prices(task: Task, state: State) -> tuple[Gates, Gates]:
    """d (nu J) / d theta of any gate of each hidden layer and block, (K,) by name; and its mean
    over all units, or blocks.
    """
    price = _slopes(task, state)
    nothing = torch.zeros_like(state.members["hp"]["nu"])
    means: dict[str, Tensor] = {}
    for kind in sums(task, state, "alive"):
        total = nothing
        count = nothing
        for name, alive in kind.items():
            total = total + price[name] * alive
            count = count + alive
        mean = total / count.clamp(min=1)
        mean = mean.clamp(min=LEAST)
        means |= dict.fromkeys(kind, mean)
    return price, means


def _slopes(task: Task, state: State) -> dict[str, Tensor]:
    """d (nu J) / d theta of any gate of each hidden layer and block, (K,) by name."""
    hp = state.members["hp"]
    units, blocks = sums(task, state, "theta")
    leaves = {**units, **blocks}
    for total in leaves.values():
        total.requires_grad_()
    with torch.enable_grad():
        whole = complexity(
            task,
            units,
            blocks,
            alpha=hp["alpha"],
            beta=hp["beta"],
            unit=tuple(state.scalars["static"]["unit"]),
        )
        cost = hp["nu"] * whole
        slopes = torch.autograd.grad(
            cost.sum(),
            list(leaves.values()),
            materialize_grads=True,
        )
    return dict(zip(leaves, slopes, strict=True))
